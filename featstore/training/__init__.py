"""Train a network on a dataset's training images, before the first stage."""

from featstore._lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "Epoch": "featstore.training.epochs",
        "TrainedModel": "featstore.training.result",
    },
)
