"""``featstore neighbors``: the stored images that are most similar to others."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from featstore.config import METRICS, SPLITS

from . import completion, console, tables

if TYPE_CHECKING:
    from featstore.inference.neighbor_result import Query


@click.command()
@click.argument("run_or_set", metavar="RUN_OR_SET", shell_complete=completion.runs_or_sets)
@click.argument(
    "images", metavar="IMAGE...", nargs=-1, required=True, shell_complete=completion.files
)
@click.option(
    "-k",
    "--k",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    metavar="N",
    help="Neighbors of each image.",
)
@click.option(
    "--layers",
    metavar="NAME[,NAME...]",
    shell_complete=completion.stored_layers,
    help="Layers of the feature set; commas put several side by side.  "
    "[default: its feature layer]",
)
@click.option(
    "--metric",
    metavar=f"{'|'.join(METRICS)}|RUN",
    shell_complete=completion.metrics,
    default=METRICS[0],
    show_default=True,
    help="How far apart standardised features are; or a run of --clf triplet, whose learned "
    "projection compares them.",
)
@click.option(
    "--split",
    type=click.Choice(["all", *SPLITS]),
    help="The stored images to search.  [default: train for a run, all for a feature set]",
)
@click.option(
    "--out",
    default="neighbors.png",
    show_default=True,
    metavar="FILE",
    help="The contact sheet, a PNG file; several are numbered.",
)
@click.option(
    "--root",
    metavar="DIR",
    shell_complete=completion.folders,
    help="Folder of the stored images.  [default: the one they were extracted from]",
)
@console.device_option
@console.store_option
@console.json_option
def command(
    run_or_set: str,
    images: tuple[str, ...],
    k: int,
    layers: str | None,
    metric: str,
    split: str | None,
    out: str,
    root: str | None,
    device: str,
    store: str,
    as_json: bool,
) -> None:
    """Show the stored images that are most similar to each IMAGE, by the features of RUN_OR_SET.

    IMAGE is an image, a folder of images, or the id of a stored sample. The neighbors show why a
    classifier is right or wrong. If an image can't be read, the others are still looked up, and
    the exit code is 1.

    \b
    featstore neighbors my-run new.jpg
    featstore neighbors my-set train/forest/forest_012.jpg --layers pool5 -k 10
    """  # noqa: D301 - click wants the character itself
    from featstore.runs.find import open_run_or_set

    with console.progress() as progress:
        opened = console.open_store(store, progress, [run_or_set])
        chosen = open_run_or_set(run_or_set, opened)
        from featstore.inference.neighbor_sheets import write_sheets
        from featstore.inference.neighbors import find_neighbors
        from featstore.plotting import check_png

        check_png(out, "--out")
        found = find_neighbors(
            chosen,
            images,
            store=opened,
            k=k,
            layers=layers,
            metric=metric,
            split=split,
            device=device,
            progress=progress,
        )
        sheets = write_sheets(found, out, store=opened, root=root, progress=progress)
    if as_json:
        console.emit_json({**found.to_dict(), "figures": [str(path) for path in sheets]})
    else:
        for query in found.queries:
            if query.error is None:
                show(query, is_number=found.task == "regression")
        console.echo_sheets(sheets)
    errors = [query.error for query in found.queries if query.error is not None]
    for error in errors:
        console.say(f"Error: {error}")
    if errors:
        sys.exit(1)


def show(query: Query, *, is_number: bool = False) -> None:
    """Print one query's neighbors as a table, and their classes; numbers have none."""
    columns = ("rank", "distance", "label" if is_number else "class", "split", "sample")
    rows = [
        [f"{rank}", f"{one.distance:.4f}", one.label or "-", one.split, one.sample_id]
        for rank, one in enumerate(query.neighbors, start=1)
    ]
    title = f"{query.name} ({query.label})" if query.label else query.name
    tables.table(columns, rows, title, right=columns[:2])
    shares = ", ".join(f"{label} {100 * share:.0f} %" for label, share in query.shares.items())
    if not is_number:
        console.echo(f"Classes: {shares or 'none'}\n")
