"""``featstore datasets``: list, show and get datasets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from . import console, imaging, tables

if TYPE_CHECKING:
    from featstore.datasets.base import Dataset


TREES = ("folder", "table", "scene")
"""Datasets that are in no place of their own."""


@click.group(name="datasets", invoke_without_command=True)
@console.root_option
@console.json_option
@click.pass_context
def command(ctx: click.Context, root: str | None, as_json: bool) -> None:
    """List the datasets: what each needs, where it is looked for, whether it is there."""
    if ctx.invoked_subcommand is not None:
        if as_json or console.given(ctx, ["root"]):
            raise click.UsageError(f"Give the options after {ctx.invoked_subcommand}.", ctx)
        return
    from featstore.datasets.registry import available_datasets, data_root

    found = available_datasets(root)
    if as_json:
        entries = [
            {
                "name": one.format.name,
                "description": one.format.description,
                "needs": one.format.needs,
                "looked_for_in": [str(place) for place in one.places],
                "found": str(one.found) if one.found else None,
            }
            for one in found
        ]
        console.emit_json({"root": str(data_root(root)), "datasets": entries})
        return
    absent = {name: "needs --root" for name in TREES} | {"demo": "made when used"}
    rows = []
    for one in found:
        name = one.format.name
        is_tree = name in TREES
        rows.append(
            [
                name,
                one.format.description,
                one.format.needs,
                "ROOT" if is_tree else ", ".join(map(str, one.places)),
                str(one.found) if one.found and not is_tree else absent.get(name, "no"),
            ]
        )
    columns = ["dataset", "what it is", "needs", "looked for in", "found"]
    if tables.output_width() is None:
        tables.table(columns, rows)
    else:
        # On a terminal, what each needs would leave no room for anything.
        shown = (0, 1, 4)
        tables.table([columns[i] for i in shown], [[row[i] for i in shown] for row in rows])
        console.echo(
            "`featstore datasets show NAME` says what a dataset that is not found needs, and where "
            "it is looked for."
        )
    console.echo(f"ROOT is {data_root(root)}; set it with --root DIR or FEATSTORE_DATA.")


@command.command()
@click.argument("name")
@console.root_option
@console.seed_option
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Use only so many images.")
@click.option(
    "--out", type=click.Path(dir_okay=False), metavar="PNG", help="Where to put the contact sheet."
)
@imaging.reading_options
@imaging.value_options
@imaging.scene_options
@console.json_option
def show(
    name: str,
    root: str | None,
    seed: int,
    limit: int | None,
    out: str | None,
    as_json: bool,
    **reading: Any,
) -> None:
    """Count a dataset's images per class and split, and draw a contact sheet.

    The options of `featstore extract` that describe images mean the same here.
    """
    from pathlib import Path

    from featstore.config import SPLITS, ExtractConfig
    from featstore.datasets.registry import resolve_dataset
    from featstore.extraction.spec import open_config_dataset, read_as_asked
    from featstore.inference.contact_sheet import write_class_sheet

    given = {key: value for key, value in reading.items() if value is not None}
    name, place = resolve_dataset(name, root)
    given["root"] = None if place is None else str(place)
    asked = ExtractConfig("pixelstats", name, seed=seed, limit=limit, **given)
    with console.progress() as progress:
        dataset = open_config_dataset(asked, progress)
        for note in dataset.notes:
            progress.say(note)
        _, dataset = read_as_asked(asked, dataset)
        sheet = write_class_sheet(dataset, Path(out or f"{dataset.title}-sheet.png"))
    counts = _counts(dataset)
    if as_json:
        console.emit_json(
            {
                "name": dataset.name,
                "title": dataset.title,
                "task": dataset.task,
                "n_samples": len(dataset),
                "bands": list(dataset.bands),
                "counts": counts,
                "left_out": dataset.left_out.to_dict(),
                "sheet": str(sheet),
            }
        )
        return
    splits = list(next(iter(counts.values())))
    rows = [[label, *(f"{n:,}" for n in by_split.values())] for label, by_split in counts.items()]
    codes = [SPLITS.index(split) for split in splits[:-1]]
    total = [*((dataset.splits == code).sum() for code in codes), len(dataset)]
    rows.append(["all images", *(f"{n:,}" for n in total)])
    console.echo(f"{dataset.title}: {len(dataset):,} images, bands {', '.join(dataset.bands)}")
    tables.table(["class", *splits], rows, right=splits)
    for line in dataset.left_out.lines():
        console.echo(line)
    console.echo(f"Contact sheet: {sheet}")


def _counts(dataset: Dataset) -> dict[str, dict[str, int]]:
    """Count the samples of each class by split, and in total."""
    import numpy as np

    from featstore.config import SPLITS

    present = [(code, SPLITS[code]) for code in np.unique(dataset.splits)]
    counts = {}
    for name, rows in dataset.rows_by_class().items():
        codes = dataset.splits[rows]
        by_split = {split: int((codes == code).sum()) for code, split in present}
        counts[name] = by_split | {"total": len(codes)}
    return counts


@command.command()
@click.argument("name")
@console.root_option
@console.seed_option
@click.option(
    "--n-train", type=int, default=1600, show_default=True, help="Training images of the demo."
)
@click.option("--n-test", type=int, default=400, show_default=True, help="Test images of the demo.")
@click.pass_context
def get(
    ctx: click.Context, name: str, root: str | None, seed: int, n_train: int, n_test: int
) -> None:
    """Fetch a dataset, such as ucmerced, or generate it (demo)."""
    from featstore.datasets.formats.synthetic import write_demo
    from featstore.datasets.registry import data_root, find_format, resolve_dataset
    from featstore.errors import DatasetError

    if name != "demo":
        for option in console.given(ctx, ("seed", "n_train", "n_test")).values():
            raise click.UsageError(f"{option} is for the demo alone.", ctx)
    base = data_root(root)
    with console.progress() as progress:
        if name == "demo":
            path: Any = write_demo(base / "demo", seed, n_train, n_test, progress)
        else:
            name, _ = resolve_dataset(name)
            entry = find_format(name)
            if entry is None or entry.download is None:
                raise DatasetError(
                    f"{name} can't be fetched by featstore.\n{entry.cure if entry else ''}"
                )
            path = entry.download(base, progress)
    console.echo(path)
