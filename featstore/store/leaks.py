"""Which test images are also training images."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from featstore.config import SPLITS


def leaked(first_rows: np.ndarray, train_rows: np.ndarray, rows: np.ndarray) -> NDArray[np.bool_]:
    """Return which rows have an image that is also a training image.

    Parameters
    ----------
    first_rows : ndarray of int64, shape (n_samples,)
        As :func:`featstore.datasets.duplicates.find_first_rows` returns them: rows with the same
        number have the same image.
    train_rows : ndarray of int, shape (n_train,)
        Rows to train on.
    rows : ndarray of int, shape (n,)
        Rows to test with.

    Returns
    -------
    ndarray of bool, shape (n,)
        True for a row with an identical training image.
    """
    is_trained = np.zeros(len(first_rows), dtype=bool)
    is_trained[first_rows[train_rows]] = True
    found: NDArray[np.bool_] = is_trained[first_rows[rows]]
    return found


def count_cut_groups(groups: np.ndarray | None, train_rows: np.ndarray, rows: np.ndarray) -> int:
    """Return how many groups, (n_samples,) or None, have rows to train on and rows to test with."""
    if groups is None:
        return 0
    return len(np.intersect1d(groups[train_rows], groups[rows]))


def count_leaked(first_rows: np.ndarray, splits: np.ndarray, masked: Collection[int] = ()) -> int:
    """Return how many images outside the train split are also training images.

    Parameters
    ----------
    first_rows : ndarray of int64, shape (n_samples,)
        As :func:`featstore.datasets.duplicates.find_first_rows` returns them.
    splits : ndarray of uint8, shape (n_samples,)
        Positions in :data:`featstore.config.SPLITS`.
    masked : collection of int
        Rows whose image can't be read; they do not count.

    Returns
    -------
    int
    """
    is_trained = splits == SPLITS.index("train")
    is_tested = ~is_trained
    is_tested[list(masked)] = False
    found = leaked(first_rows, np.flatnonzero(is_trained), np.flatnonzero(is_tested))
    return int(found.sum())
