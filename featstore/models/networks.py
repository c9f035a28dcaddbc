"""Networks by name: build, list and find layers, count operations."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torchvision.models
from torch import nn
from torch.fx import GraphModule
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from featstore.errors import BackboneError
from featstore.models.base import Layer
from featstore.models.engines import ForwardCost
from featstore.models.layer_names import FEATURE_LAYERS, other_names, paper_layers
from featstore.models.names import check_model
from featstore.models.weights import architecture
from featstore.text import did_you_mean


def build_network(model: str, image_size: int, seed: int = 0, *, heads: bool = False) -> nn.Module:
    """Return a network with seeded random weights, in eval mode.

    ViT and MaxVit are built for images of `image_size` pixels a side. `heads` adds GoogLeNet's and
    Inception's auxiliary classifiers, which torchvision's weight files hold and inference does
    not use. An unknown name raises BackboneError.
    """
    check_model(model)
    options = _size_options(model, image_size)
    if model in ("googlenet", "inception_v3"):
        options = {"aux_logits": heads, "init_weights": False, "transform_input": False}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: nn.Module = torchvision.models.get_model(
            architecture(model), weights=None, **options
        )
    if model == "resnet50_v1":
        # He et al. 2015 stride in the first 1x1 convolution of a stage, torchvision in the 3x3.
        for stage in (network.layer2, network.layer3, network.layer4):
            stage[0].conv1.stride = (2, 2)  # type: ignore[index, union-attr]
            stage[0].conv2.stride = (1, 1)  # type: ignore[index, union-attr]
    return network.eval()


def _size_options(model: str, image_size: int) -> dict[str, Any]:
    """Return the options of a network that takes images of one size only."""
    if model.startswith("vit_"):
        return {"image_size": image_size}
    if model.startswith("maxvit"):
        return {"input_size": (image_size, image_size)}
    return {}


@lru_cache(maxsize=8)
def network_layers(model: str, image_size: int) -> tuple[Layer, ...]:
    """Return every layer of a network, in network order, without computing anything.

    Parameters
    ----------
    model : str
        The network's name.
    image_size : int
        Side of the input in pixels.

    Returns
    -------
    tuple of Layer

    Raises
    ------
    BackboneError
        When the name is unknown, or the network can't take images of that size.
    """
    network = _without_data(model, image_size)
    _, nodes = get_graph_node_names(network, suppress_diff_warning=True)
    outputs = _outputs(network, nodes[1:], image_size, model)
    axes = _channel_axes(outputs)
    papers = {node: name for name, node in paper_layers(model).items()}
    others = other_names(model)
    feature_node = paper_layers(model).get(FEATURE_LAYERS.get(model, ""), nodes[-1])
    layers = []
    for node, axis in axes.items():
        shape = list(outputs[node][0][1:])
        shape.insert(0, shape.pop(axis - 1))
        name = papers.get(node, node)
        known = [name, node, *(other for other, paper in others.items() if paper == name)]
        names = tuple(dict.fromkeys(known))
        layers.append(Layer(name, node, names, tuple(shape), node == feature_node, axis))
    return tuple(layers)


def _without_data(model: str, image_size: int) -> nn.Module:
    try:
        with torch.device("meta"):
            return build_network(model, image_size)
    except NotImplementedError:
        # RegNets read numbers while they are built: only a real build works.
        return build_network(model, image_size).to("meta")
    except BackboneError:
        raise
    except (AssertionError, ValueError) as error:
        raise BackboneError(_wrong_size(model, image_size, error)) from error


def _wrong_size(model: str, image_size: int, error: Exception) -> str:
    reason = str(error).splitlines()[0].rstrip(".")
    return (
        f"{model} can't take images of {image_size} px: {reason}. Leave out --image-size for the "
        "network's own."
    )


def _outputs(
    network: nn.Module, nodes: list[str], image_size: int, model: str
) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """Return each node's shape for two images, and for three of twice the size."""
    first = second = cut_network(network, nodes)
    if _size_options(model, image_size):
        second = cut_network(_without_data(model, 2 * image_size), nodes)
    try:
        # More than one image: some layers refuse a batch of one.
        small = first(torch.empty(2, 3, image_size, image_size, device="meta"))
        large = second(torch.empty(3, 3, 2 * image_size, 2 * image_size, device="meta"))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise BackboneError(_wrong_size(model, image_size, error)) from error
    return {
        node: (tuple(small[node].shape), tuple(large[node].shape))
        for node in nodes
        if isinstance(small[node], torch.Tensor) and isinstance(large[node], torch.Tensor)
    }


def _channel_axes(
    outputs: dict[str, tuple[tuple[int, ...], tuple[int, ...]]],
) -> dict[str, int]:
    """Return the axis of the channels, for each output that has one entry for each image.

    Places and tokens grow in number with the image, channels do not. Swin and ConvNeXt have the
    channels last in some of their maps, and tokens may be on either side of them.
    """
    axes = {}
    for node, (small, large) in outputs.items():
        if not (len(small) == len(large) in (2, 3, 4) and (small[0], large[0]) == (2, 3)):
            continue
        kept = [axis for axis in range(1, len(small)) if small[axis] == large[axis]]
        if 0 < len(kept) < len(small) - 1:
            # Two are kept in MaxVit's partitions, whose windows have a fixed size.
            axes[node] = kept[-1]
        else:
            axes[node] = 1 if len(small) == 4 else len(small) - 1
    return axes


def cut_network(network: nn.Module, nodes: Sequence[str]) -> GraphModule:
    """Return the part of a network that computes the given nodes' outputs."""
    found: GraphModule = create_feature_extractor(
        network, {node: node for node in nodes}, suppress_diff_warning=True
    )
    return found


@lru_cache(maxsize=8)
def cost_per_image(model: str, layers: tuple[Layer, ...], image_size: int) -> ForwardCost:
    """Return the cost of one image, without computing anything."""
    network = cut_network(_without_data(model, image_size), [layer.node for layer in layers])
    images = torch.empty(2, 3, image_size, image_size, device="meta")
    results, operations = _ResultCounter(), FlopCounterMode(display=False)
    with results, operations:
        network(images)
    return ForwardCost(operations.get_total_flops() / 2, results.nbytes / 2, results.n_operations)


class _ResultCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations and the bytes of their results."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.nbytes = 0
        self.n_operations = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = function(*args, **(kwargs or {}))
        self.n_operations += 1
        if isinstance(found, torch.Tensor):
            self.nbytes += found.numel() * found.element_size()
        return found


def find_layers(model: str, names: Sequence[str], image_size: int) -> tuple[Layer, ...]:
    """Return the named layers of a network, or its feature layer if `names` is empty.

    Parameters
    ----------
    model : str
        The network's name.
    names : sequence of str
        Layers by the papers' names, by torchvision's nodes, or by modules, whose last operation
        is meant.
    image_size : int
        Side of the input in pixels.

    Returns
    -------
    tuple of Layer
        Each layer once, in the order of the names.

    Raises
    ------
    BackboneError
        When the network has no layer of a name.
    """
    layers = network_layers(model, image_size)
    if not names:
        return tuple(layer for layer in layers if layer.default)
    by_name: dict[str, Layer] = {}
    # A module's name means the last operation in it, as in torchvision's own extractor; an
    # operation's own name comes first.
    for layer in layers:
        parts = layer.node.split(".")
        by_name |= {".".join(parts[:i]): layer for i in range(1, len(parts))}
    by_name |= {name: layer for layer in layers for name in layer.names}
    unknown = [name for name in names if name not in by_name]
    if unknown:
        hint = did_you_mean(unknown[0], by_name)
        raise BackboneError(
            f"{model} has no layer {unknown[0]!r}.{hint} `featstore models show {model}` lists "
            "its layers."
        )
    return tuple(dict.fromkeys(by_name[name] for name in names))
