"""Choose the rows that train a classifier and the rows that test it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from featstore.config import SPLITS
from featstore.datasets.drawing import draw_groups
from featstore.errors import FitError
from featstore.store.leaks import TrainedRows, count_cut_groups, leaked
from featstore.text import join_some

Rows = slice | np.ndarray
"""Row numbers: a slice where they are contiguous, so that taking them copies nothing."""


class Labelled(Protocol):
    """What decides the split of a selection."""

    @property
    def splits(self) -> np.ndarray:
        """Splits, (n_samples,) uint8, positions in :data:`featstore.config.SPLITS`."""

    @property
    def valid(self) -> np.ndarray:
        """Rows that have features, (n_samples,) bool."""

    @property
    def first_rows(self) -> np.ndarray:
        """First row with the same image as each row, (n_samples,); None where unknown."""

    @property
    def groups(self) -> np.ndarray | None:
        """Group of each row, (n_samples,) int32, or None; no drawn split cuts one."""

    @property
    def trained_rows(self) -> Sequence[TrainedRows]:
        """The rows whose images trained a network's weights, for each such network."""


class Labels(Protocol):
    """The labels of a selection's rows, by task: which rows can be split, and how."""

    @property
    def is_labelled(self) -> np.ndarray:
        """Rows that have a label, (n_samples,) bool."""

    def check(self, rows: Mapping[str, np.ndarray], test_split: str, left_out: str) -> None:
        """Refuse rows that nothing can be learned from or tested with."""

    def draw(self, train: np.ndarray, test: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return new training and test rows of the same number."""

    def check_tested(self, rows: Mapping[str, np.ndarray], left_out: str) -> None:
        """Refuse rows to test whose label can't be learned from the training rows."""


@dataclass(frozen=True)
class Split:
    """The rows of a selection by their use.

    `test_split` names the dataset's split of the test rows: ``test``, or ``val`` for a dataset
    without one. `n_leaked` counts test and validation rows whose image is also a training row's
    (None where unknown), `n_dropped` those of them that are left out. `n_cut_groups` counts
    groups with training rows and others.
    """

    train: Rows
    test: Rows
    val: Rows | None
    test_split: str
    n_masked: int
    n_unlabelled: int
    n_leaked: int = 0
    n_dropped: int = 0
    n_cut_groups: int = 0

    def uses(self) -> dict[str, Rows]:
        """Return the rows by use: ``train``, ``test`` and, if there are any, ``val``."""
        rows = {"train": self.train, "test": self.test}
        return rows if self.val is None else {**rows, "val": self.val}

    def use_of_rows(self, n_samples: int) -> np.ndarray:
        """Return the use of each row of a selection, text; empty for rows that have none."""
        found = np.full(n_samples, "", dtype=f"U{max(map(len, SPLITS))}")
        for use, rows in self.uses().items():
            found[rows] = use
        return found


def row_numbers(rows: Rows) -> np.ndarray:
    """Return `rows` as an array of row numbers, (n,) int64."""
    return np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows


def n_rows(rows: Rows) -> int:
    """Return the number of rows."""
    return rows.stop - rows.start if isinstance(rows, slice) else len(rows)


def split_rows(
    selection: Labelled,
    labels: Labels,
    split_seed: int | None = None,
    *,
    drop_leaks: bool = False,
    val_trains: bool = False,
) -> Split:
    """Split a selection's rows as its dataset does; a `split_seed` draws a new split.

    Masked and unlabelled rows are left out. Without test rows, the validation rows are the test.
    A new split has as many test rows as the dataset's has, or with groups, about as many.
    With `val_trains`, validation rows beside test rows are training rows.
    """
    labelled = labels.is_labelled
    n_masked = int(np.sum(~selection.valid))
    n_unlabelled = int(np.sum(selection.valid & ~labelled))
    left_out = f"{n_masked} masked and {n_unlabelled} unlabelled rows left out"
    usable = labelled & selection.valid
    rows = {
        name: np.flatnonzero(usable & (selection.splits == code))
        for code, name in enumerate(SPLITS)
    }
    test_split = "test" if rows["test"].size else "val"
    labels.check(rows, test_split, left_out)
    if split_seed is not None:
        rows["train"], rows[test_split] = labels.draw(rows["train"], rows[test_split], split_seed)
    _refuse_trained(selection, rows)
    if val_trains and test_split == "test":
        rows["train"] = np.sort(np.concatenate([rows["train"], rows["val"]]))
        rows["val"] = rows["val"][:0]
    n_leaked, n_dropped = _take_leaks(selection.first_rows, rows, drop=drop_leaks)
    tested_rows = np.concatenate([rows["test"], rows["val"]])
    if not rows[test_split].size:
        raise FitError(
            f"All {n_dropped:,} test images are also among the training images, so --drop-leaks "
            "leaves nothing to test with. Leave it out, or add other test images."
        )
    labels.check_tested(rows, left_out)
    return Split(
        train=_compact(rows["train"]),
        test=_compact(rows[test_split]),
        val=_compact(rows["val"]) if test_split == "test" and rows["val"].size else None,
        test_split=test_split,
        n_masked=n_masked,
        n_unlabelled=n_unlabelled,
        n_leaked=n_leaked,
        n_dropped=n_dropped,
        n_cut_groups=count_cut_groups(selection.groups, rows["train"], tested_rows),
    )


def check_rows(rows: Mapping[str, np.ndarray], test_split: str, left_out: str) -> None:
    """Refuse a dataset without rows to train on, or to test with."""
    if not rows["train"].size:
        raise FitError(
            f"There are no rows to train on ({left_out}). The dataset needs labelled images in "
            "its train split."
        )
    if not rows[test_split].size:
        raise FitError(
            f"There are no rows to test with ({left_out}). The dataset needs labelled images in "
            "its test split; one without any splits is divided by --seed. Then extract again."
        )


@dataclass(frozen=True)
class ClassLabels:
    """One class of each row: `y`, (n_samples,) int32, positions in `names`; -1 for none.

    `groups`, (n_samples,), is the group of each row, which no new split cuts.
    """

    y: np.ndarray
    names: Sequence[str]
    groups: np.ndarray | None = None

    @property
    def is_labelled(self) -> np.ndarray:
        """Rows that have a label, (n_samples,) bool."""
        return self.y >= 0

    def check(self, rows: Mapping[str, np.ndarray], test_split: str, left_out: str) -> None:
        """Refuse rows that nothing can be learned from or tested with."""
        y, names = self.y, self.names
        if y.size and y.max() >= len(names):
            raise FitError(
                f"A row has the label {y.max()}, but there are only the {len(names)} classes "
                f"{join_some(names)}. Extract the dataset again."
            )
        if y.size and y.max() < 0:
            raise FitError(
                f"None of the {y.size:,} images has a label, so nothing can be fitted. Give labels "
                "by class folders, a table, or --labels of scenes and imports, and extract again."
            )
        check_rows(rows, test_split, left_out)
        trained = np.unique(y[rows["train"]])
        if trained.size < 2:
            raise FitError(
                f"All {rows['train'].size:,} training rows are of the class "
                f"{names[trained[0]]!r}; a classifier needs two classes or more."
            )

    def draw(self, train: np.ndarray, test: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return new training and test rows, with each class's shares as they were."""
        if self.groups is not None:
            return draw_whole_groups(self.y, self.groups, train, test, seed)
        pool = np.sort(np.concatenate([train, test]))
        y = self.y[pool]
        if (short := np.flatnonzero(np.bincount(y) == 1)).size:
            raise FitError(
                "A new split needs two images or more of each class; "
                f"{join_some([self.names[c] for c in short.tolist()])} has one. Add images, or "
                "leave out --split-seed."
            )
        from sklearn.model_selection import StratifiedShuffleSplit

        drawn = StratifiedShuffleSplit(1, test_size=len(test), random_state=seed)
        try:
            ((at_train, at_test),) = drawn.split(pool, y)
        except ValueError as error:
            raise FitError(
                f"A new split can't be drawn: {error}. Add images, or leave out --split-seed."
            ) from error
        return np.sort(pool[at_train]), np.sort(pool[at_test])

    def check_tested(self, rows: Mapping[str, np.ndarray], left_out: str) -> None:
        """Refuse rows to test of classes that have no training rows."""
        tested = np.unique(self.y[np.concatenate([rows["test"], rows["val"]])])
        untrained = np.setdiff1d(tested, self.y[rows["train"]])
        if untrained.size:
            raise FitError(
                f"No training rows for the class {join_some([self.names[c] for c in untrained])}, "
                f"which has test rows ({left_out}). Add training images of it, or remove the "
                "class, and extract again."
            )


def draw_whole_groups(
    y: np.ndarray, groups: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return new training and test rows of whole groups, with about each class's shares."""
    pool = np.sort(np.concatenate([train, test]))
    drawn = draw_groups(y[pool], groups[pool], _order(groups, seed), len(train) / len(pool))
    if drawn.all():
        n_groups = len(np.unique(groups[pool]))
        raise FitError(
            f"The rows are of {n_groups} groups, too few to draw a new split. Choose smaller "
            "groups and extract again, or leave out --split-seed."
        )
    return pool[drawn], pool[~drawn]


def _order(groups: np.ndarray, seed: int) -> list[int]:
    """Return the groups in a random order."""
    order: list[int] = np.random.RandomState(seed).permutation(int(groups.max()) + 1).tolist()
    return order


def draw_training_rows(
    y: np.ndarray, rows: np.ndarray, groups: np.ndarray | None, n: int, seed: int
) -> np.ndarray:
    """Draw `n` of the training rows, with about each class's share; increasing.

    Of groups, whole ones are drawn, and rows beyond `n` left out: few rows are of few groups.
    """
    if groups is None:
        from sklearn.model_selection import train_test_split

        drawn, _ = train_test_split(rows, train_size=n, stratify=y[rows], random_state=seed)
        return np.sort(drawn)
    order, own = _order(groups, seed), groups[rows]
    is_drawn = draw_groups(y[rows], own, order, n / len(rows))
    rank = np.argsort(order)
    if (short := n - int(is_drawn.sum())) > 0:
        others = np.flatnonzero(~is_drawn)
        is_drawn[others[np.argsort(rank[own[others]], kind="stable")[:short]]] = True
    drawn = np.random.RandomState(seed).permutation(rows[is_drawn])
    # Each class keeps a row.
    _, first = np.unique(y[drawn], return_index=True)
    return np.sort(np.concatenate([drawn[first], np.delete(drawn, first)])[:n])


def _take_leaks(
    first_rows: np.ndarray, rows: dict[str, np.ndarray], *, drop: bool
) -> tuple[int, int]:
    """Count test and validation rows that are also trained on, and drop them from `rows`."""
    leaks = {use: leaked(first_rows, rows["train"], rows[use]) for use in ("test", "val")}
    n_leaked = int(sum(mask.sum() for mask in leaks.values()))
    if not drop:
        return n_leaked, 0
    rows |= {use: rows[use][~mask] for use, mask in leaks.items()}
    return n_leaked, n_leaked


def _refuse_trained(selection: Labelled, rows: Mapping[str, np.ndarray]) -> None:
    """Refuse to test on images that trained the network, and not the classifier."""
    tested = np.concatenate([rows["test"], rows["val"]])
    for trained in selection.trained_rows:
        if wrong := trained.leak(selection.first_rows, rows["train"], tested):
            raise FitError(
                f"{wrong} Leave out --split-seed, and --repeats where it draws new splits: the "
                f"split of the training is that of extract {trained.options}."
            )


def refuse_trained(selection: Labelled, rows: np.ndarray, problem: str) -> None:
    """Refuse training rows that trained the network, for work that `problem` says they spoil."""
    for trained in selection.trained_rows:
        if n_trained := int(trained.mask[rows].sum()):
            raise FitError(
                f"{n_trained:,} of the {len(rows):,} training images trained the weights "
                f"{trained.weights}: {problem}"
            )


def _compact(rows: np.ndarray) -> Rows:
    if rows[-1] - rows[0] + 1 == rows.size:
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows
