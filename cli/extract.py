"""``featstore extract``: features of a dataset's images, computed once and stored."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from featstore.config import (
    COMPILE,
    FEATURE_DTYPES,
    ON_ERROR,
    POOLS,
    PRECISIONS,
    ExtractConfig,
)
from featstore.environment import store_option
from featstore.text import duration_text, nbytes_text

from . import completion, console
from .fit import cut_groups
from .imaging import IMAGE_GROUPS, image_options
from .selecting import next_fit

if TYPE_CHECKING:
    from featstore.extraction import Extraction


def _check_model(ctx: click.Context, param: click.Parameter, name: str) -> str:
    """Refuse a wrong name before torch is imported."""
    from featstore.models.names import check_model

    return check_model(name)


def _batch_size(_: click.Context, __: click.Parameter, value: str) -> int | None:
    if value != "auto" and not value.isdecimal():
        raise click.BadParameter(f"{value!r} is neither a number nor auto.")
    return None if value == "auto" else int(value)


GROUPS = {
    "Features": ("model", "layers", "weights", "pool", "image_size"),
    "Images": (*IMAGE_GROUPS["Images"], "on_error"),
    "Scenes": IMAGE_GROUPS["Scenes"],
    "Machine": (
        "device",
        "devices",
        "scheduler",
        "batch_size",
        "precision",
        "compile",
        "dtype",
    ),
    "Output": ("store", "as_json"),
}
"""Headings of the help."""


@click.command(cls=console.grouped(GROUPS))
@click.argument(
    "images", metavar="[FOLDER|TABLE|SCENE]", required=False, shell_complete=completion.files
)
@click.option(
    "--model",
    required=True,
    metavar="NAME",
    is_eager=True,
    callback=_check_model,
    shell_complete=completion.models,
    help="Model; see `featstore models`: resnet50, timm:NAME, package.module:function, rcf, ...",
)
@image_options
@console.store_option
@click.option(
    "--layers",
    multiple=True,
    metavar="NAME[,NAME...]",
    shell_complete=completion.network_layers,
    callback=console.names_of(),
    help="Layers, by the papers' or the library's names; see `featstore models show NAME`.  "
    "[default: the network's feature layer]",
)
@click.option(
    "--weights",
    default=ExtractConfig.weights,
    show_default=True,
    metavar="SPEC",
    shell_complete=completion.weights,
    help="imagenet (the weights of the model's name), a torchvision weights name, a file (state "
    "dict or .safetensors), or random:SEED, also for the filters of rcf and mosaiks.",
)
@click.option(
    "--pool",
    type=click.Choice(POOLS),
    default=ExtractConfig.pool,
    show_default=True,
    help="How a map or tokens become a vector; auto: avg for maps, the network's own for tokens.",
)
@click.option(
    "--image-size", type=int, metavar="PX", help="Side of the network's input.  [default: its own]"
)
@console.device_option
@click.option(
    "--devices",
    metavar="LIST",
    callback=console.names_of(),
    help="Several devices of this machine: GPUs by number, as in 0,1.",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="The workers of a Dask scheduler, as in tcp://10.0.0.1:8786.",
)
@click.option(
    "--batch-size",
    default="auto",
    show_default=True,
    metavar="N|auto",
    callback=_batch_size,
    help="Images of one forward pass.",
)
@click.option(
    "--precision",
    type=click.Choice(PRECISIONS),
    default=ExtractConfig.precision,
    show_default=True,
    help="auto: bf16 where the hardware has it, else fp16 on GPUs, else fp32.",
)
@click.option(
    "--compile",
    type=click.Choice(COMPILE),
    default=ExtractConfig.compile,
    show_default=True,
    help="Compile the network; auto: when that saves more time than it takes.",
)
@click.option(
    "--dtype",
    type=click.Choice(FEATURE_DTYPES),
    default=ExtractConfig.dtype,
    show_default=True,
    help="Stored features; auto: float16 where the network computes in half precision.",
)
@click.option(
    "--on-error",
    type=click.Choice(ON_ERROR),
    default=ExtractConfig.on_error,
    show_default=True,
    help="At an unreadable image: stop, or mask its row and continue.",
)
@console.json_option
def command(
    images: str | None, dataset: str | None, store: str, as_json: bool, **settings: Any
) -> None:
    """Turn images into features, once: those of FOLDER, TABLE, SCENE or a --dataset.

    The same command again is answered from the store. After an interruption it continues; with
    other --layers it computes only what is missing.

    \b
    featstore extract --model resnet50 --dataset sat4 --root /data
    featstore extract --model resnet50 my-images/
    featstore extract --model resnet50 labels.csv
    featstore extract --model resnet50 scene.tif --window 64
    """  # noqa: D301 - click wants the character itself
    from featstore.extraction.extract import extract
    from featstore.store.feature_store import open_store

    if (images is None) == (dataset is None):
        raise click.UsageError("Give either a folder of images, a table, a scene or --dataset.")
    with console.progress() as progress:
        result = extract(
            dataset=images or dataset or "", store=store, progress=progress, **settings
        )
    if as_json:
        console.emit_json(result.to_dict())
        return
    show(result)
    opened = open_store(store)
    found = opened.get(result.set_id)
    neighbors = shlex.join(["featstore", "neighbors", result.set_id])
    words = next_fit(opened, found, result.layers, store)
    console.echo(f"Next: {words or f'{neighbors} IMAGE{store_option(store)}'}")


def show(result: Extraction) -> None:
    """Print an extraction's result for people."""
    layers = ", ".join(f"{name} ({n} features)" for name, n in result.n_features.items())
    weights = "" if result.weights == "none" else f" ({result.weights})"
    console.echo(f"{result.model}{weights} over {result.title}: {layers}")
    if not result.n_computed:
        console.echo(f"All {result.n_images} rows were in the store; nothing was computed.")
    else:
        kept = f", {result.n_reused} were in the store" if result.n_reused else ""
        console.echo(
            f"{result.n_computed} images computed in {duration_text(result.times['pass_s'])} "
            f"({result.images_per_s:,.1f} images/s on {result.device}, "
            f"{result.engine}, "
            f"{result.precision}, batches of {result.batch_size}){kept}."
        )
        console.echo(result.shares_of_time())
        console.echo(result.bottleneck())
    if result.n_masked:
        rows = "1 image" if result.n_masked == 1 else f"{result.n_masked} images"
        console.echo(
            f"{rows} can't be read: masked, and left out by fit. "
            f"`featstore store show {result.set_id}` lists them."
        )
    for line in result.left_out.lines():
        console.echo(line)
    is_labelled = result.n_unlabelled < result.n_images
    if len(result.n_by_split) > 1 or is_labelled:
        counts = ", ".join(f"{n:,} {name}" for name, n in result.n_by_split.items())
        lacking = f"; {result.n_unlabelled:,} without a label" if result.n_unlabelled else ""
        console.echo(f"Images: {counts} ({result.split}){lacking if is_labelled else ''}.")
    if is_labelled and len(result.n_by_split) == 1:
        use = "test with" if "train" in result.n_by_split else "train on"
        console.echo(f"No images are left to {use}: fit needs some.")
    if result.n_cut_groups:
        console.echo(cut_groups(result.n_cut_groups))
    if result.n_leaked:
        console.echo(_leaks(result.n_leaked, result.n_by_split))
    console.echo(f"{nbytes_text(result.nbytes)} in {console.shown(result.path)}")


def _leaks(n_leaked: int, n_by_split: dict[str, int]) -> str:
    held_out = {name: n for name, n in n_by_split.items() if name != "train"}
    are, them = ("is", "it") if n_leaked == 1 else ("are", "them")
    return (
        f"{n_leaked} of {sum(held_out.values())} {' and '.join(held_out)} images {are} also among "
        f"the training images; `featstore fit --drop-leaks` leaves {them} out."
    )
