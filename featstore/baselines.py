"""Baselines: fits on pixel statistics, and on features of the same network with random weights.

A network's features are worth what they add to these. On SAT-6, twelve pixel statistics alone give
99.6 % (Corley et al. 2023, arXiv:2305.13456).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from featstore._signatures import keywords_of, takes
from featstore.config import BANDS, SET_FACETS
from featstore.errors import FeatstoreError, FitError
from featstore.extraction.extract import extract
from featstore.fitting.fit import fit_each
from featstore.fitting.results import Fit
from featstore.models.names import PIXEL_MODEL, needs_network
from featstore.progress import SILENT, Progress
from featstore.store.feature_set import FeatureSet
from featstore.store.feature_store import FeatureStore, open_store
from featstore.text import model_text

RANDOM = "random:0"
"""Weights of the untrained network."""


SELECTING = ("dataset", "model", "layers", *SET_FACETS)
"""Options of a fit that choose feature sets."""


@takes(*keywords_of(fit_each, but=("progress",)))
def fit_baselines(
    store: str | Path | FeatureStore,
    fits: Sequence[Fit],
    clf: str | Sequence[str],
    *,
    root: str | None = None,
    progress: Progress = SILENT,
    **options: Any,
) -> list[Fit]:
    """Fit the same classifiers on pixel statistics, and on features of random weights.

    Features that the store lacks are extracted from the same images first.

    Parameters
    ----------
    store : str, Path or FeatureStore
    fits : sequence of Fit
        Fits that need baselines; failed ones get none.
    clf : str or sequence of str
        As of :func:`featstore.fitting.fit_each`.
    root : str, optional
        Folder of the images; by default the one they were extracted from.
    progress : Progress
    **options
        As of :func:`featstore.fitting.fit_each`; options that choose feature sets are ignored.

    Returns
    -------
    list of Fit
        The error of a baseline says why its features can't be extracted: for example, the images
        are missing, or they have changed.
    """
    store = open_store(store, progress)
    runs = [fit.run for fit in fits if fit.run]
    settings = {k: v for k, v in options.items() if k not in SELECTING}
    parts = [(part.set_id, part.layer) for run in runs for part in run.selection.features]
    extracted: dict[tuple[str, str | None], None] = {}
    failed: dict[tuple[str, str], Fit] = {}
    for set_id, layer in dict.fromkeys(parts):
        feature_set = store.get(set_id)
        model, title = feature_set.facets.model, feature_set.facets.title
        kinds = (PIXEL_MODEL, model) if needs_network(model) else (PIXEL_MODEL,)
        for kind in kinds:
            try:
                found = _extract(store, feature_set, kind, layer, root, progress)
            except FeatstoreError as error:
                name = f"{title} {PIXEL_MODEL if kind == PIXEL_MODEL else model_text(kind, RANDOM)}"
                # Each layer asks for the same pixel statistics.
                failed.setdefault((name, str(error)), Fit(name, None, False, error))
            else:
                extracted[found] = None
    used = {tuple(run.selection.set_ids) for run in runs}
    baselines = list(failed.values())
    for set_id, layers in extracted:
        if (set_id,) not in used:
            baselines += fit_each(
                store, clf, set_id=set_id, layers=layers, progress=progress, **settings
            )
    return baselines


def _extract(
    store: FeatureStore,
    feature_set: FeatureSet,
    model: str,
    layer: str,
    root: str | None,
    progress: Progress,
) -> tuple[str, str | None]:
    """Return the set and layer of a baseline for one layer of a set; extract what is missing."""
    facets, record = feature_set.facets, feature_set.layer(layer)
    same: dict[str, Any] = {"limit": facets.limit, "seed": facets.seed}
    same |= feature_set.info.dataset.options | _reading(feature_set)
    if record.masked:
        same["on_error"] = "mask"
    if model != PIXEL_MODEL:
        same |= {
            "weights": RANDOM,
            "layers": [record.layer],
            **_picture_bands(feature_set),
            "image_size": facets.image_size,
        }
        if record.pool:
            same["pool"] = record.pool
    made = extract(
        model,
        facets.dataset,
        store=store,
        root=root or feature_set.info.dataset.root,
        progress=progress,
        **same,
    )
    found = store.get(made.set_id)
    if found.info.dataset.fingerprint != feature_set.info.dataset.fingerprint:
        raise FitError(
            f"The images of {facets.title} are no longer those that {feature_set.set_id} was "
            "extracted from; baselines must be of the same images. Give their folder with --root, "
            "or extract again."
        )
    return made.set_id, None if model == PIXEL_MODEL else made.layers[0]


def _picture_bands(feature_set: FeatureSet) -> dict[str, Any]:
    """Return the setting of a network's bands, where images are pictures or have their own."""
    bands = feature_set.facets.bands
    # Names of a network's own bands are no choice of bands: the images have them.
    is_chosen = bands in BANDS or feature_set.info.preprocess.reading is not None
    return {"bands": bands} if is_chosen else {}


def _reading(feature_set: FeatureSet) -> dict[str, Any]:
    """Return the settings that read images as those of a set were read."""
    record = feature_set.info.preprocess.reading
    if record is None:
        return {}
    ranges = ";".join(f"{low!r},{high!r}" for low, high in record.value_range)
    bands = ",".join(record.bands) or "rgb"
    return {"bands": bands, "value_range": ranges or None, "nodata": record.nodata}
