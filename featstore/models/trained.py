"""Weights that ``featstore train`` made: their record, and the networks that take them."""

from __future__ import annotations

import io
import json
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, ValidationError
from torch import nn

from featstore.errors import WeightsError
from featstore.io.fingerprints import FingerprintCache
from featstore.models.checkpoints import head_width, read_checkpoint
from featstore.models.network import Network
from featstore.models.weights import Weights, random_seed
from featstore.progress import SILENT, Progress
from featstore.store.format.fields import Count, Items, Real, RecordPart, Text, Width, first_problem

RECORD, ROWS = "featstore", "rows"
"""Keys of a weights file beside its state dict: the record as JSON, and the images trained on."""


REQUEST = ("network", "fingerprint", "bands", "image_size", "value_range", "nodata", "settings")
"""Fields of a record that decide the result."""


class Score(RecordPart):
    """The score on the training rows that were held out, in the chosen epoch."""

    accuracy: Real
    loss: Real
    epoch: Width
    n_epochs: Width
    """Epochs that were trained."""
    n_rows: Width


class Training(RecordPart):
    """What weights were trained on, and how."""

    format: Literal[1]
    network: Text
    """The ``--model`` that takes the weights."""
    bands: Annotated[Items[Text], Field(min_length=1)]
    image_size: Width
    mean: Items[Real]
    std: Items[Annotated[float, Field(gt=0, allow_inf_nan=False)]]
    value_range: Items[Items[Real]]
    nodata: Text | None
    class_names: Items[Text]
    dataset: Text
    fingerprint: Text
    """Content key of the dataset."""
    split: Text
    """How the dataset is divided, for people."""
    options: Text
    """Options of ``extract`` that give the same images and split."""
    n_fit: Count
    """Training rows that the network was fitted to; the others chose the epoch."""
    settings: dict[str, Any]
    held_out: Score
    versions: dict[str, Text]

    @property
    def request(self) -> dict[str, Any]:
        """What the result depends on."""
        values = self.to_dict()
        return {name: values[name] for name in REQUEST}


@dataclass(frozen=True)
class TrainedWeights:
    """The record of a weights file, and the images that the weights were trained on.

    `images` are (n_images,) int64: the beginnings of the images' digests, increasing.
    """

    training: Training
    images: NDArray[np.int64]

    def holds(self, digests: NDArray[np.void]) -> NDArray[np.bool_]:
        """Return which images, by their digests, trained the weights."""
        return np.isin(short_digests(digests), self.images)


def short_digests(digests: NDArray[np.void]) -> NDArray[np.int64]:
    """Return the first eight bytes of each digest as a number, (n,) int64."""
    return digests.view("<i8").reshape(len(digests), -1)[:, 0].astype(np.int64)


def to_bytes(
    state: Mapping[str, torch.Tensor], training: Training, images: NDArray[np.int64]
) -> bytes:
    """Return the content of a weights file; equal weights give equal bytes."""
    text = json.dumps(training.to_dict(), sort_keys=True, ensure_ascii=False)
    # torch.save writes a file's own name into it, and of a buffer always the same.
    stream = io.BytesIO()
    rows = torch.from_numpy(np.unique(images))
    torch.save({"state_dict": dict(state), RECORD: text, ROWS: rows}, stream)
    return stream.getvalue()


def read_trained(path: Path) -> TrainedWeights | None:
    """Return the record of a weights file; None for weights that featstore did not train.

    A record that featstore does not write raises WeightsError.
    """
    content = read_checkpoint(path)
    if not isinstance(content, Mapping) or RECORD not in content:
        return None
    wrong: str | None
    try:
        training = Training.model_validate(json.loads(content[RECORD]))
        images = content[ROWS].numpy()
        wrong = _misfit(training, images)
    except ValidationError as error:
        wrong = first_problem(error)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        wrong = str(error)
    if wrong:
        raise WeightsError(
            f"{path} holds a record of training that featstore does not write: {wrong[:300]}. "
            "Train the network again."
        )
    return TrainedWeights(training, images)


def _misfit(training: Training, images: NDArray[Any]) -> str | None:
    if not len(training.bands) == len(training.mean) == len(training.std):
        return "bands, mean and std are of different lengths"
    if any(len(pair) != 2 for pair in training.value_range):
        return "value_range holds what is no pair"
    if images.dtype != np.int64 or images.ndim != 1:
        return f"rows are {images.dtype} of {images.ndim} dimensions"
    return None


class TrainedNetwork(Network):
    """A network whose weights ``featstore train`` makes, for images of any bands."""

    @abstractmethod
    def build_for(
        self, n_bands: int, image_size: int, seed: int = 0, n_classes: int | None = None
    ) -> nn.Module:
        """Return the network for a number of bands, with seeded random weights, in eval mode."""

    def build(self, image_size: int, seed: int = 0, n_classes: int | None = None) -> nn.Module:
        """Return the network for red, green and blue."""
        return self.build_for(len(self.bands), image_size, seed, n_classes)

    def find_weights(
        self, spec: str, cache: FingerprintCache, progress: Progress = SILENT
    ) -> Weights:
        """Find the file that ``--weights`` names, or random weights."""
        if random_seed(spec) is None and not Path(spec).is_file():
            network, _, backbone = self.model.partition(":")
            words = f"{network} --backbone {backbone}" if backbone else network
            named = "" if spec == "imagenet" else f", and there is no file {spec}"
            raise WeightsError(
                f"{self.model} has no weights of its own{named}. Train some with `featstore train "
                f"{words} --dataset NAME` and give their file with --weights, or compare with "
                "--weights random:0."
            )
        return super().find_weights(spec, cache, progress)

    def expected_input(self, spec: str) -> Weights:
        """Return the input that the record of a weights file names."""
        path = Path(spec)
        if random_seed(spec) is not None or not path.is_file():
            return self.preset()
        if (found := read_trained(path)) is None:
            raise WeightsError(
                f"{path} has no record of featstore train, so that its bands and normalisation are "
                f"unknown. Train weights for {self.model} with featstore train."
            )
        training = found.training
        if training.network != self.model:
            raise WeightsError(
                f"{path} holds weights of {training.network}, not of {self.model}. Use --model "
                f"{training.network}."
            )
        return replace(
            self.preset(),
            image_size=training.image_size,
            mean=training.mean,
            std=training.std,
            bands=training.bands,
            value_range=tuple((low, high) for low, high in training.value_range),
        )

    def file_weights(self, path: Path, cache: FingerprintCache) -> Weights:
        """Return the weights of a file, with the input and the head that it records."""
        return replace(
            self.expected_input(str(path)),
            name=path.name,
            path=path,
            sha256=cache.sha256([path])[0],
            n_classes=head_width(self.read(path), self.heads),
        )

    def load(self, weights: Weights, image_size: int) -> nn.Module:
        """Return the network with weights, in eval mode."""
        n_bands = len(weights.mean)
        network = self.build_for(n_bands, image_size, weights.seed or 0, weights.n_classes)
        self._load_file(network, weights)
        return network
