"""``featstore train``: weights of a network, learned from a dataset's training images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from featstore.config import LOSSES, TRAINABLE, TrainConfig
from featstore.text import duration_text, percent

from . import completion, console
from .imaging import IMAGE_GROUPS, image_options

if TYPE_CHECKING:
    from featstore.training.result import TrainedModel


def _check_backbone(ctx: click.Context, param: click.Parameter, name: str | None) -> str | None:
    """Refuse a wrong name before torch is imported."""
    from featstore.models.names import check_backbone

    return None if name is None else check_backbone(name)


GROUPS = {
    "Training": ("epochs", "batch_size", "learning_rate", "random_state", "image_size", "device"),
    "Triplets": ("backbone", "loss", "weights"),
    **IMAGE_GROUPS,
    "Output": ("out", "store", "as_json"),
}
"""Headings of the help."""


@click.command(cls=console.grouped(GROUPS))
@click.argument("network", type=click.Choice(TRAINABLE))
@click.argument("images", metavar="[FOLDER|TABLE]", required=False, shell_complete=completion.files)
@image_options
@console.store_option
@click.option(
    "--out",
    metavar="FILE",
    shell_complete=completion.files,
    help="File of the weights, ending in .pth.  [default: trained/NETWORK-DATASET.pth]",
)
@click.option(
    "--epochs",
    type=int,
    default=TrainConfig.epochs,
    show_default=True,
    metavar="N",
    help="Most passes over the images; training ends when held-out images improve no more.",
)
@click.option(
    "--batch-size", type=int, metavar="N", help="Images of a step.  [default: by their number]"
)
@click.option(
    "--learning-rate",
    type=float,
    metavar="RATE",
    help="Of the first steps; it falls to 0.  [default: 0.001; of pretrained weights 0.0001]",
)
@click.option(
    "--random-state",
    type=click.IntRange(0, 2**32 - 1),
    default=TrainConfig.random_state,
    show_default=True,
    metavar="N",
    help="Seed of weights, order, augmentation and held-out images.",
)
@click.option(
    "--image-size",
    type=int,
    metavar="PX",
    help="Side of the network's input.  [default: that of the images, at most 64; of pretrained "
    "weights their own]",
)
@click.option(
    "--backbone",
    metavar="NAME",
    callback=_check_backbone,
    shell_complete=completion.models,
    help="Network whose embedding is trained: satcnn, resnet50, mobilenet_v2, ...  [default: "
    "resnet50]",
)
@click.option(
    "--loss", type=click.Choice(LOSSES), help=f"Loss of triplets.  [default: {LOSSES[0]}]"
)
@click.option(
    "--weights",
    metavar="SPEC",
    shell_complete=completion.weights,
    help="Weights that the backbone begins with, as of extract.  [default: imagenet; satcnn: none]",
)
@console.device_option
@console.json_option
def command(
    network: str,
    images: str | None,
    dataset: str | None,
    store: str,
    as_json: bool,
    **settings: Any,
) -> None:
    """Train a network on the training images of a dataset; test images are not read.

    NETWORK is satcnn, a small network that learns the classes, or triplet, an embedding of a
    backbone. The weights are a file for `featstore extract --weights`. After an interruption the
    same command continues.

    \b
    featstore train satcnn --dataset sat4 --root /data
    featstore train triplet my-images/ --backbone mobilenet_v2 --image-size 96
    """  # noqa: D301 - click wants the character itself
    from featstore.training.train import train

    if (images is None) == (dataset is None):
        raise click.UsageError("Give either a folder of images, a table or --dataset.")
    with console.progress() as progress:
        result = train(network, images or dataset or "", store=store, progress=progress, **settings)
    if as_json:
        console.emit_json(result.to_dict() | {"next": result.extract_command(store)})
        return
    show(result, store)


def show(result: TrainedModel, store: str) -> None:
    """Print a training's result for people."""
    training, score = result.training, result.training.held_out
    console.echo(
        f"{training.network} on {training.dataset}, {len(training.bands)} bands at "
        f"{training.image_size} px: {percent(score.accuracy)} % of {score.n_rows:,} held-out "
        f"training images are right, in epoch {score.epoch} of {score.n_epochs}, which is kept."
    )
    if result.is_new:
        console.echo(
            f"{result.n_images:,} images learned in {duration_text(result.duration_s)} "
            f"({result.images_per_s:,.1f} images/s on {result.device}, tests of held-out images "
            "included)."
        )
    else:
        console.echo("The weights were there; nothing was trained.")
    console.echo(f"Weights, record, epochs and curves: {console.shown(result.path)}")
    console.echo(f"Next: {result.extract_command(store)}")
