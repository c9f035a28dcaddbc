"""Fit ridge regression to numbers, or to several classes at once, from sums of products.

One factorisation serves all targets. One pass over the rows serves all folds, as in ``ridge_lda``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from sklearn.base import clone
from sklearn.linear_model import Ridge, RidgeClassifier
from sklearn.multiclass import OneVsRestClassifier

from featstore.fitting.solvers import one_vs_rest, ridge_lda
from featstore.fitting.solvers.blocks import CACHED_NBYTES, Threads, row_blocks, shared_threads
from featstore.fitting.solvers.ridge_lda import RowSums, WideRows, is_wide
from featstore.fitting.solvers.scaling import standardise

Estimator: TypeAlias = Ridge | OneVsRestClassifier


def handles(estimator: Any) -> bool:
    """Return whether :func:`fit` gives what the estimator's own ``fit`` would, up to rounding."""
    if isinstance(estimator, OneVsRestClassifier):
        base = estimator.estimator
        return type(base) is RidgeClassifier and ridge_lda.handles(base) and base.fit_intercept
    if type(estimator) is not Ridge:
        return False
    is_plain = estimator.fit_intercept and not estimator.positive
    alpha = estimator.alpha
    return bool(
        is_plain
        and estimator.solver in ("auto", "cholesky")
        and isinstance(alpha, int | float)
        and alpha > 0
    )


def fit(estimator: Estimator, X: np.ndarray, y: np.ndarray) -> None:
    """Fit an estimator that :func:`handles` in place.

    `X` is (n_samples, n_features) float32, standardised, and may be read-only. `y` is
    (n_samples,) float32, or (n_samples, n_classes) of 0 and 1.
    """
    Y = _targets(estimator, y)
    none = np.zeros(len(X), dtype=np.int64)
    with shared_threads() as threads:
        rows = WideRows.of(X, none) if is_wide(X) else RowSums.of(threads, X, none, 1)
        mean, centre = Y.mean(axis=0), rows.means[0]
        rhs = _products(threads, X, Y - mean)
        coef = rows.about(centre).solve(1.0, one_vs_rest.base_of(estimator).alpha, rhs)
    _put(estimator, coef, mean - centre @ coef, X, y)


def cross_validate(
    estimator: Estimator,
    X: np.ndarray,
    y: np.ndarray,
    folds: np.ndarray,
    values: Sequence[float],
    score: Callable[[np.ndarray, np.ndarray], float],
) -> np.ndarray:
    """Return ``score(y, predicted)`` on each held-out fold for each alpha, (n_values, n_folds).

    Each fold's model is fitted on the other rows, standardised by these alone. `X` is standardised
    by all rows; `folds` is the fold that holds out each row.
    """
    Y = _targets(estimator, y)
    # Sums in float32 keep the digits of numbers near 0.
    offset = Y.mean(axis=0)
    Y -= offset
    n_folds = int(folds.max()) + 1
    scores = np.empty((len(values), n_folds))
    none = np.zeros(len(X), dtype=np.int64)
    rows: WideRows | RowSums
    with shared_threads() as threads:
        if not is_wide(X):
            held = [np.flatnonzero(folds == fold) for fold in range(n_folds)]
            of_folds = [RowSums.of(threads, X, none, 1, at) for at in held]
            whole = sum(of_folds[1:], start=of_folds[0])
            rhs_of_folds = [_products(threads, X, Y, at) for at in held]
            rhs_whole = sum(rhs_of_folds[1:], start=rhs_of_folds[0])
        for fold in range(n_folds):
            trains = folds != fold
            mean_y = Y[trains].mean(axis=0)
            if is_wide(X):
                scaled, mean, scale = standardise(X[trains])
                rows = WideRows.of(scaled, none[trains])
                rhs = _products(threads, scaled, Y[trains] - mean_y)
            else:
                rows, mean, scale = (whole - of_folds[fold]).standardised()
                rhs = rhs_whole - rhs_of_folds[fold]
                rhs = (rhs - trains.sum() * np.outer(mean, mean_y)) / scale[:, None]
            scatter = rows.about(rows.means[0])
            held_out = np.flatnonzero(~trains)

            def predict(alpha: float, rhs: np.ndarray = rhs, scatter: Any = scatter) -> np.ndarray:
                return scatter.solve(1.0, alpha, rhs)  # type: ignore[no-any-return]

            for i, solved in enumerate(threads.map(predict, values)):
                coef = solved / scale[:, None]
                intercept = offset + mean_y - mean @ coef
                parts = [
                    X[held_out[block]] @ coef.astype(np.float32) + intercept
                    for block in row_blocks(len(held_out), X.shape[1], n_outputs=coef.shape[1])
                ]
                predicted = np.concatenate(parts).reshape(-1, *y.shape[1:])
                scores[i, fold] = score(y[held_out], predicted)
    return scores


def _targets(estimator: Estimator, y: np.ndarray) -> np.ndarray:
    """Return what ridge regression is fitted to, (n_samples, n_targets) float64."""
    if isinstance(estimator, OneVsRestClassifier):
        return 2.0 * y - 1.0
    return y.reshape(len(y), -1).astype(np.float64)


def _products(
    threads: Threads, X: np.ndarray, Y: np.ndarray, rows: np.ndarray | None = None
) -> np.ndarray:
    """Return ``X.T @ Y`` of all or some rows, (n_features, n_targets) float64."""

    def one(block: slice) -> np.ndarray:
        at = block if rows is None else rows[block]
        return (X[at].T @ Y[at].astype(np.float32)).astype(np.float64)

    n = len(X) if rows is None else len(rows)
    return threads.total(one, row_blocks(n, X.shape[1], CACHED_NBYTES))


def _put(
    estimator: Estimator, coef: np.ndarray, intercept: np.ndarray, X: np.ndarray, y: np.ndarray
) -> None:
    """Set the attributes that the estimator's own ``fit`` to `X` and `y` would set."""
    if isinstance(estimator, OneVsRestClassifier):
        fitted = [clone(estimator.estimator) for _ in coef.T]
        for one, weights, constant in zip(fitted, coef.T, intercept, strict=True):
            ridge_lda.put(one, np.arange(2), weights[None], constant[None], X)
        one_vs_rest.put(estimator, fitted, X, y)
        return
    estimator.coef_ = coef[:, 0].astype(X.dtype)
    estimator.intercept_ = float(intercept[0])
    estimator.n_features_in_ = X.shape[1]
    estimator.n_iter_, estimator.solver_ = None, "cholesky"
