"""Draw test images again, or groups of them, for the 95 % intervals of scores of classes.

Efron 1979, doi:10.1214/aos/1176344552. Images of one group resemble each other, so whole groups are
drawn where the test images have groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from featstore.config import LEVEL
from featstore.runs.significance import accuracy_interval

N_DRAWS = 1000
"""Draws of as many images, or groups, as the test has."""


SEED = 0
"""The same test rows have the same intervals."""


MAX_NUMBERS = 10**7
"""Numbers that are drawn at a time."""


def class_intervals(
    y_true: np.ndarray, y_pred: np.ndarray, n_classes: int, groups: np.ndarray | None = None
) -> dict[str, Any]:
    """Return the bootstrap's intervals of accuracy, average accuracy and kappa.

    Parameters
    ----------
    y_true, y_pred : ndarray of shape (n_samples,), int
        Labels below `n_classes`.
    groups : ndarray of shape (n_samples,), int, optional
        Groups that are drawn whole.

    Returns
    -------
    dict
        ``n_draws``, ``seed``, ``unit`` (``image`` or ``group``), ``n_units`` and ``intervals``, two
        fractions by score; None for kappa where a draw leaves it undefined.
    """
    # The scores depend on how often each pair of true and predicted class occurs.
    pairs, pair = np.unique(y_true.astype(np.int64) * n_classes + y_pred, return_inverse=True)
    true, named = pairs // n_classes, pairs % n_classes
    parts = []
    for counts in _draw_counts(pair, len(pairs), groups):
        parts.append(_scores(counts, true, named, n_classes))
    drawn = np.concatenate(parts, axis=1)
    intervals = {
        name: percentiles(values)
        for name, values in zip(("accuracy", "average_accuracy", "kappa"), drawn, strict=True)
    }
    n_units = len(y_true) if groups is None else len(np.unique(groups))
    if intervals["accuracy"] is not None and intervals["accuracy"][0] == intervals["accuracy"][1]:
        # Draws from images that are all right, or all wrong, do not differ.
        intervals["accuracy"] = [*accuracy_interval(float(np.mean(y_true == y_pred)), n_units)]
    return {
        "n_draws": N_DRAWS,
        "seed": SEED,
        "unit": "image" if groups is None else "group",
        "n_units": n_units,
        "intervals": intervals,
    }


def difference_by_group(difference: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Return the interval of the mean of paired differences, drawing whole groups.

    Parameters
    ----------
    difference : ndarray of shape (n_samples,), float
        Of each image.
    groups : ndarray of shape (n_samples,)
    """
    _, codes = np.unique(groups, return_inverse=True)
    sums, n = np.bincount(codes, difference), np.bincount(codes)
    drawn = np.concatenate([(w @ sums) / (w @ n) for w in _draw_weights(len(n))])
    low, high = np.quantile(drawn, [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)


def percentiles(values: np.ndarray) -> list[float] | None:
    """Return the bounds that hold 95 % of drawn scores; None if one is not defined."""
    if np.isnan(values).any():
        return None
    return [float(bound) for bound in np.quantile(values, [LEVEL / 2, 1 - LEVEL / 2])]


def _draw_counts(pair: np.ndarray, n_pairs: int, groups: np.ndarray | None) -> Iterator[np.ndarray]:
    """Yield how often each pair of classes is drawn, (n draws, n_pairs), for all draws."""
    if groups is None:
        rng, share = np.random.default_rng(SEED), np.bincount(pair, minlength=n_pairs) / len(pair)
        for n_draws in _parts(n_pairs):
            yield rng.multinomial(len(pair), share, size=n_draws)
        return
    from scipy.sparse import csr_array

    names, codes = np.unique(groups, return_inverse=True)
    table = csr_array((np.ones(len(pair), np.int64), (codes, pair)), shape=(len(names), n_pairs))
    for weights in _draw_weights(len(names)):
        yield weights @ table


def _draw_weights(n_units: int) -> Iterator[np.ndarray]:
    """Yield how often each unit is drawn, (n draws, n_units), for all draws."""
    rng = np.random.default_rng(SEED)
    for n_draws in _parts(n_units):
        drawn = rng.integers(n_units, size=(n_draws, n_units))
        drawn += np.arange(n_draws)[:, None] * n_units
        yield np.bincount(drawn.ravel(), minlength=drawn.size).reshape(n_draws, n_units)


def _parts(n_numbers: int) -> Iterator[int]:
    """Yield numbers of draws that memory holds, of `n_numbers` each."""
    step = max(1, MAX_NUMBERS // n_numbers)
    for start in range(0, N_DRAWS, step):
        yield min(step, N_DRAWS - start)


def _scores(counts: np.ndarray, true: np.ndarray, named: np.ndarray, n_classes: int) -> np.ndarray:
    """Return accuracy, average accuracy and kappa of each draw, (3, n_draws)."""
    # Lists of runs load this module, and scipy takes longer than they do.
    from scipy.sparse import csr_array

    at = np.arange(len(true))
    of_true = csr_array((np.ones(len(at)), (at, true)), shape=(len(at), n_classes))
    of_named = csr_array((np.ones(len(at)), (at, named)), shape=(len(at), n_classes))
    n, n_true, n_named = counts.sum(axis=1), counts @ of_true, counts @ of_named
    right = (counts * (true == named)) @ of_true
    n_right = right.sum(axis=1)
    recalls = np.divide(right, n_true, out=np.zeros(right.shape), where=n_true > 0)
    by_chance = (n_true * n_named).sum(axis=1)
    rest = n.astype(np.float64) ** 2 - by_chance
    kappa = np.divide(n_right * n - by_chance, rest, out=np.full(len(n), np.nan), where=rest > 0)
    return np.stack([n_right / n, recalls.sum(axis=1) / (n_true > 0).sum(axis=1), kappa])
