"""What a network learns: the classes, or an embedding by triplets. Batches, losses and scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch.nn import functional

from featstore.config import TrainConfig
from featstore.errors import TrainError
from featstore.training.images import draw_batches, draw_triplet_batches
from featstore.training.losses import FUNCTIONS, hardest

N_EACH = 4
"""Fewest images of a class in a batch of triplets: Hermans et al. 2017, arXiv:1703.07737."""


MAX_MEAN_ROWS = 5000
"""The classes' mean embeddings are of at most this many fitted images, evenly spread."""


MIN_CHOSEN_BATCH, MAX_CHOSEN_BATCH = 8, 256

N_STEPS = 40
"""Steps that an epoch has at least, where the number of images allows it."""


Outputs = Callable[[torch.Tensor], torch.Tensor]
"""Gives the network's outputs of images, by their positions, without augmentation."""


class Objective(Protocol):
    """What a network learns. `y` are the classes of all images, `fit` the positions to learn."""

    batch_size: int

    def batches(self, generator: torch.Generator) -> Sequence[torch.Tensor]:
        """Return the positions of each batch of an epoch."""

    def loss(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the loss of a batch."""

    def score(self, outputs: Outputs, held_out: torch.Tensor) -> tuple[float, float]:
        """Return accuracy and loss of held-out images."""


class ClassObjective:
    """The classes, by cross-entropy."""

    def __init__(self, config: TrainConfig, y: torch.Tensor, fit: torch.Tensor) -> None:
        self._y, self._fit = y, fit
        self.batch_size = choose_batch_size(config, len(fit))

    def batches(self, generator: torch.Generator) -> Sequence[torch.Tensor]:
        """Return the positions of each batch of an epoch."""
        drawn = draw_batches(len(self._fit), self.batch_size, generator)
        return [self._fit[at] for at in drawn]

    def loss(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the cross-entropy of a batch."""
        return functional.cross_entropy(outputs, y)

    def score(self, outputs: Outputs, held_out: torch.Tensor) -> tuple[float, float]:
        """Return accuracy and cross-entropy of held-out images."""
        found, y = outputs(held_out), self._y[held_out]
        accuracy = (found.argmax(dim=1) == y).double().mean()
        return float(accuracy), float(functional.cross_entropy(found.double(), y))


class TripletObjective:
    """An embedding, by the batch's hardest triplets; scored by the nearest class mean."""

    def __init__(self, config: TrainConfig, y: torch.Tensor, fit: torch.Tensor) -> None:
        self._y, self._fit = y, fit
        self._function = FUNCTIONS[str(config.loss)]
        n_classes, batch_size = int(y.max()) + 1, choose_batch_size(config, len(fit))
        self.n_classes = max(2, min(n_classes, batch_size // N_EACH))
        self.n_each = max(2, batch_size // self.n_classes)
        self.batch_size = self.n_classes * self.n_each

    def batches(self, generator: torch.Generator) -> Sequence[torch.Tensor]:
        """Return the positions of each batch of an epoch."""
        own = self._y[self._fit]
        drawn = draw_triplet_batches(own, self.n_classes, self.n_each, generator)
        return [self._fit[at] for at in drawn]

    def loss(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Return the mean loss of the hardest triplet of each image of a batch."""
        return self._function(*hardest(outputs.float(), y)).mean()

    def score(self, outputs: Outputs, held_out: torch.Tensor) -> tuple[float, float]:
        """Return the accuracy of the nearest class mean, and the mean distance to the own one."""
        step = -(-len(self._fit) // MAX_MEAN_ROWS)
        known = self._fit[::step]
        found, y = outputs(known).double(), self._y[known]
        n_classes = int(self._y.max()) + 1
        sums = torch.zeros(n_classes, found.shape[1], dtype=torch.float64)
        means = functional.normalize(sums.index_add(0, y, found), dim=1)
        embeddings, y = outputs(held_out).double(), self._y[held_out]
        distances = (2 - 2 * embeddings @ means.T).clamp_min(0).sqrt()
        accuracy = (distances.argmin(dim=1) == y).double().mean()
        return float(accuracy), float(distances.gather(1, y[:, None]).mean())


def choose_batch_size(config: TrainConfig, n_fit: int) -> int:
    """Return the images of a step: those asked for, or a power of two by the number of images."""
    if config.batch_size is None:
        largest = min(MAX_CHOSEN_BATCH, max(MIN_CHOSEN_BATCH, n_fit // N_STEPS))
        return min(1 << (largest.bit_length() - 1), n_fit)
    if config.batch_size > n_fit:
        raise TrainError(
            f"A batch of {config.batch_size:,} is larger than the {n_fit:,} images to learn from. "
            f"Use --batch-size {max(4, n_fit // 2)} or less."
        )
    return config.batch_size
