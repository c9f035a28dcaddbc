"""Map a scene whose features are in the store, without reading its windows again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from featstore.datasets.scene import Scene
from featstore.datasets.source import RGB
from featstore.datasets.windows import Grid
from featstore.errors import DatasetError, FeatstoreError, SelectionError
from featstore.extraction.encode import BLOCK_ROWS, Block
from featstore.inference.maps.map_files import MappedScene
from featstore.inference.stored_features import stored_features
from featstore.progress import Progress
from featstore.runs.run import Run
from featstore.store.feature_set import FeatureSet
from featstore.store.feature_store import FeatureStore
from featstore.store.footprints import georeference_of
from featstore.store.format.set_schema import SceneInfo, WindowsInfo
from featstore.store.selection import Selection
from featstore.text import join_some


def find_stored_scene(
    run: Run,
    store: FeatureStore,
    scene: str | Path | None,
    set_id: str | None,
    progress: Progress,
) -> tuple[MappedScene, Callable[[], Iterator[Block]]]:
    """Return a stored scene, and what returns the features of its windows in blocks.

    `scene` names one of several, by its name or path.
    """
    selection = stored_features(run, store, set_id)
    feature_set = selection.sources[0][0]
    windows, places = feature_set.info.dataset.windows, feature_set.places
    if windows is None or places is None:
        raise DatasetError(
            f"{feature_set.set_id} holds images, not the windows of scenes. Name a set of the "
            "dataset scene with --set, or map a scene's file."
        )
    if (limit := feature_set.facets.limit) is not None:
        raise DatasetError(
            f"{feature_set.set_id} holds {limit:,} of its scenes' windows (--limit). Extract all "
            "of them to map them."
        )
    number = _find_scene(windows, scene, feature_set)
    found = windows.scenes[number]
    start, stop = np.searchsorted(places[:, 0], [number, number + 1]).tolist()
    if start == stop:
        raise DatasetError(f"No window of {found.name} has data in half of its pixels.")
    grid = Grid(found.height, found.width, windows.window, windows.stride)
    cells = places[start:stop, 1].astype(np.int64) * grid.n_cols + places[start:stop, 2]
    mapped = MappedScene(
        found.path,
        found.bands,
        georeference_of(found),
        grid,
        len(cells),
        lambda first, last: cells[first:last],
        partial(_thumbnail, feature_set, found, progress),
    )
    return mapped, partial(_blocks, selection, start, stop, progress)


def _find_scene(windows: WindowsInfo, wanted: str | Path | None, feature_set: FeatureSet) -> int:
    names = [scene.name for scene in windows.scenes]
    if wanted is None and len(names) == 1:
        return 0
    hits = [i for i, name in enumerate(names) if wanted is not None and Path(wanted).name == name]
    if len(hits) == 1:
        return hits[0]
    what = f"holds no scene {str(wanted)!r}" if wanted is not None else "holds several scenes"
    raise SelectionError(f"{feature_set.set_id} {what}. Name one: {join_some(names)}.")


def _blocks(selection: Selection, start: int, stop: int, progress: Progress) -> Iterator[Block]:
    X, valid = selection.memmap(), selection.valid
    if not valid[start:stop].all():
        raise DatasetError(f"{selection.sources[0][0].set_id} lacks the features of some windows.")
    progress.start("Mapping", stop - start, "windows")
    try:
        for first in range(start, stop, BLOCK_ROWS):
            last = min(first + BLOCK_ROWS, stop)
            yield Block(first - start, last - start, X[first:last], {})
            progress.advance(last - first)
    finally:
        progress.stop()


def _thumbnail(
    feature_set: FeatureSet, scene: SceneInfo, progress: Progress, side: int
) -> NDArray[np.uint8] | None:
    """Return the scene's own file at a size; None, and a message, where it can't be shown."""
    record = feature_set.info.preprocess.reading
    names = RGB if record is None else record.names
    ranges = () if record is None else [(low, high) for low, high in record.value_range]
    try:
        with Scene(scene.path, names, scene.bands, ranges) as opened:
            if opened.georeference != georeference_of(scene):
                raise DatasetError(f"{scene.path} has another size or place than the stored scene")
            changed = datetime.fromtimestamp(Path(scene.path).stat().st_mtime, UTC)
            if changed > datetime.fromisoformat(feature_set.info.created):
                progress.say(f"{scene.path} is newer than its features: the picture shows it.")
            return opened.thumbnail(side)
    except (FeatstoreError, OSError) as error:
        progress.say(f"The picture shows the classes alone: {error}")
        return None
