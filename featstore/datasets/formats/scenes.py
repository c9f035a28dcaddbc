"""Scenes of any size as datasets of windows: one row a window that has data."""

from __future__ import annotations

import math
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.config import DatasetOptions
from featstore.datasets.band_names import MAX_BANDS, numbers_hint
from featstore.datasets.blocks import find_blocks
from featstore.datasets.drawing import TRAIN_FRACTION, draw_split_of_groups
from featstore.datasets.format import Opening
from featstore.datasets.formats.scene_files import (
    Frame,
    find_scenes,
    georeference_at,
    raster_files,
)
from featstore.datasets.formats.scene_labels import lay_polygons
from featstore.datasets.reading import N_SAMPLED, Range, Reading, percentiles, thinned
from featstore.datasets.scene import Scene, open_raster
from featstore.datasets.source import RGB, ArraySource
from featstore.datasets.windows import Grid, WindowSource, find_windows
from featstore.errors import ConfigError, DatasetError, DatasetNotFoundError, ImageError
from featstore.io.files import json_digest
from featstore.io.vectors import Polygons, companions, read_polygons, split_layer
from featstore.progress import Progress
from featstore.text import join_some

LABELS = "labels:"
"""What the names of files of polygons begin with."""


N_OPEN = 8
"""Scenes that are open at a time."""


BLOCK_WINDOWS = 4
"""Side of a block, in windows, without ``--groups-from``."""


class SceneSource(ArraySource):
    """The windows of one or more scenes that have data in half of their pixels or more.

    Rows are in the order of the scenes' names, and then of their cells, row by row. `base` is the
    folder below which files are named.
    """

    name = "scene"

    def __init__(
        self,
        paths: Sequence[Path],
        base: Path,
        title: str,
        reading: Reading,
        options: DatasetOptions,
        progress: Progress,
    ) -> None:
        if options.window is None:
            raise ConfigError(
                "A scene is divided into windows: give their side in pixels, e.g. --window 64."
            )
        self._paths, self._base, self.title = paths, base, title
        self.reading, self._options, self._progress = reading, options, progress
        self.window, self.stride = options.window, options.stride or options.window
        self.group_by = options.groups_from or f"grid:{self._usual_block} pixels"
        kind, _, size = (options.groups_from or "").partition(":")
        if options.split_files or (kind and not (kind == "grid" and size)):
            raise ConfigError(
                "The windows of scenes are split by blocks of ground. Give their side in map "
                "units, --groups-from grid:SIZE, or leave out --groups-from and --splits."
            )
        self._opened: OrderedDict[int, WindowSource] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def _usual_block(self) -> int:
        return BLOCK_WINDOWS * max(self.window, self.stride)

    @cached_property
    def block(self) -> float:
        """Side of a block, in pixels of the first scene."""
        if self._options.groups_from is None:
            return self._usual_block
        transform = self.frames[0].georeference.transform
        if not transform:
            raise DatasetError(
                f"{self._paths[0]} has no map coordinates: --groups-from grid:SIZE has no meaning."
            )
        a, b, _, d, e, _ = transform
        return float(self._options.groups_from.partition(":")[2]) / math.sqrt(abs(a * e - b * d))

    def read_as(self, reading: Reading) -> SceneSource:
        """Return the same windows, read in another way."""
        return SceneSource(
            self._paths, self._base, self.title, reading, self._options, self._progress
        )

    @cached_property
    def bands(self) -> tuple[str, ...]:  # type: ignore[override]
        """What each channel of a window is, as the first scene says where bands were chosen."""
        return self._choose(self._paths[0])[1]

    @property
    def image_shape(self) -> tuple[int, int, int]:  # type: ignore[override]
        """Height, width and number of bands of a window."""
        return self.window, self.window, len(self.bands)

    def _choose(self, path: Path) -> tuple[tuple[int, ...] | None, tuple[str, ...]]:
        with open_raster(str(path)) as raster:
            if self.reading.bands:
                return self.reading.choose(path, raster)
            if raster.count > MAX_BANDS:
                try:
                    Reading(RGB).choose(path, raster)
                except ImageError:
                    raise ConfigError(
                        f"{path} holds {raster.count} bands, and does not say which are red, green "
                        f"and blue. {numbers_hint()}"
                    ) from None
            return None, RGB

    def _open_scene(self, path: Path, reading: Reading) -> Scene:
        numbers, names = self._choose(path)
        if len(names) != len(self.bands):
            raise DatasetError(
                f"{path} has {len(names)} bands, and {self._paths[0]} has {len(self.bands)}. "
                "Choose the same of each: --bands 1,2,3"
            )
        return Scene(str(path), self.bands, numbers, reading.value_range, reading.nodata)

    @cached_property
    def frames(self) -> list[Frame]:
        """The scenes."""
        found = []
        for path in self._paths:
            with self._open_scene(path, self.reading) as scene:
                if scene.is_dark:
                    raise ConfigError(
                        f"{path}: its 16-bit values end at some {scene.sampled_range()[1]:,.0f} of "
                        "65,535, which leaves open what is white. Say what is black and white: "
                        "--range LOW,HIGH, or --range percentile:2,98."
                    )
                if scene.bands_text:
                    self._progress.say(f"{path.name}: {scene.bands_text}")
                grid = Grid(scene.height, scene.width, self.window, self.stride)
                found.append(Frame(path.name, path, scene.bands, scene.georeference, grid))
        return found

    @cached_property
    def places(self) -> NDArray[np.int32]:
        """Scene, row and column of each window's cell, (n_samples, 3)."""
        parts = []
        for number, frame in enumerate(self.frames):
            with self._open_scene(frame.path, self.reading) as scene:
                cells = find_windows(scene, frame.grid, self._progress).rows
            rows, cols = np.divmod(cells, frame.grid.n_cols)
            parts.append(np.stack([np.full(len(cells), number), rows, cols], axis=1))
        places = np.concatenate(parts).astype(np.int32)
        if not len(places):
            raise DatasetError(
                f"{self.title}: no window of {self.window} x {self.window} pixels has data in half "
                "of its pixels. If the scene has data, give a smaller --window."
            )
        return places

    def sampled_range(self, low: float, high: float) -> tuple[Range, ...]:
        """Return, for each band, the values at two percentiles of places all over the scenes."""
        rows = np.unique(np.linspace(0, len(self._paths) - 1, N_SAMPLED).astype(int))
        any_range = Reading(self.reading.bands, ((0.0, 1.0),), self.reading.nodata)
        samples = []
        for row in rows.tolist():
            with self._open_scene(self._paths[row], any_range) as scene:
                samples += [thinned(values) for values in scene.samples() if values.size]
        if not samples:
            raise DatasetError(f"{self.title} has no data to take percentiles of.")
        return percentiles(samples, low, high)

    @cached_property
    def _polygons(self) -> Polygons | None:
        options = self._options
        if options.labels is None:
            return None
        polygons = read_polygons(options.labels, options.label_column or "")
        if polygons.n_left_out:
            n = polygons.n_left_out
            what = "1 polygon" if n == 1 else f"{n:,} polygons"
            self._progress.say(f"Left out {what} of {polygons.text} without a class.")
        return polygons

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the polygons' classes, sorted; none without polygons."""
        return () if self._polygons is None else self._polygons.class_names

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """Labels, (n_samples,); -1 outside the polygons, and across two blocks."""
        if self._polygons is None:
            return np.full(len(self.places), -1, np.int32)
        labels = lay_polygons(self._polygons, self.frames, self.places, self._options.label_by)
        self._check_labels(labels)
        return np.where(self._blocks[1], labels, np.int32(-1))

    def _check_labels(self, labels: NDArray[np.int32]) -> None:
        labelled = labels >= 0
        kept = labelled & self._blocks[1]
        if not kept.any():
            what = (
                f"all lie across two blocks of {self.block:g} pixels; give a larger "
                "--groups-from grid:SIZE"
                if labelled.any()
                else "the polygons lie elsewhere, or are smaller than half a window: try "
                "--label-by centre or a smaller --window"
            )
            raise DatasetError(f"No window of {self.title} gets a label: {what}.")
        if n_across := int(labelled.sum() - kept.sum()):
            self._progress.say(
                f"{n_across:,} of {labelled.sum():,} labelled windows lie across two blocks of "
                f"{self.block:g} pixels. They are stored without a label, so that no training "
                "window shares a pixel with a test window."
            )
        counts = np.bincount(labels[kept], minlength=len(self.class_names))
        if lacking := [self.class_names[i] for i in np.flatnonzero(counts == 0).tolist()]:
            self._progress.say(f"No window gets the label {join_some(lacking)}.")

    @cached_property
    def _blocks(self) -> tuple[NDArray[np.int32], NDArray[np.bool]]:
        frames = [(frame.grid, frame.georeference) for frame in self.frames]
        return find_blocks(frames, self.places, self.block)

    @property
    def groups(self) -> NDArray[np.int32]:
        """The block of each window, (n_samples,)."""
        return self._blocks[0]

    @cached_property
    def splits(self) -> NDArray[np.uint8]:
        """Splits, (n_samples,), drawn by blocks; without labels, all in the first."""
        of_block = np.zeros(int(self.groups.max()) + 1, np.uint8)
        labelled = self.labels >= 0
        if labelled.any():
            own = self.groups[labelled]
            names = [str(block) for block in range(len(of_block))]
            of_block[own] = draw_split_of_groups(
                self.labels[labelled], own, names, self._options.seed, self.group_by
            )
        splits: NDArray[np.uint8] = of_block[self.groups]
        return splits

    @cached_property
    def sample_ids(self) -> Sequence[str]:
        """The windows by scene, row and column of their cells, such as ``scene.tif/3/14``."""
        names = [frame.name for frame in self.frames]
        return [f"{names[scene]}/{row}/{col}" for scene, row, col in self.places.tolist()]

    def files(self) -> list[tuple[str, Path]]:
        """Return the scenes, what they take their pixels from, and the polygons."""
        return self._files

    @cached_property
    def _files(self) -> list[tuple[str, Path]]:
        files = [file for path in self._paths for file in raster_files(path)]
        found = {Path(os.path.relpath(file, self._base)).as_posix(): file for file in files}
        if self._options.labels is not None:
            polygons, _ = split_layer(self._options.labels)
            if not polygons.exists():
                raise DatasetNotFoundError(f"{polygons} does not exist. Name a file of polygons.")
            found |= {f"{LABELS}{path.name}": path for path in companions(polygons)}
        return sorted(found.items())

    def identity(self) -> dict[str, Any]:
        """Return what tells the windows apart, beside the files."""
        nodata = None if self.reading.nodata is None else str(self.reading.nodata)
        identity: dict[str, Any] = {
            "dataset": self.name,
            "format": 1,
            "window": self.window,
            "stride": self.stride,
            "nodata": nodata,
            "block": self._options.groups_from or self._usual_block,
            # A file beside a raster may hold it.
            "places": json_digest([georeference_at(path).to_record() for path in self._paths]),
        }
        options = self._options
        if options.labels is not None:
            identity["labels"] = {
                "layer": split_layer(options.labels)[1],
                "column": options.label_column,
                "by": options.label_by,
            }
            identity["split"] = {"train_fraction": TRAIN_FRACTION, "seed": options.seed}
        return identity

    def unlabelled_identity(self) -> dict[str, Any]:
        """Return the identity without what depends on polygons and splits."""
        own = ("labels", "split", "block")
        return {name: value for name, value in self.identity().items() if name not in own}

    def read_rows(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return some windows, (len(rows), window, window, bands).

        Pixels without data take the mean of the window's other pixels.
        """
        windows = np.empty((len(rows), *self.image_shape), np.uint8)
        scenes, cell_rows, cell_cols = self.places[rows].T.astype(np.int64)
        ends = np.flatnonzero(np.diff(scenes)) + 1
        for at in np.split(np.arange(len(rows)), ends):
            number = int(scenes[at[0]])
            cells = cell_rows[at] * self.frames[number].grid.n_cols + cell_cols[at]
            windows[at] = self._windows_of(number).read_rows(cells)
        return windows

    def _windows_of(self, number: int) -> WindowSource:
        with self._lock:
            if number not in self._opened:
                while len(self._opened) >= N_OPEN:
                    # Another thread may still read it; Python closes it afterwards.
                    self._opened.popitem(last=False)
                frame = self.frames[number]
                scene = self._open_scene(frame.path, self.reading)
                self._opened[number] = WindowSource(scene, frame.grid)
            self._opened.move_to_end(number)
            return self._opened[number]


def open_scenes(opening: Opening) -> SceneSource:
    """Open the scene, the folder of scenes, or the scenes of a pattern, that a root names."""
    if not opening.has_root:
        raise ConfigError(
            "The dataset scene needs --root: a raster, a folder of rasters, or a pattern such as "
            "'tiles/*.vrt'."
        )
    paths, base, title = find_scenes(opening.root)
    return SceneSource(paths, base, title, opening.reading, opening.options, opening.progress)
