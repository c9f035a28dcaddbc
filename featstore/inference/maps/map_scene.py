"""Classify a whole scene, window by window, to a GeoTIFF that lies upon it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline

from featstore.datasets.base import RGB
from featstore.errors import ConfigError, DatasetError, FeatstoreError, SelectionError, StoreError
from featstore.extraction.encode import Block, Encoder
from featstore.fitting.evaluate import predict_blocks
from featstore.fitting.solvers.blocks import Samples
from featstore.inference.maps.colors import Color, class_colors, color_hex, read_colors
from featstore.inference.maps.preview import draw_map
from featstore.inference.maps.raster import BLOCK_SIDE, Scene, read_thinned, write_map
from featstore.inference.maps.styles import write_names, write_qgis_style
from featstore.inference.maps.windows import Grid, SceneWindows, find_windows
from featstore.io.files import atomic_write, resolve_link
from featstore.io.fingerprints import FingerprintCache
from featstore.models.names import PIXEL_MODEL
from featstore.plotting import check_png, to_png
from featstore.progress import Progress
from featstore.progress_bars import IN_NOTEBOOKS
from featstore.runs.run import Run, open_run
from featstore.store.feature_store import FeatureStore, open_store
from featstore.store.format.run_schema import FeatureSpec

PREVIEW_SIDE = 1200
"""Longest side of a preview at which it shows each cell, and each pixel of the scene."""


DARK = 2**14
"""16-bit value below which all of a scene is called dark: a quarter of the range."""


COMPANIONS = (".ovr", ".msk", ".msk.ovr")
"""Endings of files that GDAL puts beside a map: thinned copies for zooming out, a mask."""


MIN_EMPTY_SHARE = 0.1
"""Share of a scene without a class from which on a message says what helps."""


MAX_BYTE_CLASSES = 254
"""Most classes of a map whose labels are bytes."""


@dataclass(frozen=True)
class SceneMap:
    """The result of :func:`map_scene`.

    Parameters
    ----------
    run_id : str
        The run of the model.
    scene : str
    path, sidecar, style, preview : str
        The GeoTIFF, the file from which GDAL reads its class names, the style that QGIS applies
        to it, and the picture.
    window, stride : int
        Sides of a window and of a cell of the map, in pixels of the scene.
    n_rows, n_cols : int
        Cells of the map.
    class_names : tuple of str
        By label.
    colors : tuple of str
        Colours of the classes, ``#rrggbb``.
    counts : tuple of int
        Cells of each class.
    n_empty : int
        Cells without a class: their middle lies beyond the scene, or they lack data.
    duration_s : float
        From the call to its end.
    windows_per_s : float
        Windows classified per second, writing included.
    """

    run_id: str
    scene: str
    path: str
    sidecar: str
    style: str
    preview: str
    window: int
    stride: int
    n_rows: int
    n_cols: int
    class_names: tuple[str, ...]
    colors: tuple[str, ...]
    counts: tuple[int, ...]
    n_empty: int
    duration_s: float
    windows_per_s: float

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of each class in the classified area (fractions)."""
        return tuple(count / sum(self.counts) for count in self.counts)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON-able values."""
        return {**asdict(self), "shares": [round(share, 6) for share in self.shares]}


def map_scene(
    run: Run | str | Path,
    scene: str | Path,
    out: str | Path | None = None,
    *,
    store: str | Path | FeatureStore | None = None,
    window: int | None = None,
    stride: int | None = None,
    bands: Sequence[int] | None = None,
    value_range: tuple[float, float] | None = None,
    probability: bool = False,
    colors: str | Path | Mapping[str, str] | None = None,
    preview: str | Path | None = None,
    device: str = "auto",
    trusted: Sequence[str] = (),
    progress: Progress = IN_NOTEBOOKS,
) -> SceneMap:
    """Classify a scene window by window and write the classes as a GeoTIFF.

    The scene is cut into square cells from its origin on; a cell gets the class of the window
    around it. Windows reach beyond the border into the scene's mirror image. Memory holds a part of
    the scene at a time, and files get their names when they are complete.

    Parameters
    ----------
    run : Run, str or Path
        A run, its name, or its folder.
    scene : str or Path
        A GeoTIFF, or any other raster that GDAL opens.
    out : str or Path, optional
        The GeoTIFF to write; by default ``<scene>-classes.tif`` in the current folder.
    store : str, Path or FeatureStore
        The store of the run.
    window : int, optional
        Side of the windows in pixels; by default that of the run's training images.
    stride : int, optional
        Side of the cells in pixels; by default the window's.
    bands : sequence of int, optional
        The scene's band, from 1, for each of the run's; by default the first ones.
    value_range : tuple of float, optional
        Values that become black and white. By default bytes stay as they are, and 16-bit values
        give their high byte; other types need a range.
    probability : bool
        Whether to write the probability of the class, in percent, as a second band.
    colors : str, Path or mapping, optional
        Colours of classes, ``#rrggbb`` by name, or a CSV or JSON file of them. Other classes have
        the usual colours of land cover: water blue, trees green.
    preview : str or Path, optional
        A PNG picture of scene and classes; by default beside the GeoTIFF.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:i``.
    trusted : sequence of str
        Types of your own classifier, as ``package.module.Class``. Their code is run.
    progress : Progress

    Raises
    ------
    ConfigError
        When a setting does not fit the scene or the run, or rasterio is not installed.
    DatasetError
        When the scene can't be opened, or has no data.
    ImageError
        When a part of the scene can't be read.
    RunError, WeightsError
        As of :func:`featstore.predict`.
    StoreError
        When a file can't be written.
    """
    began = time.perf_counter()
    opened = open_store(store, progress)
    run = run if isinstance(run, Run) else open_run(run, opened)
    model = run.load_model(trusted) if trusted else run.model
    if probability and not hasattr(model, "predict_proba"):
        raise ConfigError(
            f"{run.clf} gives decision values, not probabilities. Map without --probability, or "
            "fit a classifier with probabilities, such as logreg, lda or mlp."
        )
    window = _side("window", window or _training_side(run, opened))
    stride = _side("stride", stride or window)
    given = read_colors(colors, run.class_names) if colors is not None else {}
    palette = class_colors(run.class_names, given)
    specs = run.selection.features
    names = _wanted_bands(specs)
    with Scene(str(scene), names, bands, value_range) as opened_scene:
        if opened_scene.dtype == np.uint16 and value_range is None:
            _, high = opened_scene.sampled_range()
            if high < DARK:
                progress.say(
                    f"The scene is dark: its values end at some {high:,.0f} of 65,535. If the "
                    "training images were brighter, give the values of black and white: "
                    "--range LOW,HIGH"
                )
        if opened_scene.bands_text:
            progress.say(opened_scene.bands_text)
        grid = Grid(opened_scene.height, opened_scene.width, window, stride)
        _check_covered(opened_scene, grid, progress)
        targets = _Targets.find(opened_scene.path, out, preview)
        cache = FingerprintCache(opened.cache_dir / "fingerprints")
        encoder = Encoder(specs, names, device, cache, progress)
        windows = find_windows(opened_scene, grid, progress)
        if not len(windows):
            raise DatasetError(
                f"{scene} has {grid.height} x {grid.width} pixels, and no window of {window} has "
                "data in half of its pixels. If the scene has data, give a smaller --window."
            )
        begun = time.perf_counter()
        blocks = encoder.blocks(windows, "Mapping", progress)
        painter = _Painter(run, model, grid, windows, probability)
        tags = {
            "FEATSTORE_RUN": run.run_id,
            "FEATSTORE_SCENE": opened_scene.path,
            "FEATSTORE_BANDS": ",".join(map(str, opened_scene.bands)),
            "FEATSTORE_WINDOW": str(window),
            "FEATSTORE_STRIDE": str(stride),
        }
        targets.write(opened_scene, painter, blocks, palette, tags)
        mapped_s = time.perf_counter() - begun
    return SceneMap(
        run.run_id,
        opened_scene.path,
        str(targets.out),
        str(targets.sidecar),
        str(targets.style),
        str(targets.preview),
        window,
        stride,
        grid.n_rows,
        grid.n_cols,
        run.class_names,
        tuple(map(color_hex, palette)),
        tuple(painter.counts.tolist()),
        grid.n_cells - len(windows),
        round(time.perf_counter() - began, 3),
        round(len(windows) / mapped_s, 2),
    )


def _side(name: str, value: int) -> int:
    if value < 1:
        raise ConfigError(f"{name} is {value}; it must be 1 pixel or more.")
    return value


def _check_covered(scene: Scene, grid: Grid, progress: Progress) -> None:
    """Refuse a grid without a cell whose middle is in the scene; say how much it leaves out."""
    height, width = (int(inside.sum()) * grid.stride for inside in grid.inside())
    covered = min(height, scene.height) * min(width, scene.width) / (scene.height * scene.width)
    size = f"{scene.height} x {scene.width} pixels"
    if not covered:
        raise ConfigError(
            f"{scene.path} has {size}, and no cell of {grid.stride} x {grid.stride} has its middle "
            "in it. Give a smaller --stride, whose default is --window."
        )
    if 1 - covered > MIN_EMPTY_SHARE:
        progress.say(
            f"{100 * (1 - covered):.0f} % of the scene's {size} get no class: the cells at its "
            "right and lower border have their middle beyond it. A smaller --stride classifies "
            "more."
        )


def _training_side(run: Run, store: FeatureStore) -> int:
    """Return the side of a square as large as a run's training images."""
    for set_id in run.selection.set_ids:
        with suppress(SelectionError, StoreError):
            if shape := store.get(set_id).info.dataset.image_shape:
                return round(math.sqrt(shape[0] * shape[1]))
    raise ConfigError(
        f"The size of the training images of {run.run_id} is unknown: its features are gone, or "
        "are older than that note. Give the side of the windows in pixels: --window PX"
    )


def _wanted_bands(specs: Sequence[FeatureSpec]) -> tuple[str, ...]:
    for spec in specs:
        if spec.backbone.model == PIXEL_MODEL:
            # A network beside pixel statistics takes the first three.
            return tuple(spec.preprocess.bands.split(","))
    return RGB


class _Painter:
    """Puts the windows' classes into their cells, some rows at a time."""

    def __init__(
        self, run: Run, model: Pipeline, grid: Grid, windows: SceneWindows, probability: bool
    ) -> None:
        self.class_names, self.grid = run.class_names, grid
        self._model, self._windows = model, windows
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
            cells = self._windows.cells(block.start, block.stop)
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
class _Targets:
    """The files of a map, which get their names when all are complete."""

    out: Path
    sidecar: Path
    style: Path
    preview: Path

    @classmethod
    def find(cls, scene: str, out: str | Path | None, preview: str | Path | None) -> _Targets:
        path = Path(out or f"{Path(scene).stem}-classes.tif")
        found = cls(
            path,
            path.with_name(f"{path.name}.aux.xml"),
            path.with_suffix(".qml"),
            Path(preview or path.with_suffix(".png")),
        )
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
        scene: Scene,
        painter: _Painter,
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
            ):
                write_names(sidecar, painter.class_names, colors)
                write_qgis_style(style, painter.class_names, colors)
                write_map(
                    out,
                    self.out.name,
                    scene,
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
                    scene.thumbnail(PREVIEW_SIDE),
                    (scene.height, scene.width),
                    scene.axes,
                )
                preview.write_bytes(to_png(figure))
                # Before the new map has its name: the old map is right without them.
                for companion in self.companions:
                    companion.unlink(missing_ok=True)
        except OSError as error:
            if isinstance(error, FeatstoreError):
                raise
            raise StoreError(f"{self.out} can't be written: {error.strerror or error}.") from error
