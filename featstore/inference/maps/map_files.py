"""Paint the classes of windows into the cells of a map, and write the map's files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from featstore.datasets.georeference import Georeference
from featstore.datasets.windows import Grid
from featstore.errors import ConfigError, FeatstoreError, StoreError
from featstore.extraction.encode import Block
from featstore.fitting.evaluate import predict_blocks
from featstore.fitting.solvers.blocks import Samples
from featstore.inference.maps.colors import Color
from featstore.inference.maps.geotiff import BLOCK_SIDE, class_shapes, read_thinned, write_map
from featstore.inference.maps.preview import draw_map
from featstore.inference.maps.styles import write_names, write_qgis_style
from featstore.io.files import atomic_write, resolve_link
from featstore.io.vectors import check_vector_file, write_polygons
from featstore.plotting import check_png, to_png
from featstore.runs.run import Run

PREVIEW_SIDE = 1200
"""Longest side of a preview at which it shows each cell, and each pixel of the scene."""


COMPANIONS = (".ovr", ".msk", ".msk.ovr")
"""Endings of files that GDAL puts beside a map: thinned copies for zooming out, a mask."""


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


class Painter:
    """Puts the windows' classes into their cells, some rows at a time."""

    def __init__(self, run: Run, model: Pipeline, mapped: MappedScene, probability: bool) -> None:
        self.class_names, self.grid = run.class_names, mapped.grid
        self._model, self._cells = model, mapped.cells
        self.descriptions = ["class", "probability (%)"][: 2 if probability else 1]
        self.dtype = "uint8" if len(run.class_names) <= MAX_BYTE_CLASSES else "uint16"
        self.nodata = int(np.iinfo(self.dtype).max)
        self.counts = np.zeros(len(run.class_names), np.int64)

    def rows(self, blocks: Iterable[Block]) -> Iterator[NDArray[Any]]:
        """Yield the map from the top, (bands, n rows, n_cols) at a time."""
        n_rows, n_cols = self.grid.n_rows, self.grid.n_cols
        top, part = 0, self._blank(0)
        for block in blocks:
            found = predict_blocks(self._model, Samples(block.X, slice(0, len(block.X))))
            self.counts += np.bincount(found.labels, minlength=len(self.counts))
            percent = np.rint(100 * found.scores)
            values = np.stack([found.labels, percent][: len(self.descriptions)])
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
        while top < n_rows:
            yield part
            top += part.shape[1]
            part = self._blank(top)

    def _blank(self, top: int) -> NDArray[Any]:
        shape = (len(self.descriptions), min(BLOCK_SIDE, self.grid.n_rows - top), self.grid.n_cols)
        return np.full(shape, self.nodata, self.dtype)


@dataclass(frozen=True)
class MapFiles:
    """The files of a map, which get their names when all are complete."""

    out: Path
    sidecar: Path
    style: Path
    preview: Path
    vector: Path | None = None

    @classmethod
    def find(
        cls,
        scene: str,
        out: str | Path | None,
        preview: str | Path | None,
        vector: str | Path | None = None,
    ) -> MapFiles:
        """Choose the files of a scene's map; refuse folders, and files that are read."""
        path = Path(out or f"{Path(scene).stem}-classes.tif")
        found = cls(
            path,
            path.with_name(f"{path.name}.aux.xml"),
            path.with_suffix(".qml"),
            Path(preview or path.with_suffix(".png")),
            None if vector is None else Path(vector),
        )
        if found.vector is not None:
            check_vector_file(found.vector)
        for target in (found.out, found.sidecar, found.style, found.preview, *found.companions):
            if target.is_dir():
                raise ConfigError(f"{target} is a folder. Name a file.")
            if target.exists() and Path(scene).exists() and target.samefile(scene):
                raise ConfigError(f"{target} is the scene itself. Name another --out or --preview.")
        if found.preview.resolve() in (found.out.resolve(), found.sidecar.resolve()):
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
    ) -> None:
        """Write all files; they get their names together."""
        stride = painter.grid.stride
        try:
            # The files get their names in the opposite order: the map last.
            with (
                atomic_write(resolve_link(self.out)) as out,
                atomic_write(resolve_link(self.sidecar)) as sidecar,
                atomic_write(resolve_link(self.style)) as style,
                atomic_write(resolve_link(self.preview)) as preview,
                ExitStack() as stack,
            ):
                write_names(sidecar, painter.class_names, colors)
                write_qgis_style(style, painter.class_names, colors)
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
                figure = draw_map(
                    read_thinned(out, PREVIEW_SIDE),
                    (painter.grid.n_rows * stride, painter.grid.n_cols * stride),
                    painter.class_names,
                    colors,
                    painter.counts,
                    mapped.thumbnail(PREVIEW_SIDE),
                    (mapped.grid.height, mapped.grid.width),
                    mapped.georeference.axes,
                )
                preview.write_bytes(to_png(figure))
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
