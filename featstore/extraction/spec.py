"""Recipes: what a configuration, or a record of one, says about how features are computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from featstore.config import ExtractConfig
from featstore.errors import BackboneError, ConfigError
from featstore.io.fingerprints import FingerprintCache
from featstore.models.base import Layer
from featstore.progress import SILENT, Progress
from featstore.store.format.run_schema import FeatureSpec

if TYPE_CHECKING:
    from featstore.models.base import Extractor

PIXEL_MODEL = "pixelstats"
"""The model that is no network: statistics of each image's pixels."""


@dataclass(frozen=True)
class ExtractionSpec:
    """How features are computed, and by which facts a feature set of them is known.

    Parameters
    ----------
    extractor : Extractor
        What computes them.
    asked : dict of Layer to list of str
        The layers asked for, each with the names that were used.
    backbone : dict
        ``model``, ``weights``, ``weights_name``, ``weights_path``, ``weights_sha256``,
        ``precision``, as JSON-able values.
    preprocess : dict
        What is done to images first, as JSON-able values.
    """

    extractor: Extractor
    requested: dict[Layer, list[str]]
    backbone: dict[str, Any]
    preprocess: dict[str, Any]


def find_spec(
    config: ExtractConfig,
    bands: Sequence[str],
    cache: FingerprintCache,
    progress: Progress = SILENT,
    *,
    precision: str | None = None,
) -> ExtractionSpec:
    """Return what a configuration asks for, weights found and layers named.

    Parameters
    ----------
    config : ExtractConfig
        What was asked for.
    bands : sequence of str
        The dataset's.
    cache : FingerprintCache
        Of files' hashes.
    progress : Progress
        Told of downloads.
    precision : str, optional
        The precision that was chosen elsewhere; by default it is chosen for the device here.

    Raises
    ------
    BackboneError
        When there is no such model or layer.
    DeviceError
        When there is no such device, or it can't compute at the precision.
    WeightsError, DownloadError
        When the weights can't be had.
    """
    if config.model == PIXEL_MODEL:
        return _pixel_recipe(config, bands)

    from featstore.models.backbone import NetworkExtractor
    from featstore.models.devices import resolve_device, resolve_precision
    from featstore.models.networks import find_layers
    from featstore.models.preprocess import Preprocess
    from featstore.models.weights import find_weights

    device = resolve_device(config.device)
    precision = precision or resolve_precision(config.precision, device)
    # A name that is wrong is told before weights are downloaded.
    find_layers(config.model, config.layers, config.image_size or 224)
    weights = find_weights(config.model, config.weights, cache, progress)
    image_size = config.image_size or weights.image_size
    requested: dict[Layer, list[str]] = {
        layer: [] for layer in find_layers(config.model, config.layers, image_size)
    }
    for name in config.layers:
        requested[find_layers(config.model, [name], image_size)[0]].append(name)
    preprocess = Preprocess(image_size, config.bands, weights.mean, weights.std)
    backbone = {
        "model": config.model,
        "weights": config.weights,
        "weights_name": weights.name,
        "weights_path": str(weights.path.absolute()) if weights.path else None,
        "weights_sha256": weights.sha256,
        "precision": precision,
    }
    extractor = NetworkExtractor(config, weights, preprocess, precision, device)
    return ExtractionSpec(extractor, requested, backbone, preprocess.to_dict())


def recorded_spec(
    specs: Sequence[FeatureSpec],
    bands: Sequence[str],
    device_name: str,
    cache: FingerprintCache,
    progress: Progress = SILENT,
) -> ExtractionSpec:
    """Return the recipe of features that a run was trained on.

    Parameters
    ----------
    specs : sequence of FeatureSpec
        The features of one set, as :class:`featstore.store.selection.Selection` records them.
    bands : sequence of str
        Of the images that they are now wanted for.
    device_name : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:i``.
    cache : FingerprintCache
        Of files' hashes.
    progress : Progress
        Told of downloads, and of a precision that can't be had here.

    Raises
    ------
    BackboneError
        When pixel statistics are wanted of images that have other bands.
    DeviceError
        When there is no such device.
    WeightsError
        When the weights are not to be had.
    """
    spec = specs[0]
    backbone = spec.backbone.to_dict()
    if backbone["model"] == PIXEL_MODEL:
        trained_on = spec.preprocess.bands
        if trained_on != ",".join(bands):
            raise BackboneError(
                f"The model was trained on pixel statistics of the bands {trained_on}; these "
                f"images have {','.join(bands)}."
            )
        nodes = tuple(s.node for s in specs)
        return _pixel_recipe(ExtractConfig(PIXEL_MODEL, "folder", layers=nodes), bands)
    config = ExtractConfig(
        model=backbone["model"],
        dataset="folder",
        layers=tuple(s.node for s in specs),
        pool=spec.pool or "avg",
        batch_size=spec.batch_size,
    )

    from featstore.models.backbone import NetworkExtractor
    from featstore.models.devices import resolve_device
    from featstore.models.networks import find_layers
    from featstore.models.preprocess import Preprocess
    from featstore.models.weights import recorded_weights

    device = resolve_device(device_name)
    preprocess = Preprocess.from_dict(spec.preprocess.to_dict())
    precision = backbone["precision"]
    if precision == "fp16" and device.type == "cpu":
        progress.say("The model was trained on fp16 features; a CPU computes them in fp32.")
        precision = "fp32"
    layers = find_layers(config.model, config.layers, preprocess.image_size)
    weights = recorded_weights(backbone, cache, progress)
    extractor = NetworkExtractor(config, weights, preprocess, precision, device)
    return ExtractionSpec(
        extractor, {layer: [] for layer in layers}, backbone, spec.preprocess.to_dict()
    )


def _pixel_recipe(config: ExtractConfig, bands: Sequence[str]) -> ExtractionSpec:
    from featstore.models.pixel_statistics import PixelExtractor, pixel_layers

    without = ("weights", "pool", "bands", "image_size", "precision", "compile")
    given = [
        f for f in fields(config) if f.name in without and getattr(config, f.name) != f.default
    ]
    if given:
        named = ", ".join(f"--{field.name.replace('_', '-')}" for field in given)
        raise ConfigError(
            f"{PIXEL_MODEL} reads all bands as they are and has no network, so that there is "
            f"nothing to which {named} would apply. Leave {named} out."
        )
    backbone = {
        "model": PIXEL_MODEL,
        "weights": "none",
        "weights_name": "none",
        "weights_path": None,
        "weights_sha256": "none",
        "precision": "fp32",
    }
    preprocess = {"image_size": None, "bands": ",".join(bands), "resize": "none"}
    return ExtractionSpec(
        PixelExtractor(config.batch_size, bands),
        {layer: list(config.layers) for layer in pixel_layers(config.layers, bands)},
        backbone,
        preprocess,
    )


def weights_names(config: ExtractConfig, recipe: ExtractionSpec) -> list[str]:
    """Return all names by which a user may call the weights of a recipe."""
    name, given = recipe.backbone["weights_name"], Path(config.weights)
    names = [name, given.name if given.is_file() else config.weights, config.weights]
    if name.startswith("IMAGENET1K"):
        names.append("imagenet")
    return list(dict.fromkeys(names))
