"""Open a scene as a run's own images were read, and compute the features of its windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

from featstore.datasets.reading import ALL, Reading
from featstore.datasets.scene import Scene
from featstore.datasets.source import RGB
from featstore.datasets.windows import Grid, find_windows
from featstore.errors import ConfigError, DatasetError, SelectionError, StoreError
from featstore.extraction.encode import Block, Encoder
from featstore.inference.maps.map_files import MappedScene
from featstore.io.fingerprints import FingerprintCache
from featstore.progress import Progress
from featstore.runs.run import Run
from featstore.store.feature_store import FeatureStore
from featstore.store.format.run_schema import FeatureSpec

MIN_EMPTY_SHARE = 0.1
"""Share of a scene without a class from which on a message says what helps."""


@contextmanager
def read_scene(
    path: str,
    run: Run,
    store: FeatureStore,
    *,
    window: int | None,
    stride: int | None,
    bands: Sequence[int] | None,
    value_range: tuple[float, float] | None,
    device: str,
    progress: Progress,
) -> Iterator[tuple[MappedScene, Callable[[], Iterator[Block]]]]:
    """Open a scene; yield it, and what opens the networks and returns its windows' features."""
    if run.selection.is_imported:
        raise ConfigError(
            f"{run.run_id} is of imported features, which featstore can't compute of a scene. "
            "Compute them elsewhere, and give predict the file of features."
        )
    window = _side("window", window or _training_side(run, store))
    stride = _side("stride", stride or window)
    specs = run.selection.features
    names, reading = _wanted_bands(specs), _reading(specs)
    bands = bands or _numbers(reading, len(names))
    ranges = (value_range,) if value_range is not None else reading.value_range
    with Scene(path, names, bands, ranges, reading.nodata) as scene:
        if scene.is_dark:
            progress.say(
                f"The scene is dark: its values end at some {scene.sampled_range()[1]:,.0f} of "
                "65,535. If the training images were brighter, give the values of black and white: "
                "--range LOW,HIGH"
            )
        if scene.bands_text:
            progress.say(scene.bands_text)
        grid = Grid(scene.height, scene.width, window, stride)
        _check_covered(scene, grid, progress)
        windows = find_windows(scene, grid, progress)
        if not len(windows):
            raise DatasetError(
                f"{path} has {grid.height} x {grid.width} pixels, and no window of {window} has "
                "data in half of its pixels. If the scene has data, give a smaller --window."
            )
        cache = FingerprintCache(store.cache_dir / "fingerprints")
        encoder = Encoder(specs, windows, device, cache, progress)
        mapped = MappedScene(
            path,
            scene.bands,
            scene.georeference,
            grid,
            len(windows),
            windows.cells,
            scene.thumbnail,
        )
        yield mapped, partial(encoder.blocks, "Mapping", progress)


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
