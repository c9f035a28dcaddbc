"""Ridge and linear discriminants from sums of products: one pass for all folds and penalties.

Both need of the rows only their number, sums and products. Those without a fold are those of all
rows less the fold's, so that one pass serves every fold, and each penalty costs one solution of
a small system. Where there are fewer rows than features, products of rows stand in for those of
features (Woodbury's identity).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import scipy.linalg
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import RidgeClassifier

from featstore.errors import FitError
from featstore.fitting.solvers.blocks import CACHED_NBYTES, Threads, row_blocks, shared_threads
from featstore.fitting.solvers.scaling import moments

MAX_FEATURES = 20_000
"""Columns up to which the matrix of their products, 3.2 GB in float64, is formed."""


Estimator: TypeAlias = RidgeClassifier | LinearDiscriminantAnalysis


def handles(estimator: object) -> bool:
    """Return whether :func:`fit` gives what the estimator's own ``fit`` would, to rounding."""
    params = estimator.get_params(deep=False) if hasattr(estimator, "get_params") else {}
    if type(estimator) is RidgeClassifier:
        plain = params["class_weight"] is None and not params["positive"]
        return bool(
            plain and params["solver"] in ("auto", "cholesky") and _is_positive(params["alpha"])
        )
    if type(estimator) is LinearDiscriminantAnalysis:
        plain = params["priors"] is None and params["covariance_estimator"] is None
        return bool(plain and params["solver"] == "lsqr" and _is_positive(params["shrinkage"]))
    return False


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and value > 0


def penalty_name(estimator: Estimator) -> str:
    """Return the parameter that may take any number of values at little cost."""
    return "alpha" if isinstance(estimator, RidgeClassifier) else "shrinkage"


def fit(estimator: Estimator, X: np.ndarray, y: np.ndarray) -> None:
    """Fit `estimator` in place.

    Parameters
    ----------
    estimator : RidgeClassifier or LinearDiscriminantAnalysis
        One that :func:`handles`.
    X : ndarray of shape (n_samples, n_features), float32
        Standardised; may be read-only.
    y : ndarray of shape (n_samples,), int

    Raises
    ------
    FitError
        When there are too many features.
    """
    classes, codes = np.unique(y, return_inverse=True)
    with shared_threads() as threads:
        rows = _Rows.of(X, codes) if _is_wide(X) else _Sums.of(threads, X, codes, len(classes))
        coef, intercept = _solve(estimator, rows, getattr(estimator, penalty_name(estimator)))
    # scikit-learn sets what it needs beside the weights by any fit.
    stub = np.eye(len(classes), min(len(classes), X.shape[1]), dtype=np.float32)
    estimator.fit(np.concatenate([stub, -stub]), np.tile(classes, 2))
    if isinstance(estimator, LinearDiscriminantAnalysis):
        estimator.priors_ = rows.counts / rows.counts.sum()
        estimator.means_ = rows.means.astype(X.dtype)
        # Of the size of all pairs of features, and of no use once the weights are known.
        del estimator.covariance_
    estimator.n_features_in_ = X.shape[1]
    estimator.coef_ = np.ascontiguousarray(coef.T, dtype=X.dtype)
    estimator.intercept_ = intercept.astype(X.dtype)


def cross_validate(
    estimator: Estimator,
    X: np.ndarray,
    y: np.ndarray,
    folds: np.ndarray,
    values: Sequence[float],
) -> np.ndarray:
    """Return the accuracy on each held-out fold for each penalty.

    Each fold's classifier is that of its other rows, standardised by these alone.

    Parameters
    ----------
    estimator : RidgeClassifier or LinearDiscriminantAnalysis
        One that :func:`handles`; its penalty does not matter.
    X : ndarray of shape (n_samples, n_features), float32
        Standardised by all rows.
    y : ndarray of shape (n_samples,), int
    folds : ndarray of shape (n_samples,), int
        In which fold each row is held out.
    values : sequence of float
        Penalties: alpha of ridge, shrinkage of LDA.

    Returns
    -------
    ndarray of shape (len(values), n_folds), float64

    Raises
    ------
    FitError
        When there are too many features.
    """
    classes, codes = np.unique(y, return_inverse=True)
    n_folds = int(folds.max()) + 1
    scores = np.empty((len(values), n_folds))
    rows: _Rows | _Sums
    with shared_threads() as threads:
        if not _is_wide(X):
            of_folds = [
                _Sums.of(threads, X, codes, len(classes), np.flatnonzero(folds == fold))
                for fold in range(n_folds)
            ]
            whole = sum(of_folds[1:], start=of_folds[0])
        for fold in range(n_folds):
            if _is_wide(X):
                own = X[folds != fold]
                found = moments(own)
                mean, scale = found.mean, found.scale
                scaled = ((own - mean) / scale).astype(np.float32)
                rows = _Rows.of(scaled, codes[folds != fold])
            else:
                rows, mean, scale = (whole - of_folds[fold]).standardised()
            held = np.flatnonzero(folds == fold)
            solved = threads.map(functools.partial(_solve, estimator, rows), values)
            coefs, intercepts = zip(*solved, strict=True)
            coef = np.concatenate(coefs, axis=1) / scale[:, None]
            intercept = np.concatenate(intercepts) - mean @ coef
            right = np.zeros(len(values))
            for block in row_blocks(len(held), X.shape[1]):
                z = X[held[block]] @ coef.astype(np.float32) + intercept.astype(np.float32)
                z = z.reshape(len(z), len(values), -1)
                guess = (z[:, :, 0] > 0).astype(int) if z.shape[2] == 1 else z.argmax(axis=2)
                right += (guess == codes[held[block], None]).sum(axis=0)
            scores[:, fold] = right / len(held)
    return scores


def _is_wide(X: np.ndarray) -> bool:
    if len(X) > X.shape[1] > MAX_FEATURES:
        raise FitError(
            f"ridge and lda need the products of all pairs of features, and there are "
            f"{X.shape[1]:,}. Use logreg, linear-svm or sgd, or a layer pooled to fewer."
        )
    return bool(len(X) <= X.shape[1])


def _solve(
    estimator: Estimator, rows: _Rows | _Sums, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights, (n_features, n_outputs), and intercepts; one output for two classes."""
    n, means, counts = rows.counts.sum(), rows.means, rows.counts
    if isinstance(estimator, RidgeClassifier):
        centre = counts @ means / n if estimator.fit_intercept else np.zeros(means.shape[1])
        # Targets of +1 and -1 make of the products with the rows twice the classes' sums.
        rhs = 2 * ((means - centre) * counts[:, None]).T
        target = 2 * counts / n - 1
        if not estimator.fit_intercept:
            rhs -= (counts @ means)[:, None]
        if len(counts) == 2:
            rhs, target = rhs[:, 1:], target[1:]
        coef = rows.about(centre).solve(1.0, penalty, rhs)
        return coef, (target - centre @ coef if estimator.fit_intercept else 0.0 * target)
    within = rows.about(means)
    ridge = penalty * within.trace / (n * means.shape[1])
    coef = within.solve((1 - penalty) / n, ridge, means.T)
    intercept = np.log(counts / n) - 0.5 * np.einsum("kp,pk->k", means, coef)
    if len(counts) == 2:
        return coef[:, 1:] - coef[:, :1], intercept[1:] - intercept[:1]
    return coef, intercept


@dataclass(frozen=True)
class _Sums:
    """Rows by their sums: what a tall matrix is known by.

    counts (n_classes,), means (n_classes, n_features), products (n_features, n_features), float64.
    """

    counts: np.ndarray
    means: np.ndarray
    products: np.ndarray

    @classmethod
    def of(
        cls,
        threads: Threads,
        X: np.ndarray,
        codes: np.ndarray,
        n_classes: int,
        at: np.ndarray | None = None,
    ) -> _Sums:
        def one(block: slice) -> tuple[np.ndarray, np.ndarray]:
            rows, own = (X[block], codes[block]) if at is None else (X[at[block]], codes[at[block]])
            which = (own == np.arange(n_classes)[:, None]).astype(np.float32)
            return (which @ rows).astype(np.float64), (rows.T @ rows).astype(np.float64)

        n = len(X) if at is None else len(at)
        sums, products = threads.total(one, row_blocks(n, X.shape[1], 4 * CACHED_NBYTES))
        counts = np.bincount(codes if at is None else codes[at], minlength=n_classes)
        return cls(counts, sums / np.maximum(counts, 1)[:, None], products)

    def __add__(self, other: _Sums) -> _Sums:
        return self._and(other, 1)

    def __sub__(self, other: _Sums) -> _Sums:
        return self._and(other, -1)

    def _and(self, other: _Sums, sign: int) -> _Sums:
        counts = self.counts + sign * other.counts
        sums = self.means * self.counts[:, None] + sign * other.means * other.counts[:, None]
        products = self.products + sign * other.products
        return _Sums(counts, sums / np.maximum(counts, 1)[:, None], products)

    def standardised(self) -> tuple[_Sums, np.ndarray, np.ndarray]:
        """Return those of the standardised rows, and the means and deviations."""
        n = self.counts.sum()
        mean = self.counts @ self.means / n
        variance = np.diag(self.products) / n - mean**2
        # The rows are about standardised by all, so that this tells constants from small.
        scale = np.where(variance > 1e-10, np.sqrt(np.maximum(variance, 0.0)), 1.0)
        products = (self.products - n * np.outer(mean, mean)) / np.outer(scale, scale)
        return _Sums(self.counts, (self.means - mean) / scale, products), mean, scale

    def about(self, centres: np.ndarray) -> _Tall:
        """Return the scatter about one centre, or about each class's own."""
        if centres.ndim == 1:
            n = self.counts.sum()
            return _Tall(self.products - n * np.outer(centres, centres))
        return _Tall(self.products - (centres.T * self.counts) @ centres)


@dataclass(frozen=True)
class _Tall:
    """A scatter matrix."""

    scatter: np.ndarray

    @property
    def trace(self) -> float:
        return float(np.trace(self.scatter))

    def solve(self, a: float, b: float, rhs: np.ndarray) -> np.ndarray:
        """Return ``(a * scatter + b * identity)^-1 rhs``."""
        system = a * self.scatter
        system.flat[:: len(system) + 1] += b
        factor = scipy.linalg.cho_factor(system, overwrite_a=True, check_finite=False)
        solution: np.ndarray = scipy.linalg.cho_solve(factor, rhs, check_finite=False)
        return solution


@dataclass(frozen=True)
class _Rows:
    """Rows as they are: what a wide matrix is known by."""

    counts: np.ndarray
    means: np.ndarray
    X: np.ndarray
    codes: np.ndarray

    @classmethod
    def of(cls, X: np.ndarray, codes: np.ndarray) -> _Rows:
        counts = np.bincount(codes)
        means = np.stack([X[codes == c].mean(axis=0, dtype=np.float64) for c in range(len(counts))])
        return cls(counts, means, X, codes)

    def about(self, centres: np.ndarray) -> _Wide:
        """Return the scatter about one centre, or about each class's own."""
        return _Wide(self.X - (centres if centres.ndim == 1 else centres[self.codes]))


@dataclass(frozen=True)
class _Wide:
    """The scatter matrix of rows, (n_samples, n_features) float64, that is never formed."""

    rows: np.ndarray

    @property
    def trace(self) -> float:
        return float(np.vdot(self.rows, self.rows))

    def solve(self, a: float, b: float, rhs: np.ndarray) -> np.ndarray:
        """Return ``(a * scatter + b * identity)^-1 rhs``, by Woodbury's identity."""
        kernel = a * (self.rows @ self.rows.T)
        kernel.flat[:: len(kernel) + 1] += b
        factor = scipy.linalg.cho_factor(kernel, overwrite_a=True, check_finite=False)
        inner = scipy.linalg.cho_solve(factor, self.rows @ rhs, check_finite=False)
        solution: np.ndarray = (rhs - a * (self.rows.T @ inner)) / b
        return solution
