"""The Extractor protocol and the Layer value: what models give and stores keep."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from featstore.datasets.loader import Batch
from featstore.progress import SILENT, Progress


@dataclass(frozen=True)
class Layer:
    """A place at which a network is read.

    Parameters
    ----------
    name : str
        Its name in the store: the papers', or else torchvision's node.
    node : str
        torchvision's node.
    names : tuple of str
        All names by which it can be asked for.
    shape : tuple of int
        Of its output for one image, channels first: ``(features,)``, ``(channels, height, width)``
        or ``(channels, tokens)``.
    default : bool
        Whether it is the network's feature layer.
    axis : int
        Which axis of the network's own output, batch included, has the channels.
    """

    name: str
    node: str
    names: tuple[str, ...]
    shape: tuple[int, ...]
    default: bool
    axis: int = 1

    def n_features(self, pool: str) -> int:
        """Return the length of its feature vector after pooling."""
        size = math.prod(self.shape)
        if pool == "flatten":
            return size
        channels = self.shape[0]
        return channels * 2 if pool == "avgmax" and size > channels else channels

    def pooled_by(self, pool: str) -> str | None:
        """Return `pool`, or None where the layer has no map and pooling changes nothing."""
        is_map = len(self.shape) > 1 and self.n_features("flatten") > self.n_features("avg")
        return pool if is_map else None

    def stored_name(self, pool: str) -> str:
        """Return the matrix's name: the layer's, with the pooling where it is not the default."""
        return self.name if self.pooled_by(pool) in (None, "avg") else f"{self.name}@{pool}"


class Extractor(Protocol):
    """Turns batches of raw images into rows of features.

    Attributes
    ----------
    device_type, device_name : str
        Where, for programs (``cpu``, ``cuda``) and for people.
    n_in_flight : int
        Batches that may be begun before the first one is finished.
    min_size : int or None
        Side in pixels below which no image is wanted; None for images as they are.
    """

    device_type: str
    device_name: str
    n_in_flight: int
    min_size: int | None

    def find(self, nodes: Sequence[str]) -> Sequence[Layer]:
        """Return the layers at the given nodes."""
        ...

    def open(
        self,
        layers: Sequence[Layer],
        n_images: int,
        numerics: Mapping[str, Any] | None = None,
        progress: Progress = SILENT,
    ) -> dict[str, Any]:
        """Get ready for a pass; return what its features' last bits depend on.

        `numerics` are those of the pass that is gone on with, None for a new one.
        """
        ...

    def begin(self, batch: Batch) -> Callable[[], dict[str, np.ndarray]]:
        """Begin with a batch; what is returned waits for its features, (k, n_features) each."""
        ...
