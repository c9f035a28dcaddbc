"""Give the windows of scenes the classes of the polygons that lie upon them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from featstore.datasets.formats.scene_files import Frame
from featstore.errors import DatasetError
from featstore.io.vectors import Polygons

N_LABELLED = 50_000
"""Windows that are laid upon polygons at a time."""


def lay_polygons(
    polygons: Polygons, frames: Sequence[Frame], places: NDArray[np.int32], label_by: str
) -> NDArray[np.int32]:
    """Return the class of each window, (n_windows,); -1 outside the polygons.

    `places` are the windows' scene, row and column, (n_windows, 3).
    """
    labels = np.full(len(places), -1, np.int32)
    for number, frame in enumerate(frames):
        start, stop = np.searchsorted(places[:, 0], [number, number + 1]).tolist()
        if not frame.georeference.is_on_ground:
            raise DatasetError(
                f"{frame.path} has no map coordinates, so polygons can't be laid upon it. "
                "Georeference it first."
            )
        placed = polygons.laid_upon(str(frame.path), frame.georeference.crs)
        for at in range(start, stop, N_LABELLED):
            rows = slice(at, min(at + N_LABELLED, stop))
            grid, (_, row, col) = frame.grid, places[rows].T
            if label_by == "centre":
                middles = frame.georeference.to_ground(grid.middles(row, col))
                labels[rows] = placed.at(middles)
            else:
                corners = frame.georeference.to_ground(grid.corners(row, col))
                labels[rows] = placed.most_of(corners)
    return labels
