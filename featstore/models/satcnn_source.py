"""A small network for small images of any bands, after SatCNN (Zhong et al. 2017).

SatCNN's own table of layers is not at hand (doi:10.1080/2150704X.2016.1235299): this network takes
its idea, small filters and more of them, and departs in batch normalisation and the global average.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from featstore.models.network import seeded
from featstore.models.trained import TrainedNetwork
from featstore.models.weights import HALF, Weights

WIDTHS = (32, 64, 128)
"""Filters of each convolution of the stages."""


IMAGE_SIZE, N_CLASSES = 28, 4
"""Input and classes of a network without weights: those of SAT-4."""


DROPOUT = 0.5


class Stage(nn.Module):
    """Two 3x3 convolutions, each with batch normalisation and ReLU."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(n_out)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(n_out)
        self.relu2 = nn.ReLU()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the stage's maps, of the same height and width."""
        x = self.relu1(self.bn1(self.conv1(images)))
        found: torch.Tensor = self.relu2(self.bn2(self.conv2(x)))
        return found


class SatCnn(nn.Module):
    """Three stages with pooling between them, a global average, dropout and a linear layer."""

    def __init__(self, n_bands: int, n_outputs: int) -> None:
        super().__init__()
        first, second, third = WIDTHS
        self.stage1, self.pool1 = Stage(n_bands, first), nn.MaxPool2d(2)
        self.stage2, self.pool2 = Stage(first, second), nn.MaxPool2d(2)
        self.stage3, self.pool = Stage(second, third), nn.AdaptiveAvgPool2d(1)
        self.flatten, self.dropout = nn.Flatten(), nn.Dropout(DROPOUT)
        self.fc = nn.Linear(third, n_outputs)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return a value for each class (or of the embedding) and image."""
        x = self.pool1(self.stage1(images))
        x = self.pool2(self.stage2(x))
        x = self.pool(self.stage3(x))
        found: torch.Tensor = self.fc(self.dropout(self.flatten(x)))
        return found


class SatCnnNetwork(TrainedNetwork):
    """The small network by its name."""

    heads = ("fc",)
    notes = (
        "A small network after SatCNN, whose own table of layers is not at hand. It takes images "
        "of any bands and size, as its weights were trained: featstore train satcnn.",
    )

    def build_for(
        self, n_bands: int, image_size: int, seed: int = 0, n_classes: int | None = None
    ) -> nn.Module:
        """Return the network for a number of bands, with seeded random weights, in eval mode."""
        with seeded(seed):
            return SatCnn(n_bands, n_classes or N_CLASSES).eval()

    def preset(self) -> Weights:
        """Return the input of a network without weights: red, green and blue at 28 px."""
        return Weights("", None, "", IMAGE_SIZE, HALF, HALF)

    def feature_node(
        self, nodes: Sequence[str], inputs: Mapping[str, str | None], output: str
    ) -> str:
        """Return the global average, on which the classes are decided."""
        return "pool"


open_network = SatCnnNetwork
