"""Open a model by its name, from the source that the name's beginning names."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING

from featstore.config import ExtractConfig
from featstore.datasets.base import Dataset
from featstore.errors import BackboneError
from featstore.io.fingerprints import FingerprintCache
from featstore.models.base import Model, ModelSource
from featstore.models.names import FILTER_MODELS, HAND_MODEL, PIXEL_MODEL, check_model, source_of
from featstore.models.pixelstats import PixelSource
from featstore.progress import SILENT, Progress
from featstore.store.format.run_schema import FeatureSpec

if TYPE_CHECKING:
    from featstore.models.network import Network


def open_model(
    config: ExtractConfig,
    dataset: Dataset,
    cache: FingerprintCache,
    progress: Progress = SILENT,
    precision: str | None = None,
) -> Model:
    """Open the model that a config names, its weights and layers found.

    The dataset decides the bands, and for some models the filters. `precision` overrides the
    config's, for a precision that another process has chosen. A name, device, weights or download
    that fails raises BackboneError, DeviceError, WeightsError or DownloadError.
    """
    return _source(config.model).open(config, dataset, cache, progress, precision)


def reopen_model(
    features: Sequence[FeatureSpec],
    bands: Sequence[str],
    device_name: str,
    cache: FingerprintCache,
    progress: Progress = SILENT,
) -> Model:
    """Open the model that computed the features a run was trained on.

    `features` are of one set, as :attr:`featstore.store.selection.Selection.feature_specs` gives
    them; `bands` are those of the new images. Bands that do not fit raise BackboneError, weights
    that are missing or changed WeightsError.
    """
    backbone = features[0].backbone
    if backbone.is_imported:
        raise BackboneError(
            f"The features {backbone.model} were computed elsewhere and imported from "
            f"{backbone.weights_name}; featstore can't compute them of images. Compute them there, "
            "and give predict the file of features."
        )
    model = str(backbone.model)
    return _source(model).reopen(features, bands, device_name, cache, progress)


@lru_cache(maxsize=64)
def find_network(model: str) -> Network:
    """Return the network of a name; BackboneError if there is none."""
    # The modules import torch, which an answer from the store does without.
    module = import_module(f"featstore.models.{source_of(check_model(model))}_source")
    network: Network = module.open_network(model)
    return network


def _source(model: str) -> ModelSource:
    if model == PIXEL_MODEL:
        return PixelSource()
    if model == HAND_MODEL:
        from featstore.models.deepsat import HandSource

        return HandSource()
    if source_of(model) in FILTER_MODELS:
        from featstore.models.rcf import FilterSource

        return FilterSource(check_model(model))
    from featstore.models.network_source import NetworkSource

    return NetworkSource(find_network(model))
