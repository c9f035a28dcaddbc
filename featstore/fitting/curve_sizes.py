"""Choose the numbers of training rows that a learning curve has, and draw shots."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from featstore.config import TASKS
from featstore.errors import ConfigError
from featstore.fitting.tasks import Task
from featstore.store.selection import Selection

N_SIZES = 8
"""Default number of sizes of the training set."""


def check_shots(shots: Sequence[int], selection: Selection, y: np.ndarray) -> int:
    """Return the number of classes; refuse numbers of rows that a class lacks, and other tasks."""
    if selection.task != TASKS[0]:
        raise ConfigError(
            f"Shots are for images of one class each; those of {selection.title} are not. Use "
            "--sizes."
        )
    counts = np.bincount(y)
    classes = np.flatnonzero(counts)
    smallest = int(classes[counts[classes].argmin()])
    if wrong := [k for k in shots if not 1 <= k <= counts[smallest]]:
        raise ConfigError(
            f"{wrong[0]:,} shots are not possible: the smallest class, "
            f"{selection.class_names[smallest]}, has {counts[smallest]:,} training images. Give "
            f"numbers from 1 to {counts[smallest]:,}."
        )
    return len(classes)


def draw_shots(y: np.ndarray, n_shots: int, seed: int) -> np.ndarray:
    """Return the positions of `n_shots` rows of each class, increasing; more include the fewer."""
    order = np.random.default_rng(seed).permutation(len(y))
    order = order[np.argsort(y[order], kind="stable")]
    _, starts = np.unique(y[order], return_index=True)
    return np.sort(np.concatenate([order[start : start + n_shots] for start in starts]))


def choose_sizes(requested: Sequence[int], kind: Task, y: np.ndarray) -> list[int]:
    """Return the sizes to train on; each class has rows to train on and rows that are left out.

    Where images have no single class, the rows are any.
    """
    n_train, least = len(y), kind.n_smallest(y)
    n_classes = 1 if least is None else len(np.unique(y))
    most = n_train - n_classes if least is None or least > 1 else 0
    if requested:
        if wrong := [n for n in requested if n != n_train and not n_classes < n <= most]:
            fewer = f"from {n_classes + 1:,} to {most:,}, or " if most > n_classes else "only "
            why = ""
            if least is not None:
                why = (
                    f": each of the {n_classes} classes needs rows to train on and rows that are "
                    f"left out (the smallest has {least:,})"
                )
            raise ConfigError(
                f"A size is {wrong[0]:,}; with {n_train:,} training rows it may be {fewer}"
                f"{n_train:,}{why}."
            )
        return sorted(set(requested))
    n_few = 2 * n_classes if least is not None else max(10, 2 * (y.shape[1] if y.ndim > 1 else 1))
    lowest = min(n_train, max(n_few, n_train // 64))
    sizes = set(np.geomspace(lowest, n_train, N_SIZES).round().astype(int).tolist())
    return sorted(n for n in sizes if n == n_train or n <= most)
