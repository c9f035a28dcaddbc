"""Predict the classes or numbers of a whole scene, to a GeoTIFF that lies upon it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from featstore.config import TASKS
from featstore.errors import ConfigError
from featstore.extraction.encode import Block
from featstore.inference.familiarity import check_reject, familiarity_of
from featstore.inference.maps.colors import class_colors, color_hex, read_colors
from featstore.inference.maps.map_files import (
    ClassPainter,
    MapFiles,
    MappedScene,
    NumberPainter,
)
from featstore.inference.maps.read_scene import read_scene
from featstore.inference.maps.result import NumberMap, SceneMap
from featstore.inference.maps.stored_scene import find_stored_scene
from featstore.progress import Progress
from featstore.progress_bars import IN_NOTEBOOKS
from featstore.runs.calibration import DECISION
from featstore.runs.opening import open_run
from featstore.runs.run import Run
from featstore.store.feature_store import FeatureStore, open_store


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
    check_reject(reject)
    _check_run(run, probability=probability, colors=colors, vector=vector)
    model = run.load_model(trusted) if trusted else run.model
    given = read_colors(colors, run.class_names) if colors is not None else {}
    palette = class_colors(run.class_names, given)
    chosen: dict[str, Any] = {
        "window": window,
        "stride": stride,
        "bands": bands,
        "value_range": value_range,
    }
    if from_store or set_id is not None:
        reading = _stored_scene(run, opened, scene, set_id, chosen, progress)
    elif scene is None:
        raise ConfigError("Name the scene, or map the run's own from its store.")
    else:
        reading = read_scene(str(scene), run, opened, device=device, progress=progress, **chosen)
    has_classes = run.task == TASKS[0]
    with reading as (mapped, open_blocks):
        targets = MapFiles.find(mapped.path, out, preview, vector, has_classes=has_classes)
        if vector is not None and not mapped.georeference.is_on_ground:
            raise ConfigError(
                f"{mapped.path} has no map coordinates, so its classes can't be polygons. Leave "
                "out --vector, or georeference the scene."
            )
        known = familiarity_of(run, opened) if familiarity or reject > 0 else None
        kind = ClassPainter if has_classes else NumberPainter
        painter = kind(
            run, model, mapped, probability=probability, familiarity=known, reject=reject
        )
        tags = _tags(run, mapped, probability)
        windows_s = targets.write(mapped, painter, open_blocks(), palette, tags)
    facts: dict[str, Any] = {
        "run_id": run.run_id,
        "scene": mapped.path,
        "path": str(targets.out),
        "preview": str(targets.preview),
        "window": mapped.grid.window,
        "stride": mapped.grid.stride,
        "n_rows": mapped.grid.n_rows,
        "n_cols": mapped.grid.n_cols,
        "n_empty": mapped.grid.n_cells - mapped.n_windows,
        "duration_s": round(time.perf_counter() - began, 3),
        "windows_per_s": round(mapped.n_windows / windows_s, 2),
        "n_unfamiliar": painter.n_unfamiliar,
        "n_rejected": painter.n_rejected,
    }
    if isinstance(painter, NumberPainter):
        return NumberMap(
            **facts,
            target_name=painter.name,
            lowest=painter.lowest,
            mean=painter.total / (mapped.n_windows - painter.n_rejected),
            highest=painter.highest,
        )
    return SceneMap(
        **facts,
        sidecar=str(targets.sidecar),
        style=str(targets.style),
        vector=None if targets.vector is None else str(targets.vector),
        class_names=run.class_names,
        colors=tuple(map(color_hex, palette)),
        counts=tuple(painter.counts.tolist()),
        calibration=run.calibration_text if probability else "",
    )


def _check_run(run: Run, *, probability: bool, **options: object) -> None:
    """Refuse a run of several classes, and options that a run has no answer to."""
    if run.task == "multilabel":
        raise ConfigError(
            f"{run.run_id} predicts several classes, and a cell of a map holds one. Map a run of "
            "images with one class each, or predict the windows: featstore predict."
        )
    options = {"probability": probability, **options}
    if run.task == "regression" and (given := [name for name, one in options.items() if one]):
        raise ConfigError(
            f"--{given[0]} is for classes; {run.run_id} predicts a number. Leave it out."
        )
    if probability and run.score_kind == DECISION:
        raise ConfigError(
            f"{run.run_id} gives decision values, not probabilities. Map without --probability, or "
            "fit it again without --no-calibrate."
        )


def _stored_scene(
    run: Run,
    store: FeatureStore,
    scene: str | Path | None,
    set_id: str | None,
    chosen: Mapping[str, Any],
    progress: Progress,
) -> AbstractContextManager[tuple[MappedScene, Callable[[], Iterator[Block]]]]:
    """Return a stored scene; refuse settings that it was stored with."""
    if own := [name for name, value in chosen.items() if value is not None]:
        raise ConfigError(
            f"{own[0]} is that of the stored scene. Leave it out, or map the scene's file."
        )
    return nullcontext(find_stored_scene(run, store, scene, set_id, progress))


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
