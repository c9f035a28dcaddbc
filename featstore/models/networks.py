"""A network's layers: list and find them, cut the network after them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import lru_cache

import torch
from torch import nn

from featstore.errors import BackboneError
from featstore.models.base import Layer
from featstore.models.graphs import Hooks, Trace
from featstore.models.model_cache import CacheFile
from featstore.models.names import source_of
from featstore.models.network import Network, has_class_token, n_prefix_tokens
from featstore.models.registry import find_network
from featstore.models.torchvision_import import without_compiler
from featstore.text import did_you_mean

Shapes = dict[str, tuple[tuple[int, ...], tuple[int, ...]]]
"""Shape of each node's output for two images, and for three of twice the size."""


@lru_cache(maxsize=64)
def network_layers(model: str, image_size: int, n_classes: int | None = None) -> tuple[Layer, ...]:
    """Return every layer of a network, in network order, without computing anything.

    Parameters
    ----------
    model : str
        The network's name.
    image_size : int
        Side of the input in pixels.
    n_classes : int or None
        Width of the head: None for the usual one, 0 for weights without a head: the layers
        then end before it.

    Returns
    -------
    tuple of Layer

    Raises
    ------
    BackboneError
        When the name is unknown, or the network can't take images of that size.
    """
    kept = CacheFile(model, "layers", {"image_size": image_size, "n_classes": n_classes})
    # What a user's function builds may change without its file.
    is_kept = source_of(model) != "module"
    if is_kept and (known := kept.read_json()) is not None:
        return tuple(
            Layer(**(facts | {"names": tuple(facts["names"]), "shape": tuple(facts["shape"])}))
            for facts in known
        )
    layers = _list_layers(model, image_size, n_classes)
    if is_kept:
        kept.write_json([asdict(layer) for layer in layers])
    return layers


def _list_layers(model: str, image_size: int, n_classes: int | None) -> tuple[Layer, ...]:
    network = find_network(model)
    # A user's function may use the compiler itself.
    with nullcontext() if source_of(model) == "module" else without_compiler():
        module = network.without_data(image_size, n_classes)
        graph, shapes = _read(module, network, image_size, n_classes)
    feature = network.feature_node(
        [node for node in graph.nodes if node in shapes], graph.inputs, graph.output
    )
    if n_classes == 0:
        end = next((node for node in shapes if node in network.heads), None)
        kept = list(shapes)
        shapes = {node: shapes[node] for node in kept[: kept.index(end) if end else None]}
    has_class, own_pool = has_class_token(module), network.own_pool(module)
    n_tokens = n_prefix_tokens(module)
    layers = []
    for node, axis in _channel_axes(shapes).items():
        shape = list(shapes[node][0][1:])
        shape.insert(0, shape.pop(axis - 1))
        n_prefix = _find_prefix(*shapes[node], axis, n_tokens)
        names = network.layer_names(node)
        if node == feature and network.feature_name:
            names = (network.feature_name, *names)
        layers.append(
            Layer(
                names[0],
                node,
                tuple(dict.fromkeys(names)),
                tuple(shape),
                node == feature,
                axis,
                n_prefix,
                has_class and n_prefix > 0,
                own_pool if n_prefix else "avg",
                graph.hooked,
            )
        )
    return tuple(layers)


def _read(
    module: nn.Module, network: Network, image_size: int, n_classes: int | None
) -> tuple[Trace | Hooks, Shapes]:
    """Return a network's graph, or its modules, and the shapes of each node that is a tensor."""
    try:
        return _read_by(Trace, module, network, image_size, n_classes)
    except Exception:  # noqa: BLE001 - networks that torch.fx can't trace fail in any way
        pass
    try:
        return _read_by(Hooks, module, network, image_size, n_classes)
    except (RuntimeError, ValueError, AssertionError) as error:
        if "meta tensors" in str(error):
            raise BackboneError(
                f"{network.model} chooses its computation by the values in a batch, so that an "
                "image's features may depend on the other images. featstore can't use it."
            ) from error
        raise BackboneError(network.wrong_size(image_size, error)) from error


def _read_by(
    kind: type[Trace] | type[Hooks],
    module: nn.Module,
    network: Network,
    image_size: int,
    n_classes: int | None,
) -> tuple[Trace | Hooks, Shapes]:
    graph = kind(module, network)
    # More than one image: some layers refuse a batch of one.
    cut = graph.cut(graph.nodes)
    small = _shapes(cut, network, 2, image_size)
    try:
        if network.fixes_size:
            again = kind(network.without_data(2 * image_size, n_classes), network)
            cut = again.cut(again.nodes)
        large = _shapes(cut, network, 3, 2 * image_size)
    except Exception:  # noqa: BLE001 - the network takes images of one size, and fails in any way
        n_tokens = n_prefix_tokens(module)
        large = {node: _enlarged(shape, n_tokens) for node, shape in small.items()}
    return graph, {node: (small[node], large[node]) for node in small if node in large}


def _enlarged(shape: tuple[int, ...], n_prefix: int) -> tuple[int, ...]:
    """Return a shape as it is most likely for three images of twice the size."""
    if len(shape) == 3:
        return (3, 4 * (shape[1] - n_prefix) + n_prefix, shape[2])
    if len(shape) == 4 and shape[1] == shape[2] != shape[3]:
        return (3, 2 * shape[1], 2 * shape[2], shape[3])
    if len(shape) == 4:
        return (3, shape[1], 2 * shape[2], 2 * shape[3])
    return (3, *shape[1:])


def _shapes(
    cut: nn.Module, network: Network, n: int, image_size: int
) -> dict[str, tuple[int, ...]]:
    images = torch.empty(n, len(network.bands), image_size, image_size, device="meta")
    return {
        node: tuple(value.shape)
        for node, value in cut(images).items()
        if isinstance(value, torch.Tensor)
    }


def _channel_axes(shapes: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]) -> dict[str, int]:
    """Return the axis of the channels, for each output that has one entry for each image.

    Places and tokens grow in number with the image, channels do not. Swin and ConvNeXt have the
    channels last in some of their maps, and tokens may be on either side of them.
    """
    axes = {}
    for node, (small, large) in shapes.items():
        if not (len(small) == len(large) in (2, 3, 4) and (small[0], large[0]) == (2, 3)):
            continue
        kept = [axis for axis in range(1, len(small)) if small[axis] == large[axis]]
        if 0 < len(kept) < len(small) - 1:
            # Two are kept in MaxViT's partitions, whose windows have a fixed size.
            axes[node] = kept[-1]
        else:
            axes[node] = 1 if len(small) == 4 else len(small) - 1
    return axes


def _find_prefix(small: Sequence[int], large: Sequence[int], axis: int, n_prefix: int) -> int:
    """Return `n_prefix`, the network's number of such tokens, if the layer has them, else 0.

    An image of twice the size has four times as many of the other tokens.
    """
    if len(small) != 3:
        return 0
    tokens = 3 - axis
    return (
        n_prefix
        if 0 < n_prefix < small[tokens]
        and (4 * (small[tokens] - n_prefix) == large[tokens] - n_prefix)
        else 0
    )


def cut_network(module: nn.Module, layers: Sequence[Layer], network: Network) -> nn.Module:
    """Return the part of a network that computes layers, as a dict by their nodes.

    Of a network with hooks it is the whole.
    """
    kind = Hooks if any(layer.hooked for layer in layers) else Trace
    return kind(module, network).cut([layer.node for layer in layers])


def find_layers(
    model: str, names: Sequence[str], image_size: int, n_classes: int | None = None
) -> tuple[Layer, ...]:
    """Return the named layers of a network, or its feature layer if `names` is empty.

    Parameters
    ----------
    model : str
        The network's name.
    names : sequence of str
        Layers by the papers' names, by the library's nodes, or by modules, whose last operation is
        meant.
    image_size : int
        Side of the input in pixels.
    n_classes : int or None
        Width of the head: None for the usual one, 0 for weights without a head.

    Returns
    -------
    tuple of Layer
        Each layer once, in the order of the names.

    Raises
    ------
    BackboneError
        When the network has no layer of a name.
    """
    layers = network_layers(model, image_size, n_classes)
    if not names:
        found = tuple(layer for layer in layers if layer.default)
        if not found:
            raise BackboneError(
                f"The feature layer of {model} is its head, and the weights have none. Choose a "
                f"layer before it: --layers {layers[-1].name}"
            )
        return found
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
