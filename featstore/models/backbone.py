"""Backbones: a network's name, weights and layers -> a function from images to features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from featstore.config import ExtractConfig
from featstore.datasets.loader import Batch
from featstore.errors import BackboneError, DeviceError
from featstore.models.base import Layer
from featstore.models.devices import (
    DTYPES,
    default_batch_size,
    describe_device,
    keep_freed_memory,
    make_deterministic,
)
from featstore.models.engines import Plan, build, choose_engine, fold_batch_norms
from featstore.models.networks import _extractor, build_network, cost_per_image, find_layers
from featstore.models.preprocess import Preprocess
from featstore.models.weights import Weights, load_into, read_state_dict
from featstore.progress import SILENT, Progress

GEM_POWER = 3.0
"""Exponent of generalised-mean pooling: Radenovic et al. 2018, doi:10.1109/TPAMI.2018.2846566."""


GEM_FLOOR = 1e-6


class Backbone:
    """A network, cut after the last layer asked for, that turns pixels into feature vectors.

    Parameters
    ----------
    model : str
        The network's name.
    weights : Weights
        Where its weights come from.
    layers : sequence of Layer
        What to read; one forward pass gives them all.
    preprocess : Preprocess
        How the pixels were made, and are to be normalised.
    pool : str
        How a map becomes a vector, one of :data:`featstore.config.POOLS`.
    precision : str
        ``fp32``, ``bf16`` or ``fp16``.
    device : torch.device
        Where it runs.
    batch_size : int
        Images in a batch, which other engines than ``eager`` are built for.
    engine : str
        What runs it, one of :data:`featstore.models.engines.ENGINES`.

    Raises
    ------
    WeightsError
        When the weights do not fit the network.
    BackboneError
        When the engine can't run the network.
    """

    def __init__(
        self,
        model: str,
        weights: Weights,
        layers: Sequence[Layer],
        preprocess: Preprocess,
        pool: str,
        precision: str,
        device: torch.device,
        batch_size: int,
        engine: str = "eager",
    ) -> None:
        self.device = device
        self.names = tuple(layer.stored_name(pool) for layer in layers)
        dtype = DTYPES[precision]
        size = preprocess.image_size
        nodes = [layer.node for layer in layers]
        extractor = _extractor(_load(model, weights, size), nodes).eval()
        if any(not layer.default for layer in layers):
            # An in-place ReLU after a layer that is read would overwrite what it gave.
            _stop_overwriting(extractor)
        fold_batch_norms(extractor)
        reader = _Reader(extractor, layers, preprocess, pool, dtype).eval()
        # OpenVINO turns the weights to its own precision.
        inner = torch.float32 if engine == "openvino" else dtype
        reader.extractor.to(dtype=inner)
        reader.compute_dtype = inner
        reader.to(device=device).to(memory_format=torch.channels_last)
        shape = (batch_size, 3, size, size)
        example = torch.zeros(shape, dtype=torch.uint8, device=device).contiguous(
            memory_format=torch.channels_last
        )
        self._run = build(reader, engine, example, dtype)

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return each layer's features, by its name in the store.

        Parameters
        ----------
        images : tensor of shape (batch_size, 3, height, width)
            uint8, as :class:`featstore.models.preprocess.Preprocess` gives them, on the device.

        Returns
        -------
        dict of str to tensor of shape (batch_size, n_features)
            float32, on the same device.
        """
        return dict(zip(self.names, self._run(images), strict=True))


class _Reader(nn.Module):
    """Normalisation, network and pooling as one module, so that an engine sees all of it."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(
        self,
        extractor: nn.Module,
        layers: Sequence[Layer],
        preprocess: Preprocess,
        pool: str,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.extractor = extractor
        self.compute_dtype = dtype
        self._layers, self._pool = tuple(layers), pool
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (preprocess.mean, preprocess.std))
        # (x / 255 - mean) / std in one multiplication and addition.
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = images.float() * self.scale + self.shift
        found = self.extractor(x.to(self.compute_dtype, memory_format=torch.channels_last))
        return tuple(self._vectors(layer, found[layer.node]) for layer in self._layers)

    def _vectors(self, layer: Layer, value: torch.Tensor) -> torch.Tensor:
        value = value.float()
        if layer.axis != 1:
            value = value.movedim(layer.axis, 1)
        if value.dim() == 2 or value[0, 0].numel() == 1:
            return value.flatten(1)
        return pool_map(value, self._pool)


def pool_map(value: torch.Tensor, pool: str) -> torch.Tensor:
    """Return a map (batch_size, channels, ...) as vectors (batch_size, n_features).

    Parameters
    ----------
    value : tensor of shape (batch_size, channels, ...)
        float32.
    pool : str
        ``avg``, ``max``, both side by side (``avgmax``), the whole map (``flatten``), or the
        generalised mean (``gem``).
    """
    if pool == "flatten":
        return value.flatten(1)
    flat = value.flatten(2)
    if pool == "avg":
        return flat.mean(2)
    if pool == "max":
        return flat.amax(2)
    if pool == "avgmax":
        return torch.cat([flat.mean(2), flat.amax(2)], dim=1)
    return flat.clamp(min=GEM_FLOOR).pow(GEM_POWER).mean(2).pow(1 / GEM_POWER)


def _load(model: str, weights: Weights, image_size: int) -> nn.Module:
    if weights.path is None:
        return build_network(model, image_size, weights.seed or 0)
    state = read_state_dict(weights.path)
    heads = any(name.startswith(("aux1.", "AuxLogits.")) for name in state)
    network = build_network(model, image_size, heads=heads)
    load_into(network, state, weights.path)
    return network


def _stop_overwriting(network: nn.Module) -> None:
    for module in network.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                if node.kwargs.get("inplace"):
                    node.kwargs = {**node.kwargs, "inplace": False}
            module.recompile()


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
        numerics: Mapping[str, Any] | None = None,
        progress: Progress = SILENT,
    ) -> dict[str, Any]:
        """Build the network.

        Parameters
        ----------
        layers : sequence of Layer
            What to read.
        n_images : int
            Images to be computed.
        numerics : mapping or None
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
            When the numerics can't be met here, or a single image is too much for the GPU.
        BackboneError, WeightsError
            When the network can't be built.
        """
        make_deterministic(self._device)
        if self._device.type == "cpu":
            keep_freed_memory()
        if numerics is not None:
            self._batch_size = int(numerics["batch_size"])
            self._build(layers, str(numerics["engine"]))
            return dict(numerics)
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
