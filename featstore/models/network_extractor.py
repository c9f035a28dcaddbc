"""An extractor that runs a network: batches of raw images in, rows of features out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

from featstore.datasets.loader import Batch
from featstore.environment import machine
from featstore.errors import BackboneError, DeviceError
from featstore.models.backbone import Backbone
from featstore.models.base import Layer
from featstore.models.devices import (
    default_batch_size,
    describe_device,
    make_deterministic,
)
from featstore.models.engine_choice import (
    Plan,
    Rates,
    choose_engine,
    compiling_engine,
    fixed_plan,
    images_per_s,
)
from featstore.models.freed_memory import keep_freed_memory
from featstore.models.model_cache import CacheFile
from featstore.models.names import source_of
from featstore.models.networks import find_layers
from featstore.models.preprocess import Preprocess
from featstore.models.weights import Weights
from featstore.progress import SILENT, Progress

BATCHES_IN_FLIGHT = 2
"""Batches that a GPU is given before the first one's features are waited for."""


TINY_NORM = 1e-150
"""A row whose norm is below it counts as zero."""


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
        self.precision, self._device, self._pool = precision, device, pool
        self._requested_batch_size, self._compile = batch_size, compile_
        self._batch_size = 0
        self._backbone: Backbone | None = None
        self._built: tuple[Any, ...] = ()

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
        plan = self._open_chosen(layers, n_images, progress)
        return {
            "device": self.device_type,
            "engine": plan.engine,
            "batch_size": self._batch_size,
        }

    def _open_chosen(self, layers: Sequence[Layer], n_images: int, progress: Progress) -> Plan:
        """Choose the engine and build the network with it."""
        engine = compiling_engine(self._device, self.precision)
        plan = fixed_plan(self._compile, engine, n_images)
        try:
            if plan is None and engine is not None:
                plan = choose_engine(
                    engine,
                    self._device,
                    self.precision,
                    n_images,
                    self.cache_file(layers, "rates"),
                    self._keeps(engine) and self.cache_file(layers, engine).exists(),
                    partial(self._measure, layers),
                )
            assert plan is not None
            self._build(layers, plan.engine)
        except BackboneError as error:
            if self._compile != "auto":
                raise
            progress.say(str(error))
            plan = Plan("eager", "the other engine fails")
            self._build(layers, plan.engine)
        progress.say(str(plan))
        return plan

    def _measure(self, layers: Sequence[Layer], engine: str, rates: Rates | None) -> Rates:
        """Build the network with an engine, and return its rate beside the rates so far."""
        began = time.perf_counter()
        self._build(layers, engine)
        setup_s = time.perf_counter() - began
        assert self._backbone is not None
        channels = len(self.preprocess.mean)
        size = self.preprocess.image_size
        shape = (self._batch_size, channels, size, size)
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
        pixels = pixels.to(self._device, memory_format=torch.channels_last)
        if rates is None:
            whole = self._device.type == "cuda"
            return Rates(images_per_s(self._backbone, pixels, whole), self._backbone.n_nodes)
        rate = images_per_s(self._backbone, pixels, whole=True)
        return replace(rates, compiled=rate, setup_s=setup_s)

    def least_cosine(self, layers: Sequence[Layer], images: Sequence[Batch]) -> float:
        """Return the least cosine of the features of images with those in fp32, of all layers.

        Each batch has one image.
        """
        pixels = torch.cat([self.preprocess(one.groups, 1, self._device) for one in images])
        found = []
        for precision in (self.precision, "fp32"):
            backbone = Backbone(
                self._model,
                self._weights,
                layers,
                self.preprocess,
                self._pool,
                precision,
                self._device,
                len(pixels),
            )
            found.append({name: value.cpu() for name, value in backbone(pixels).items()})
        lower, full = found
        return min(float(row_cosines(lower[name], full[name]).min()) for name in full)

    def _keeps(self, engine: str) -> bool:
        """Return whether the compiled network is kept; what a user's function does may change."""
        return engine == "openvino" and source_of(self._model) != "module"

    def cache_file(self, layers: Sequence[Layer], what: str) -> CacheFile:
        """Return the file of something about the network with this extractor's settings."""
        facts = {
            "weights": self._weights.sha256,
            "n_classes": self._weights.n_classes,
            "preprocess": self.preprocess.to_dict(),
            "nodes": [layer.node for layer in layers],
            "names": [layer.stored_name(self._pool) for layer in layers],
            "precision": self.precision,
            "batch_size": self._batch_size,
            "device": describe_device(self._device),
            "processor": [machine()["processor"], torch.backends.cpu.get_cpu_capability()],
        }
        return CacheFile(self._model, what, facts)

    def _build(self, layers: Sequence[Layer], engine: str) -> None:
        """Build the network, and halve the batch until it fits the GPU's memory."""
        wanted = tuple(layers), engine, self._batch_size, torch.get_num_threads()
        if self._backbone is not None and self._built == wanted:
            return
        # Two networks would take twice the memory.
        self._backbone = None
        while True:
            try:
                self._backbone = Backbone(
                    self._model,
                    self._weights,
                    layers,
                    self.preprocess,
                    self._pool,
                    self.precision,
                    self._device,
                    self._batch_size,
                    engine,
                    self.cache_file(layers, engine) if self._keeps(engine) else None,
                )
                if self._device.type == "cuda":
                    self._probe()
                self._built = wanted
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


def row_cosines(found: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """Return the cosine of each row with the expected one, (n_samples,); 1 where both are zero."""
    # Features of random weights may be so small that their squares vanish in fp32.
    units = [normalize(rows.double(), eps=TINY_NORM) for rows in (found, expected)]
    cosines = (units[0] * units[1]).sum(dim=1)
    cosines[~found.any(dim=1) & ~expected.any(dim=1)] = 1.0
    return cosines.nan_to_num(nan=-1.0)
