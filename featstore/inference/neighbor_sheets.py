"""Draw images beside their neighbors, as PNG files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from featstore.errors import DatasetError, ImageError
from featstore.inference.contact_sheet import N_COLUMNS, SIDE_PX, Strip, Tile, draw_sheet
from featstore.inference.neighbor_result import Neighbor, NeighborSearch, Query
from featstore.inference.source_images import Originals
from featstore.plotting import write_png
from featstore.progress import SILENT, Progress
from featstore.store.feature_store import FeatureStore, open_store

PAGE_ROWS = 12
"""Rows of pictures on a contact sheet."""


def write_sheets(
    found: NeighborSearch,
    path: str | Path,
    *,
    store: str | Path | FeatureStore | None = None,
    root: str | Path | None = None,
    titles: Mapping[str, str] | None = None,
    progress: Progress = SILENT,
) -> list[Path]:
    """Draw each query beside its neighbors, as PNG files.

    Parameters
    ----------
    found : NeighborSearch
    path : str or Path
        The PNG file. Several are numbered: ``neighbors-1.png``, ``neighbors-2.png``, ...
    store : str, Path or FeatureStore
        The store of the features.
    root : str or Path, optional
        Folder of the stored images; by default the one they were extracted from. Gray tiles
        stand for missing images.
    titles : mapping of str to str, optional
        What to write below queries, by their name, in place of their class.
    progress : Progress
        Receives the reason for gray tiles.

    Returns
    -------
    list of Path
        The files; none if no query has neighbors.

    Raises
    ------
    StoreError
        When a file can't be written.
    """
    opened = open_store(store, progress)
    originals = Originals(opened, found.set_id, root, progress)
    pictures = _Pictures(originals, titles or {}, progress)
    queries = [query for query in found.queries if query.neighbors]
    if not queries:
        return []
    n_lines = math.ceil(max(len(query.neighbors) for query in queries) / N_COLUMNS)
    n_queries = max(1, PAGE_ROWS // n_lines)
    pages = [queries[i : i + n_queries] for i in range(0, len(queries), n_queries)]
    path, written = Path(path), []
    width = len(str(len(pages)))
    progress.start("Drawing", len(queries), "images")
    try:
        for i, page in enumerate(pages, start=1):
            numbered = path.with_name(f"{path.stem}-{i:0{width}}{path.suffix}")
            target = path if len(pages) == 1 else numbered
            write_png(draw_sheet([pictures.strip(query) for query in page]), target)
            written.append(target)
            progress.advance(len(page))
    finally:
        progress.stop()
    return written


def _is_same(query: Query, neighbor: Neighbor) -> bool | None:
    """Return whether a neighbor has the query's classes; None where that is unknown."""
    if not neighbor.classes:
        return None
    if query.label is not None:
        return neighbor.label == query.label
    return query.majority in neighbor.classes


class _Pictures:
    """Tiles of queries and neighbors."""

    def __init__(self, originals: Originals, titles: Mapping[str, str], progress: Progress) -> None:
        self._originals = originals
        self._titles = titles
        self._reason = originals.unavailable_reason()
        if self._reason is not None:
            progress.say(f"Gray tiles stand for the stored images. {self._reason}")

    def strip(self, query: Query) -> Strip:
        """Return a query's row of pictures."""
        guessed = f"Query: {query.majority}?" if query.majority else "Query"
        title = f"Query: {query.label}" if query.label else guessed
        title = self._titles.get(query.name, title)
        tiles = [
            Tile(
                self._stored_image(one.row),
                one.label or "no class",
                one.sample_id,
                f"{one.distance:.3f}" if one.distance < 10 else f"{one.distance:.1f}",
                _is_same(query, one),
            )
            for one in query.neighbors
        ]
        return Strip(Tile(self._query_image(query), title, query.name), tiles)

    def _query_image(self, query: Query) -> np.ndarray | None:
        if query.row is not None:
            return self._stored_image(query.row)
        path = Path(query.name)
        # What came through a pipe or from memory can't be read a second time.
        if not path.is_file():
            return None
        try:
            return self._originals.read_file(path, SIDE_PX)
        except (DatasetError, ImageError):
            return None

    def _stored_image(self, row: int) -> np.ndarray | None:
        if self._reason is not None:
            return None
        try:
            return self._originals.image(row, SIDE_PX)
        except ImageError:
            return None
