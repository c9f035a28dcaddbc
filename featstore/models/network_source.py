"""Open torchvision's networks: weights found, layers named, an extractor for a device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from featstore.config import USUAL_IMAGE_SIZE, ExtractConfig
from featstore.datasets.base import RGB
from featstore.errors import ConfigError
from featstore.io.fingerprints import FingerprintCache
from featstore.models.base import Layer, Model
from featstore.models.devices import resolve_device, resolve_precision
from featstore.models.network_extractor import NetworkExtractor
from featstore.models.networks import find_layers
from featstore.models.preprocess import Preprocess
from featstore.models.weights import find_weights, recorded_weights
from featstore.progress import SILENT, Progress
from featstore.store.format.run_schema import FeatureSpec


class NetworkSource:
    """torchvision's networks."""

    def open(
        self,
        config: ExtractConfig,
        bands: Sequence[str],
        cache: FingerprintCache,
        progress: Progress = SILENT,
        precision: str | None = None,
    ) -> Model:
        """Open the network that a config names."""
        device = resolve_device(config.device)
        precision = precision or resolve_precision(config.precision, device)
        # A wrong name is an error before weights are downloaded.
        find_layers(config.model, config.layers, config.image_size or USUAL_IMAGE_SIZE)
        weights = find_weights(config.model, config.weights, cache, progress)
        image_size = config.image_size or weights.image_size
        layers: dict[Layer, list[str]] = {
            layer: [] for layer in find_layers(config.model, config.layers, image_size)
        }
        for name in config.layers:
            layers[find_layers(config.model, [name], image_size)[0]].append(name)
        mode = "gray" if config.bands == "gray" else "rgb"
        if len(bands) not in (1, 3) and tuple(bands[:3]) != RGB:
            raise ConfigError(
                f"{config.model} takes three bands, and --bands {config.bands} gives {len(bands)}. "
                "Choose three, such as --bands 4,3,2, or one."
            )
        preprocess = Preprocess(image_size, mode, weights.mean, weights.std)
        extractor = NetworkExtractor(
            config.model,
            weights,
            preprocess,
            precision,
            device,
            pool=config.pool,
            batch_size=config.batch_size,
            compile_=config.compile,
        )
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
        if precision == "fp16" and device.type == "cpu":
            progress.say("The model was trained on fp16 features; a CPU computes them in fp32.")
            precision = "fp32"
        nodes = [feature.node for feature in features]
        layers = find_layers(backbone["model"], nodes, preprocess.image_size)
        extractor = NetworkExtractor(
            backbone["model"],
            recorded_weights(backbone, cache, progress),
            preprocess,
            precision,
            device,
            pool=record.pool or "avg",
            batch_size=record.batch_size,
        )
        return Model(
            extractor, {layer: [] for layer in layers}, backbone, record.preprocess.to_dict()
        )


def _weights_names(name: str, requested: str) -> tuple[str, ...]:
    path = Path(requested)
    names = [name, path.name if path.is_file() else requested, requested]
    if name.startswith("IMAGENET1K"):
        names.append("imagenet")
    return tuple(dict.fromkeys(names))
