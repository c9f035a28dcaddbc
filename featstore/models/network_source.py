"""Open a network: weights found, layers named, an extractor for a device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from featstore.config import ExtractConfig
from featstore.datasets.base import Dataset
from featstore.datasets.reading import Reading
from featstore.datasets.source import RGB
from featstore.errors import BackboneError, ConfigError
from featstore.io.fingerprints import FingerprintCache
from featstore.models.base import Layer, Model
from featstore.models.devices import (
    describe_device,
    has_fast_bf16,
    resolve_device,
    resolve_precision,
)
from featstore.models.fidelity import checked_precision
from featstore.models.network import Network
from featstore.models.network_extractor import NetworkExtractor
from featstore.models.networks import find_layers
from featstore.models.preprocess import Preprocess
from featstore.models.weights import Weights
from featstore.progress import SILENT, Progress
from featstore.store.format.run_schema import FeatureSpec


class NetworkSource:
    """A network of any library."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def open(
        self,
        config: ExtractConfig,
        dataset: Dataset,
        cache: FingerprintCache,
        progress: Progress = SILENT,
        precision: str | None = None,
    ) -> Model:
        """Open the network that a config names."""
        network = self._network
        device = resolve_device(config.device)
        is_chosen = precision is None and config.precision == "auto"
        precision = precision or resolve_precision(config.precision, device)
        expected = network.expected_input(config.weights)
        order = _order(network, expected, config.bands, dataset.bands)
        if network.bands != RGB and not order:
            progress.say(
                "The images' bands have no names that the network knows; they are taken in this "
                f"order: {', '.join(network.bands)}. Another order: --bands 1,2,..."
            )
        # A wrong name is an error before weights are downloaded.
        find_layers(config.model, config.layers, config.image_size or expected.image_size)
        _check_values(network, expected, config.value_range)
        weights = network.find_weights(config.weights, cache, progress)
        image_size = config.image_size or weights.image_size
        layers: dict[Layer, list[str]] = {}
        for name in config.layers or ("",):
            (layer,) = find_layers(
                config.model, [name] if name else [], image_size, weights.n_classes
            )
            layers.setdefault(layer, []).extend([name] if name else [])
            # A pooling that the layer can't have is an error before any image is read.
            layer.pooled_by(config.pool)
        preprocess = make_preprocess(network, weights, image_size, config.bands, order)
        make_extractor = partial(
            NetworkExtractor,
            config.model,
            weights,
            preprocess,
            device=device,
            pool=config.pool,
            batch_size=config.batch_size,
            compile_=config.compile,
        )
        if is_chosen and precision != "fp32":
            lower = make_extractor(precision)
            precision = checked_precision(lower, tuple(layers), dataset, progress)
        extractor = make_extractor(precision)
        backbone = {
            "model": config.model,
            "weights": config.weights,
            "weights_name": weights.name,
            "weights_path": str(weights.path.absolute()) if weights.path else None,
            "weights_sha256": weights.sha256,
            "precision": precision,
        }
        names = _weights_names(weights.name, config.weights)
        return Model(extractor, layers, backbone, preprocess.to_dict(), names)

    def reopen(
        self,
        features: Sequence[FeatureSpec],
        bands: Sequence[str],
        device_name: str,
        cache: FingerprintCache,
        progress: Progress = SILENT,
    ) -> Model:
        """Open the network that computed recorded features, with the same weights."""
        record = features[0]
        backbone = record.backbone.to_dict()
        device = resolve_device(device_name)
        preprocess = Preprocess.from_dict(record.preprocess.to_dict())
        precision = backbone["precision"]
        is_emulated = precision == "bf16" and not has_fast_bf16(device)
        if is_emulated or (precision == "fp16" and device.type == "cpu"):
            progress.say(
                f"The model was trained on {precision} features; {describe_device(device)}, which "
                f"does not multiply {precision}, computes them in fp32."
            )
            precision = "fp32"
        weights = self._network.recorded_weights(backbone, cache, progress)
        order = _order(self._network, weights, preprocess.bands, bands)
        preprocess = replace(preprocess, order=order)
        nodes = [feature.node for feature in features]
        layers = find_layers(backbone["model"], nodes, preprocess.image_size, weights.n_classes)
        extractor = NetworkExtractor(
            backbone["model"],
            weights,
            preprocess,
            precision,
            device,
            pool=record.pool or "avg",
            batch_size=record.batch_size,
        )
        return Model(
            extractor, {layer: [] for layer in layers}, backbone, record.preprocess.to_dict()
        )


def make_preprocess(
    network: Network,
    weights: Weights,
    image_size: int,
    bands: str = "rgb",
    order: tuple[int, ...] = (),
) -> Preprocess:
    """Return how images become a network's input; `bands` are those that were asked for."""
    mode = "gray" if bands == "gray" else "rgb"
    own = weights.bands or network.bands
    return Preprocess(
        image_size,
        mode if own == RGB else ",".join(own),
        weights.mean,
        weights.std,
        weights.interpolation,
        weights.crop_pct,
        weights.squash,
        order,
    )


def _check_values(network: Network, expected: Weights, value_range: str | None) -> None:
    """Refuse a range of values that is not the one that a network was trained on."""
    found = expected.max_value
    if found is None:
        raise BackboneError(
            f"{network.model} was trained on values that 8 bits from 0 to 255 can't stand for, and "
            "featstore reads images as 8 bits. Use other weights."
        )
    pairs = Reading.parse("rgb", value_range, None).value_range
    if expected.value_range is not None:
        if pairs != expected.value_range:
            own = ";".join(f"{low:.17g},{high:.17g}" for low, high in expected.value_range)
            cure = f"Give --range '{own}'." if own else "Leave out --range."
            raise ConfigError(
                f"The weights were trained on {'values of this' if own else 'values without a'} "
                f"range, and the images are read with {value_range or 'none'}. {cure}"
            )
        return
    if found != 255 and pairs != ((0.0, found),):
        raise ConfigError(
            f"{network.model} was trained on values from 0 to {found:g}. Give --range 0,{found:g}, "
            "which reads those values as 8 bits."
        )


def _order(
    network: Network, expected: Weights, asked: str, bands: Sequence[str]
) -> tuple[int, ...]:
    """Return where the images have the network's bands; empty for the first ones.

    Three bands are the images' visible ones. Images without the network's bands raise
    BackboneError, and so does gray for a network of other bands.
    """
    if expected.bands:
        return _trained_order(expected, asked, bands)
    own = network.bands
    if own == RGB:
        if len(bands) not in (1, 3) and tuple(bands[:3]) != RGB:
            raise ConfigError(
                f"{network.model} takes three bands, and --bands {asked} gives {len(bands)}. "
                "Choose three, such as --bands 4,3,2, or one."
            )
        return ()
    if asked == "gray":
        raise BackboneError(
            f"{network.model} takes the bands {', '.join(own)}: --bands gray fails."
        )
    if set(own) <= set(bands):
        return tuple(bands.index(band) for band in own)
    if len(own) != len(bands) or set(bands) & {*RGB, "nir"}:
        raise BackboneError(
            f"{network.model} takes {len(own)} bands ({', '.join(own)}), and the images have "
            f"{len(bands)} ({', '.join(bands)}). Use a network of these bands."
        )
    return ()


def _trained_order(expected: Weights, asked: str, bands: Sequence[str]) -> tuple[int, ...]:
    """Return where the images have the bands that featstore trained the weights on."""
    if asked == "gray" or not set(expected.bands) <= set(bands):
        found = "their luminance" if asked == "gray" else ", ".join(bands)
        raise BackboneError(
            f"The weights were trained on the bands {', '.join(expected.bands)}, and these images "
            f"give {found}. Choose the same bands with --bands, or train on these images."
        )
    return tuple(bands.index(band) for band in expected.bands)


def _weights_names(name: str, requested: str) -> tuple[str, ...]:
    path = Path(requested)
    names = [name, path.name if path.is_file() else requested, requested]
    if name.startswith("IMAGENET1K"):
        names.append("imagenet")
    return tuple(dict.fromkeys(names))
