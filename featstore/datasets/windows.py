"""Read a scene of any size as a dataset of windows, one centred on each cell of a grid."""

from __future__ import annotations

import copy
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from featstore.datasets.base import ArrayDataset
from featstore.datasets.scene import Scene
from featstore.datasets.source import ArraySource
from featstore.errors import ImageError
from featstore.progress import SILENT, Progress

PIECE_NBYTES = 16 * 2**20
"""Bytes of a scene, in its own type, that are read at a time."""


PIECES_KEPT = 4
"""Pieces in memory: one for each batch of windows that is read ahead."""


@dataclass(frozen=True)
class Grid:
    """Square cells that cover a scene from its origin on, and a square window centred on each.

    `height` and `width` are the scene's, `window` and `stride` the sides of windows and cells, all
    in pixels.
    """

    height: int
    width: int
    window: int
    stride: int

    @property
    def n_rows(self) -> int:
        """Rows of cells; the last one may reach beyond the scene."""
        return -(-self.height // self.stride)

    @property
    def n_cols(self) -> int:
        """Columns of cells; the last one may reach beyond the scene."""
        return -(-self.width // self.stride)

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.n_rows * self.n_cols

    def first_pixel(self, cell: int) -> int:
        """Return the first pixel row (column) of the window of a row (column) of cells."""
        return cell * self.stride + (self.stride - self.window) // 2

    def corners(self, rows: NDArray[np.int32], cols: NDArray[np.int32]) -> NDArray[np.float64]:
        """Return the corners, (n, 4, 2), of the windows of cells, as columns and rows of pixels.

        What a window shows of a mirrored scene lies within the part of it that is in the scene.
        """
        return self._squares(rows, cols, self.first_pixel(0), self.window)

    def middles(self, rows: NDArray[np.int32], cols: NDArray[np.int32]) -> NDArray[np.float64]:
        """Return the middles, (n, 2), of the windows of cells, as columns and rows of pixels."""
        cells = np.stack([cols, rows], axis=1).astype(np.float64)
        return cells * self.stride + self.first_pixel(0) + self.window / 2

    def cell_corners(self, rows: NDArray[np.int32], cols: NDArray[np.int32]) -> NDArray[np.float64]:
        """Return the corners, (n, 4, 2), of cells, as columns and rows of pixels."""
        return self._squares(rows, cols, 0, self.stride)

    def _squares(
        self, rows: NDArray[np.int32], cols: NDArray[np.int32], first: int, side: int
    ) -> NDArray[np.float64]:
        top, left = (cells.astype(np.float64) * self.stride + first for cells in (rows, cols))
        x = np.clip(np.stack([left, left + side], axis=1), 0, self.width)
        y = np.clip(np.stack([top, top + side], axis=1), 0, self.height)
        return np.stack([x[:, [0, 1, 1, 0]], y[:, [0, 0, 1, 1]]], axis=2)

    def inside(self) -> tuple[NDArray[np.bool], NDArray[np.bool]]:
        """Return which rows, (n_rows,), and columns, (n_cols,), have their middle in the scene.

        A window with its middle beyond the scene would be mirrored in more than half.
        """
        rows, cols = (np.arange(n) * self.stride for n in (self.n_rows, self.n_cols))
        return 2 * rows + self.stride <= 2 * self.height, 2 * cols + self.stride <= 2 * self.width


class WindowSource(ArraySource):
    """The windows of all cells of an open scene, row by row."""

    name = "scene"
    class_names = ()

    def __init__(self, scene: Scene, grid: Grid) -> None:
        self._scene, self.grid = scene, grid
        self.title = Path(scene.path).name
        self.bands = scene.names
        self.image_shape = (grid.window, grid.window, len(scene.names))
        nbytes = grid.window * len(scene.names) * scene.dtype.itemsize
        width = max(PIECE_NBYTES // nbytes, grid.window)
        self._n_in_piece = (width - grid.window) // grid.stride + 1
        self._pieces: OrderedDict[tuple[int, int], _Piece] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def labels(self) -> NDArray[np.int32]:
        """Labels, shape (n_cells,): -1."""
        return np.broadcast_to(np.int32(-1), self.grid.n_cells)

    @property
    def splits(self) -> NDArray[np.uint8]:
        """Splits, shape (n_cells,): the first."""
        return np.broadcast_to(np.uint8(0), self.grid.n_cells)

    @property
    def sample_ids(self) -> Sequence[str]:
        """The cells, by row and column."""
        return _CellNames(self.title, self.grid)

    def files(self) -> list[tuple[str, Path]]:
        """Return the scene as (name, path)."""
        return [(self.title, Path(self._scene.path))]

    def identity(self) -> dict[str, Any]:
        """Return what identifies the windows, besides the scene's content."""
        return {"name": self.name, "window": self.grid.window, "stride": self.grid.stride}

    def read_rows(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the windows of some cells, shape (len(rows), window, window, bands).

        Pixels without data take the mean of the window's other pixels.
        """
        windows = np.empty((len(rows), *self.image_shape), np.uint8)
        cell_rows, cell_cols = np.divmod(rows, self.grid.n_cols)
        pieces = np.stack([cell_rows, cell_cols // self._n_in_piece])
        ends = np.flatnonzero(np.diff(pieces, axis=1).any(axis=0)) + 1
        for at in np.split(np.arange(len(rows)), ends):
            row, number = pieces[:, at[0]].tolist()
            first = number * self._n_in_piece
            try:
                piece = self._piece(row, number)
            except ImageError:
                if len(rows) > 1:
                    raise
                # A window may be whole where its neighbours are not.
                first = int(cell_cols[0])
                piece = self._read(row, first, 1)
            windows[at] = piece.windows(cell_cols[at] - first)
        return windows

    def shares_present(self, row: int) -> NDArray[np.float64]:
        """Return the share of each window in a row of cells that has data, (n_cols,).

        Windows that can't be read count as data: reading them says why.
        """
        shares = []
        for first in range(0, self.grid.n_cols, self._n_in_piece):
            n_cells = min(self._n_in_piece, self.grid.n_cols - first)
            try:
                shares.append(self._read(row, first, n_cells).shares_present())
            except ImageError:
                shares.append(np.ones(n_cells))
        return np.concatenate(shares)

    def _piece(self, row: int, number: int) -> _Piece:
        with self._lock:
            key = (row, number)
            if key not in self._pieces:
                while len(self._pieces) >= PIECES_KEPT:
                    self._pieces.popitem(last=False)
                first = number * self._n_in_piece
                n_cells = min(self._n_in_piece, self.grid.n_cols - first)
                self._pieces[key] = self._read(row, first, n_cells)
            self._pieces.move_to_end(key)
            return self._pieces[key]

    def _read(self, row: int, first: int, n_cells: int) -> _Piece:
        grid = self.grid
        width = (n_cells - 1) * grid.stride + grid.window
        rows = mirrored(grid.first_pixel(row), grid.window, grid.height)
        cols = mirrored(grid.first_pixel(first), width, grid.width)
        top, left = int(rows.min()), int(cols.min())
        height, breadth = int(rows.max()) + 1 - top, int(cols.max()) + 1 - left
        pixels, present = self._scene.read(top, left, height, breadth)
        if (height, breadth) != (grid.window, width):
            at = np.ix_(rows - top, cols - left)
            pixels = pixels[:, at[0], at[1]]
            present = None if present is None else present[at]
        return _Piece(pixels, present, grid)


@dataclass(frozen=True)
class _Piece:
    """The windows of neighbouring cells of one row.

    `pixels` is (bands, window, width); `present`, (window, width), says which have data; None: all.
    """

    pixels: NDArray[np.uint8]
    present: NDArray[np.bool] | None
    grid: Grid

    def windows(self, cells: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the windows of some cells, shape (len(cells), window, window, bands)."""
        cols = cells * self.grid.stride
        # By band, row, window, column.
        views = sliding_window_view(self.pixels, self.grid.window, axis=2)[:, :, cols]
        windows = np.moveaxis(views, (2, 1, 3, 0), (0, 1, 2, 3))
        if self.present is None:
            return windows
        windows = np.ascontiguousarray(windows)
        flags = np.moveaxis(sliding_window_view(self.present, self.grid.window, axis=1), 1, 0)
        for window, present in zip(windows, flags[cols], strict=True):
            if not present.all() and present.any():
                window[~present] = np.rint(window[present].mean(axis=0))
        return windows

    def shares_present(self) -> NDArray[np.float64]:
        """Return the share of each window that has data, (n_cells,)."""
        stride, window = self.grid.stride, self.grid.window
        n_cells = (self.pixels.shape[2] - window) // stride + 1
        if self.present is None:
            return np.ones(n_cells)
        counts = np.concatenate([[0], np.cumsum(self.present.sum(axis=0))])
        first = np.arange(n_cells) * stride
        shares: NDArray[np.float64] = (counts[first + window] - counts[first]) / window**2
        return shares


class SceneWindows(ArrayDataset):
    """The windows of a scene that can be classified, in the cells' order.

    `flags` says row by row, (n_cols,) bool, which these are. Memory holds a bit for each cell.
    """

    _source: WindowSource

    def __init__(self, source: WindowSource, flags: Iterator[NDArray[np.bool]]) -> None:
        super().__init__(source)
        n_rows, n_cols = source.grid.n_rows, source.grid.n_cols
        self._bits = np.empty((n_rows, -(-n_cols // 8)), np.uint8)
        self._before = np.zeros(n_rows + 1, np.int64)
        for row, own in enumerate(flags):
            self._bits[row] = np.packbits(own)
            self._before[row + 1] = self._before[row] + np.count_nonzero(own)

    def __len__(self) -> int:
        return int(self._before[-1]) if self._picked is None else len(self._picked)

    @property
    def rows(self) -> NDArray[np.int64]:
        """Numbers of the cells, row by row."""
        return self.cells(0, len(self))

    def cells(self, start: int, stop: int) -> NDArray[np.int64]:
        """Return the numbers of the cells of windows `start` to `stop`."""
        if self._picked is not None:
            return self._picked[start:stop]
        n_cols = self._source.grid.n_cols
        first = int(np.searchsorted(self._before, start, "right")) - 1
        last = max(first, int(np.searchsorted(self._before, stop, "left")))
        flags = np.unpackbits(self._bits[first:last], axis=1, count=n_cols)
        cells = np.flatnonzero(flags) + first * n_cols
        return cells[start - self._before[first] : stop - self._before[first]]

    def read_block(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return windows `start` to `stop`, shape (stop - start, window, window, bands)."""
        return self._source.read_rows(self.cells(start, stop))

    def subset(self, rows: NDArray[np.integer[Any]]) -> Self:
        """Return the dataset of some of the windows, numbered from the first one."""
        chosen = copy.copy(self)
        rows = np.asarray(rows, np.int64)
        chosen._picked = self.cells(int(rows[0]), int(rows[-1]) + 1)[rows - rows[0]]
        return chosen


def find_windows(scene: Scene, grid: Grid, progress: Progress = SILENT) -> SceneWindows:
    """Return the windows that can be classified.

    Windows with their middle beyond the scene, or without data in more than half of their pixels,
    are left out. `progress` counts the rows of a scene that may lack pixels.
    """
    source = WindowSource(scene, grid)
    rows, cols = grid.inside()
    if not scene.may_lack_pixels:
        return SceneWindows(source, (cols & inside for inside in rows))
    progress.start("Looking for data", grid.n_rows, "rows")
    try:

        def flags() -> Iterator[NDArray[np.bool]]:
            for row, inside in enumerate(rows):
                yield cols & inside & (source.shares_present(row) >= 0.5)
                progress.advance(1)

        return SceneWindows(source, flags())
    finally:
        progress.stop()


def mirrored(first: int, n: int, size: int) -> NDArray[np.int64]:
    """Return the pixels, of `size`, at `n` places from `first` on, mirrored at both ends."""
    at = np.arange(first, first + n) % (2 * size)
    return np.minimum(at, 2 * size - 1 - at)


class _CellNames(Sequence[str]):
    """Names of cells, made on demand."""

    def __init__(self, title: str, grid: Grid) -> None:
        self._title, self._grid = title, grid

    def __len__(self) -> int:
        return self._grid.n_cells

    def __getitem__(self, cell: Any) -> Any:
        row, col = divmod(int(cell), self._grid.n_cols)
        return f"{self._title}, row {row} and column {col} of the cells"
