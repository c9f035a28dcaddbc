"""Divide training rows into the folds of cross-validation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from featstore.errors import FitError
from featstore.text import join_some


def check_folds(
    y: np.ndarray, n_folds: int, class_names: Sequence[str], groups: np.ndarray | None = None
) -> str:
    """Refuse a search whose folds can't be drawn; return what is worth saying of rare classes.

    As scikit-learn does, take classes with fewer rows than there are folds: some folds test none.
    """
    if groups is not None and (n_groups := len(np.unique(groups))) < n_folds:
        cure = f"Try --cv {n_groups}" if n_groups > 1 else "Choose smaller groups"
        raise FitError(
            f"A search with {n_folds} folds needs {n_folds} groups of training rows or more, and "
            f"there {'is 1' if n_groups == 1 else f'are {n_groups}'}. {cure}, or leave out "
            "--search."
        )
    counts = np.bincount(y, minlength=len(class_names))
    rare = np.flatnonzero((counts > 0) & (counts < n_folds))
    if not rare.size:
        return ""
    largest = int(counts.max())
    if largest < n_folds:
        cure = f"Try --cv {largest}" if largest > 1 else "Add images, or leave out --search"
        raise FitError(
            f"A search with {n_folds} folds needs {n_folds} training rows or more of a class, and "
            f"the largest has {largest}. {cure}."
        )
    if np.sum(counts > 1) < 2:
        raise FitError(
            "A search needs two training rows or more of two classes: without them, a fold trains "
            "on one class only. Add images, or leave out --search."
        )
    named = join_some([f"{class_names[c]} {counts[c]}" for c in rare.tolist()])
    return f"Classes with fewer training rows than the {n_folds} folds of the search: {named}."


def draw_folds(
    y: np.ndarray,
    n_folds: int,
    seed: int,
    class_names: Sequence[str],
    groups: np.ndarray | None = None,
) -> np.ndarray:
    """Return the fold that tests each training row, (n_samples,) int8.

    Every fold has about the same share of each class; a group is in one fold.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    check_folds(y, n_folds, class_names, groups)
    folds = np.empty(len(y), dtype=np.int8)
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    drawn = kind(n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # check_folds says it.
        warnings.filterwarnings("ignore", "The least populated class in y")
        for fold, (trained, tested) in enumerate(drawn.split(np.zeros(len(y)), y, groups)):
            folds[tested] = fold
            if groups is not None and (not len(tested) or np.ptp(y[trained]) == 0):
                raise FitError(
                    f"The groups allow no {n_folds} folds that each have rows to test and train on "
                    f"two classes. Try {f'--cv {n_folds - 1}' if n_folds > 2 else 'smaller groups'}"
                    ", or leave out --search."
                )
    return folds
