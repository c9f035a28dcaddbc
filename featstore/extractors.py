"""Extractors: a network on its device, from batches of raw images to rows of features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from featstore.backbones import Backbone, cost_per_image, find_layers
from featstore.config import ExtractConfig
from featstore.devices import (
    default_batch_size,
    describe_device,
    keep_freed_memory,
    make_deterministic,
)
from featstore.engines import Plan, choose_engine
from featstore.errors import BackboneError, DeviceError
from featstore.layers import Layer
from featstore.loaders import Batch
from featstore.preprocess import Preprocess
from featstore.progress import SILENT, Progress
from featstore.weights import Weights

BATCHES_IN_FLIGHT = 2
"""Batches that a GPU has been given before the first one's features are waited for."""


class NetworkExtractor:
    """A network that is built when a pass begins.

    Parameters
    ----------
    config : ExtractConfig
        What was asked for.
    weights : Weights
        The network's.
    preprocess : Preprocess
        The images' way to the network.
    precision : str
        ``fp32``, ``bf16`` or ``fp16``.
    device : torch.device
        Where to compute.
    """

    def __init__(
        self,
        config: ExtractConfig,
        weights: Weights,
        preprocess: Preprocess,
        precision: str,
        device: torch.device,
    ) -> None:
        self.device_type = device.type
        self.device_name = describe_device(device)
        # Decoded at a third more than the network's size, a JPEG is within about a grey level of
        # what it is from full size: a JPEG's own reduction is sharper than the resize.
        self.min_size: int | None = preprocess.image_size * 4 // 3
        # A GPU computes while the next batch is read and copied; a CPU has nothing to spare.
        self.n_in_flight = BATCHES_IN_FLIGHT if device.type == "cuda" else 1
        self._config = config
        self._weights = weights
        self._preprocess = preprocess
        self._precision = precision
        self._device = device
        self._batch_size = 0
        self._backbone: Backbone | None = None

    def find(self, nodes: Sequence[str]) -> tuple[Layer, ...]:
        """Return the layers at the given nodes."""
        return find_layers(self._config.model, nodes, self._preprocess.image_size)

    def open(
        self,
        layers: Sequence[Layer],
        n_images: int,
        conditions: Mapping[str, Any] | None = None,
        progress: Progress = SILENT,
    ) -> dict[str, Any]:
        """Build the network.

        Parameters
        ----------
        layers : sequence of Layer
            What to read.
        n_images : int
            Images to be computed.
        conditions : mapping or None
            Of a pass that is gone on with, as this method returned them; None to choose.
        progress : Progress
            Told of choices.

        Returns
        -------
        dict
            ``device``, ``engine``, ``batch_size``: what the features' last bits depend on.

        Raises
        ------
        DeviceError
            When the conditions can't be met here, or a single image is too much for the GPU.
        BackboneError, WeightsError
            When the network can't be built.
        """
        make_deterministic(self._device)
        if self._device.type == "cpu":
            keep_freed_memory()
        if conditions is not None:
            self._batch_size = int(conditions["batch_size"])
            self._build(layers, str(conditions["engine"]))
            return dict(conditions)
        chosen = default_batch_size(self._device, self._preprocess.image_size)
        # A batch is never larger than the dataset, whose rows it would only pad.
        self._batch_size = self._config.batch_size or max(1, min(chosen, n_images))
        plan = self._plan(layers, n_images)
        done = "Not compiling" if plan.engine == "eager" else f"Compiling with {plan.engine}"
        progress.say(f"{done}: {plan.reason}.")
        try:
            self._build(layers, plan.engine)
        except BackboneError as error:
            if self._config.compile != "auto" or plan.engine == "eager":
                raise
            progress.say(f"{error} Going on without.")
            plan = replace(plan, engine="eager")
            self._build(layers, "eager")
        return {
            "device": self.device_type,
            "engine": plan.engine,
            "batch_size": self._batch_size,
        }

    def _plan(self, layers: Sequence[Layer], n_images: int) -> Plan:
        cost = cost_per_image(self._config.model, layers, self._preprocess.image_size)
        return choose_engine(self._config.compile, self._device, self._precision, cost, n_images)

    def _build(self, layers: Sequence[Layer], engine: str) -> None:
        """Build the network, with smaller batches where the GPU's memory asks for it."""
        while True:
            try:
                self._backbone = Backbone(
                    self._config.model,
                    self._weights,
                    layers,
                    self._preprocess,
                    self._config.pool,
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
                if self._config.batch_size or self._batch_size == 1:
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

    def begin(self, batch: Batch) -> Callable[[], dict[str, np.ndarray]]:
        """Begin with a batch and return what waits for its features.

        On a GPU all is queued here: copies and network run while the caller goes on.

        Returns
        -------
        callable
            Gives, for each layer by its name in the store, (k, n_features) float32.
        """
        backbone = self._backbone
        if backbone is None:
            raise RuntimeError("open() comes first")
        pixels = self._preprocess(batch.groups, self._batch_size, self._device)
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
