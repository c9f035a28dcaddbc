"""``featstore import``: features that were computed elsewhere, with labels and splits."""

from __future__ import annotations

import click

from featstore.config import TASKS

from . import completion, console
from .selecting import next_fit


@click.command()
@click.argument("name")
@click.argument("file", type=click.Path(), shell_complete=completion.files)
@click.option(
    "--labels",
    metavar="FILE",
    shell_complete=completion.files,
    help="Labels of the rows: .npy, .txt with one a line, or a table (.csv, .tsv, .parquet) with "
    "a column label, and if it likes id, split and group.",
)
@click.option(
    "--ids",
    metavar="FILE",
    shell_complete=completion.files,
    help="Unique names of the rows: .npy, or .txt with one a line.",
)
@click.option(
    "--task",
    type=click.Choice(TASKS),
    help="What a label is: one class, several (lists, or text with semicolons), or a number.",
)
@click.option("--model", metavar="NAME", help="What computed the features.  [default: the file's]")
@click.option(
    "--array",
    metavar="NAME",
    help="Array or column of the features, of several; 'A*' for columns of numbers.",
)
@console.seed_option
@console.store_option
@console.json_option
def command(
    name: str,
    file: str,
    labels: str | None,
    ids: str | None,
    task: str | None,
    model: str | None,
    array: str | None,
    seed: int,
    store: str,
    as_json: bool,
) -> None:
    """Store features that were computed elsewhere, as the dataset NAME.

    FILE is .npy, .npz, .parquet or a Zarr folder with a row of features for each sample. Without
    --labels, the labels in the file itself count.
    """
    from featstore.extraction.import_features import import_features
    from featstore.store.feature_store import open_store

    opened = open_store(store)
    with console.progress() as progress:
        done = import_features(
            name,
            file,
            labels=labels,
            sample_ids=ids,
            task=task,
            model=model,
            array=array,
            seed=seed,
            store=opened,
            progress=progress,
        )
    if as_json:
        console.emit_json(done.to_dict())
        return
    n_rows = "1 row" if done.n_images == 1 else f"{done.n_images:,} rows"
    n_by_split = ", ".join(f"{n:,} {split}" for split, n in done.n_by_split.items())
    splits = f": {n_by_split}" if done.n_unlabelled < done.n_images else ""
    known = "" if done.n_computed else "; the store had them already"
    console.echo(
        f"{n_rows} of {done.n_features['features']:,} features of {done.model} as "
        f"{done.title}{splits}{known}"
    )
    if done.n_masked:
        rows = "1 row" if done.n_masked == 1 else f"{done.n_masked:,} rows"
        console.echo(f"Masked: {rows} without features.")
    console.echo(f"Features: {console.shown(done.path)}")
    if words := next_fit(opened, opened.get(done.set_id), done.layers, store):
        console.echo(f"Next: {words}")
    else:
        console.echo("The rows have no labels: to fit classifiers, import them with --labels.")
