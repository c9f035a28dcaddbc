"""The networks that computed a run's features, as ONNX operations and as featstore runs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featstore.datasets.loader import Batch
from featstore.datasets.source import RGB
from featstore.deploy.onnx_graph import Graph
from featstore.deploy.onnx_images import add_preprocess
from featstore.deploy.torch_export import network_as_onnx
from featstore.errors import ExportError
from featstore.extraction.encode import parts_by_pass
from featstore.io.fingerprints import FingerprintCache
from featstore.models.base import Model
from featstore.models.network_extractor import NetworkExtractor
from featstore.models.registry import reopen_model
from featstore.progress import SILENT, Progress
from featstore.store.format.run_schema import FeatureSpec


@dataclass(frozen=True)
class ExportedNetwork:
    """One network, and the columns of a run's features that it computes: places by node."""

    model: Model
    extractor: NetworkExtractor
    pool: str
    places: dict[int, str]

    def add_to(self, graph: Graph, images: str) -> dict[int, str]:
        """Append the network to images, (n, n_bands, height, width); return features by place."""
        layers = list(self.model.layers)
        preprocess = self.extractor.preprocess
        pixels = add_preprocess(graph, images, preprocess)
        content = network_as_onnx(
            self.extractor.as_module(layers),
            len(preprocess.mean),
            preprocess.image_size,
            self.model.backbone["model"],
        )
        vectors = graph.embed(content, pixels)
        by_node = {layer.node: vector for layer, vector in zip(layers, vectors, strict=True)}
        return {place: by_node[node] for place, node in self.places.items()}

    def encode(self, images: Sequence[np.ndarray]) -> dict[int, np.ndarray]:
        """Return the features of images as featstore computes them, by place."""
        # Encoder reads files, large JPEGs at a reduced size; these are the pixels of the check.
        layers = list(self.model.layers)
        batch_size = self.extractor.open(layers, len(images))["batch_size"]
        parts = []
        for start in range(0, len(images), batch_size):
            own = images[start : start + batch_size]
            groups = [(np.array([i]), image[np.newaxis]) for i, image in enumerate(own)]
            found = self.extractor.begin(Batch(start, start + len(own), groups))()
            parts.append({name: np.array(rows) for name, rows in found.items()})
        names = {layer.node: layer.stored_name(self.pool) for layer in layers}
        return {
            place: np.concatenate([part[names[node]] for part in parts])
            for place, node in self.places.items()
        }


def open_networks(
    features: Sequence[FeatureSpec],
    bands: Sequence[str],
    cache: FingerprintCache,
    progress: Progress = SILENT,
) -> list[ExportedNetwork]:
    """Open the networks of a run's features for images of some bands, on the CPU."""
    if any(spec.preprocess.reading != features[0].preprocess.reading for spec in features):
        raise ExportError(
            "The networks read the images with different --bands or --range, and the exported "
            "model takes one image. Fit on features of images that were read alike."
        )
    networks = []
    for pool, places in parts_by_pass(features):
        model = reopen_model([features[i] for i in places], bands, "cpu", cache, progress)
        extractor = model.extractor
        if not isinstance(extractor, NetworkExtractor):
            raise ExportError(
                f"{model.backbone['model']} is no network, and can't be written as ONNX. Fit on "
                "the features of a network, such as resnet50."
            )
        networks.append(
            ExportedNetwork(model, extractor, pool, {i: features[i].node for i in places})
        )
    return networks


def input_bands(networks: Sequence[ExportedNetwork]) -> tuple[str, ...]:
    """Return the bands of the images that the exported model takes, in order."""
    each = [one.extractor.preprocess.bands for one in networks]
    found = {RGB if bands in ("rgb", "gray") else tuple(bands.split(",")) for bands in each}
    if len(found) > 1:
        raise ExportError(
            f"The networks take different bands ({'; '.join(map(', '.join, sorted(found)))}), and "
            "the exported model takes one image. Fit on features of networks of the same bands."
        )
    return found.pop()


def in_order(images: Sequence[np.ndarray], networks: Sequence[ExportedNetwork]) -> list[np.ndarray]:
    """Return images with the bands of :func:`input_bands`."""
    preprocess = networks[0].extractor.preprocess
    n_bands = len(input_bands(networks))
    order = list(preprocess.order) or list(range(n_bands))
    found = []
    for image in images:
        # A gray image has one band for all.
        is_gray = image.shape[2] == 1 < n_bands
        own = image.repeat(n_bands, axis=2) if is_gray else image[..., order]
        found.append(np.ascontiguousarray(own))
    return found
