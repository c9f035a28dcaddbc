"""``featstore models``: networks and their layers."""

from __future__ import annotations

from typing import Any

import click

from . import console

NOTES = {
    "alexnet": "torchvision's single-tower AlexNet (64 filters in conv1) on 224 px; the paper's is "
    "Caffe's with two groups (96 filters) on 227 px.",
    "googlenet": "Caffe's convolutions have a bias where torchvision's are followed by batch "
    "normalisation: a convolution's name stands for the latter's output.",
    "resnet50": "torchvision's v1.5, with a stage's stride in its first 3x3 convolution. The "
    "paper's MATLAB network is v1, with the stride in the 1x1 before it: resnet50_v1.",
    "resnet50_v1": "The paper's (and MATLAB's) ResNet-50, with a stage's stride in its first 1x1 "
    "convolution. torchvision has no weights for it: give --weights FILE.",
}


@click.group(invoke_without_command=True)
@console.json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List networks; `featstore models show NAME` lists a network's layers."""
    if ctx.invoked_subcommand is not None:
        return
    from featstore.models.layer_names import FEATURE_LAYERS
    from featstore.models.networks import backbone_names

    names = ["pixelstats", *backbone_names()]
    if as_json:
        console.emit_json({"models": names})
        return
    rows = [[name, layer, NOTES.get(name, "")] for name, layer in FEATURE_LAYERS.items()]
    console.table(["network", "feature layer", "note"], rows, "The paper's networks")
    others = [name for name in names[1:] if name not in FEATURE_LAYERS]
    click.echo("Also torchvision's others: " + ", ".join(others))
    click.echo("pixelstats: statistics of each image's pixels, all bands, without a network.")


@command.command("show")
@click.argument("name")
@click.option(
    "--image-size",
    type=click.IntRange(16, 4096),
    default=224,
    show_default=True,
    metavar="PX",
    help="Side of the input.",
)
@console.json_option
def show(name: str, image_size: int, as_json: bool) -> None:
    """List a network's layers, in the order in which an image passes them."""
    if name == "pixelstats":
        _show_pixelstats(as_json)
        return
    from featstore.models.networks import network_layers

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
        click.echo(NOTES[name])


def _show_pixelstats(as_json: bool) -> None:
    from featstore.datasets.base import RGB, RGB_NIR
    from featstore.models.pixel_statistics import LAYER, feature_names

    features = {"rgb": feature_names(RGB), "rgb and nir": feature_names(RGB_NIR)}
    if as_json:
        layer = {"layer": LAYER, "default": True, "features": features}
        console.emit_json({"model": "pixelstats", "layers": [layer]})
        return
    for bands, names in features.items():
        click.echo(f"{LAYER}, {len(names)} features of {bands}: {', '.join(names)}")
