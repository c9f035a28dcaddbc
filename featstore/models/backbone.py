"""A network cut at layers, on its device: pixels in, pooled feature vectors out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from featstore.config import TOKEN_POOLS
from featstore.models.base import Layer
from featstore.models.devices import DTYPES
from featstore.models.engines import Forward, build, fold_batch_norms, reopen
from featstore.models.first_layers import convert_to_bf16
from featstore.models.model_cache import CacheFile
from featstore.models.networks import cut_network
from featstore.models.preprocess import Preprocess
from featstore.models.registry import find_network
from featstore.models.weights import Weights

GEM_POWER = 3.0
"""Exponent of generalised-mean pooling: Radenovic et al. 2018, doi:10.1109/TPAMI.2018.2846566."""


GEM_FLOOR = 1e-6
"""Values below it count as this much in the generalised mean, so that all powers exist."""


class Backbone:
    """A network, cut after the last requested layer, that turns pixels into feature vectors.

    Parameters
    ----------
    model : str
        The network's name.
    weights : Weights
        The network's weights.
    layers : sequence of Layer
        Layers to read; one forward pass gives them all.
    preprocess : Preprocess
        Gives the input's size and its normalisation.
    pool : str
        How a map becomes a vector, one of :data:`featstore.config.POOLS`.
    precision : str
        ``fp32``, ``bf16`` or ``fp16``.
    device : torch.device
        Runs the network.
    batch_size : int
        Images in a batch. Engines other than ``eager`` are built for it.
    engine : str
        ``eager``, ``inductor`` or ``openvino``.
    kept : CacheFile, optional
        Keeps the network that OpenVINO compiled, for the next time.

    Attributes
    ----------
    n_nodes : int
        Nodes of the network's graph; 0 for a compiled network that was kept.

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
        kept: CacheFile | None = None,
    ) -> None:
        self.device = device
        self.names = tuple(layer.stored_name(pool) for layer in layers)
        self.n_nodes = 0
        dtype = DTYPES[precision]
        if engine == "openvino" and kept is not None and (run := reopen(kept, dtype)) is not None:
            self._run: Forward = run
            return
        size = preprocess.image_size
        described = find_network(model)
        network = cut_network(described.load(weights, size), layers, described).eval()
        if any(not layer.default for layer in layers):
            # An in-place ReLU after a layer that is read would overwrite the layer's output.
            _stop_overwriting(network)
        if isinstance(network, torch.fx.GraphModule):
            fold_batch_norms(network)
            self.n_nodes = len(network.graph.nodes)
        else:
            self.n_nodes = sum(1 for _ in network.modules())
        reader = _Reader(network, layers, preprocess, pool, dtype).eval()
        if engine == "openvino":
            # It converts the weights itself.
            reader.input_dtype = torch.float32
        elif precision == "bf16":
            reader.input_dtype = convert_to_bf16(reader.network)
        else:
            reader.network.to(dtype=dtype)
        reader.to(device=device)
        for tensor in (*reader.parameters(), *reader.buffers()):
            # torch would refuse the buffers of five dimensions that windows of tokens have.
            if tensor.dim() == 4:
                tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
        shape = (batch_size, len(preprocess.mean), size, size)
        example = torch.zeros(shape, dtype=torch.uint8, device=device).contiguous(
            memory_format=torch.channels_last
        )
        self.module = reader
        """The network as PyTorch runs it: uint8 batches in, a tuple of the layers' vectors out."""
        self._run = build(reader, engine, example, dtype, kept)

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return each layer's features, by its name in the store.

        Parameters
        ----------
        images : tensor of shape (batch_size, n_bands, height, width)
            uint8, as :class:`featstore.models.Preprocess` gives them, on the device.

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
        network: nn.Module,
        layers: Sequence[Layer],
        preprocess: Preprocess,
        pool: str,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.network = network
        self.input_dtype = dtype
        self._layers, self._pool = tuple(layers), pool
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (preprocess.mean, preprocess.std))
        # (x / 255 - mean) / std in one multiplication and addition.
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        x = images.float() * self.scale + self.shift
        found = self.network(x.to(self.input_dtype, memory_format=torch.channels_last))
        return tuple(self._vectors(layer, found[layer.node]) for layer in self._layers)

    def _vectors(self, layer: Layer, value: torch.Tensor) -> torch.Tensor:
        value = value.float()
        if layer.axis != 1:
            value = value.movedim(layer.axis, 1)
        pool = layer.pooled_by(self._pool)
        if pool is None:
            return value.flatten(1)
        if pool in TOKEN_POOLS:
            return pool_tokens(value, pool, layer.n_prefix)
        return pool_map(value, pool)


def pool_tokens(value: torch.Tensor, pool: str, n_prefix: int) -> torch.Tensor:
    """Return tokens (batch_size, channels, n_tokens) as vectors (batch_size, n_features).

    `pool` is ``cls`` for the first token, ``tokens`` for the mean of those after the first
    `n_prefix`, or ``cls+tokens`` for both side by side.
    """
    parts = {"cls": lambda: value[..., 0], "tokens": lambda: value[..., n_prefix:].mean(2)}
    return torch.cat([parts[part]() for part in pool.split("+")], dim=1)


def pool_map(value: torch.Tensor, pool: str) -> torch.Tensor:
    """Return a map (batch_size, channels, ...), float32, as vectors (batch_size, n_features).

    `pool` is ``avg``, ``max``, ``avgmax`` for both side by side, ``flatten`` for the whole map,
    or ``gem`` for the generalised mean.
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


def _stop_overwriting(network: nn.Module) -> None:
    for module in network.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                if node.kwargs.get("inplace"):
                    node.kwargs = {**node.kwargs, "inplace": False}
            module.recompile()
