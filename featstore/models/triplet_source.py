"""Networks trained by triplets: a backbone whose head gives an embedding of length 1."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from featstore.models.network import Network
from featstore.models.registry import find_network
from featstore.models.trained import TrainedNetwork
from featstore.models.weights import Weights

WIDTH = 128
"""Length of the embedding: Hermans et al. 2017, arXiv:1703.07737."""


BACKBONE = "backbone"
"""The name of the backbone in the network, which its nodes begin with."""


class Normalize(nn.Module):
    """Vectors to length 1."""

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the vectors (batch_size, n) divided by their lengths."""
        return functional.normalize(vectors, dim=1)


class Tower(nn.Module):
    """A backbone, and its last layer's output at length 1."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.embedding = Normalize()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the embeddings, (batch_size, n_features)."""
        found: torch.Tensor = self.embedding(self.backbone(images))
        return found


class TripletNetwork(TrainedNetwork):
    """A backbone with an embedding by the name ``triplet:BACKBONE``."""

    feature_name = "embedding"

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.inner: Network = find_network(model.partition(":")[2])
        self.heads = tuple(f"{BACKBONE}.{head}" for head in self.inner.heads)
        self.fixes_size = self.inner.fixes_size
        self.notes = (
            f"{self.inner.model} with an embedding of {WIDTH} values in place of its classes; its "
            f"weights come from featstore train triplet --backbone {self.inner.model}.",
        )

    def build_for(
        self, n_bands: int, image_size: int, seed: int = 0, n_classes: int | None = None
    ) -> nn.Module:
        """Return the network for a number of bands, with seeded random weights, in eval mode.

        `n_classes` is the length of the embedding. Networks of torchvision have three bands.
        """
        n_outputs = n_classes or WIDTH
        if isinstance(self.inner, TrainedNetwork):
            return Tower(self.inner.build_for(n_bands, image_size, seed, n_outputs)).eval()
        return Tower(self.inner.build(image_size, seed, n_outputs)).eval()

    def preset(self) -> Weights:
        """Return the input of the backbone."""
        return replace(self.inner.preset(), name="")

    def layer_names(self, node: str) -> tuple[str, ...]:
        """Return the backbone's names of a node, and the node's own."""
        own = node.removeprefix(f"{BACKBONE}.")
        return (node,) if own == node else (*self.inner.layer_names(own), node)

    def feature_node(
        self, nodes: Sequence[str], inputs: Mapping[str, str | None], output: str
    ) -> str:
        """Return the embedding, which is the network's result."""
        return output

    def untraced(self) -> tuple[Sequence[type[nn.Module]], Sequence[Callable[..., Any]]]:
        """Return the modules and functions that torch.fx does not look into."""
        return self.inner.untraced()


open_network = TripletNetwork
