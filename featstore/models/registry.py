"""Open a model by its name."""

from __future__ import annotations

from collections.abc import Sequence

from featstore.config import ExtractConfig
from featstore.io.fingerprints import FingerprintCache
from featstore.models.base import Model, ModelSource
from featstore.models.names import PIXEL_MODEL, check_model
from featstore.models.pixelstats import PixelSource
from featstore.progress import SILENT, Progress
from featstore.store.format.run_schema import FeatureSpec


def open_model(
    config: ExtractConfig,
    bands: Sequence[str],
    cache: FingerprintCache,
    progress: Progress = SILENT,
    precision: str | None = None,
) -> Model:
    """Open the model that a config names, its weights and layers found.

    `bands` are the dataset's. `precision` overrides the config's, for a precision that another
    process has chosen. A name, device, weights or download that fails raises BackboneError,
    DeviceError, WeightsError or DownloadError.
    """
    return _source(config.model).open(config, bands, cache, progress, precision)


def reopen_model(
    features: Sequence[FeatureSpec],
    bands: Sequence[str],
    device_name: str,
    cache: FingerprintCache,
    progress: Progress = SILENT,
) -> Model:
    """Open the model that computed the features a run was trained on.

    `features` are of one set, as :attr:`featstore.store.selection.Selection.feature_specs` gives
    them; `bands` are those of the new images. Pixel statistics of other bands raise
    BackboneError, weights that are missing or changed WeightsError.
    """
    model = str(features[0].backbone.model)
    return _source(model).reopen(features, bands, device_name, cache, progress)


def _source(model: str) -> ModelSource:
    if model == PIXEL_MODEL:
        return PixelSource()
    check_model(model)
    # The module imports torch, which an answer from the store does without.
    from featstore.models.network_source import NetworkSource

    return NetworkSource()
