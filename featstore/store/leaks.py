"""Which test images are also training images, of the fit or of the network's weights."""

from __future__ import annotations

import base64
from collections.abc import Collection
from dataclasses import dataclass

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


@dataclass(frozen=True)
class TrainedRows:
    """The rows whose images trained a network's weights.

    Parameters
    ----------
    mask : ndarray of bool, shape (n_samples,)
    weights : str
        The weights' file, for people.
    options : str
        Options of ``extract`` that give the images and split of the training.
    """

    mask: NDArray[np.bool_]
    weights: str
    options: str

    def to_record(self) -> dict[str, str]:
        """Return what a feature set records of the rows."""
        rows = base64.b64encode(np.packbits(self.mask).tobytes()).decode()
        return {"rows": rows, "weights": self.weights, "options": self.options}

    @classmethod
    def from_record(cls, rows: str, weights: str, options: str, n_samples: int) -> TrainedRows:
        """Build from :meth:`to_record`'s result; a wrong number of rows raises ValueError."""
        packed = np.frombuffer(base64.b64decode(rows, validate=True), np.uint8)
        if len(packed) != -(-n_samples // 8):
            raise ValueError(f"trained has {8 * len(packed)} rows of {n_samples}")
        return cls(np.unpackbits(packed, count=n_samples).astype(bool), weights, options)

    def leak(self, first_rows: np.ndarray, train_rows: np.ndarray, rows: np.ndarray) -> str | None:
        """Return what is wrong with testing on `rows`, the cure left out; None if nothing is.

        A copy of a training row is a leak of the dataset's own, which each fit counts.
        """
        found = self.mask[rows] & ~leaked(first_rows, train_rows, rows)
        if not found.any():
            return None
        return (
            f"{found.sum():,} of the {len(rows):,} test images trained the weights {self.weights}: "
            "scores on them would be too high."
        )


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
