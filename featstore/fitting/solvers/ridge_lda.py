"""Fit ridge and LDA from sums of products: one pass serves all folds and penalties.

Both need only the number of the rows, their sums and their products. Those outside a fold are those
of all rows less the fold's: one pass serves every fold, and each penalty costs one solution of a
small system. With fewer rows than features, products of rows replace those of features (Woodbury's
identity).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import scipy.linalg
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import RidgeClassifier

from featstore.errors import FitError
from featstore.fitting.solvers.blocks import CACHED_NBYTES, Threads, row_blocks, shared_threads
from featstore.fitting.solvers.scaling import standardise

MAX_FEATURES = 20_000
"""Largest number of columns; the matrix of their products takes 3.2 GB in float64."""


KEPT_NBYTES = 2**28
"""Largest products of a fit that are kept for fits without some of the rows."""


Estimator: TypeAlias = RidgeClassifier | LinearDiscriminantAnalysis


def handles(estimator: object) -> bool:
    """Return whether :func:`fit` gives what the estimator's own ``fit`` would, up to rounding."""
    params = estimator.get_params(deep=False) if hasattr(estimator, "get_params") else {}
    if type(estimator) is RidgeClassifier:
        plain = params["class_weight"] is None and not params["positive"]
        return bool(
            plain and params["solver"] in ("auto", "cholesky") and _is_positive(params["alpha"])
        )
    if type(estimator) is LinearDiscriminantAnalysis:
        others = ("priors", "covariance_estimator", "n_components")
        plain = all(params[name] is None for name in others)
        return bool(plain and params["solver"] == "lsqr" and _is_positive(params["shrinkage"]))
    return False


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and value > 0


def penalty_name(estimator: Estimator) -> str:
    """Return the parameter whose further values cost little."""
    return "alpha" if isinstance(estimator, RidgeClassifier) else "shrinkage"


def fit(estimator: Estimator, X: np.ndarray, y: np.ndarray) -> RowSums | None:
    """Fit an estimator that :func:`handles` in place.

    `X` is (n_samples, n_features) float32, standardised, and may be read-only. Returns the sums of
    a tall matrix's rows, if they take little memory.
    """
    classes, codes = np.unique(y, return_inverse=True)
    with shared_threads() as threads:
        rows = WideRows.of(X, codes) if is_wide(X) else RowSums.of(threads, X, codes, len(classes))
        _fit_sums(estimator, rows, classes, X)
    if isinstance(rows, RowSums) and rows.products.nbytes <= KEPT_NBYTES:
        return rows
    return None


def fit_without(
    estimator: Estimator, X: np.ndarray, y: np.ndarray, folds: np.ndarray, sums: RowSums
) -> list[Estimator]:
    """Return the estimator as it would be without each fold's rows, from the sums of all rows.

    See :func:`.train.fit_without`.
    """
    classes, codes = np.unique(y, return_inverse=True)
    fitted = [clone(estimator) for _ in range(int(folds.max()) + 1)]
    with shared_threads() as threads:
        for fold, one in enumerate(fitted):
            held_out = np.flatnonzero(folds == fold)
            own = RowSums.of(threads, X, codes, len(classes), held_out)
            _fit_sums(one, sums - own, classes, X)
    return fitted


def _fit_sums(
    estimator: Estimator, rows: WideRows | RowSums, classes: np.ndarray, X: np.ndarray
) -> None:
    """Fit an estimator in place to what stands for its rows; `X` gives their form."""
    coef, intercept = _solve(estimator, rows, getattr(estimator, penalty_name(estimator)))
    put(estimator, classes, coef.T, intercept, X)
    if isinstance(estimator, LinearDiscriminantAnalysis):
        estimator._max_components = min(len(classes) - 1, X.shape[1])
        estimator.priors_ = rows.counts / rows.counts.sum()
        estimator.means_ = rows.means.astype(X.dtype)
        # As large as all pairs of features, and of no use once the weights are known.
        del estimator.covariance_


def put(
    estimator: Estimator,
    classes: np.ndarray,
    coef: np.ndarray,
    intercept: np.ndarray,
    X: np.ndarray,
) -> None:
    """Set the attributes that the estimator's own ``fit`` to `X` would set, but those of LDA's."""
    # A fit to any rows sets what scikit-learn needs beside the weights. Its time and memory grow
    # with the square of the classes: three stand for all.
    stub = np.eye(len(classes[:3]), min(len(classes[:3]), X.shape[1]), dtype=np.float32)
    estimator.fit(np.concatenate([stub, -stub]), np.tile(classes[:3], 2))
    estimator.classes_ = classes
    if isinstance(estimator, RidgeClassifier):
        estimator._label_binarizer.fit(classes)
    estimator.n_features_in_ = X.shape[1]
    estimator.coef_ = np.ascontiguousarray(coef, dtype=X.dtype)
    estimator.intercept_ = intercept.astype(X.dtype)


def cross_validate(
    estimator: Estimator,
    X: np.ndarray,
    y: np.ndarray,
    folds: np.ndarray,
    values: Sequence[float],
) -> np.ndarray:
    """Return the accuracy on each held-out fold for each penalty, (len(values), n_folds) float64.

    Each fold's classifier is fitted on the other rows, standardised by these alone. `X` is
    standardised by all rows; `folds` is the fold that holds out each row, and every class has rows
    outside every fold. Penalties are ridge's alpha or LDA's shrinkage.
    """
    classes, codes = np.unique(y, return_inverse=True)
    n_folds = int(folds.max()) + 1
    scores = np.empty((len(values), n_folds))
    rows: WideRows | RowSums
    with shared_threads() as threads:
        if not is_wide(X):
            of_folds = [
                RowSums.of(threads, X, codes, len(classes), np.flatnonzero(folds == fold))
                for fold in range(n_folds)
            ]
            whole = sum(of_folds[1:], start=of_folds[0])
        for fold in range(n_folds):
            if is_wide(X):
                scaled, mean, scale = standardise(X[folds != fold])
                rows = WideRows.of(scaled, codes[folds != fold])
            else:
                rows, mean, scale = (whole - of_folds[fold]).standardised()
            held_out = np.flatnonzero(folds == fold)
            solved = threads.map(functools.partial(_solve, estimator, rows), values)
            coefs, intercepts = zip(*solved, strict=True)
            coef = np.concatenate(coefs, axis=1) / scale[:, None]
            intercept = np.concatenate(intercepts) - mean @ coef
            right = np.zeros(len(values))
            for block in row_blocks(len(held_out), X.shape[1], n_outputs=coef.shape[1]):
                z = X[held_out[block]] @ coef.astype(np.float32) + intercept.astype(np.float32)
                z = z.reshape(len(z), len(values), -1)
                found = (z[:, :, 0] > 0).astype(int) if z.shape[2] == 1 else z.argmax(axis=2)
                right += (found == codes[held_out[block], None]).sum(axis=0)
            scores[:, fold] = right / len(held_out)
    return scores


def is_wide(X: np.ndarray) -> bool:
    """Return whether to work with products of rows; refuse too many columns."""
    if len(X) > X.shape[1] > MAX_FEATURES:
        raise FitError(
            f"ridge and lda need the products of all pairs of features, and there are "
            f"{X.shape[1]:,}. Use logreg, linear-svm or sgd, or a layer pooled to fewer."
        )
    return bool(len(X) <= X.shape[1])


def _solve(
    estimator: Estimator, rows: WideRows | RowSums, penalty: float
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
    spread = within.trace / (n * means.shape[1])
    # Of standardised rows; float32 leaves about this much of none.
    if n <= np.sum(counts > 0) or spread < 1e-7:
        raise FitError(
            "lda needs training rows that differ within their class, and all classes have one row "
            "only, or the same one several times. Use ridge or logreg, or add images."
        )
    ridge = penalty * spread
    coef = within.solve((1 - penalty) / n, ridge, means.T)
    intercept = np.log(counts / n) - 0.5 * np.einsum("kp,pk->k", means, coef)
    if len(counts) == 2:
        return coef[:, 1:] - coef[:, :1], intercept[1:] - intercept[:1]
    return coef, intercept


@dataclass(frozen=True)
class RowSums:
    """Sums that stand for the rows of a tall matrix.

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
    ) -> RowSums:
        """Return the sums of all rows, or of those `at` some positions; `codes` are classes."""

        def one(block: slice) -> tuple[np.ndarray, np.ndarray]:
            rows, own = (X[block], codes[block]) if at is None else (X[at[block]], codes[at[block]])
            which = (own == np.arange(n_classes)[:, None]).astype(np.float32)
            return (which @ rows).astype(np.float64), (rows.T @ rows).astype(np.float64)

        n = len(X) if at is None else len(at)
        blocks = row_blocks(n, X.shape[1], 4 * CACHED_NBYTES, n_classes)
        sums, products = threads.total(one, blocks)
        counts = np.bincount(codes if at is None else codes[at], minlength=n_classes)
        return cls(counts, sums / np.maximum(counts, 1)[:, None], products)

    def __add__(self, other: RowSums) -> RowSums:
        return self._and(other, 1)

    def __sub__(self, other: RowSums) -> RowSums:
        return self._and(other, -1)

    def _and(self, other: RowSums, sign: int) -> RowSums:
        counts = self.counts + sign * other.counts
        sums = self.means * self.counts[:, None] + sign * other.means * other.counts[:, None]
        products = self.products + sign * other.products
        return RowSums(counts, sums / np.maximum(counts, 1)[:, None], products)

    def standardised(self) -> tuple[RowSums, np.ndarray, np.ndarray]:
        """Return the sums of the standardised rows, and the means and deviations."""
        n = self.counts.sum()
        mean = self.counts @ self.means / n
        variance = np.diag(self.products) / n - mean**2
        # All rows together have a variance of 1: what is far smaller is rounding of a constant.
        scale = np.where(variance > 1e-10, np.sqrt(np.maximum(variance, 0.0)), 1.0)
        products = (self.products - n * np.outer(mean, mean)) / np.outer(scale, scale)
        return RowSums(self.counts, (self.means - mean) / scale, products), mean, scale

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
class WideRows:
    """The rows of a wide matrix."""

    counts: np.ndarray
    means: np.ndarray
    X: np.ndarray
    codes: np.ndarray

    @classmethod
    def of(cls, X: np.ndarray, codes: np.ndarray) -> WideRows:
        """Return the rows with their classes' numbers and means."""
        counts = np.bincount(codes)
        means = np.stack([X[codes == c].mean(axis=0, dtype=np.float64) for c in range(len(counts))])
        return cls(counts, means, X, codes)

    def about(self, centres: np.ndarray) -> _Wide:
        """Return the scatter about one centre, or about each class's own."""
        return _Wide(self.X - (centres if centres.ndim == 1 else centres[self.codes]))


@dataclass(frozen=True)
class _Wide:
    """A scatter matrix that is never formed, as its rows, (n_samples, n_features) float64."""

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
