"""``featstore suspects``: images whose label is probably wrong, and near-copies across splits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import completion, console, tables

if TYPE_CHECKING:
    from featstore.inference.suspects import Suspects

N_SHOWN = 10
"""Lines of a table; the files hold all."""


@click.command()
@console.run_argument
@click.option(
    "--out",
    default="suspects.csv",
    show_default=True,
    metavar="FILE",
    help="The CSV file of all suspects; the near-copies are written beside it.",
)
@click.option(
    "--sheet",
    default="suspects.png",
    show_default=True,
    metavar="FILE",
    help="The contact sheet, a PNG file; several are numbered.",
)
@click.option(
    "--n-pictures",
    type=click.IntRange(min=0),
    default=48,
    show_default=True,
    metavar="N",
    help="Suspects on the contact sheet, the most suspicious first.",
)
@click.option(
    "-k",
    "--k",
    type=click.IntRange(min=1),
    default=6,
    show_default=True,
    metavar="N",
    help="Most similar images beside each.",
)
@click.option(
    "--folds",
    "n_folds",
    type=click.IntRange(min=2),
    default=5,
    show_default=True,
    metavar="N",
    help="Parts of the images; each is judged by a classifier of the others.",
)
@click.option(
    "--root",
    metavar="DIR",
    shell_complete=completion.folders,
    help="Folder of the stored images.  [default: the one they were extracted from]",
)
@console.store_option
@console.json_option
def command(
    run: str,
    out: str,
    sheet: str,
    n_pictures: int,
    k: int,
    n_folds: int,
    root: str | None,
    store: str,
    as_json: bool,
) -> None:
    """Find images of RUN whose label looks wrong, and near-copies of its training images.

    The classifier of RUN is fitted again without each part of the images and judges their labels.
    Nothing is changed: look at the contact sheet, move what is wrong, and extract again. A test
    image that is nearly a training image makes the test score too high.

    \b
    featstore suspects best
    """  # noqa: D301 - click wants the character itself
    with console.progress() as progress:
        opened = console.open_store(store, progress, [run])
        chosen = console.open_run(run, opened)
        from featstore.inference.neighbor_sheets import write_sheets
        from featstore.inference.neighbors import find_stored_neighbors
        from featstore.inference.suspects import find_suspects, write_copies, write_suspects
        from featstore.plotting import check_png

        check_png(sheet, "--sheet")
        found = find_suspects(chosen, store=opened, n_folds=n_folds, progress=progress)
        path = Path(out)
        copies = path.with_name(f"{path.stem}-copies{path.suffix}")
        # Without any, too: a file of an earlier call would name what is mended.
        files = {"suspects": write_suspects(found, out), "near-copies": write_copies(found, copies)}
        shown = found.suspects[:n_pictures]
        sheets = []
        if shown:
            near = find_stored_neighbors(chosen, [one.row for one in shown], opened, k)
            titles = {one.sample_id: f"{one.label} → {one.suggested}?" for one in shown}
            sheets = write_sheets(
                near, sheet, store=opened, root=root, titles=titles, progress=progress
            )
    if as_json:
        paths = {"files": list(map(str, files.values())), "figures": list(map(str, sheets))}
        console.emit_json({**found.to_dict(), **paths})
        return
    show(found)
    for what, file in files.items():
        console.echo(f"All {what}: {file}")
    console.echo_sheets(sheets)


def show(found: Suspects) -> None:
    """Print the first suspects and near-copies as tables."""
    n, n_rows = len(found.suspects), found.n_rows
    looks = "label looks" if n == 1 else "labels look"
    title = f"{n:,} of {n_rows:,} {looks} wrong"
    columns = ("image", "split", "label", "%", "suggested", "%")
    rows = [
        [
            one.sample_id,
            one.split,
            one.label,
            f"{100 * one.probability:.0f}",
            one.suggested,
            f"{100 * one.suggested_probability:.0f}",
        ]
        for one in found.suspects[:N_SHOWN]
    ]
    if rows:
        tables.table(columns, rows, _first(title, n), right=("%",))
    else:
        console.echo(f"No label of {n_rows:,} looks wrong.")
    copies = [
        [
            one.sample_id,
            one.split,
            one.label,
            one.train_id,
            one.train_label,
            "0 (same pixels)" if one.is_exact else f"{one.distance:.2f}",
        ]
        for one in found.near_copies[:N_SHOWN]
    ]
    n = len(found.near_copies)
    if copies:
        images = "image is" if n == 1 else "images are"
        title = _first(f"{n:,} {images} nearly a training image", n)
        tables.table(("image", "split", "label", "near", "its label", "distance"), copies, title)
        console.echo("A distance of 1 is that between a training image and its nearest neighbor.")
    else:
        console.echo("No test or validation image is nearly a training image.")


def _first(title: str, n: int) -> str:
    return f"{title}; the first {N_SHOWN}" if n > N_SHOWN else title
