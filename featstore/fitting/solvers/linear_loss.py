"""What training a linear classifier minimises, and its gradient, for all folds in one pass."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import scipy.linalg
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from featstore.fitting.solvers.blocks import CACHED_NBYTES, Threads, row_blocks
from featstore.fitting.solvers.lbfgs import LBFGS
from featstore.fitting.solvers.scaling import Moments, moments

N_DIRECTIONS = 256
"""Principal directions of the features in which the curvature is known one by one."""


N_SAMPLED = 1024
"""Rows, evenly spread, that give the directions; or four per feature, if that is less work."""


MAX_SIDE = 4096
"""Rows up to which it takes seconds to bring a wide matrix into its own coordinates."""


Loss = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Model:
    """Weights of a linear classifier: (n_features, n_outputs) and (n_outputs,), float64."""

    coef: np.ndarray
    intercept: np.ndarray
    n_iter: int
    converged: bool


def is_wide(X: np.ndarray) -> bool:
    """Return whether to train in the coordinates that the rows span."""
    return len(X) <= X.shape[1] and len(X) <= MAX_SIDE


class Objective:
    """One classifier's training on all rows, or with folds on the rows outside each fold.

    Weights are (n_features + 1, n_outputs), with the intercept in the last row. With folds they
    are of features that each fold's training rows standardise.
    """

    def __init__(
        self,
        estimator: LogisticRegression | LinearSVC,
        X: np.ndarray,
        y: np.ndarray,
        folds: np.ndarray | None,
    ) -> None:
        self.X, self.folds = X, folds
        is_svm = isinstance(estimator, LinearSVC)
        self._loss: Loss
        if y.ndim == 2:
            # A row may have several classes: each has a problem of its own.
            self._codes, self.n_outputs = y, y.shape[1]
            self._loss = _each_squared_hinge if is_svm else _each_logistic
        else:
            classes, self._codes = np.unique(y, return_inverse=True)
            self.n_outputs = 1 if len(classes) == 2 else len(classes)
            self._loss = _squared_hinge if is_svm else _logistic
        # Second derivative of the loss at the start; the steps correct it.
        self.curvature = 1.0 if is_svm else 0.15
        self._fits_intercept = estimator.fit_intercept
        # liblinear's intercept is the weight of a further feature that is always 1.
        self._shrinks_intercept = is_svm
        n_outputs = self.n_outputs * (1 if folds is None else int(folds.max()) + 1)
        self._blocks = row_blocks(len(X), X.shape[1], CACHED_NBYTES, n_outputs)
        self.n_features = X.shape[1]
        self.counts = [len(X)]
        self._mean = np.zeros((1, self.n_features))
        self._scale = np.ones((1, self.n_features))

    def without(self, folds: np.ndarray) -> Self:
        """Return the training of all rows but those of each fold, which shares all else.

        The features stay as they are. Rows of fold -1 train all.
        """
        found = copy.copy(self)
        found.folds = folds
        found.counts = (len(self.X) - np.bincount(folds[folds >= 0])).tolist()
        n_folds = len(found.counts)
        found._blocks = row_blocks(
            len(self.X), self.n_features, CACHED_NBYTES, self.n_outputs * n_folds
        )
        found._mean = np.zeros((n_folds, self.n_features))
        found._scale = np.ones((n_folds, self.n_features))
        return found

    def measure(self, threads: Threads) -> None:
        """Find the features' directions, and their means and deviations outside each fold."""
        self._directions = self._find_directions(threads)
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

    def _find_directions(self, threads: Threads) -> tuple[np.ndarray, np.ndarray, float]:
        """Return the main directions, their variances, and the mean variance of the others."""
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
            lambda part: sample @ sample[part].T if wide else sample[part].T @ sample[part],
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

    def preconditioner(self, penalty: float) -> Callable[[np.ndarray], np.ndarray]:
        """Return the product with the inverse of ``curvature * covariance + penalty``."""
        vectors, values, rest = self._directions
        curvature = self.curvature
        floor = 1.0 / (curvature * rest + penalty)
        extra = (1.0 / (curvature * values + penalty) - floor)[:, None].astype(np.float32)

        def multiply(gradient: np.ndarray) -> np.ndarray:
            product = np.empty_like(gradient)
            inner = vectors.T @ gradient[:-1].astype(np.float32)
            product[:-1] = floor * gradient[:-1] + vectors @ (extra * inner)
            product[-1] = gradient[-1] / (curvature + penalty)
            return product

        return multiply

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
        """Return weights and intercept for the features before they are standardised."""
        coef = w[:-1] / self._scale[i][:, None]
        return coef, w[-1] - self._mean[i] @ coef

    def model(self, i: int, minimiser: LBFGS) -> Model:
        """Return the best weights of a minimiser."""
        return Model(*self._unscaled(i, minimiser.best), minimiser.n_iter, minimiser.converged)


def _nothing(n_features: int) -> Moments:
    return Moments(0, np.zeros(n_features), np.zeros(n_features))


class WideObjective(Objective):
    """Training on fewer rows than features, in the rows' principal coordinates.

    The best weights are a combination of the rows, so these coordinates lose nothing; and in them,
    features are uncorrelated.
    """

    def __init__(
        self, estimator: LogisticRegression | LinearSVC, X: np.ndarray, y: np.ndarray
    ) -> None:
        squares, left = scipy.linalg.eigh((X @ X.T).astype(np.float64))
        keep = squares > 1e-7 * squares[-1]
        lengths = np.sqrt(squares[keep])
        left = left[:, keep]
        super().__init__(estimator, (left * lengths).astype(np.float32), y, None)
        self._variances = squares[keep] / len(X)
        self._back = (left / lengths).astype(np.float32)
        self._rows = X

    def measure(self, threads: Threads) -> None:
        """Do nothing: the coordinates say all."""

    def preconditioner(self, penalty: float) -> Callable[[np.ndarray], np.ndarray]:
        """Return the product with the inverse of ``curvature * covariance + penalty``."""
        inverse = 1.0 / (self.curvature * np.append(self._variances, 1.0) + penalty)
        return lambda gradient: inverse[:, None] * gradient

    def model(self, i: int, minimiser: LBFGS) -> Model:
        """Return the best weights of a minimiser, for the features themselves."""
        found = super().model(i, minimiser)
        coef = self._rows.T @ (self._back @ found.coef.astype(np.float32))
        return replace(found, coef=coef.astype(np.float64))


def _logistic(
    z: np.ndarray, codes: np.ndarray, trains: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the logistic loss, summed over the rows, and its derivatives by `z`.

    The outputs `z`, (n, n_problems, n_outputs) float32, are overwritten. `trains`, (n, n_problems),
    is 1 where a problem trains on a row, and 0 elsewhere.
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


def _each_logistic(
    z: np.ndarray, labels: np.ndarray, trains: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the logistic loss of each class's own problem, summed; see _logistic.

    `labels`, (n, n_outputs), is 1 where a row has the class and 0 elsewhere.
    """
    sign = np.where(labels > 0, 1.0, -1.0).astype(np.float32)[:, None, :]
    z *= sign
    loss = np.logaddexp(0.0, -z) * trains[:, :, None]
    return loss.sum(axis=(0, 2), dtype=np.float64), -sign * expit(-z) * trains[:, :, None]


def _squared_hinge(
    z: np.ndarray, codes: np.ndarray, trains: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the squared hinge loss, summed over rows and one-vs-rest problems; see _logistic."""
    own = np.arange(z.shape[2]) if z.shape[2] > 1 else np.array([1])
    return _each_squared_hinge(z, codes[:, None] == own, trains)


def _each_squared_hinge(
    z: np.ndarray, labels: np.ndarray, trains: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the squared hinge loss of each class's own problem, summed; see _each_logistic."""
    sign = np.where(labels > 0, 1.0, -1.0).astype(np.float32)[:, None, :]
    z *= -sign
    z += 1.0
    np.maximum(z, 0.0, out=z)
    z *= trains[:, :, None]
    loss = np.einsum("ijk,ijk->j", z, z, dtype=np.float64)
    z *= -2.0 * sign
    return loss, z
