"""The job of a benchmark's contenders, and code that they share."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch
from turns import Turn

from featstore.io.fingerprints import FingerprintCache
from featstore.models.backbone import Backbone
from featstore.models.devices import (
    has_fast_bf16,
    make_deterministic,
    resolve_device,
    resolve_precision,
)
from featstore.models.freed_memory import keep_freed_memory
from featstore.models.networks import find_layers
from featstore.models.preprocess import Preprocess
from featstore.models.weights import Weights, find_weights
from featstore.progress import Silent


@dataclass(frozen=True)
class Job:
    """The job of all contenders.

    Parameters
    ----------
    model : str
        The network.
    dataset : str
        ``folder`` or ``sat4``.
    root : str
        Where its files are.
    n_images : int
        How many images it has.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:i``.
    compile, precision : str
        As of `featstore.extract`.
    title : str
        The network in tables, if not by its name alone.
    image_size : int
        Side of the network's input in pixels.
    """

    model: str
    dataset: str
    root: str
    n_images: int
    device: str
    compile: str = "auto"
    precision: str = "auto"
    title: str = ""
    image_size: int = 224

    def of(self, model: str) -> Job:
        """Return the same job for another network."""
        return replace(self, model=model)


class Clock(Silent):
    """Notes the times at which batches end, as a progress or around a loader."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, int]] = []
        self._unit = "images"

    def start(self, what: str, total: int, unit: str) -> None:
        """Note whether the phase counts images."""
        self._unit = unit

    def advance(self, n: int) -> None:
        """Note the time."""
        if self._unit == "images":
            self.marks.append((time.perf_counter(), n))

    def around(self, batches: Any) -> Iterator[Any]:
        """Yield batches; a batch ends when the next is requested."""
        for batch in batches:
            yield batch
            self.advance(len(batch))

    def images_per_s(self) -> float:
        """Return the rate from the end of the first batch on."""
        if len(self.marks) < 2:
            raise click.UsageError("A rate takes two batches at least: raise --n-images.")
        (began, _), (ended, _) = self.marks[0], self.marks[-1]
        return sum(n for _, n in self.marks[1:]) / (ended - began)


def precisions(model: str, device: str) -> dict[str, str]:
    """Return the precisions to measure, by titles: both where a CPU multiplies bfloat16."""
    where = resolve_device(device)
    if where.type == "cpu" and has_fast_bf16(where):
        return {f"{model}, {precision}": precision for precision in ("bf16", "fp32")}
    return {model: resolve_precision("auto", where)}


def build_backbone(job: Job, engine: str, precision: str, batch_size: int) -> Backbone:
    """Return featstore's network, with featstore's settings of the process."""
    where = resolve_device(job.device)
    make_deterministic(where)
    if where.type == "cpu":
        keep_freed_memory()
    weights = random_weights(job.model)
    layers = find_layers(job.model, (), job.image_size)
    preprocess = Preprocess(job.image_size, "rgb", weights.mean, weights.std)
    return Backbone(
        job.model, weights, layers, preprocess, "avg", precision, where, batch_size, engine
    )


def random_weights(model: str) -> Weights:
    """Return random weights; times do not depend on them."""
    return find_weights(model, "random:0", FingerprintCache(Path(tempfile.gettempdir())))


def random_pixels(batch_size: int, image_size: int, where: torch.device) -> torch.Tensor:
    """Return a batch like one of :class:`featstore.models.preprocess.Preprocess`."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, 3, image_size, image_size)
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    return pixels.to(where).contiguous(memory_format=torch.channels_last)


def synchronize(where: torch.device) -> None:
    """Wait until the device has finished its work."""
    if where.type == "cuda":
        torch.cuda.synchronize(where)


def device_memory(device: str) -> Turn:
    """Return the most memory that this process has taken of a GPU."""
    where = resolve_device(device)
    if where.type != "cuda":
        return {}
    return {"device MB": torch.cuda.max_memory_reserved(where) / 1e6}
