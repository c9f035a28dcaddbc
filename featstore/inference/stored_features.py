"""Find the stored features of other images that a run's model can classify."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from featstore.errors import SelectionError
from featstore.fitting.solvers.blocks import Samples
from featstore.fitting.tasks import find_task
from featstore.runs.run import Run
from featstore.store.feature_set import FeatureSet
from featstore.store.feature_store import FeatureStore
from featstore.store.format.matrix import TEXT
from featstore.store.format.run_schema import FeatureSpec
from featstore.store.format.set_schema import ReadingInfo
from featstore.store.selection import Selection


def stored_features(run: Run, store: FeatureStore, set_id: str | None = None) -> Selection:
    """Return the features that a run was fitted on, or the same features of another set's images.

    The latter may lie in several sets of those images. SelectionError says what they lack.
    """
    specs = run.selection.features
    if set_id is None:
        return store.reopen((spec.set_id, spec.layer) for spec in specs)
    named = store.get(set_id)
    fingerprint = named.info.dataset.fingerprint
    others = [
        other
        for other in store.readable_sets()
        if other.outline.fingerprint == fingerprint and other.set_id != named.set_id
    ]
    return Selection(tuple(_find([named, *others], spec, run) for spec in specs))


def _find(sets: Sequence[FeatureSet], spec: FeatureSpec, run: Run) -> tuple[FeatureSet, str]:
    """Return the set and the layer that hold the features of a spec."""
    is_read_otherwise = False
    for feature_set in sets:
        for layer in feature_set.layers():
            (own,) = Selection(((feature_set, layer),)).feature_specs
            if _content(own) != _content(spec):
                continue
            if is_same(own, spec):
                return feature_set, layer
            is_read_otherwise = True
    lacking = f"{sets[0].set_id} lacks the features of {run.run_id}, {spec.backbone.model} "
    if is_read_otherwise:
        raise SelectionError(
            f"{lacking}{spec.layer} with the same bands and values: its images were read with "
            "other settings of --bands, --range or --nodata. Extract again with those of the run."
        )
    raise SelectionError(
        f"{lacking}{spec.layer} with the same weights and settings. Extract them of the same "
        "images."
    )


def is_same(one: FeatureSpec, other: FeatureSpec) -> bool:
    """Return whether two features are the same numbers of each image."""
    return _content(one) == _content(other) and _reading(one) == _reading(other)


def _content(spec: FeatureSpec) -> dict[str, Any]:
    """Return what decides the features, but for how images are read."""
    backbone, preprocess = spec.backbone.to_dict(), spec.preprocess.to_dict()
    for name in ("weights_path", "weights_name"):
        backbone.pop(name)
    for name in ("decode", "reading", "bands"):
        preprocess.pop(name, None)
    return {
        "node": spec.node,
        "pool": spec.pool,
        "n_features": spec.n_features,
        "backbone": backbone,
        "preprocess": preprocess,
    }


def _reading(spec: FeatureSpec) -> tuple[str, ReadingInfo | None]:
    """Return how the images are read."""
    return spec.preprocess.bands, spec.preprocess.reading


def predict_stored(run: Run, selection: Selection) -> dict[str, np.ndarray]:
    """Return what a run predicts for each row, by column name.

    The columns are ``predicted`` and ``probability``, or ``uncalibrated_probability`` or
    ``decision_value`` of runs without calibration; of several classes
    ``probability:CLASS`` for each, and of a number ``predicted`` alone. Masked rows have no class
    and NaN.
    """
    rows = np.flatnonzero(selection.valid)
    task = find_task(run.task)
    found = task.predict(run.model, Samples(selection.memmap(), rows), run.calibrator)
    columns = {}
    for name, own in task.predicted_columns(found, run.class_names).items():
        columns[name] = (
            np.full(selection.n_samples, "", TEXT)
            if own.dtype == TEXT
            else np.full(selection.n_samples, np.nan, np.float32)
        )
        columns[name][rows] = own
    return columns
