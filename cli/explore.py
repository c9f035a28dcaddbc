"""``featstore explore``: a page on which the images of a run or feature set are explored."""

from __future__ import annotations

import click

from featstore.config import MAX_EXPLORED, PROJECTIONS
from featstore.text import nbytes_text

from . import completion, console


@click.command()
@click.argument(
    "run_or_set", metavar="[RUN_OR_SET]", required=False, shell_complete=completion.runs_or_sets
)
@click.option(
    "--out",
    default="explorer.html",
    show_default=True,
    metavar="FILE",
    help="The page; it holds all its pictures and needs no network.",
)
@click.option(
    "--layers",
    metavar="NAME[,NAME...]",
    shell_complete=completion.stored_layers,
    help="Layers of a feature set; commas put several side by side.  [default: its feature layer]",
)
@click.option(
    "--projection",
    type=click.Choice(PROJECTIONS),
    help="How features are drawn in two dimensions.  [default: tsne for up to 10,000 images, pca "
    "beyond]",
)
@click.option(
    "--limit",
    type=click.IntRange(min=3),
    default=MAX_EXPLORED,
    show_default=True,
    metavar="N",
    help="Most images on the page, evenly spread.",
)
@console.seed_option
@click.option(
    "--root",
    metavar="DIR",
    shell_complete=completion.folders,
    help="Folder of the images.  [default: the one they were extracted from]",
)
@console.store_option
@console.json_option
def command(
    run_or_set: str | None,
    out: str,
    layers: str | None,
    projection: str | None,
    limit: int,
    seed: int,
    root: str | None,
    store: str,
    as_json: bool,
) -> None:
    """Write a page with a map of the images of RUN_OR_SET, their pictures, classes and neighbors.

    RUN_OR_SET is a run (by default the best one) or a feature set (without runs the newest). Filter
    by class, split and prediction, draw around images, and download their names. The page is one
    file: open it in a browser, or send it to others.

    \b
    featstore explore
    featstore explore my-set --layers pool5 --out pool5.html
    """  # noqa: D301 - click wants the character itself
    from featstore.runs.find import open_run_or_set

    with console.progress() as progress:
        opened = console.open_store(store, progress, [run_or_set])
        name = run_or_set or ("best" if opened.run_folders() else "newest")
        chosen = open_run_or_set(name, opened)
        from featstore.report.explorer_page import write_explorer

        found = write_explorer(
            opened,
            chosen,
            out,
            layers=layers,
            projection=projection,
            limit=limit,
            root=root,
            random_state=seed,
            progress=progress,
        )
    if as_json:
        console.emit_json(found)
        return
    console.echo(f"{found['n_images']:,} images, drawn by {found['method']}")
    console.echo(f"The page: {console.shown(found['page'])} ({nbytes_text(found['nbytes'])})")
