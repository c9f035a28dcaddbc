"""Divide the ground into square blocks, each of which has one split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from featstore.datasets.formats.folder import TRAIN_FRACTION
from featstore.datasets.georeference import Georeference
from featstore.datasets.windows import Grid

SLACK = 1e-6
"""Share of a block by which a window may reach out of it: the error of coordinates."""


def find_blocks(
    frames: Sequence[tuple[Grid, Georeference]], places: NDArray[np.int32], side: int
) -> tuple[NDArray[np.int32], NDArray[np.bool]]:
    """Return the block of each window, numbered from 0, and whether it lies in that block alone.

    `places` are the windows' scene, row and column, (n_windows, 3). Blocks are `side` pixels of the
    first scene wide. Scenes of one reference system share them, wherever they overlap.
    """
    keys = np.empty((len(places), 3), np.int64)
    is_whole = np.empty(len(places), bool)
    references: dict[str | int, tuple[int, Georeference]] = {}
    for number, (grid, own) in enumerate(frames):
        rows = slice(*np.searchsorted(places[:, 0], [number, number + 1]).tolist())
        corners = grid.corners(places[rows, 1], places[rows, 2])
        key = own.crs if own.is_on_ground and own.crs else number
        at, reference = references.setdefault(key, (len(references), own))
        if reference is not own:
            corners = reference.to_pixels(own.to_ground(corners))
        corners = (corners - grid.first_pixel(0)) / side
        first = np.floor(corners.min(axis=1) + SLACK)
        last = np.ceil(corners.max(axis=1) - SLACK) - 1
        keys[rows, 0], keys[rows, 1:] = at, np.floor(corners.mean(axis=1))
        is_whole[rows] = (first == last).all(axis=1)
    blocks = np.unique(keys, axis=0, return_inverse=True)[1]
    return blocks.reshape(-1).astype(np.int32), is_whole


def draw_block_split(
    blocks: NDArray[np.int32], labels: NDArray[np.int32], seed: int
) -> NDArray[np.uint8]:
    """Draw whole blocks for training (0) and testing (1), about 70 % of each class for training.

    Classes of few blocks choose first. A class of one block is for training; a class of more is on
    both sides, unless the blocks of rarer classes prevent it.
    """
    splits = np.zeros(len(blocks), np.uint8)
    labelled = labels >= 0
    if not labelled.any():
        return splits
    counts = np.zeros((int(blocks.max()) + 1, int(labels.max()) + 1), np.int64)
    np.add.at(counts, (blocks[labelled], labels[labelled]), 1)
    order = sorted(
        np.flatnonzero(counts.any(axis=1)).tolist(),
        key=lambda block: hashlib.sha256(f"{seed}:{block}".encode()).digest(),
    )
    side = np.full(len(counts), -1)
    by_rarity = np.argsort((counts > 0).sum(axis=0), kind="stable").tolist()
    for label in by_rarity:
        for block in order:
            if side[block] >= 0 or not counts[block, label]:
                continue
            n_train, n_test = (int(counts[side == s, label].sum()) for s in (0, 1))
            n_all = n_train + n_test + int(counts[block, label])
            wants_test = (
                not n_test or n_test + counts[block, label] / 2 <= (1 - TRAIN_FRACTION) * n_all
            )
            side[block] = int(bool(n_train and wants_test))
    for label in by_rarity:
        if not counts[side == 0, label].any():
            side[counts[:, label] > 0] = 0
    splits[side[blocks] == 1] = 1
    return splits
