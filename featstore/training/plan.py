"""What a training does, decided before an image is read."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

import torch

from featstore.config import ExtractConfig, TrainConfig
from featstore.datasets.base import FileDataset
from featstore.datasets.formats.scene_dataset import SceneDataset
from featstore.datasets.reading import Reading
from featstore.extraction.spec import Images
from featstore.models.devices import resolve_device
from featstore.models.preprocess import Preprocess
from featstore.models.weights import Weights
from featstore.progress import Progress
from featstore.training.images import TrainingRows, choose_rows
from featstore.training.networks import find_start, plan_input

RATES = {"satcnn": 1e-3, "pretrained": 1e-4}
"""First learning rates of a network that begins at random, and of a pretrained one."""


NOT_OF_THE_SPLIT = ("model", "weights", "image_size", "device")


@dataclass(frozen=True)
class Plan:
    """What a training does, before an image is read."""

    config: TrainConfig
    options: str
    images: Images
    rows: TrainingRows
    start: Weights | None
    expected: Weights
    device: torch.device
    request: dict[str, Any]
    learning_rate: float

    @property
    def preprocess(self) -> Preprocess:
        """How images become the network's input; the statistics come later."""
        expected, bands = self.expected, self.images.dataset.bands
        order = tuple(bands.index(band) for band in expected.bands)
        zeros = (0.0,) * len(order)
        return Preprocess(
            expected.image_size,
            ",".join(expected.bands),
            zeros,
            zeros,
            expected.interpolation,
            expected.crop_pct,
            expected.squash,
            order,
        )


def make_plan(
    config: TrainConfig, images_config: ExtractConfig, images: Images, progress: Progress
) -> Plan:
    """Choose rows, input, device and learning rate of a training; no image is read yet."""
    dataset = images.dataset
    rows = choose_rows(dataset, config.random_state, 1 if config.network == "satcnn" else 2)
    device = resolve_device(images_config.device)
    start = find_start(config, images.cache, progress)
    expected = plan_input(images_config, dataset, start)
    reading = Reading()
    if isinstance(dataset, FileDataset | SceneDataset):
        reading = dataset.reading
    rate = config.learning_rate or RATES["satcnn" if start is None else "pretrained"]
    settings = config.to_dict() | {
        "learning_rate": rate,
        "weights_sha256": start.sha256 if start else None,
        "device": device.type,
        "torch": torch.__version__,
    }
    record = reading.to_record()
    request = {
        "network": config.model,
        "fingerprint": images.fingerprint,
        "bands": list(expected.bands),
        "image_size": expected.image_size,
        "value_range": record["value_range"],
        "nodata": record["nodata"],
        "settings": settings,
    }
    options = shlex.join(images_config.options(but=NOT_OF_THE_SPLIT))
    return Plan(config, options, images, rows, start, expected, device, request, rate)
