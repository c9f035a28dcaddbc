"""Linear classifiers by full passes: every fold's problem in one product with the matrix.

Logistic regression and the linear SVM with squared hinge minimise

    mean of loss(y, X w + b) + |w|^2 / (2 C n)

which is smooth and strictly convex, so that any solver that gets there gives scikit-learn's
classifier. scikit-learn's own reads the matrix once and again for each step of each fold and C;
reading it is what takes the time. Here all folds' problems take their steps together, so that
one product with a block of rows serves all; each C begins where the last one ended; and the
steps are taken in coordinates in which the features are about uncorrelated, which takes some
10 steps where it were 30 to 150.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from featstore.blocks import CACHED_NBYTES, Threads, row_blocks, shared_threads
from featstore.descent import Descent
from featstore.scaling import Moments, moments

N_DIRECTIONS = 256
"""Principal directions of the features along which the curvature is told apart."""

N_SAMPLED = 1024
"""Rows, evenly spread, that the directions are of; or four for each feature, where that is
no more work."""

Loss = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Model:
    """Weights of a linear classifier, for the matrix that it was trained on.

    Parameters
    ----------
    coef : ndarray of shape (n_features, n_outputs), float64
    intercept : ndarray of shape (n_outputs,), float64
    n_iter : int
        Steps that were taken.
    converged : bool
    """

    coef: np.ndarray
    intercept: np.ndarray
    n_iter: int
    converged: bool


def handles(estimator: object) -> bool:
    """Return whether :func:`fit` gives what the estimator's own ``fit`` would.

    It does where only ``C``, ``tol``, ``max_iter``, ``fit_intercept`` and what has no bearing on
    the optimum are not scikit-learn's defaults.
    """
    if type(estimator) not in (LogisticRegression, LinearSVC):
        return False
    free = {"C", "tol", "max_iter", "fit_intercept", "random_state", "n_jobs", "verbose", "dual"}
    defaults = inspect.signature(type(estimator)).parameters
    params = estimator.get_params(deep=False)
    if isinstance(estimator, LogisticRegression) and params["dual"]:
        return False
    return all(
        name in free or value is defaults[name].default or value == defaults[name].default
        for name, value in params.items()
    )


def fit(estimator: LogisticRegression | LinearSVC, X: np.ndarray, y: np.ndarray) -> bool:
    """Fit `estimator` in place; return whether it converged.

    Parameters
    ----------
    estimator : LogisticRegression or LinearSVC
        One that :func:`handles`.
    X : ndarray of shape (n_samples, n_features), float32
        May be read-only.
    y : ndarray of shape (n_samples,), int
    """
    ((_, (model,)),) = solve(estimator, X, y, [estimator.C])
    estimator.classes_ = np.unique(y)
    estimator.coef_ = np.ascontiguousarray(model.coef.T, dtype=X.dtype)
    estimator.intercept_ = model.intercept.astype(X.dtype)
    is_svm = isinstance(estimator, LinearSVC)
    estimator.n_iter_ = model.n_iter if is_svm else np.array([model.n_iter], dtype=np.int32)
    estimator.n_features_in_ = X.shape[1]
    return model.converged


def cross_validate(
    estimator: LogisticRegression | LinearSVC,
    X: np.ndarray,
    y: np.ndarray,
    folds: np.ndarray,
    values: Sequence[float],
) -> np.ndarray:
    """Return the accuracy on each held-out fold for each C.

    Each fold's problem is that of its other rows, standardised by these alone.

    Parameters
    ----------
    estimator : LogisticRegression or LinearSVC
        One that :func:`handles`; its C does not matter.
    X : ndarray of shape (n_samples, n_features), float32
        Standardised by all rows.
    y : ndarray of shape (n_samples,), int
    folds : ndarray of shape (n_samples,), int
        In which fold each row is held out.
    values : sequence of float
        Values of C.

    Returns
    -------
    ndarray of shape (len(values), n_folds), float64
    """
    n_folds = int(folds.max()) + 1
    classes = np.unique(y)
    scores = np.empty((len(values), n_folds))
    order = list(np.argsort(values))
    found = solve(estimator, X, y, [values[i] for i in order], folds)
    for i, (_, models) in zip(order, found, strict=True):
        coef = np.stack([model.coef for model in models]).astype(np.float32)
        intercept = np.stack([model.intercept for model in models]).astype(np.float32)
        right = np.zeros(n_folds)
        for block in row_blocks(*X.shape):
            for fold in range(n_folds):
                held = folds[block] == fold
                z = X[block][held] @ coef[fold] + intercept[fold]
                guess = (z[:, 0] > 0).astype(int) if z.shape[1] == 1 else z.argmax(axis=1)
                right[fold] += np.sum(classes[guess] == y[block][held])
        scores[i] = right / np.bincount(folds, minlength=n_folds)
    return scores


def solve(
    estimator: LogisticRegression | LinearSVC,
    X: np.ndarray,
    y: np.ndarray,
    values: Sequence[float],
    folds: np.ndarray | None = None,
) -> Iterator[tuple[float, list[Model]]]:
    """Yield each C with its model, or with a model for each held-out fold.

    Parameters
    ----------
    estimator : LogisticRegression or LinearSVC
        One that :func:`handles`.
    X : ndarray of shape (n_samples, n_features), float32
    y : ndarray of shape (n_samples,), int
    values : sequence of float
        Values of C, increasing: each begins with the weights of the one before.
    folds : ndarray of shape (n_samples,), int, optional
        In which fold each row is held out. Models of folds are of standardised features, but
        apply to `X`.
    """
    problem = _Problem(estimator, X, y, folds)
    with shared_threads() as threads:
        problem.measure(threads)
        directions = problem.directions(threads)
        weights = [np.zeros((X.shape[1] + 1, problem.n_outputs)) for _ in problem.counts]
        for C in values:
            descents = [
                Descent(
                    start,
                    _preconditioner(*directions, problem.curvature, 1.0 / (C * n)),
                    estimator.tol,
                    estimator.max_iter,
                )
                for start, n in zip(weights, problem.counts, strict=True)
            ]
            while active := [i for i, descent in enumerate(descents) if not descent.is_done]:
                points = [descents[i].point for i in active]
                found = problem.evaluate(threads, active, points, C)
                told = [(descents[i], *values) for i, values in zip(active, found, strict=True)]
                threads.map(lambda one: one[0].tell(*one[1:]), told)
            weights = [descent.best for descent in descents]
            yield C, [problem.model(i, descent) for i, descent in enumerate(descents)]


class _Problem:
    """One classifier's training, on all rows, or once for each fold without it.

    Weights are (n_features + 1, n_outputs), of the standardised features where there are folds;
    the last row is the intercept.
    """

    def __init__(
        self,
        estimator: LogisticRegression | LinearSVC,
        X: np.ndarray,
        y: np.ndarray,
        folds: np.ndarray | None,
    ) -> None:
        self.X, self.folds = X, folds
        classes, self._codes = np.unique(y, return_inverse=True)
        self.n_outputs = 1 if len(classes) == 2 else len(classes)
        is_svm = isinstance(estimator, LinearSVC)
        self._loss: Loss = _squared_hinge if is_svm else _logistic
        # Second derivative of the loss where training begins, which the steps then correct.
        self.curvature = 1.0 if is_svm else 0.15
        self._fits_intercept = estimator.fit_intercept
        # liblinear's intercept is the weight of a further feature that is always 1.
        self._shrinks_intercept = is_svm
        self._blocks = row_blocks(*X.shape, CACHED_NBYTES)
        n_features = X.shape[1]
        self.counts = [len(X)]
        self._mean, self._scale = np.zeros((1, n_features)), np.ones((1, n_features))

    def measure(self, threads: Threads) -> None:
        """Find the means and deviations of the features without each fold."""
        folds = self.folds
        if folds is None:
            return
        n_folds = int(folds.max()) + 1
        found: tuple[Moments, ...] = threads.total(
            lambda block: tuple(
                moments(self.X[block][folds[block] == fold]) for fold in range(n_folds)
            ),
            self._blocks,
        )
        others = [
            sum((m for i, m in enumerate(found) if i != fold), start=_nothing(self.X.shape[1]))
            for fold in range(n_folds)
        ]
        self.counts = [m.n for m in others]
        self._mean = np.stack([m.mean for m in others])
        self._scale = np.stack([m.scale for m in others])

    def directions(self, threads: Threads) -> tuple[np.ndarray, np.ndarray, float]:
        """Return the features' main directions, their variances, and that of all the others."""
        n, p = self.X.shape
        n_sampled = min(n, N_SAMPLED if p > N_SAMPLED else max(N_SAMPLED, 4 * p))
        rows = np.linspace(0, n - 1, n_sampled).astype(int)
        sample = self.X[rows]
        sample -= sample.mean(axis=0)
        variance = float(np.einsum("ij,ij->", sample, sample, dtype=np.float64)) / n_sampled
        wide = n_sampled < p
        side = min(n_sampled, p)
        n_kept = min(N_DIRECTIONS, side)
        gram = threads.total(
            lambda part: (sample @ sample[part].T if wide else sample[part].T @ sample[part]),
            [slice(None)] if wide else row_blocks(n_sampled, p, CACHED_NBYTES),
        )
        values, vectors = scipy.linalg.eigh(
            gram.astype(np.float64) / n_sampled, subset_by_index=(side - n_kept, side - 1)
        )
        keep = values > 1e-6 * max(values[-1], 1e-30)
        values, vectors = values[keep], vectors[:, keep]
        if wide:
            vectors = sample.T @ vectors.astype(np.float32)
            vectors /= np.sqrt(values * n_sampled).astype(np.float32)
        rest = max(0.0, variance - float(values.sum())) / max(1, p - len(values))
        return vectors.astype(np.float32), values, rest

    def evaluate(
        self, threads: Threads, active: Sequence[int], points: Sequence[np.ndarray], C: float
    ) -> list[tuple[float, np.ndarray]]:
        """Return the objective and its gradient at the weights of some of the problems."""
        coefs, intercepts = zip(
            *(self._unscaled(i, w) for i, w in zip(active, points, strict=True)), strict=True
        )
        A = np.concatenate(coefs, axis=1).astype(np.float32)
        b = np.concatenate(intercepts).astype(np.float32)
        shape = (-1, len(active), self.n_outputs)
        X, codes = self.X, self._codes
        held = np.array(active)

        def one(block: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            rows = X[block]
            z = rows @ A
            z += b
            if self.folds is None:
                trains = np.ones((len(rows), 1), dtype=np.float32)
            else:
                trains = (self.folds[block, None] != held).astype(np.float32)
            loss, residual = self._loss(z.reshape(shape), codes[block], trains)
            residual = residual.reshape(len(rows), -1)
            slope = (rows.T @ residual).astype(np.float64)
            return loss, slope, residual.sum(axis=0, dtype=np.float64)

        losses, slopes, sums = threads.total(one, self._blocks)
        found = []
        for j, (i, w) in enumerate(zip(active, points, strict=True)):
            own = slice(j * self.n_outputs, (j + 1) * self.n_outputs)
            n, penalty = self.counts[i], 1.0 / (C * self.counts[i])
            shifted = slopes[:, own] - np.outer(self._mean[i], sums[own])
            gradient = np.vstack([shifted / self._scale[i][:, None], sums[None, own]]) / n
            shrunk = w if self._shrinks_intercept else w[:-1]
            gradient[: len(shrunk)] += penalty * shrunk
            if not self._fits_intercept:
                gradient[-1] = 0.0
            value = losses[j] / n + 0.5 * penalty * float(np.vdot(shrunk, shrunk))
            found.append((value, gradient))
        return found

    def _unscaled(self, i: int, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return weights and intercept for the features as they are."""
        coef = w[:-1] / self._scale[i][:, None]
        return coef, w[-1] - self._mean[i] @ coef

    def model(self, i: int, descent: Descent) -> Model:
        """Return what a descent has found."""
        return Model(*self._unscaled(i, descent.best), descent.n_iter, descent.converged)


def _nothing(n_features: int) -> Moments:
    return Moments(0, np.zeros(n_features), np.zeros(n_features))


def _preconditioner(
    vectors: np.ndarray, values: np.ndarray, rest: float, curvature: float, penalty: float
) -> Callable[[np.ndarray], np.ndarray]:
    """Return the product with the inverse of ``curvature * covariance + penalty``."""
    floor = 1.0 / (curvature * rest + penalty)
    extra = (1.0 / (curvature * values + penalty) - floor)[:, None].astype(np.float32)

    def multiply(gradient: np.ndarray) -> np.ndarray:
        product = np.empty_like(gradient)
        inner = vectors.T @ gradient[:-1].astype(np.float32)
        product[:-1] = floor * gradient[:-1] + vectors @ (extra * inner)
        product[-1] = gradient[-1] / (curvature + penalty)
        return product

    return multiply


def _logistic(
    z: np.ndarray, codes: np.ndarray, trains: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the logistic loss, summed over the rows, and its derivatives by `z`.

    Parameters
    ----------
    z : ndarray of shape (n, n_problems, n_outputs), float32
        Outputs; overwritten.
    codes : ndarray of shape (n,), int
        Classes.
    trains : ndarray of shape (n, n_problems), float32
        1 where a row is one of a problem's, 0 elsewhere.
    """
    if z.shape[2] == 1:
        sign = np.where(codes == 1, 1.0, -1.0).astype(np.float32)[:, None]
        margin = z[:, :, 0] * sign
        loss = np.logaddexp(0.0, -margin) * trains
        return loss.sum(axis=0, dtype=np.float64), -sign * expit(-margin) * trains
    at = np.arange(len(z)), slice(None), codes
    z -= z.max(axis=2, keepdims=True)
    own = z[at]
    np.exp(z, out=z)
    sums = z.sum(axis=2)
    loss = (np.log(sums) - own) * trains
    z *= (trains / sums)[:, :, None]
    z[at] -= trains
    return loss.sum(axis=0, dtype=np.float64), z


def _squared_hinge(
    z: np.ndarray, codes: np.ndarray, trains: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the squared hinge loss, summed over rows and one-vs-rest problems, as _logistic."""
    if z.shape[2] == 1:
        sign = np.where(codes == 1, 1.0, -1.0).astype(np.float32)[:, None]
    else:
        sign = np.where(codes[:, None] == np.arange(z.shape[2]), 1.0, -1.0).astype(np.float32)
    sign = sign[:, None, :]
    z *= -sign
    z += 1.0
    np.maximum(z, 0.0, out=z)
    z *= trains[:, :, None]
    loss = np.einsum("ijk,ijk->j", z, z, dtype=np.float64)
    z *= -2.0 * sign
    return loss, z
