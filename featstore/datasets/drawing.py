"""Choose images: draw those to train on, by class or by whole groups, and spread a limit evenly."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.config import SPLITS
from featstore.errors import ConfigError, DatasetError
from featstore.text import join_some

TRAIN_FRACTION = 0.7
"""Share of training images in datasets without an official split, as in the paper's section 3."""


def draw_split(
    sample_ids: Sequence[str],
    labels: NDArray[np.integer[Any]],
    seed: int,
    share: float = TRAIN_FRACTION,
) -> NDArray[np.uint8]:
    """Draw a share of each class for training (0), the rest for testing (1), (n_samples,) uint8.

    A class's images are put in the order of the hashes of seed and name, so that the draw is the
    same with every version of NumPy, and does not depend on the other classes. A class of two or
    more images has both.
    """
    order = np.argsort(_ranks(sample_ids, seed), kind="stable")
    splits = np.zeros(len(labels), np.uint8)
    for label in np.unique(labels):
        rows = order[labels[order] == label]
        n_train = min(max(round(share * len(rows)), 1), max(len(rows) - 1, 1))
        splits[rows[n_train:]] = 1
    return splits


def draw_rows_or_groups(
    sample_ids: Sequence[str],
    labels: NDArray[np.integer[Any]],
    groups: NDArray[np.int32] | None,
    group_names: Sequence[str],
    seed: int,
    group_by: str,
) -> NDArray[np.uint8]:
    """Draw 70 % of each class for training: whole groups where there are groups."""
    if groups is None:
        return draw_split(sample_ids, labels, seed)
    return draw_split_of_groups(labels, groups, group_names, seed, group_by)


def draw_split_of_groups(
    labels: NDArray[np.integer[Any]],
    groups: NDArray[np.int32],
    group_names: Sequence[str],
    seed: int,
    group_by: str,
) -> NDArray[np.uint8]:
    """Draw groups with about 70 % of each class for training (0), the rest for testing (1)."""
    order = np.argsort(_ranks(group_names, seed), kind="stable")
    drawn = draw_groups(labels, groups, order.tolist(), TRAIN_FRACTION)
    if drawn.all():
        raise DatasetError(
            f"Grouped by {group_by}, the {len(labels):,} images can't be divided into training and "
            f"test images: there {'is 1 group' if len(group_names) == 1 else 'are too few groups'}."
            " Choose smaller groups."
        )
    return (~drawn).astype(np.uint8)


def notes_on_groups(
    groups: NDArray[np.int32],
    group_by: str,
    labels: NDArray[np.int32],
    splits: NDArray[np.uint8],
    class_names: Sequence[str],
) -> list[str]:
    """Return what people should know of the groups, as sentences."""
    _, sizes = np.unique(groups, return_counts=True)
    least, most = sizes.min(), sizes.max()
    n_images = f"{least:,} to {most:,}" if least < most else f"{most:,}"
    notes = [f"Grouped by {group_by}; images of each of {len(sizes):,} groups: {n_images}."]
    tested = np.unique(labels[splits > 0])
    if lone := [
        name for i, name in enumerate(class_names) if (labels == i).any() and i not in tested
    ]:
        notes.append(f"No test image is of {join_some(lone)}: the groups allow no other split.")
    return notes


def draw_groups(
    labels: NDArray[np.integer[Any]],
    groups: NDArray[np.int32],
    order: Iterable[int],
    share: float,
) -> NDArray[np.bool]:
    """Draw whole groups with about `share` of the rows of each class; return the drawn rows.

    Each group in `order`, which holds all groups, is put where its classes lack the larger part of
    their share. Every class has drawn rows.
    """
    _, codes, n_rows = np.unique(labels, return_inverse=True, return_counts=True)
    ordered = list(order)
    n_groups = len(ordered)
    pairs, n_of_pair = np.unique(groups.astype(np.int64) * len(n_rows) + codes, return_counts=True)
    group_of, class_of = np.divmod(pairs, len(n_rows))
    # The share of each class that a group holds.
    held = n_of_pair / n_rows[class_of]
    starts = np.searchsorted(group_of, np.arange(n_groups + 1))
    drawn, left = np.zeros(len(n_rows)), np.zeros(len(n_rows))
    is_drawn = np.zeros(n_groups, bool)
    for group in ordered:
        part = slice(starts[group], starts[group + 1])
        classes, shares = class_of[part], held[part]
        lead = drawn[classes] / share - left[classes] / (1 - share)
        is_drawn[group] = shares @ lead <= 0
        (drawn if is_drawn[group] else left)[classes] += shares
    for code in np.flatnonzero(drawn == 0):
        having = set(group_of[class_of == code].tolist())
        if not is_drawn[list(having)].any():
            is_drawn[next(group for group in ordered if group in having)] = True
    return is_drawn[groups]


def _ranks(names: Sequence[str], seed: int) -> NDArray[np.bytes_]:
    hashed = (hashlib.sha256(f"{seed}:{name}".encode()).digest() for name in names)
    return np.fromiter(hashed, "S32", len(names))


def spread(labels: NDArray[np.int32], splits: NDArray[np.uint8], limit: int) -> NDArray[np.int64]:
    """Choose `limit` rows, spread evenly over each class of each split.

    Every group (a class within a split) keeps at least one row. Beyond that, groups shrink in
    proportion, and the rows left over serve the largest remainders. The rows increase.
    """
    n_samples = len(labels)
    if limit >= n_samples:
        return np.arange(n_samples)
    _, group, counts = np.unique(
        labels.astype(np.int64) * len(SPLITS) + splits, return_inverse=True, return_counts=True
    )
    if limit < len(counts):
        raise ConfigError(
            f"limit is {limit}, but each class of each split keeps at least one sample; "
            f"give {len(counts)} or more."
        )
    share = (counts - 1) * (limit - len(counts)) / (n_samples - len(counts))
    quota = 1 + np.floor(share).astype(np.int64)
    largest = np.argsort(-(share % 1), kind="stable")
    quota[largest[: limit - quota.sum()]] += 1
    by_group = np.split(np.argsort(group, kind="stable"), np.cumsum(counts)[:-1])
    chosen = [
        rows[((np.arange(n) + 0.5) * len(rows) / n).astype(np.int64)]
        for rows, n in zip(by_group, quota, strict=True)
    ]
    return np.sort(np.concatenate(chosen))
