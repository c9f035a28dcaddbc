"""The settings of training a network as a frozen, validated value."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from featstore.config.checks import check_choice, check_integer
from featstore.config.choices import MAX_BATCH_SIZE
from featstore.errors import ConfigError

TRAINABLE = ("satcnn", "triplet")
"""What can be trained: a small network by its classes, or a network's embedding by triplets."""


LOSSES = ("hinge", "log", "ratio")
"""Losses of triplets; the first is the default."""


MAX_EPOCHS = 100_000


OF_TRIPLETS = {"backbone": "resnet50", "weights": "imagenet", "loss": LOSSES[0]}
"""Settings of triplet networks alone, with their defaults."""


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained.

    Parameters
    ----------
    network : str
        ``satcnn`` for a small network that learns the classes, or ``triplet`` for an embedding that
        learns by triplets of images.
    backbone : str or None
        Of ``triplet``: ``satcnn`` or a network of torchvision; by default ``resnet50``.
    weights : str or None
        Of ``triplet``: the weights that a network of torchvision begins with, as ``extract`` takes
        them; by default ``imagenet``. ``satcnn`` begins with random ones.
    loss : str or None
        Of ``triplet``: ``hinge``, ``log`` or ``ratio``; by default ``hinge``.
    epochs : int
        Most passes over the training images; training stops when the held-out images improve no
        more.
    batch_size : int or None
        Images of a step; None chooses by the number of training images.
    learning_rate : float or None
        Of the first steps, from where on it falls to 0; None chooses by the network.
    random_state : int
        Seeds the first weights, the held-out images, the order and the augmentation.

    Raises
    ------
    ConfigError
        When a value is out of its range, or a setting is of triplets alone.
    """

    network: str
    backbone: str | None = None
    weights: str | None = None
    loss: str | None = None
    epochs: int = 30
    batch_size: int | None = None
    learning_rate: float | None = None
    random_state: int = 0

    def __post_init__(self) -> None:
        check_choice("network", self.network, TRAINABLE)
        if self.network == "satcnn":
            if given := [name for name in OF_TRIPLETS if getattr(self, name) is not None]:
                raise ConfigError(f"{given[0]} is a setting of triplet networks, not of satcnn.")
        else:
            self._complete()
        check_integer("epochs", self.epochs, 1, MAX_EPOCHS)
        check_integer("random_state", self.random_state, 0, 2**32 - 1)
        if self.batch_size is not None:
            check_integer("batch_size", self.batch_size, 2, MAX_BATCH_SIZE)
        rate = self.learning_rate
        if rate is not None and not (math.isfinite(rate) and 0 < rate <= 1000):
            raise ConfigError(f"learning_rate is {rate!r}; it must be above 0 and at most 1000.")

    def _complete(self) -> None:
        """Put the defaults of triplet networks in the place of None."""
        for name, default in OF_TRIPLETS.items():
            if name != "weights" and getattr(self, name) is None:
                object.__setattr__(self, name, default)
        check_choice("loss", self.loss, LOSSES)
        if self.batch_size is not None:
            # Two images of each of two classes.
            check_integer("batch_size", self.batch_size, 4, MAX_BATCH_SIZE)
        if self.backbone == "satcnn" and self.weights is not None:
            raise ConfigError("satcnn begins with random weights: leave weights out.")
        if self.backbone != "satcnn" and self.weights is None:
            object.__setattr__(self, "weights", OF_TRIPLETS["weights"])

    @property
    def model(self) -> str:
        """The ``--model`` that takes the weights."""
        return self.network if self.backbone is None else f"{self.network}:{self.backbone}"

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-able values."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
