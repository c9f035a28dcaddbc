"""Scores of rows together with each row's influence on them, which gives their intervals.

A score's influences are its derivatives by the rows' weights. The sum of their squares is its
variance over other test rows: the infinitesimal jackknife, which is the bootstrap's standard error
without draws (Efron 1982, The Jackknife, the Bootstrap and Other Resampling Plans, chapter 6).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from featstore.runs.significance import Z


@dataclass(frozen=True)
class Estimate:
    """A score, and the influence of each row on it, (n_samples,) float64."""

    value: float
    influences: np.ndarray

    @property
    def deviation(self) -> float:
        """Standard error of the score."""
        return float(np.sqrt(np.sum(self.influences**2)))

    def interval(self, low: float, high: float) -> list[float]:
        """Return the 95 % interval of the normal distribution, cut off at `low` and `high`."""
        half = Z * self.deviation
        return [max(low, self.value - half), min(high, self.value + half)]

    def by_group(self, groups: np.ndarray | None) -> Estimate:
        """Return the estimate with the influence of each group in place of each row's."""
        if groups is None:
            return self
        codes = np.unique(groups, return_inverse=True)[1]
        return Estimate(self.value, np.bincount(codes, self.influences))

    def __sub__(self, other: Estimate) -> Estimate:
        """Return the difference of the scores of two runs on the same rows."""
        return Estimate(self.value - other.value, self.influences - other.influences)

    @property
    def p_value(self) -> float:
        """Probability of a value at least as far from 0, if it were 0 on all images."""
        if not self.deviation:
            return 0.0 if self.value else 1.0
        return math.erfc(abs(self.value) / self.deviation / math.sqrt(2))


def average_precisions(y: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the average precision of each class, and each row's influence on it.

    Average precision is the sum over the distinct scores of precision times the gain in recall, as
    in scikit-learn's ``average_precision_score``; Zhu 2004, Recall, Precision and Average
    Precision, University of Waterloo.

    Parameters
    ----------
    y : ndarray of shape (n_samples, n_classes)
        1 where a row has the class, 0 elsewhere.
    scores : ndarray of shape (n_samples, n_classes)

    Returns
    -------
    tuple of ndarray
        (n_classes,) float64, NaN for a class without rows, and (n_samples, n_classes) float64.
    """
    values = np.full(y.shape[1], np.nan)
    influences = np.zeros(y.shape)
    for c in np.flatnonzero(y.any(axis=0)):
        order = np.argsort(-scores[:, c], kind="stable")
        values[c], influences[order, c] = _average_precision(y[order, c] > 0, scores[order, c])
    return values, influences


def _average_precision(is_own: np.ndarray, scores: np.ndarray) -> tuple[float, np.ndarray]:
    """Return average precision and influences of rows in the order of falling scores."""
    n, n_own = len(scores), int(is_own.sum())
    is_first = np.concatenate([[True], scores[1:] != scores[:-1]])
    starts, of_row = np.flatnonzero(is_first), np.cumsum(is_first) - 1
    # Rows of one score count together: precision is that after the last of them.
    n_before = np.append(starts[1:], n)[of_row]
    precision = np.cumsum(is_own)[n_before - 1] / n_before
    value = float(precision[is_own].mean())

    def from_here(values: np.ndarray) -> np.ndarray:
        """Return the sums over the rows whose score is not above each row's."""
        sums: np.ndarray = np.cumsum(values[::-1])[::-1][starts][of_row]
        return sums

    # A row changes the precision at its own score and at all lower ones.
    share = is_own / n_before
    change = is_own * from_here(share) - from_here(share * precision)
    return value, (is_own * (precision - value) + change) / n_own


def mean_average_precision(y: np.ndarray, scores: np.ndarray) -> Estimate:
    """Return the mean of the average precisions of the classes that have rows; NaN without any."""
    values, influences = average_precisions(y, scores)
    scored = ~np.isnan(values)
    if not scored.any():
        return Estimate(math.nan, np.zeros(len(y)))
    return Estimate(float(values[scored].mean()), influences[:, scored].mean(axis=1))


def r2(y: np.ndarray, predicted: np.ndarray) -> Estimate | None:
    """Return the coefficient of determination; None if all true numbers are equal."""
    y = np.asarray(y, np.float64)
    squares, spread = (y - predicted) ** 2, (y - y.mean()) ** 2
    variance = spread.mean()
    if not variance:
        return None
    lost = squares.mean() / variance
    return Estimate(float(1 - lost), (lost * spread - squares) / (variance * len(y)))


def mae(y: np.ndarray, predicted: np.ndarray) -> Estimate:
    """Return the mean absolute error."""
    errors = np.abs(np.asarray(y, np.float64) - predicted)
    return Estimate(float(errors.mean()), (errors - errors.mean()) / len(y))


def rmse(y: np.ndarray, predicted: np.ndarray) -> Estimate:
    """Return the root of the mean squared error."""
    squares = (np.asarray(y, np.float64) - predicted) ** 2
    value = float(np.sqrt(squares.mean()))
    return Estimate(value, (squares - value**2) / (2 * max(value, 1e-300) * len(y)))
