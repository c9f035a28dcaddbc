"""Split rows whose labels are not one class: at random, groups whole."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from featstore.errors import FitError
from featstore.fitting.splits import Labels, check_rows, draw_training_rows, draw_whole_groups
from featstore.fitting.tasks.base import Task
from featstore.store.selection import Selection


@dataclass(frozen=True)
class TargetLabels:
    """Labels of each row: `targets`, (n_samples, n_targets) float32, NaN for none.

    `groups`, (n_samples,), is the group of each row, which stays on one side of a new split.
    """

    task: TargetTask
    targets: np.ndarray
    groups: np.ndarray | None

    @property
    def is_labelled(self) -> np.ndarray:
        """Rows that have a label, (n_samples,) bool."""
        found: np.ndarray = ~np.isnan(self.targets).any(axis=1)
        return found

    def check(self, rows: Mapping[str, np.ndarray], test_split: str, left_out: str) -> None:
        """Refuse rows that nothing can be learned from or tested with."""
        if not self.is_labelled.any():
            raise FitError(
                f"None of the {len(self.targets):,} images has a label, so nothing can be fitted. "
                "Add labels to the dataset and extract again."
            )
        check_rows(rows, test_split, left_out)
        val = rows["val"] if test_split == "test" else rows["val"][:0]
        uses = {"training": rows["train"], "test": rows[test_split], "validation": val}
        self.task.check_targets(self.targets, uses)

    def draw(self, train: np.ndarray, test: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return new training and test rows, drawn at random; groups are not divided."""
        pool = np.sort(np.concatenate([train, test]))
        if self.groups is None:
            from sklearn.model_selection import ShuffleSplit

            ((at_train, at_test),) = ShuffleSplit(1, test_size=len(test), random_state=seed).split(
                pool
            )
            drawn = pool[at_train], pool[at_test]
        else:
            # As if all rows were of one class.
            alike = np.zeros(len(self.targets), np.int32)
            drawn = draw_whole_groups(alike, self.groups, train, test, seed)
        self.task.check_targets(self.targets, dict(zip(("training", "test"), drawn, strict=True)))
        return np.sort(drawn[0]), np.sort(drawn[1])

    def check_tested(self, rows: Mapping[str, np.ndarray], left_out: str) -> None:
        """Refuse nothing: a class without training rows has a score of its own."""


class TargetTask(Task):
    """Labels that are columns of numbers: several classes, or one number."""

    @abstractmethod
    def check_targets(self, targets: np.ndarray, uses: Mapping[str, np.ndarray]) -> None:
        """Refuse labels that nothing can be learned from or tested with; `uses` are rows."""

    @abstractmethod
    def why_unscored(self, targets: np.ndarray) -> str:
        """Return why rows can't be scored; empty if they can."""

    def labels(self, selection: Selection) -> Labels:
        """Return what decides the split of a selection."""
        return TargetLabels(self, targets_of(selection), selection.groups)

    def check_folds(self, selection: Selection, rows: np.ndarray, n_folds: int) -> str:
        """Refuse a search with more folds than rows, or groups."""
        n, what = len(rows), "training rows"
        if selection.groups is not None:
            n, what = len(np.unique(selection.groups[rows])), "groups of training rows"
        if n < n_folds:
            cure = f"Try --cv {n}" if n > 1 else "Add images, or leave out --search"
            raise FitError(
                f"A search with {n_folds} folds needs {n_folds} {what} or more, and there are "
                f"{n}. {cure}."
            )
        return ""

    def draw_folds(
        self, selection: Selection, rows: np.ndarray, n_folds: int, seed: int
    ) -> np.ndarray:
        """Return the fold that tests each row, drawn at random; groups are not divided."""
        from sklearn.model_selection import GroupKFold, KFold

        self.check_folds(selection, rows, n_folds)
        groups = None if selection.groups is None else selection.groups[rows]
        kind = KFold if groups is None else GroupKFold
        folds = np.empty(len(rows), dtype=np.int8)
        drawn = kind(n_folds, shuffle=True, random_state=seed).split(rows, groups=groups)
        targets = targets_of(selection)[rows]
        for fold, (_, tested) in enumerate(drawn):
            folds[tested] = fold
            if problem := self.why_unscored(targets[tested]):
                raise FitError(
                    f"A fold of the search has {len(tested):,} images, and {problem}. Use fewer "
                    "folds: --cv N."
                )
        return folds

    def draw_part(
        self, selection: Selection, rows: np.ndarray, n: int, seed: int, *, whole_groups: bool
    ) -> np.ndarray:
        """Return `n` of some training rows, drawn at random, in order."""
        if whole_groups and selection.groups is not None:
            alike = np.zeros(selection.n_samples, np.int32)
            return draw_training_rows(alike, rows, selection.groups, n, seed)
        drawn = np.random.default_rng(seed).permutation(len(rows))[:n]
        return np.sort(rows[drawn])


def targets_of(selection: Selection) -> np.ndarray:
    """Return the targets of a selection, (n_samples, n_targets) float32."""
    targets = selection.targets
    if targets is None:
        raise FitError(f"The images of {selection.title} have no labels. Extract them again.")
    return targets
