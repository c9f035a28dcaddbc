"""An extractor that runs a network: batches of raw images in, rows of features out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from featstore.datasets.loader import Batch
from featstore.errors import BackboneError, DeviceError
from featstore.models.backbone import Backbone
from featstore.models.base import Layer
from featstore.models.devices import (
    default_batch_size,
    describe_device,
    keep_freed_memory,
    make_deterministic,
)
from featstore.models.engines import Plan, choose_engine
from featstore.models.networks import cost_per_image, find_layers
from featstore.models.preprocess import Preprocess
from featstore.models.weights import Weights
from featstore.progress import SILENT, Progress

BATCHES_IN_FLIGHT = 2
"""Batches that a GPU is given before the first one's features are waited for."""


class NetworkExtractor:
    """Runs a network, which :meth:`open` builds. `batch_size` None chooses by device and size."""

    def __init__(
        self,
        model: str,
        weights: Weights,
        preprocess: Preprocess,
        precision: str,
        device: torch.device,
        *,
        pool: str = "auto",
        batch_size: int | None = None,
        compile_: str = "auto",
    ) -> None:
        self.device_type = device.type
        # Decoded at a third more than the network's size, a JPEG is within about a grey level of
        # what it is from full size: a JPEG's own reduction is sharper than the resize.
        self.min_size: int | None = preprocess.resized_size * 4 // 3
        # A GPU computes while the next batch is read and copied; a CPU has nothing to spare.
        self.n_in_flight = BATCHES_IN_FLIGHT if device.type == "cuda" else 1
        self._model, self._weights, self.preprocess = model, weights, preprocess
        self._precision, self._device, self._pool = precision, device, pool
        self._requested_batch_size, self._compile = batch_size, compile_
        self._batch_size = 0
        self._backbone: Backbone | None = None

    @property
    def device_name(self) -> str:
        """The device's name for people, with the threads of a CPU."""
        return describe_device(self._device)

    def find(self, nodes: Sequence[str]) -> tuple[Layer, ...]:
        """Return the layers at the given nodes."""
        return find_layers(self._model, nodes, self.preprocess.image_size, self._weights.n_classes)

    def use_threads(self, n_threads: int | None) -> int | None:
        """Set torch's threads; return their number on a CPU, where sums are split by it."""
        if n_threads is not None:
            torch.set_num_threads(n_threads)
        if self._device.type == "cuda":
            # Pinned memory would otherwise be the first GPU's, and take some of its own.
            torch.cuda.set_device(self._device)
            return None
        return torch.get_num_threads()

    def open(
        self,
        layers: Sequence[Layer],
        n_images: int,
        numerics: Mapping[str, Any] | None = None,
        progress: Progress = SILENT,
    ) -> dict[str, Any]:
        """Build the network; return its device type, engine and batch size."""
        make_deterministic(self._device)
        if self._device.type == "cpu":
            keep_freed_memory()
        if numerics is not None:
            self._batch_size = int(numerics["batch_size"])
            self._build(layers, str(numerics["engine"]))
            return dict(numerics)
        chosen = default_batch_size(self._device, self.preprocess.image_size)
        # A batch larger than the dataset would only be padded.
        self._batch_size = self._requested_batch_size or max(1, min(chosen, n_images))
        plan = self._plan(layers, n_images)
        done = "Not compiling" if plan.engine == "eager" else f"Compiling with {plan.engine}"
        progress.say(f"{done}: {plan.reason}.")
        try:
            self._build(layers, plan.engine)
        except BackboneError as error:
            if self._compile != "auto" or plan.engine == "eager":
                raise
            progress.say(f"{error} Continuing without it.")
            plan = replace(plan, engine="eager")
            self._build(layers, "eager")
        return {
            "device": self.device_type,
            "engine": plan.engine,
            "batch_size": self._batch_size,
        }

    def _plan(self, layers: Sequence[Layer], n_images: int) -> Plan:
        size, n_classes = self.preprocess.image_size, self._weights.n_classes
        cost = cost_per_image(self._model, tuple(layers), size, n_classes)
        return choose_engine(self._compile, self._device, self._precision, cost, n_images)

    def _build(self, layers: Sequence[Layer], engine: str) -> None:
        """Build the network, and halve the batch until it fits the GPU's memory."""
        while True:
            try:
                self._backbone = Backbone(
                    self._model,
                    self._weights,
                    layers,
                    self.preprocess,
                    self._pool,
                    self._precision,
                    self._device,
                    self._batch_size,
                    engine,
                )
                if self._device.type == "cuda":
                    self._probe()
                return
            except torch.OutOfMemoryError as error:
                self._backbone = None
                torch.cuda.empty_cache()
                if self._requested_batch_size or self._batch_size == 1:
                    raise DeviceError(
                        f"A batch of {self._batch_size} images does not fit the memory of "
                        f"{self.device_name}. Use a smaller --batch-size or --image-size."
                    ) from error
                self._batch_size //= 2

    def _probe(self) -> None:
        """Run as many batches as will be in flight, to see that memory suffices."""
        empty = Batch(0, 0, [])
        for finish in [self.begin(empty) for _ in range(self.n_in_flight)]:
            finish()

    def as_module(self, layers: Sequence[Layer]) -> nn.Module:
        """Return the network of the layers in fp32 on the CPU, from resized pixels to vectors."""
        built = Backbone(
            self._model,
            self._weights,
            layers,
            self.preprocess,
            self._pool,
            "fp32",
            torch.device("cpu"),
            1,
        )
        return built.module

    def begin(self, batch: Batch) -> Callable[[], dict[str, np.ndarray]]:
        """Begin a batch; the function returned waits for its features, by layer.

        On a GPU this queues all copies and the network, which run while the caller continues.
        """
        backbone = self._backbone
        if backbone is None:
            raise RuntimeError("open() comes first")
        pixels = self.preprocess(batch.groups, self._batch_size, self._device)
        n_rows = batch.stop - batch.start
        if self._device.type == "cpu":
            return lambda: {n: t[:n_rows].numpy() for n, t in backbone(pixels).items()}
        copies = {
            name: torch.empty(tensor.shape, pin_memory=True).copy_(tensor, non_blocking=True)
            for name, tensor in backbone(pixels).items()
        }
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(torch.cuda.current_stream(self._device))

        def finish() -> dict[str, np.ndarray]:
            done.synchronize()
            return {name: copy[:n_rows].numpy() for name, copy in copies.items()}

        return finish
