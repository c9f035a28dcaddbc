"""Which rows train a classifier, and which judge it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from featstore.config import SPLITS
from featstore.errors import FitError

Rows = slice | np.ndarray
"""Row numbers: a slice where they are contiguous, so that taking them copies nothing."""


class Labelled(Protocol):
    """What of a selection decides its split."""

    @property
    def y(self) -> np.ndarray:
        """Labels, (n_samples,) int32; -1 where there is none."""

    @property
    def splits(self) -> np.ndarray:
        """Splits, (n_samples,) uint8, positions in :data:`featstore.config.SPLITS`."""

    @property
    def valid(self) -> np.ndarray:
        """Rows that have features, (n_samples,) bool."""

    @property
    def class_names(self) -> Sequence[str]:
        """Names of the classes, by label."""


@dataclass(frozen=True)
class Split:
    """The rows of a selection by their use.

    Parameters
    ----------
    train, test : slice or ndarray of int
        Rows to fit on and to score once.
    val : slice, ndarray of int or None
        Validation rows; None where there are none, or where they serve as the test.
    test_split : str
        Which of the dataset's splits the test rows are: ``test``, or ``val`` without one.
    n_masked, n_unlabelled : int
        Rows left out for want of features, or of a label.
    """

    train: Rows
    test: Rows
    val: Rows | None
    test_split: str
    n_masked: int
    n_unlabelled: int

    def uses(self) -> dict[str, Rows]:
        """Return the rows by use: ``train``, ``test`` and, where there are any, ``val``."""
        rows = {"train": self.train, "test": self.test}
        return rows if self.val is None else {**rows, "val": self.val}


def row_numbers(rows: Rows) -> np.ndarray:
    """Return `rows` as an array of row numbers, (n,) int64."""
    return np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows


def n_rows(rows: Rows) -> int:
    """Return how many rows `rows` holds."""
    return rows.stop - rows.start if isinstance(rows, slice) else len(rows)


def split_rows(selection: Labelled) -> Split:
    """Divide a selection's rows as its dataset divides them.

    Masked and unlabelled rows are left out. Without test rows, the validation rows are the
    test.

    Parameters
    ----------
    selection : Labelled
        A :class:`featstore.selection.Selection`.

    Raises
    ------
    FitError
        When nothing is left to train on or to test with, when there is but one class, or when
        a class to be tested has no training rows.
    """
    y, splits, valid = selection.y, selection.splits, selection.valid
    names = selection.class_names
    if y.size and y.max() >= len(names):
        raise FitError(
            f"A row has the label {y.max()}, but there are only the {len(names)} classes "
            f"{_listed(names)}. Extract the dataset again."
        )
    labelled = y >= 0
    usable = labelled & valid
    rows = {name: np.flatnonzero(usable & (splits == code)) for code, name in enumerate(SPLITS)}
    test_split = "test" if rows["test"].size else "val"
    left_out = f"{np.sum(~valid)} masked and {np.sum(valid & ~labelled)} unlabelled rows left out"
    if not rows["train"].size:
        raise FitError(
            f"There are no rows to train on ({left_out}). The dataset needs labelled images in "
            "its train split."
        )
    if not rows[test_split].size:
        raise FitError(
            f"There are no rows to test with ({left_out}). Put a test/ folder beside train/, or "
            "give class folders alone, which are then split by --seed; and extract again."
        )
    trained = np.unique(y[rows["train"]])
    if trained.size < 2:
        raise FitError(
            f"All {rows['train'].size:,} training rows are of the class "
            f"{names[trained[0]]!r}; a classifier needs two classes or more."
        )
    judged = np.unique(y[np.concatenate([rows["test"], rows["val"]])])
    if (untrained := np.setdiff1d(judged, trained)).size:
        raise FitError(
            f"No training rows for the class {_listed([names[c] for c in untrained])}, which is "
            f"among the rows to be tested ({left_out}). Add training images of it, or remove the "
            "class, and extract again."
        )
    return Split(
        train=_compact(rows["train"]),
        test=_compact(rows[test_split]),
        val=_compact(rows["val"]) if test_split == "test" and rows["val"].size else None,
        test_split=test_split,
        n_masked=int(np.sum(~valid)),
        n_unlabelled=int(np.sum(valid & ~labelled)),
    )


def _compact(rows: np.ndarray) -> Rows:
    if rows[-1] - rows[0] + 1 == rows.size:
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
