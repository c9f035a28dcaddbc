"""``featstore models``: networks and their layers."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

import click

from featstore.config import MAX_IMAGE_SIZE, MIN_IMAGE_SIZE

from . import completion, console, tables


class SearchGroup(click.Group):
    """A group that takes a pattern, or a part of a name, in place of a command."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command, or the search for a pattern."""
        found = super().get_command(ctx, cmd_name)
        if found is not None or cmd_name.startswith("-"):
            return found
        if any(sign in cmd_name for sign in "*?[:"):
            return _search_for(cmd_name)
        # click says which command a misspelled one is like.
        is_misspelled = difflib.get_close_matches(cmd_name, self.commands)
        return None if is_misspelled else _search_for(f"*{cmd_name}*")


@click.group(cls=SearchGroup, invoke_without_command=True)
@console.json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List networks, or search them: `featstore models dinov3` or `'timm:*dinov3*'`.

    `featstore models show NAME` lists a network's layers.
    """
    if ctx.invoked_subcommand is not None:
        return
    from featstore.models.layer_names import FEATURE_LAYERS, NOTES
    from featstore.models.names import (
        FILTER_MODELS,
        HAND_MODEL,
        PIXEL_MODEL,
        SMALL_CNN,
        backbone_names,
        list_sources,
    )

    names, sources = backbone_names(), list_sources()
    if as_json:
        console.emit_json(
            {
                "models": [PIXEL_MODEL, HAND_MODEL, *FILTER_MODELS, *names, SMALL_CNN],
                "sources": [{"source": s, "package": p, "installed": i} for s, p, i in sources],
            }
        )
        return
    tables.table(["network", "feature layer"], [*FEATURE_LAYERS.items()], "The paper's networks")
    for name, note in NOTES.items():
        tables.paragraph(f"{name}: {note}")
    others = [name for name in names if name not in FEATURE_LAYERS]
    tables.paragraph("torchvision's other networks: " + ", ".join(others))
    console.echo("Trained on your images, by featstore train: satcnn, triplet:BACKBONE")
    console.echo("Without a network, of all bands:")
    console.echo(f"  {PIXEL_MODEL}: statistics of each image's pixels")
    console.echo(f"  {HAND_MODEL}: 150 hand features of color, texture and vegetation")
    console.echo("  rcf, mosaiks: convolutions with random filters, or training patches")
    tables.table(
        ["source", "installed", "example"],
        [
            [
                f"{source}:",
                "yes" if installed else f"no: pip install {package}",
                EXAMPLES.get(source, f"{source}:NAME"),
            ]
            for source, package, installed in sources
        ],
        "Other sources of networks",
    )
    console.echo("A function of your own that returns a torch.nn.Module: package.module:function")


EXAMPLES = {
    "timm": "timm:vit_small_patch14_dinov2.lvd142m",
    "openclip": "openclip:ViT-B-32/laion2b_s34b_b79k",
    "torchgeo": "torchgeo:resnet50/SENTINEL2_RGB_SECO",
}


def _search_for(pattern: str) -> click.Command:
    @click.command(pattern)
    @console.json_option
    def search(as_json: bool) -> None:
        """List the networks whose names fit a pattern."""
        from featstore.models.search import search_names

        found = search_names(pattern)
        if as_json:
            console.emit_json({"models": found})
            return
        for name in found:
            console.echo(name)

    return search


@command.command("show")
@click.argument("name", shell_complete=completion.models)
@click.option(
    "--image-size",
    type=click.IntRange(MIN_IMAGE_SIZE, MAX_IMAGE_SIZE),
    metavar="PX",
    help="Side of the input.  [default: the network's own]",
)
@console.json_option
def show(name: str, image_size: int | None, as_json: bool) -> None:
    """List a network's layers, from the image on."""
    from featstore.models.names import HAND_MODEL, PIXEL_MODEL, check_model, needs_network

    if not needs_network(check_model(name)):
        if image_size is not None:
            raise click.UsageError(f"{name} reads images as they are: leave --image-size out.")
        if name in (PIXEL_MODEL, HAND_MODEL):
            _show_statistics(name, as_json)
        else:
            _show_filters(name, as_json)
        return
    from featstore.models.description import describe_network

    found = describe_network(name, image_size)
    if as_json:
        shown = ("model", "preprocess", "traced", "layers")
        console.emit_json({key: found[key] for key in shown})
        return
    rows = [
        [
            layer["layer"] + (" (default)" if layer["default"] else ""),
            layer["node"],
            "x".join(map(str, layer["shape"])),
            str(layer["n_features"]),
            str(layer["n_features_flat"]),
        ]
        for layer in found["layers"]
    ]
    tables.table(
        ["layer", found["node_title"], "shape", "features (pooled)", "unpooled"],
        rows,
        f"{name} at {found['image_size']} px",
        right=["shape", "features (pooled)", "unpooled"],
    )
    for line in _facts(found):
        console.echo(line)


def _facts(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the network expects, and how it reads its own features."""
    preprocess = found["preprocess"]
    mean, std = (", ".join(f"{v:.4g}" for v in preprocess[key]) for key in ("mean", "std"))
    yield f"Input: {', '.join(found['bands'])}; {found['method']}; mean {mean}; deviation {std}"
    for layer in found["layers"]:
        if layer["default"]:
            pool = layer["pool"]
            yield f"Feature layer: {layer['layer']}" + (f", pooled by {pool}" if pool else "")
    if own := found["token_pool"]:
        yield (
            f"Tokens: {found['n_prefix_tokens']} before those of the image; --pool auto is {own}. "
            "Others: --pool cls, tokens or cls+tokens"
        )
    if not found["traced"]:
        yield (
            "torch.fx can't trace this network: modules are read by hooks, and the network always "
            "runs to its end."
        )
    yield from found["notes"]


def _show_statistics(name: str, as_json: bool) -> None:
    from featstore.datasets.source import RGB, RGB_NIR
    from featstore.models.deepsat import HandExtractor
    from featstore.models.names import PIXEL_MODEL
    from featstore.models.pixelstats import PixelExtractor

    own = (PixelExtractor if name == PIXEL_MODEL else HandExtractor).statistics
    features = {"rgb": own.names(RGB), "rgb and nir": own.names(RGB_NIR)}
    if as_json:
        layer = {"layer": own.layer, "default": True, "features": features}
        console.emit_json({"model": name, "layers": [layer]})
        return
    for bands, names in features.items():
        console.echo(f"{own.layer}, {len(names)} features of {bands}: {', '.join(names)}")


def _show_filters(name: str, as_json: bool) -> None:
    from featstore.models.names import filter_settings

    kind, n_features, side = filter_settings(name)
    if as_json:
        layer = {"layer": "features", "default": True, "n_features": n_features}
        console.emit_json({"model": name, "kernel_size": side, "layers": [layer]})
        return
    drawn = {
        "rcf": "are drawn from the normal distribution",
        "mosaiks": "are patches of the training images, whitened",
    }
    console.echo(
        f"features (default), {n_features}: the mean of the positive and of the negative part of "
        f"{n_features // 2} convolutions, bias -1, pixels from 0 to 1"
    )
    console.echo(f"Filters: {side} x {side} pixels of all bands; they {drawn[kind]}")
    console.echo(
        f"Input: any number of bands, images as they are. {kind}:1024/5 has 1024 features and "
        "filters of 5 x 5 pixels; --weights random:SEED seeds the filters"
    )
