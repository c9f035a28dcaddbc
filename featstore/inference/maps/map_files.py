"""Paint the classes or numbers of windows into a map's cells, and write the map's files."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from featstore.datasets.georeference import Georeference
from featstore.datasets.windows import Grid
from featstore.errors import ConfigError, FeatstoreError, StoreError
from featstore.extraction.encode import Block
from featstore.fitting.evaluate import Predictions
from featstore.fitting.solvers.blocks import Samples
from featstore.fitting.tasks import find_task
from featstore.inference.familiarity import UNFAMILIAR, Familiarity
from featstore.inference.maps.colors import Color
from featstore.inference.maps.geotiff import BLOCK_SIDE, class_shapes, read_thinned, write_map
from featstore.inference.maps.preview import SceneView, draw_map, draw_numbers
from featstore.inference.maps.styles import write_names, write_qgis_style
from featstore.io.files import atomic_write, resolve_link
from featstore.io.vectors import check_vector_file, write_polygons
from featstore.plotting import check_png, to_png
from featstore.runs.run import Run

PREVIEW_SIDE = 1200
"""Longest side of a preview at which it shows each cell, and each pixel of the scene."""


COMPANIONS = (".ovr", ".msk", ".msk.ovr")
"""Endings of files that GDAL puts beside a map: thinned copies for zooming out, a mask."""


FAMILIARITY = "familiarity (%)"


MAX_BYTE_CLASSES = 254
"""Most classes of a map whose labels are bytes."""


@dataclass(frozen=True)
class MappedScene:
    """A scene, and the windows whose classes are put on its map."""

    path: str
    bands: tuple[int, ...]
    """Numbers of the bands that were read, from 1."""
    georeference: Georeference
    grid: Grid
    n_windows: int
    cells: Callable[[int, int], NDArray[np.int64]]
    """Returns the numbers of the cells of windows from one to another, increasing."""
    thumbnail: Callable[[int], NDArray[np.uint8] | None]
    """Returns the scene at a size; None if its file is gone."""


class Painter(ABC):
    """Puts what is predicted of windows into their cells, some rows at a time."""

    dtype: str
    nodata: float
    own: list[str]
    """Names of the bands of what is predicted."""

    def __init__(
        self,
        run: Run,
        model: Pipeline,
        mapped: MappedScene,
        *,
        probability: bool = False,
        familiarity: Familiarity | None = None,
        reject: float = 0.0,
    ) -> None:
        self.class_names, self.grid = run.class_names, mapped.grid
        self._model, self._cells, self._task = model, mapped.cells, find_task(run.task)
        self._familiarity, self._reject = familiarity, reject
        self._n_windows = mapped.n_windows
        self.n_unfamiliar = self.n_rejected = 0
        self._calibrator = run.calibrator
        self._prepare(run, probability)

    @abstractmethod
    def _prepare(self, run: Run, probability: bool) -> None:
        """Name the bands, choose their type, and begin to count."""

    @property
    def descriptions(self) -> list[str]:
        """Names of all bands."""
        return self.own if self._familiarity is None else [*self.own, FAMILIARITY]

    @abstractmethod
    def values(self, found: Predictions, kept: NDArray[np.bool_]) -> NDArray[Any]:
        """Return the bands of windows, (bands, n_windows), with nodata for those not kept."""

    @abstractmethod
    def draw(self, path: Path, mapped: MappedScene, colors: Sequence[Color]) -> Figure:
        """Draw the map of a file beside the scene."""

    def rows(self, blocks: Iterable[Block]) -> Iterator[NDArray[Any]]:
        """Yield the map from the top, (bands, n rows, n_cols) at a time."""
        n_rows, n_cols = self.grid.n_rows, self.grid.n_cols
        top, part = 0, self._blank(0)
        for block in blocks:
            samples = Samples(block.X, slice(0, len(block.X)))
            values = self._values(
                self._task.predict(self._model, samples, self._calibrator), block.X
            )
            cells = self._cells(block.start, block.stop)
            while len(cells):
                n_inside = int(np.searchsorted(cells, (top + part.shape[1]) * n_cols))
                rows, cols = np.divmod(cells[:n_inside], n_cols)
                part[:, rows - top, cols] = values[:, :n_inside]
                cells, values = cells[n_inside:], values[:, n_inside:]
                if len(cells):
                    yield part
                    top += part.shape[1]
                    part = self._blank(top)
        if self.n_rejected == self._n_windows:
            raise ConfigError(
                f"None of the {self._n_windows:,} windows has a familiarity of {self._reject:g}: "
                "the map would be empty. Lower --reject, or train on images like the scene."
            )
        while top < n_rows:
            yield part
            top += part.shape[1]
            part = self._blank(top)

    def _values(self, found: Predictions, X: NDArray[Any]) -> NDArray[Any]:
        """Return the bands of windows, their familiarity being the last."""
        if self._familiarity is None:
            return self.values(found, np.ones(len(X), bool))
        shares = self._familiarity.of(X)
        kept = shares >= self._reject
        self.n_rejected += int(np.sum(~kept))
        self.n_unfamiliar += int(np.sum(shares < UNFAMILIAR))
        # Rounded down, so that 0 is below 1 %.
        percent = np.floor(100 * shares)[None].astype(self.dtype)
        return np.concatenate([self.values(found, kept), percent])

    def _hatched(self, path: Path) -> NDArray[np.bool_] | None:
        """Return which cells to hatch: those of windows that are unlike all training images."""
        if self._familiarity is None:
            return None
        percent = read_thinned(path, PREVIEW_SIDE, len(self.descriptions))
        hatched: NDArray[np.bool_] = percent < 100 * UNFAMILIAR
        return hatched

    def _blank(self, top: int) -> NDArray[Any]:
        shape = (len(self.descriptions), min(BLOCK_SIDE, self.grid.n_rows - top), self.grid.n_cols)
        return np.full(shape, self.nodata, self.dtype)

    def _view(self, mapped: MappedScene) -> SceneView:
        """Return what the map is drawn upon."""
        grid = mapped.grid
        covered = (grid.n_rows * grid.stride, grid.n_cols * grid.stride)
        size, axes = (grid.height, grid.width), mapped.georeference.axes
        return SceneView(covered, size, axes, mapped.thumbnail(PREVIEW_SIDE))


class ClassPainter(Painter):
    """Puts the windows' classes into their cells."""

    def _prepare(self, run: Run, probability: bool) -> None:
        self.own = ["class", f"{run.score_kind} (%)"][: 2 if probability else 1]
        self.dtype = "uint8" if len(run.class_names) <= MAX_BYTE_CLASSES else "uint16"
        self.nodata = int(np.iinfo(self.dtype).max)
        self.counts = np.zeros(len(run.class_names), np.int64)

    def values(self, found: Predictions, kept: NDArray[np.bool_]) -> NDArray[Any]:
        """Return labels, and percent if they are wanted, (bands, n_windows)."""
        self.counts += np.bincount(found.labels[kept], minlength=len(self.counts))
        percent = np.rint(100 * found.scores)
        bands = np.stack([found.labels, percent][: len(self.own)])
        return np.where(kept, bands, self.nodata).astype(self.dtype)

    def draw(self, path: Path, mapped: MappedScene, colors: Sequence[Color]) -> Figure:
        """Draw the classes of a file beside the scene."""
        classes, hatched = read_thinned(path, PREVIEW_SIDE), self._hatched(path)
        view = self._view(mapped)
        return draw_map(classes, view, self.class_names, colors, self.counts, hatched)


class NumberPainter(Painter):
    """Puts the windows' numbers into their cells, as float32."""

    dtype, nodata = "float32", float("nan")

    def _prepare(self, run: Run, probability: bool) -> None:
        self.name = run.record.target_name
        self.own = [self.name]
        self.lowest, self.highest, self.total = np.inf, -np.inf, 0.0

    def values(self, found: Predictions, kept: NDArray[np.bool_]) -> NDArray[Any]:
        """Return the numbers, (1, n_windows)."""
        numbers = found.labels[kept]
        if len(numbers):
            self.lowest = min(self.lowest, float(numbers.min()))
            self.highest = max(self.highest, float(numbers.max()))
            self.total += float(numbers.sum(dtype=np.float64))
        return np.where(kept, found.labels, self.nodata)[None].astype(self.dtype)

    def draw(self, path: Path, mapped: MappedScene, colors: Sequence[Color]) -> Figure:
        """Draw the numbers of a file beside the scene."""
        numbers, hatched = read_thinned(path, PREVIEW_SIDE), self._hatched(path)
        return draw_numbers(numbers, self._view(mapped), self.name, hatched)


@dataclass(frozen=True)
class MapFiles:
    """The files of a map, which get their names when all are complete.

    A map of numbers has no sidecar of class names and no style.
    """

    out: Path
    sidecar: Path | None
    style: Path | None
    preview: Path
    vector: Path | None = None

    @classmethod
    def find(
        cls,
        scene: str,
        out: str | Path | None,
        preview: str | Path | None,
        vector: str | Path | None = None,
        *,
        has_classes: bool = True,
    ) -> MapFiles:
        """Choose the files of a scene's map; refuse folders, and files that are read."""
        path = Path(out or f"{Path(scene).stem}-{'classes' if has_classes else 'values'}.tif")
        found = cls(
            path,
            path.with_name(f"{path.name}.aux.xml") if has_classes else None,
            path.with_suffix(".qml") if has_classes else None,
            Path(preview or path.with_suffix(".png")),
            None if vector is None else Path(vector),
        )
        if found.vector is not None:
            check_vector_file(found.vector)
        targets = (found.out, found.sidecar, found.style, found.preview, *found.companions)
        for target in filter(None, targets):
            if target.is_dir():
                raise ConfigError(f"{target} is a folder. Name a file.")
            if target.exists() and Path(scene).exists() and target.samefile(scene):
                raise ConfigError(f"{target} is the scene itself. Name another --out or --preview.")
        own = [one.resolve() for one in (found.out, found.sidecar) if one is not None]
        if found.preview.resolve() in own:
            raise ConfigError(f"{found.preview} is a file of the map. Give another --preview.")
        check_png(found.preview, "--preview" if preview else "--out")
        return found

    @property
    def companions(self) -> list[Path]:
        """Files of an older map of this name, which do not fit the new one."""
        return [self.out.with_name(f"{self.out.name}{ending}") for ending in COMPANIONS]

    def write(
        self,
        mapped: MappedScene,
        painter: Painter,
        blocks: Iterable[Block],
        colors: Sequence[Color],
        tags: dict[str, str],
    ) -> float:
        """Write all files, which get their names together; return the seconds of the windows."""
        stride = painter.grid.stride
        try:
            # The files get their names in the opposite order: the map last.
            with (
                atomic_write(resolve_link(self.out)) as out,
                ExitStack() as stack,
                atomic_write(resolve_link(self.preview)) as preview,
            ):
                for place, write in ((self.sidecar, write_names), (self.style, write_qgis_style)):
                    if place is not None:
                        file = stack.enter_context(atomic_write(resolve_link(place)))
                        write(file, painter.class_names, colors)
                began = time.perf_counter()
                write_map(
                    out,
                    self.out.name,
                    mapped.georeference,
                    stride,
                    (painter.grid.n_rows, painter.grid.n_cols),
                    painter.rows(blocks),
                    dtype=painter.dtype,
                    nodata=painter.nodata,
                    descriptions=painter.descriptions,
                    colors=colors,
                    tags=tags,
                    class_tags={f"CLASS_{i}": name for i, name in enumerate(painter.class_names)},
                )
                windows_s = time.perf_counter() - began
                preview.write_bytes(to_png(painter.draw(out, mapped, colors)))
                if self.vector is not None:
                    vector = stack.enter_context(atomic_write(resolve_link(self.vector)))
                    names, crs = painter.class_names, mapped.georeference.crs
                    write_polygons(vector, self.vector, class_shapes(out), names, crs)
                # Before the new map has its name: the old map is right without them.
                for companion in self.companions:
                    companion.unlink(missing_ok=True)
        except OSError as error:
            if isinstance(error, FeatstoreError):
                raise
            raise StoreError(f"{self.out} can't be written: {error.strerror or error}.") from error
        return windows_s
