"""Which rows train a classifier, and which judge it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit

from featstore.config import SPLITS
from featstore.errors import FitError, SelectionError
from featstore.runs.run import Run
from featstore.store.feature_store import FeatureStore
from featstore.store.leaks import leaked
from featstore.store.selection import Selection
from featstore.text import join_some

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

    @property
    def first_rows(self) -> np.ndarray | None:
        """For each row the first one with the same image, (n_samples,); None where unknown."""


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
    n_leaked : int or None
        Test and validation rows whose image is also among the training rows; None where the
        feature set does not tell.
    n_dropped : int
        How many of these were left out.
    """

    train: Rows
    test: Rows
    val: Rows | None
    test_split: str
    n_masked: int
    n_unlabelled: int
    n_leaked: int | None = None
    n_dropped: int = 0

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


def split_rows(
    selection: Labelled, split_seed: int | None = None, *, drop_leaks: bool = False
) -> Split:
    """Divide a selection's rows as its dataset divides them, or anew.

    Masked and unlabelled rows are left out. Without test rows, the validation rows are the
    test.

    Parameters
    ----------
    selection : Labelled
        A :class:`featstore.store.selection.Selection`.
    split_seed : int, optional
        Draw as many test rows of each class as there are from training and test rows together.
    drop_leaks : bool
        Whether to leave out test and validation rows whose image is also a training row's.

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
            f"{join_some(names)}. Extract the dataset again."
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
    if split_seed is not None:
        rows["train"], rows[test_split] = _drawn(
            y, rows["train"], rows[test_split], names, split_seed
        )
    n_leaked, n_dropped = None, 0
    if selection.first_rows is not None:
        judged_rows = [rows[use] for use in ("test", "val")]
        leaks = [leaked(selection.first_rows, rows["train"], r) for r in judged_rows]
        n_leaked = int(sum(mask.sum() for mask in leaks))
        if drop_leaks:
            n_dropped = n_leaked
            rows["test"], rows["val"] = (
                r[~mask] for r, mask in zip(judged_rows, leaks, strict=True)
            )
    elif drop_leaks:
        raise FitError(
            "This feature set does not say which images are identical, for it was made by an "
            "older featstore. Extract again to drop leaks."
        )
    if not rows[test_split].size:
        raise FitError(
            f"All {n_dropped:,} test images are also among the training images, so that nothing "
            "is left to test with once leaks are dropped."
        )
    judged = np.unique(y[np.concatenate([rows["test"], rows["val"]])])
    if (untrained := np.setdiff1d(judged, trained)).size:
        raise FitError(
            f"No training rows for the class {join_some([names[c] for c in untrained])}, which is "
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
        n_leaked=n_leaked,
        n_dropped=n_dropped,
    )


def _drawn(
    y: np.ndarray, train: np.ndarray, test: np.ndarray, names: Sequence[str], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return new training and test rows, with each class's shares as they were."""
    pool = np.sort(np.concatenate([train, test]))
    if (short := np.flatnonzero(np.bincount(y[pool]) == 1)).size:
        raise FitError(
            "A new split needs two images or more of a class; "
            f"{join_some([names[c] for c in short.tolist()])} has one."
        )
    drawn = StratifiedShuffleSplit(1, test_size=len(test), random_state=seed)
    try:
        ((at_train, at_test),) = drawn.split(pool, y[pool])
    except ValueError as error:
        raise FitError(f"A new split can't be drawn: {error}") from error
    return np.sort(pool[at_train]), np.sort(pool[at_test])


def draw_folds(y: np.ndarray, n_folds: int, seed: int, class_names: Sequence[str]) -> np.ndarray:
    """Return in which fold each training row is held out, (n_samples,) int8.

    Every fold has about the same share of each class.

    Parameters
    ----------
    y : ndarray of shape (n_samples,), int
        Labels of the training rows, positions in `class_names`.
    n_folds : int
    seed : int
        Another seed is another draw.
    class_names : sequence of str

    Raises
    ------
    FitError
        When a class has fewer rows than there are folds.
    """
    counts = np.bincount(y, minlength=len(class_names))
    if (short := np.flatnonzero((counts < n_folds) & (counts > 0))).size:
        least = counts[short].min()
        cure = f"--cv {least}" if least > 1 else "more images, or no --search"
        raise FitError(
            f"A search with {n_folds} folds needs {n_folds} training rows or more of each class; "
            f"{join_some([class_names[c] for c in short.tolist()])} has {least}. Try {cure}."
        )
    folds = np.empty(len(y), dtype=np.int8)
    drawn = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    for fold, (_, held) in enumerate(drawn.split(np.zeros(len(y)), y)):
        folds[held] = fold
    return folds


def _compact(rows: np.ndarray) -> Rows:
    if rows[-1] - rows[0] + 1 == rows.size:
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def features_of(run: Run, store: FeatureStore) -> tuple[Selection, Split]:
    """Return the features that a run was fitted on, and which rows of them it used for what.

    Parameters
    ----------
    run : Run
    store : FeatureStore
        Where they are.

    Raises
    ------
    SelectionError
        When they are not there any more, or are others than it was fitted on.
    IncompleteError, CorruptionError
        When they are unfinished, or damaged.
    """
    parts = run.selection["features"]
    selection = store.reopen((part["set_id"], part["layer"]) for part in parts)
    if selection.describe()["digest"] != run.selection["digest"]:
        raise SelectionError(
            f"The features of {run.run_id} are not those any more that it was fitted on. Fit "
            f"again: {run.record['command']}"
        )
    fit = run.record["fit"]
    return selection, split_rows(selection, fit["split_seed"], drop_leaks=fit["drop_leaks"])
