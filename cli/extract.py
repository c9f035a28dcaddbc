"""``featstore extract``: a dataset's images -> stored features."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from featstore.text import duration_text, nbytes_text, store_option

from . import console

if TYPE_CHECKING:
    from featstore.extraction.extract import Extraction


@click.command()
@click.option("--model", required=True, metavar="NAME", help="Network; see `featstore models`.")
@click.option("--dataset", required=True, metavar="NAME", help="Dataset; see `featstore datasets`.")
@console.root_option
@console.store_option
@click.option(
    "--layers",
    multiple=True,
    metavar="NAME[,NAME...]",
    help="Layers, by the papers' or torchvision's names; see `featstore models show NAME`.  "
    "[default: the network's feature layer]",
)
@click.option(
    "--weights",
    default="imagenet",
    show_default=True,
    metavar="SPEC",
    help="imagenet, a torchvision weights name, a file (state dict or .safetensors), or "
    "random:SEED.",
)
@click.option(
    "--pool",
    type=click.Choice(["avg", "max", "avgmax", "flatten", "gem"]),
    default="avg",
    show_default=True,
    help="How a convolutional map becomes a vector.",
)
@click.option(
    "--bands",
    type=click.Choice(["rgb", "gray"]),
    default="rgb",
    show_default=True,
    help="Visible bands, or their luminance in all three channels.",
)
@click.option(
    "--image-size", type=int, metavar="PX", help="Side of the network's input.  [default: its own]"
)
@click.option("--limit", type=int, metavar="N", help="Use N images, spread over all classes.")
@console.seed_option
@console.device_option
@click.option(
    "--devices",
    metavar="LIST",
    help="Several devices of this machine: GPUs' numbers, as in 0,1.",
)
@click.option(
    "--scheduler",
    metavar="ADDRESS",
    help="The workers of a Dask scheduler, as in tcp://10.0.0.1:8786.",
)
@click.option("--batch-size", default="auto", show_default=True, metavar="N|auto")
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    default="auto",
    show_default=True,
    help="auto: bf16 where the hardware has it, else fp16 on GPUs, else fp32.",
)
@click.option(
    "--compile",
    "compile_",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="Compile the network; auto: when it saves more time than it takes.",
)
@click.option(
    "--dtype",
    type=click.Choice(["auto", "float32", "float16"]),
    default="auto",
    show_default=True,
    help="Stored features; auto: float16 where the network computes in half precision.",
)
@click.option(
    "--on-error",
    type=click.Choice(["stop", "mask"]),
    default="stop",
    show_default=True,
    help="At an unreadable image: stop, or go on with its row masked.",
)
@console.json_option
def command(
    model: str,
    dataset: str,
    root: str | None,
    store: str,
    layers: tuple[str, ...],
    weights: str,
    pool: str,
    bands: str,
    image_size: int | None,
    limit: int | None,
    seed: int,
    device: str,
    devices: str | None,
    scheduler: str | None,
    batch_size: str,
    precision: str,
    compile_: str,
    dtype: str,
    on_error: str,
    as_json: bool,
) -> None:
    """Turn a dataset's images into features, once.

    The same command again is answered from the store; after an interruption it goes on where it
    was; with other --layers it computes only what is missing.

    \b
    featstore extract --model resnet50 --dataset sat4 --root /data
    featstore extract --model resnet50 --dataset folder --root my-images
    """  # noqa: D301 - click wants the character itself
    from featstore.config import ExtractConfig
    from featstore.extraction.extract import run
    from featstore.store.feature_store import open_store
    from featstore.store.query import selecting_options

    if batch_size != "auto" and not batch_size.isdecimal():
        raise click.BadParameter(
            f"{batch_size!r} is neither a number nor auto.", param_hint="--batch-size"
        )
    config = ExtractConfig(
        model=model,
        dataset=dataset,
        layers=tuple(name.strip() for value in layers for name in value.split(",")),
        weights=weights,
        root=root,
        limit=limit,
        seed=seed,
        pool=pool,
        bands=bands,
        image_size=image_size,
        precision=precision,
        device=device,
        devices=tuple(d.strip() for d in devices.split(",")) if devices else (),
        scheduler=scheduler,
        batch_size=None if batch_size == "auto" else int(batch_size),
        compile=compile_,
        dtype=dtype,
        on_error=on_error,
    )
    with console.progress() as progress:
        result = run(config, open_store(store, progress), progress)
    if as_json:
        console.emit_json(result.to_dict())
    else:
        show(result)
        opened = open_store(store)
        options = selecting_options(opened.sets(), opened.get(result.set_id), result.layers)
        words = shlex.join(["featstore", "fit", "--clf", "logreg", *options])
        click.echo(f"Next: {words}{store_option(store)}")


def show(result: Extraction) -> None:
    """Print what an extraction did."""
    layers = ", ".join(f"{name} ({n} features)" for name, n in result.n_features.items())
    weights = "" if result.weights == "none" else f" ({result.weights})"
    click.echo(f"{result.model}{weights} over {result.title}: {layers}")
    if not result.n_computed:
        click.echo(f"All {result.n_images} rows were in the store; nothing was computed.")
    else:
        kept = f", {result.n_reused} were in the store" if result.n_reused else ""
        click.echo(
            f"{result.n_computed} images computed in {duration_text(result.duration_s)} "
            f"({result.images_per_s:,.1f} images/s on {result.device}, {result.engine}, "
            f"{result.precision}, batches of {result.batch_size}){kept}."
        )
        click.echo(_where_time_went(result.times))
        click.echo(result.bottleneck())
    if result.n_masked:
        rows = "1 image" if result.n_masked == 1 else f"{result.n_masked} images"
        click.echo(
            f"{rows} can't be read: masked, and left out by fit. "
            f"`featstore store show {result.set_id}` lists them."
        )
    if result.n_leaked:
        click.echo(_leaks(result.n_leaked, result.n_by_split))
    click.echo(f"{nbytes_text(result.nbytes)} in {console.shown(result.path)}")


def _leaks(n_leaked: int, n_by_split: dict[str, int]) -> str:
    held_out = {name: n for name, n in n_by_split.items() if name != "train"}
    are, them = ("is", "it") if n_leaked == 1 else ("are", "them")
    return (
        f"{n_leaked} of {sum(held_out.values())} {' and '.join(held_out)} images {are} also among "
        f"the training images; `featstore fit --drop-leaks` leaves {them} out."
    )


def _where_time_went(times: dict[str, float]) -> str:
    names = {
        "setup_s": "getting ready",
        "read_s": "waiting for images",
        "preprocess_s": "copying and resizing",
        "forward_s": "arithmetic",
        "write_s": "waiting for the disk",
    }
    whole = sum(times[key] for key in names) or 1.0
    shares = [f"{name} {100 * times[key] / whole:.0f} %" for key, name in names.items()]
    return "Time went to " + ", ".join(shares) + "."
