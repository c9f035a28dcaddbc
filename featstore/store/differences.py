"""Say in which settings feature sets differ that no option of a search tells apart."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from featstore.errors import FeatstoreError
from featstore.store.feature_set import FeatureSet


def differing_settings(sets: Sequence[FeatureSet]) -> list[str]:
    """For each of several sets, return the settings in which it differs, and when it was made."""
    settings = [_settings(one) for one in sets]
    names = dict.fromkeys(name for one in settings for name in one)
    differing = [name for name in names if len({one.get(name, "none") for one in settings}) > 1]
    texts = []
    for one in settings:
        told = [f"{name} {one.get(name, 'none')}" for name in differing if name != "made"]
        texts.append(", ".join([*told, f"made {one['made']}"]))
    return texts


def _settings(feature_set: FeatureSet) -> dict[str, str]:
    """Return what the sets of one dataset, network and bands may differ in, for people."""
    info, facets = feature_set.info, feature_set.outline.facets
    dataset, reading = info.dataset, info.preprocess.reading
    found: dict[str, str] = {}
    if reading is not None:
        found["bands"] = ",".join(reading.bands)
        found["nodata"] = reading.nodata or "none"
        ranges = [f"{low:g},{high:g}" for low, high in reading.value_range]
        found["range"] = " ".join(ranges) or "none"
    if facets.limit is not None:
        found["limit"] = str(facets.limit)
    found["seed"] = str(facets.seed)
    found["images"] = f"{dataset.n_samples:,}"
    with suppress(FeatstoreError):
        found["labelled"] = f"{int(np.sum(feature_set.labels >= 0)):,}"
    found["classes"] = str(len(dataset.class_names))
    found |= {name.replace("_", "-"): _text(value) for name, value in dataset.options.items()}
    found["root"] = dataset.root or "none"
    # Seconds tell two sets of one minute apart.
    found["made"] = info.created[:19].replace("T", " ")
    return found


def _text(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
