"""Divide the ground into square blocks; all windows of a block have the same split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from featstore.datasets.georeference import Georeference
from featstore.datasets.windows import Grid

SLACK = 1e-6
"""Share of a block by which a window may reach out of it: the error of coordinates."""


def find_blocks(
    frames: Sequence[tuple[Grid, Georeference]], places: NDArray[np.int32], side: float
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
