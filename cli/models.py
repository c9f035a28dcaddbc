"""``featstore models``: networks and their layers."""

from __future__ import annotations

from typing import Any

import click

from featstore.config import MAX_IMAGE_SIZE, MIN_IMAGE_SIZE, USUAL_IMAGE_SIZE

from . import completion, console


@click.group(invoke_without_command=True)
@console.json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List networks; `featstore models show NAME` lists a network's layers."""
    if ctx.invoked_subcommand is not None:
        return
    from featstore.models.layer_names import FEATURE_LAYERS, NOTES
    from featstore.models.names import PIXEL_MODEL, backbone_names

    names = backbone_names()
    if as_json:
        console.emit_json({"models": [PIXEL_MODEL, *names]})
        return
    rows = [[name, layer, NOTES.get(name, "")] for name, layer in FEATURE_LAYERS.items()]
    console.table(["network", "feature layer", "note"], rows, "The paper's networks")
    others = [name for name in names if name not in FEATURE_LAYERS]
    console.echo("torchvision's other networks: " + ", ".join(others))
    console.echo(f"{PIXEL_MODEL}: statistics of each image's pixels, all bands, without a network.")


@command.command("show")
@click.argument("name", shell_complete=completion.models)
@click.option(
    "--image-size",
    type=click.IntRange(MIN_IMAGE_SIZE, MAX_IMAGE_SIZE),
    default=USUAL_IMAGE_SIZE,
    show_default=True,
    metavar="PX",
    help="Side of the input.",
)
@console.json_option
def show(name: str, image_size: int, as_json: bool) -> None:
    """List a network's layers, from the image on."""
    from featstore.models.layer_names import NOTES
    from featstore.models.names import PIXEL_MODEL, check_model

    if check_model(name) == PIXEL_MODEL:
        _show_pixel_statistics(as_json)
        return
    from featstore.models import network_layers

    layers = network_layers(name, image_size)
    if as_json:
        values: list[dict[str, Any]] = [
            {
                "layer": layer.name,
                "node": layer.node,
                "names": layer.names,
                "shape": layer.shape,
                "n_features": layer.n_features("avg"),
                "n_features_flat": layer.n_features("flatten"),
                "default": layer.default,
            }
            for layer in layers
        ]
        console.emit_json({"model": name, "layers": values})
        return
    rows = [
        [
            layer.name + (" (default)" if layer.default else ""),
            layer.node,
            "x".join(map(str, layer.shape)),
            str(layer.n_features("avg")),
            str(layer.n_features("flatten")),
        ]
        for layer in layers
    ]
    console.table(
        ["layer", "torchvision node", "shape", "features (pooled)", "unpooled"],
        rows,
        f"{name} at {image_size} px",
        right=["shape", "features (pooled)", "unpooled"],
    )
    if name in NOTES:
        console.echo(NOTES[name])


def _show_pixel_statistics(as_json: bool) -> None:
    from featstore.datasets.base import RGB, RGB_NIR
    from featstore.models import feature_names
    from featstore.models.names import PIXEL_MODEL
    from featstore.models.pixelstats import LAYER

    features = {"rgb": feature_names(RGB), "rgb and nir": feature_names(RGB_NIR)}
    if as_json:
        layer = {"layer": LAYER, "default": True, "features": features}
        console.emit_json({"model": PIXEL_MODEL, "layers": [layer]})
        return
    for bands, names in features.items():
        console.echo(f"{LAYER}, {len(names)} features of {bands}: {', '.join(names)}")
