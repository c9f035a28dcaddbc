"""Take the features of scenes with new labels from the set that has them with other labels."""

from __future__ import annotations

from featstore.datasets.formats.scene_dataset import SceneDataset
from featstore.environment import now
from featstore.extraction.spec import ExtractionSpec
from featstore.progress import Progress
from featstore.store.feature_set import FeatureSet
from featstore.store.feature_store import FeatureStore
from featstore.store.format.layer_schema import LayerRecord
from featstore.store.removal import remove_layers
from featstore.store.writer import FeatureWriter

COPIED_ROWS = 4096
"""Rows that are copied at a time."""


OF_A_SET = ("layer", "numerics", "files", "folder", "nbytes")


def copy_same_windows(
    spec: ExtractionSpec, store: FeatureStore, feature_set: FeatureSet, progress: Progress
) -> None:
    """Copy the requested layers from sets of the same windows; the caller holds the new set.

    Polygons change labels, blocks and splits, and no feature.
    """
    if not isinstance(spec.images.dataset, SceneDataset) or spec.config.limit is not None:
        return
    journal = feature_set.journal()
    for name in spec.layer_names:
        is_damaged = name in journal and journal[name].damaged is not None
        if feature_set.layer_path(name).is_file() or is_damaged:
            continue
        if (source := _find(spec, store, feature_set, name)) is not None:
            progress.say(f"{name} is copied from {source.set_id}: its windows are the same.")
            _copy(source, feature_set, name, spec, progress)


def _find(
    spec: ExtractionSpec, store: FeatureStore, own: FeatureSet, layer: str
) -> FeatureSet | None:
    """Return another set of the same windows that has a layer."""
    windows = own.info.dataset.windows
    for other in store.readable_sets():
        found = other.info.dataset.windows
        if other.set_id == own.set_id or other.facets.limit is not None:
            continue
        if windows is None or found is None or found.fingerprint != windows.fingerprint:
            continue
        record = other.layers().get(layer)
        if record is None or record.request != spec.request:
            continue
        is_same = {**other.info.key, "dataset": ""} == {**own.info.key, "dataset": ""}
        if is_same and other.missing_chunks(layer) is None:
            return other
    return None


def _copy(
    source: FeatureSet,
    feature_set: FeatureSet,
    layer: str,
    spec: ExtractionSpec,
    progress: Progress,
) -> None:
    record: LayerRecord = source.layer(layer)
    if layer in feature_set.unfinished():
        remove_layers(feature_set, [layer])
    attributes = {"layer": record.layer, "node": record.node, "pool": record.pool}
    feature_set.begin_layer(layer, record.n_features, attributes, record.dtype)
    matrix, masked = source.matrix(layer), {one.row: one.error for one in record.masked}
    n_rows = feature_set.n_samples
    progress.start("Copying features", n_rows, "rows")
    try:
        with FeatureWriter(feature_set, [layer], record.numerics.to_dict(), spec.command) as writer:
            for start in range(0, n_rows, COPIED_ROWS):
                stop = min(start + COPIED_ROWS, n_rows)
                own = {row: cause for row, cause in masked.items() if start <= row < stop}
                writer.add(start, {layer: matrix.read(start, stop)}, own)
                progress.advance(stop - start)
    finally:
        progress.stop()
    content = {k: v for k, v in record.to_dict().items() if k not in OF_A_SET}
    about = {"layer": record.layer, "command": spec.command, "completed": now(), "n_computed": 0}
    writer.finish({layer: content | about})
