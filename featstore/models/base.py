"""What every model gives: layers, an extractor that computes features, and facts to record."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from featstore.config import TOKEN_POOLS, ExtractConfig
from featstore.datasets.base import Dataset
from featstore.datasets.loader import Batch
from featstore.errors import BackboneError
from featstore.io.fingerprints import FingerprintCache
from featstore.progress import SILENT, Progress
from featstore.store.format.run_schema import FeatureSpec


@dataclass(frozen=True)
class Layer:
    """A point at which a network is read.

    Parameters
    ----------
    name : str
        The layer's name in the store: the papers' name, or torchvision's node where they give none.
    node : str
        torchvision's name of the node.
    names : tuple of str
        All names that ``--layers`` accepts for it.
    shape : tuple of int
        Shape of its output for one image, channels first: ``(features,)``,
        ``(channels, height, width)`` or ``(channels, tokens)``.
    default : bool
        Whether it is the network's feature layer.
    axis : int
        Axis of the channels in the network's own output, where axis 0 is the batch.
    n_prefix : int
        Tokens before those of the image's parts: the class token and registers.
    has_class_token : bool
        Whether the first token is the class token.
    own_pool : str
        The pooling that ``auto`` means: ``avg``; of a layer with a class token or registers, the
        network's own, ``cls`` or ``tokens``.
    hooked : bool
        Whether it is read by a hook on a module, because torch.fx can't trace the network.
    """

    name: str
    node: str
    names: tuple[str, ...]
    shape: tuple[int, ...]
    default: bool
    axis: int = 1
    n_prefix: int = 0
    has_class_token: bool = False
    own_pool: str = "avg"
    hooked: bool = False

    def n_features(self, pool: str) -> int:
        """Return the length of the layer's feature vector after pooling.

        Parameters
        ----------
        pool : str
            One of :data:`featstore.config.POOLS`.
        """
        pooled = self.pooled_by(pool)
        if pooled in (None, "flatten"):
            return math.prod(self.shape)
        return self.shape[0] * (2 if pooled in ("avgmax", "cls+tokens") else 1)

    def pooled_by(self, pool: str) -> str | None:
        """Return the pooling that `pool` means for the layer; None for a layer that is a vector.

        A pooling of tokens that the layer lacks raises BackboneError.
        """
        if math.prod(self.shape) == self.shape[0]:
            return None
        if pool == "auto":
            return self.own_pool
        if pool not in TOKEN_POOLS:
            return pool
        if len(self.shape) != 2:
            raise BackboneError(
                f"{self.name} is a map of {'x'.join(map(str, self.shape))} and has no tokens for "
                f"--pool {pool}. Use --pool avg, or a layer of tokens."
            )
        if "cls" in pool and not self.has_class_token:
            raise BackboneError(
                f"{self.name} has no class token for --pool {pool}. Use --pool tokens."
            )
        # Without other tokens it is the mean of all.
        return pool if self.n_prefix else "avg"

    def stored_name(self, pool: str) -> str:
        """Return the matrix's name: the layer's, with the pooling unless it is ``avg``."""
        pooled = self.pooled_by(pool)
        return self.name if pooled in (None, "avg") else f"{self.name}@{pooled}"


class Extractor(Protocol):
    """Turns batches of raw images into rows of features.

    Attributes
    ----------
    device_type : str
        ``cpu`` or ``cuda``.
    n_in_flight : int
        Batches that may be begun before the first one is finished.
    min_size : int or None
        Side in pixels that a decoded image keeps at least; None to decode images in full.
    """

    device_type: str
    n_in_flight: int
    min_size: int | None

    @property
    def device_name(self) -> str:
        """The device's name for people."""
        ...

    def find(self, nodes: Sequence[str]) -> Sequence[Layer]:
        """Return the layers at the given nodes."""
        ...

    def use_threads(self, n_threads: int | None) -> int | None:
        """Set the number of threads for the arithmetic that the calling thread starts.

        None keeps the library's own number. Return the number if the features' last bits depend
        on it, else None.
        """
        ...

    def open(
        self,
        layers: Sequence[Layer],
        n_images: int,
        numerics: Mapping[str, Any] | None = None,
        progress: Progress = SILENT,
    ) -> dict[str, Any]:
        """Prepare for a pass, and return the numerics: what the features' last bits depend on.

        A resumed pass gives the numerics that it began with; None lets the extractor choose.
        """
        ...

    def begin(self, batch: Batch) -> Callable[[], dict[str, np.ndarray]]:
        """Begin a batch; the function returned waits for its features, by layer.

        The features are float32 of shape (batch.stop - batch.start, n_features), by the layer's
        name in the store.
        """
        ...


@dataclass(frozen=True)
class Model:
    """A model that is ready to compute features.

    Parameters
    ----------
    extractor : Extractor
        Computes the features.
    layers : dict of Layer to list of str
        The requested layers, each with the names that the request used for it.
    backbone : dict
        What a feature set records of the model, as JSON-able values: ``model``, ``weights``,
        ``weights_name``, ``weights_path``, ``weights_sha256``, ``precision``.
    preprocess : dict
        What a feature set records of the images' preprocessing, as JSON-able values.
    weights_names : tuple of str
        All names by which a user may select the weights.
    """

    extractor: Extractor
    layers: dict[Layer, list[str]]
    backbone: dict[str, Any]
    preprocess: dict[str, Any]
    weights_names: tuple[str, ...] = ()


class ModelSource(Protocol):
    """Opens the models of one library."""

    def open(
        self,
        config: ExtractConfig,
        dataset: Dataset,
        cache: FingerprintCache,
        progress: Progress = SILENT,
        precision: str | None = None,
    ) -> Model:
        """Open the model that a config names, for a dataset; `precision` overrides the config's."""
        ...

    def reopen(
        self,
        features: Sequence[FeatureSpec],
        bands: Sequence[str],
        device_name: str,
        cache: FingerprintCache,
        progress: Progress = SILENT,
    ) -> Model:
        """Open the model that computed recorded features, which are all of one set."""
        ...
