"""``featstore runs``: list, show, tag and remove runs."""

from __future__ import annotations

import gc
from typing import Any

import click

from featstore.progress_bars import Lines
from featstore.text import model_text, percent

from . import completion, console, tables


@click.group()
def command() -> None:
    """List, show, tag and remove runs."""


@command.command("ls")
@console.dataset_option("Only the runs on this dataset or folder.")
@console.store_option
@console.json_option
def ls(dataset: str | None, store: str, as_json: bool) -> None:
    """List runs, the most accurate first, a table for each dataset.

    The best run has the highest cross-validation accuracy, or the highest mean over its repeats.
    If runs have neither, it is the simplest run that no test tells from the highest accuracy.

    \b
    featstore runs ls --dataset demo
    """  # noqa: D301 - click wants the character itself
    from featstore.report.summaries import list_by_accuracy

    # Of thousands of runs, looking for garbage takes a quarter of the time, and finds none.
    gc.disable()
    try:
        lines = list_by_accuracy(console.open_store(store), dataset, Lines(console.say))
    finally:
        gc.enable()
    if as_json:
        console.emit_json({"store": store, "runs": lines})
        return
    if not lines:
        console.echo(f"{store} holds no runs yet. Make one: featstore fit --clf logreg")
    columns = ("run", "model", "layers", "clf", "seed", "accuracy", "cv", "made", "tag", "")
    for title in dict.fromkeys(line["title"] for line in lines):
        own = [line for line in lines if line["title"] == title]
        rows = [
            [
                line["short_id"],
                model_text(line["model"], line["weights"]),
                ",".join(line["layers"]),
                line["clf"],
                str(line["seed"]),
                percent(line["accuracy"]),
                percent(line["cv_accuracy"]),
                line["created"][:10],
                ", ".join(line["tags"]),
                "best" if line["is_best"] else "",
            ]
            for line in own
        ]
        show_columns(columns, rows, f"{title}: accuracy of the test images in %")


def show_columns(columns: tuple[str, ...], rows: list[list[str]], title: str) -> None:
    """Print a table of runs without the columns that tell them nothing apart."""
    nothing = {"cv": {percent(None)}, "tag": {""}, "seed": {rows[0][columns.index("seed")]}}
    kept = [i for i, name in enumerate(columns) if {row[i] for row in rows} != nothing.get(name)]
    tables.table(
        [columns[i] for i in kept],
        [[row[i] for i in kept] for row in rows],
        title,
        right=("seed", "accuracy", "cv"),
    )


@command.command("show")
@console.run_argument
@console.store_option
@console.json_option
def show(run: str, store: str, as_json: bool) -> None:
    """Show all that is known of RUN: features, rows, scores, classes, versions, command.

    RUN is the id of a run, the beginning or end of its id, a tag, last, best or best:DATASET.
    """
    from featstore.runs.tags import tags_of

    opened = console.open_store(store)
    found = console.open_run(run, opened)
    tags = tags_of(opened).get(found.run_id, [])
    if as_json:
        console.emit_json({"run_id": found.run_id, "tags": tags, **found.record.to_dict()})
        return
    from featstore.report.summaries import describe_run

    described = describe_run(found)
    test, train = found.metrics.test, found.metrics.train
    facts: dict[str, Any] = {
        "tags": ", ".join(tags) or "none",
        "dataset": f"{found.selection.title} ({found.selection.dataset})",
        "accuracy": f"{percent(test.accuracy)} % of {test.n_samples:,} test images, "
        f"{percent(train.accuracy)} % of the training images",
        "average": f"{percent(test.average_accuracy)} % over the classes",
        **described["facts"],
        "command": described["command"],
    }
    console.echo(found.run_id)
    width = max(map(len, facts))
    for name, text in facts.items():
        console.echo(f"  {name:<{width}}  {text}")
    for note in described["notes"]:
        console.echo(f"  {'note':<{width}}  {note}")
    columns = ["class", "train", "test", "precision", "recall", "F1"]
    rows = [
        [
            one["name"],
            f"{one['n_train']:,}",
            f"{one['support']:,}",
            percent(one["precision"]),
            percent(one["recall"]),
            percent(one["f1"]),
        ]
        for one in described["per_class"]
    ]
    tables.table(columns, rows, right=columns[1:])


@command.command("rm")
@click.argument(
    "runs", metavar="RUN...", nargs=-1, required=True, shell_complete=completion.run_names
)
@console.yes_option
@console.store_option
def rm(runs: tuple[str, ...], yes: bool, store: str) -> None:
    """Remove runs: their models, predictions, scores and tags; features stay.

    Part of an id needs its last 6 characters.
    """
    from featstore.runs.tags import remove_run, run_to_remove

    opened = console.open_store(store)
    found = {run.run_id: run for run in (run_to_remove(name, opened) for name in runs)}
    if not yes:
        console.confirm_removal(f"Remove {', '.join(found)}?")
    for run in found.values():
        remove_run(opened, run)
        console.echo(f"Removed {run.run_id}.")


@command.command("tag")
@console.run_argument
@click.argument("tag", metavar="NAME", required=False)
@click.option("--remove", is_flag=True, help="Take the tag RUN away; the run stays.")
@console.store_option
def tag(run: str, tag: str | None, remove: bool, store: str) -> None:
    """Give RUN a name that can be used wherever a RUN is asked for.

    \b
    featstore runs tag best paper
    featstore predict paper new-images/
    featstore runs tag paper --remove
    """  # noqa: D301 - click wants the character itself
    from featstore.runs.tags import remove_tag, tag_run

    if remove == (tag is not None):
        raise click.UsageError("Give RUN and NAME, or the tag to take away and --remove.")
    opened = console.open_store(store)
    if tag is None:
        console.echo(f"{run} no longer names {remove_tag(opened, run)}.")
        return
    found = console.open_run(run, opened)
    before = tag_run(opened, found, tag)
    instead = f", and no longer {before}" if before else ""
    console.echo(f"{tag} now names {found.run_id}{instead}.")
