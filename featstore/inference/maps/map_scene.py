"""Predict the classes or numbers of a whole scene, to a GeoTIFF that lies upon it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from featstore.config import TASKS
from featstore.errors import ConfigError
from featstore.inference.familiarity import check_reject, familiarity_of
from featstore.inference.maps.colors import class_colors, color_hex, read_colors
from featstore.inference.maps.map_files import (
    ClassPainter,
    MapFiles,
    MappedScene,
    NumberPainter,
)
from featstore.inference.maps.read_scene import read_scene
from featstore.inference.maps.stored_scene import find_stored_scene
from featstore.progress import Progress
from featstore.progress_bars import IN_NOTEBOOKS
from featstore.runs.calibration import DECISION
from featstore.runs.opening import open_run
from featstore.runs.run import Run
from featstore.store.feature_store import FeatureStore, open_store


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
    vector : str or None
        The file of polygons, if it was asked for.
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
        Windows classified per second, without opening the network and drawing the picture.
    calibration : str
        Whether the probabilities are calibrated, and how, in words; empty without the second band.
    n_unfamiliar, n_rejected : int
        Windows whose familiarity is below 1 %, and below `reject`.
    """

    run_id: str
    scene: str
    path: str
    sidecar: str
    style: str
    preview: str
    vector: str | None
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
    calibration: str = ""
    n_unfamiliar: int = 0
    n_rejected: int = 0

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of each class in the classified area (fractions)."""
        return tuple(count / sum(self.counts) for count in self.counts)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON-able values."""
        return {**asdict(self), "shares": [round(share, 6) for share in self.shares]}


@dataclass(frozen=True)
class NumberMap:
    """The result of :func:`map_scene` with a run that predicts a number.

    Parameters
    ----------
    run_id : str
        The run of the model.
    scene : str
    path, preview : str
        The GeoTIFF, float32 with NaN in cells without a number, and the picture.
    window, stride : int
        Sides of a window and of a cell of the map, in pixels of the scene.
    n_rows, n_cols : int
        Cells of the map.
    target_name : str
        Name of the number.
    lowest, mean, highest : float
        Of the cells' numbers.
    n_empty : int
        Cells without a number: their middle lies beyond the scene, or they lack data.
    duration_s : float
        From the call to its end.
    windows_per_s : float
        Windows predicted per second, without opening the network and drawing the picture.
    n_unfamiliar, n_rejected : int
        Windows whose familiarity is below 1 %, and below `reject`.
    """

    run_id: str
    scene: str
    path: str
    preview: str
    window: int
    stride: int
    n_rows: int
    n_cols: int
    target_name: str
    lowest: float
    mean: float
    highest: float
    n_empty: int
    duration_s: float
    windows_per_s: float
    n_unfamiliar: int = 0
    n_rejected: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON-able values."""
        return asdict(self)


def map_scene(
    run: Run | str | Path,
    scene: str | Path | None = None,
    out: str | Path | None = None,
    *,
    from_store: bool = False,
    set_id: str | None = None,
    store: str | Path | FeatureStore | None = None,
    window: int | None = None,
    stride: int | None = None,
    bands: Sequence[int] | None = None,
    value_range: tuple[float, float] | None = None,
    probability: bool = False,
    familiarity: bool = False,
    reject: float = 0.0,
    colors: str | Path | Mapping[str, str] | None = None,
    preview: str | Path | None = None,
    vector: str | Path | None = None,
    device: str = "auto",
    trusted: Sequence[str] = (),
    progress: Progress = IN_NOTEBOOKS,
) -> SceneMap | NumberMap:
    """Classify a scene window by window and write the classes, or the numbers, as a GeoTIFF.

    The scene is cut into square cells from its origin on; a cell gets the class, or the number, of
    the window around it. Windows reach beyond the border into the scene's mirror image. Memory
    holds a part of the scene at a time, and files get their names when they are complete.

    Parameters
    ----------
    run : Run, str or Path
        A run, its name, or its folder.
    scene : str or Path
        A GeoTIFF, or any other raster that GDAL opens.
    out : str or Path, optional
        The GeoTIFF to write; by default ``<scene>-classes.tif``, or ``<scene>-values.tif`` of
        numbers, in the current folder.
    from_store : bool
        Whether to take the features of a stored scene, a set of the dataset ``scene``, in place of
        computing them.
    set_id : str, optional
        The scene's feature set; by default that of the run.
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
        Whether to write the probability of the class, in percent, as a second band. It is
        calibrated if the run's probabilities are; the band's name and the file's tags say so.
    familiarity : bool
        Whether to write the familiarity of the windows, in percent, as the last band, and to hatch
        those below 1 % in the picture; see :func:`featstore.predict`.
    reject : float
        Familiarity below which a cell stays empty; the band is written, too.
    colors : str, Path or mapping, optional
        Colours of classes, ``#rrggbb`` by name, or a CSV or JSON file of them. Other classes have
        the usual colours of land cover: water blue, trees green.
    preview : str or Path, optional
        A PNG picture of scene and classes; by default beside the GeoTIFF.
    vector : str or Path, optional
        A file of polygons to write, one for each area of a class: ``.gpkg``, ``.geojson`` or
        ``.fgb``.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:i``.
    trusted : sequence of str
        Types of your own classifier, as ``package.module.Class``. Their code is run.
    progress : Progress

    Returns
    -------
    SceneMap or NumberMap
        The second of a run that predicts a number.

    Raises
    ------
    ConfigError
        When a setting does not fit the scene or the run, a run has several classes, or rasterio is
        not installed.
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
    has_classes = run.task == TASKS[0]
    check_reject(reject)
    _check_run(run, probability=probability, colors=colors, vector=vector)
    model = run.load_model(trusted) if trusted else run.model
    if probability and run.score_kind == DECISION:
        raise ConfigError(
            f"{run.run_id} gives decision values, not probabilities. Map without --probability, or "
            "fit it again without --no-calibrate."
        )
    given = read_colors(colors, run.class_names) if colors is not None else {}
    palette = class_colors(run.class_names, given)
    chosen: dict[str, Any] = {
        "window": window,
        "stride": stride,
        "bands": bands,
        "value_range": value_range,
    }
    with ExitStack() as stack:
        if from_store or set_id is not None:
            if own := [name for name, value in chosen.items() if value is not None]:
                raise ConfigError(
                    f"{own[0]} is that of the stored scene. Leave it out, or map the scene's file."
                )
            mapped, open_blocks = find_stored_scene(run, opened, scene, set_id, progress)
        else:
            if scene is None:
                raise ConfigError("Name the scene, or map the run's own from its store.")
            reading = read_scene(
                str(scene), run, opened, device=device, progress=progress, **chosen
            )
            mapped, open_blocks = stack.enter_context(reading)
        targets = MapFiles.find(mapped.path, out, preview, vector, has_classes=has_classes)
        if vector is not None and not mapped.georeference.is_on_ground:
            raise ConfigError(
                f"{mapped.path} has no map coordinates, so its classes can't be polygons. Leave "
                "out --vector, or georeference the scene."
            )
        wanted = familiarity or reject > 0
        known = familiarity_of(run, opened) if wanted else None
        kind = ClassPainter if has_classes else NumberPainter
        painter = kind(
            run, model, mapped, probability=probability, familiarity=known, reject=reject
        )
        grid, tags = mapped.grid, _tags(run, mapped, probability)
        windows_s = targets.write(mapped, painter, open_blocks(), palette, tags)
    if isinstance(painter, NumberPainter):
        return NumberMap(
            run.run_id,
            mapped.path,
            str(targets.out),
            str(targets.preview),
            grid.window,
            grid.stride,
            grid.n_rows,
            grid.n_cols,
            painter.name,
            painter.lowest,
            painter.total / (mapped.n_windows - painter.n_rejected),
            painter.highest,
            grid.n_cells - mapped.n_windows,
            round(time.perf_counter() - began, 3),
            round(mapped.n_windows / windows_s, 2),
            painter.n_unfamiliar,
            painter.n_rejected,
        )
    return SceneMap(
        run.run_id,
        mapped.path,
        str(targets.out),
        str(targets.sidecar),
        str(targets.style),
        str(targets.preview),
        None if targets.vector is None else str(targets.vector),
        grid.window,
        grid.stride,
        grid.n_rows,
        grid.n_cols,
        run.class_names,
        tuple(map(color_hex, palette)),
        tuple(painter.counts.tolist()),
        grid.n_cells - mapped.n_windows,
        round(time.perf_counter() - began, 3),
        round(mapped.n_windows / windows_s, 2),
        run.calibration_text if probability else "",
        painter.n_unfamiliar,
        painter.n_rejected,
    )


def _check_run(run: Run, **options: object) -> None:
    """Refuse a run of several classes, and options of classes for a run of a number."""
    if run.task == "multilabel":
        raise ConfigError(
            f"{run.run_id} predicts several classes, and a cell of a map holds one. Map a run of "
            "images with one class each, or predict the windows: featstore predict."
        )
    if run.task == "regression" and (given := [name for name, one in options.items() if one]):
        raise ConfigError(
            f"--{given[0]} is for classes; {run.run_id} predicts a number. Leave it out."
        )


def _tags(run: Run, mapped: MappedScene, probability: bool) -> dict[str, str]:
    """Return the metadata of a map's file."""
    how = {"FEATSTORE_PROBABILITY": run.calibration_text} if probability else {}
    return how | {
        "FEATSTORE_RUN": run.run_id,
        "FEATSTORE_SCENE": mapped.path,
        "FEATSTORE_BANDS": ",".join(map(str, mapped.bands)),
        "FEATSTORE_WINDOW": str(mapped.grid.window),
        "FEATSTORE_STRIDE": str(mapped.grid.stride),
    }
