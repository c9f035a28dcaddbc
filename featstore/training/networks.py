"""The network that a training begins with, and the input that it gets."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from torch import nn

from featstore.config import ExtractConfig, TrainConfig
from featstore.datasets.base import Dataset
from featstore.datasets.loader import usual_shape
from featstore.datasets.source import RGB
from featstore.errors import ConfigError, TrainError
from featstore.io.fingerprints import FingerprintCache
from featstore.models.registry import find_network
from featstore.models.trained import TrainedNetwork
from featstore.models.triplet_source import TripletNetwork
from featstore.models.weights import Weights
from featstore.progress import SILENT, Progress

MAX_OWN_SIZE = 64
"""Side in pixels above which images are made smaller for the small network."""


MIN_OWN_SIZE = 16


def find_start(
    config: TrainConfig, cache: FingerprintCache, progress: Progress = SILENT
) -> Weights | None:
    """Return the weights that the backbone begins with; None for random ones."""
    if config.weights is None:
        return None
    network = cast(TripletNetwork, find_network(config.model))
    return network.inner.find_weights(config.weights, cache, progress)


def plan_input(images: ExtractConfig, dataset: Dataset, start: Weights | None) -> Weights:
    """Return the size and bands of a network's input, and with pretrained weights its statistics.

    The statistics of a network that begins at random come from the images.
    """
    if images.bands == "gray":
        raise ConfigError("A network is trained on bands, not on their luminance: leave --bands.")
    if start is not None:
        bands = dataset.bands[:3]
        if len(dataset.bands) != 3 and bands != RGB:
            raise ConfigError(
                f"A pretrained network takes three bands, and {dataset.title} gives "
                f"{len(dataset.bands)}. Choose three with --bands, or train --backbone satcnn."
            )
        return replace(start, bands=bands, image_size=images.image_size or start.image_size)
    size = images.image_size or _own_size(dataset)
    return Weights("", None, "", size, (), (), bands=dataset.bands)


def _own_size(dataset: Dataset) -> int:
    shape = usual_shape(dataset)
    if shape is None:
        raise TrainError(f"None of the first images of {dataset.title} can be read.")
    return max(MIN_OWN_SIZE, min(*shape, MAX_OWN_SIZE))


def build_network(
    config: TrainConfig, start: Weights | None, n_bands: int, image_size: int, n_classes: int
) -> nn.Module:
    """Return the network with which the training begins."""
    network = cast(TrainedNetwork, find_network(config.model))
    n_outputs = n_classes if config.network == "satcnn" else None
    module = network.build_for(n_bands, image_size, config.random_state, n_outputs)
    if start is not None:
        inner = cast(TripletNetwork, network).inner
        own = module.get_submodule("backbone")
        heads = tuple(f"{head}." for head in inner.heads)
        state = own.state_dict()
        loaded = inner.load(start, image_size).state_dict()
        body = {k: v for k, v in loaded.items() if k in state and not k.startswith(heads)}
        own.load_state_dict(state | body)
    return module
