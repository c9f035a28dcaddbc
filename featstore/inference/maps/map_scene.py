"""Classify a whole scene, window by window, to a GeoTIFF that lies upon it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from featstore.datasets.reading import ALL, Reading
from featstore.datasets.scene import Scene
from featstore.datasets.source import RGB
from featstore.datasets.windows import Grid, find_windows
from featstore.errors import ConfigError, DatasetError, SelectionError, StoreError
from featstore.extraction.encode import Encoder
from featstore.inference.maps.colors import class_colors, color_hex, read_colors
from featstore.inference.maps.map_files import MapFiles, Painter
from featstore.io.fingerprints import FingerprintCache
from featstore.progress import Progress
from featstore.progress_bars import IN_NOTEBOOKS
from featstore.runs.run import Run, open_run
from featstore.store.feature_store import FeatureStore, open_store
from featstore.store.format.run_schema import FeatureSpec

MIN_EMPTY_SHARE = 0.1
"""Share of a scene without a class from which on a message says what helps."""


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
        The scene's band, from 1, for each of the run's; by default the numbers that the training
        images were read with, else the bands of those names, else the first ones.
    value_range : tuple of float, optional
        Values that become black and white; by default those of the training images. Without any,
        bytes stay as they are, and 16-bit values give their high byte; other types need a range.
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
    names, reading = _wanted_bands(specs), _reading(specs)
    bands = bands or _numbers(reading, len(names))
    ranges = (value_range,) if value_range is not None else reading.value_range
    with Scene(str(scene), names, bands, ranges, reading.nodata) as opened_scene:
        if opened_scene.is_dark:
            progress.say(
                f"The scene is dark: its values end at some {opened_scene.sampled_range()[1]:,.0f} "
                "of 65,535. If the training images were brighter, give the values of black and "
                "white: --range LOW,HIGH"
            )
        if opened_scene.bands_text:
            progress.say(opened_scene.bands_text)
        grid = Grid(opened_scene.height, opened_scene.width, window, stride)
        _check_covered(opened_scene, grid, progress)
        targets = MapFiles.find(opened_scene.path, out, preview)
        cache = FingerprintCache(opened.cache_dir / "fingerprints")
        windows = find_windows(opened_scene, grid, progress)
        if not len(windows):
            raise DatasetError(
                f"{scene} has {grid.height} x {grid.width} pixels, and no window of {window} has "
                "data in half of its pixels. If the scene has data, give a smaller --window."
            )
        encoder = Encoder(specs, windows, device, cache, progress)
        begun = time.perf_counter()
        blocks = encoder.blocks("Mapping", progress)
        painter = Painter(run, model, grid, windows, probability)
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
    """Return the names of the bands that a run's features need."""
    for spec in specs:
        if spec.preprocess.reading is not None:
            return spec.preprocess.reading.names
    named = [spec.preprocess.bands.split(",") for spec in specs if "," in spec.preprocess.bands]
    names = tuple(dict.fromkeys(band for bands in named for band in bands)) or RGB
    # A network of visible bands takes the first three.
    return (*RGB, *(band for band in names if band not in RGB)) if set(RGB) <= {*names} else names


def _reading(specs: Sequence[FeatureSpec]) -> Reading:
    """Return how the training images were read; refuse features of several readings."""
    records = [spec.preprocess.reading for spec in specs]
    found = {Reading.from_record(one.to_dict()) if one else Reading() for one in records}
    if len(found) > 1:
        raise ConfigError(
            "The run's features are of images that were read in several ways (--bands, --range or "
            "--nodata). A scene is read in one: map with a run of one feature set."
        )
    return found.pop()


def _numbers(reading: Reading, n_bands: int) -> Sequence[int] | None:
    """Return the numbers of the bands that the training images were read with, if they have any."""
    if reading.bands == (ALL,):
        return range(1, n_bands + 1)
    is_numbered = reading.bands and all(word.isdecimal() for word in reading.bands)
    return [int(word) for word in reading.bands] if is_numbered else None
