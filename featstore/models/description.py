"""What ``featstore models show`` says of a network, kept on disk: to find it out loads torch."""

from __future__ import annotations

from typing import Any

from featstore.models.model_cache import CacheFile
from featstore.models.names import check_model, source_of


def describe_network(model: str, image_size: int | None = None) -> dict[str, Any]:
    """Return a network's input and its layers, from the image on, as JSON-able values.

    `image_size` is the side of the input in pixels, by default the network's own. An unknown name
    raises BackboneError, as does a size that the network can't take.
    """
    check_model(model)
    kept = CacheFile(model, "description", {"image_size": image_size})
    # What a user's function builds may change without its file.
    is_kept = source_of(model) != "module"
    if is_kept and (known := kept.read_json()) is not None:
        return dict(known)
    found = _describe(model, image_size)
    if is_kept:
        kept.write_json(found)
    return found


def _describe(model: str, image_size: int | None) -> dict[str, Any]:
    from featstore.models.network_source import make_preprocess
    from featstore.models.networks import network_layers
    from featstore.models.registry import find_network

    network = find_network(model)
    preset = network.preset()
    image_size = image_size or preset.image_size
    preprocess = make_preprocess(network, preset, image_size)
    layers = network_layers(model, image_size)
    return {
        "model": model,
        "image_size": image_size,
        "bands": list(network.bands),
        "method": preprocess.method,
        "preprocess": preprocess.to_dict(),
        "traced": not layers[0].hooked,
        "node_title": network.node_title,
        "layers": [
            {
                "layer": layer.name,
                "node": layer.node,
                "names": list(layer.names),
                "shape": list(layer.shape),
                "n_features": layer.n_features("auto"),
                "n_features_flat": layer.n_features("flatten"),
                "pool": layer.pooled_by("auto"),
                "default": layer.default,
            }
            for layer in layers
        ],
        "n_prefix_tokens": max(layer.n_prefix for layer in layers),
        "token_pool": next((layer.own_pool for layer in layers if layer.n_prefix), None),
        "notes": list(network.notes),
    }
