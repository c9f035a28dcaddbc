"""``featstore runs``: list, show, tag and remove runs."""

from __future__ import annotations

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
@click.option("--all", "all_runs", is_flag=True, help="Also list each repeat of a fit.")
@console.store_option
@console.json_option
def ls(dataset: str | None, all_runs: bool, store: str, as_json: bool) -> None:
    """List fits, the best first; the repeats of a fit are one row with their mean.

    Each dataset has up to three tables: fits with a search, ranked by cross-validation; fits with
    repeated splits, by their mean test score; and others, by their test score. Scores are accuracy,
    mAP of runs with several classes, R² of runs that predict a number.

    The best fit is the first one of the first table, unless a test finds one of a later table
    significantly better. Of fits with one test score, it is the simplest that no test tells from
    the highest score. The id in a row of repeats is that of the repeat nearest to the mean.
    Repeats with a tag have a row of their own.

    \b
    featstore runs ls --dataset demo
    """  # noqa: D301 - click wants the character itself
    from featstore.runs.listing import list_fits

    opened = console.open_store(store)
    lines = list_fits(opened, dataset, Lines(console.say), all_runs=all_runs)
    if as_json:
        console.emit_json({"store": store, "runs": lines})
        return
    if not lines:
        console.echo(f"{store} holds no runs yet. Make one: featstore fit --clf logreg")
    from featstore.runs.ranking import by_group
    from featstore.runs.scoring import find_scoring

    for title, own in by_group(lines, lambda line: find_scoring(line["task"]).table_title):
        show_fits(own, title)


def show_fits(lines: list[dict[str, Any]], title: str) -> None:
    """Print a table of fits without the columns that say nothing."""
    from featstore.runs.scoring import find_scoring

    scoring = find_scoring(lines[0]["task"])
    score = scoring.column(scoring.score)
    interval = scoring.column(f"{scoring.score}_interval")
    cv_key = f"cv_{scoring.score}"
    columns = {
        "run": [line["short_id"] for line in lines],
        "model": [model_text(line["model"], line["weights"]) for line in lines],
        "layers": [",".join(line["layers"]) for line in lines],
        "clf": [_clf_text(line) for line in lines],
        "split": [line["split_text"] for line in lines],
        score.heading: [score.cell(line) for line in lines],
        interval.heading: [
            "" if line[interval.key] is None else interval.cell(line) for line in lines
        ],
        "cv": [
            f"{scoring.text(line[cv_key])} ({line['cv']} folds)" if line["cv"] else ""
            for line in lines
        ],
        "made": [line["created"][:10] for line in lines],
        "tag": [", ".join(line["tags"]) for line in lines],
        "": ["best" if line["is_best"] else "" for line in lines],
    }
    kept = {
        name: texts
        for name, texts in columns.items()
        if any(texts) and (name != "split" or len(set(texts)) > 1)
    }
    if len(set(columns["split"])) == 1:
        title += f", split: {columns['split'][0]}"
    rows = [list(row) for row in zip(*kept.values(), strict=True)]
    tables.table(list(kept), rows, title, right=(score.heading, interval.heading, "cv"))


def _clf_text(line: dict[str, Any]) -> str:
    if line["is_repeat"]:
        return f"- repeat, seed {line['seed']}"
    if (n_repeats := line["n_repeats"]) > 1:
        return f"{line['clf']} x {n_repeats}"
    settings = f" ({line['settings']})" if line["settings"] else ""
    seed = f", seed {line['seed']}" if line["seed"] else ""
    return f"{line['clf']}{seed}{settings}"


@command.command("show")
@console.run_argument
@console.store_option
@console.json_option
def show(run: str, store: str, as_json: bool) -> None:
    """Show all that is known of RUN: features, rows, scores, classes, versions, command.

    Its pictures are drawn in its folder.

    RUN is the id of a run, the beginning or end of its id, a tag, last, best or best:DATASET.
    """
    from featstore.runs.pictures import draw_pictures
    from featstore.runs.tags import tags_of

    opened = console.open_store(store, named=[run])
    found = console.open_run(run, opened)
    tags = tags_of(opened).get(found.run_id, [])
    if problem := draw_pictures(found):
        console.say(problem)
    if as_json:
        console.emit_json({"run_id": found.run_id, "tags": tags, **found.record.to_dict()})
        return
    from featstore.report.summaries import describe_run

    described = describe_run(found)
    facts: dict[str, Any] = {
        "tags": ", ".join(tags) or "none",
        "dataset": f"{found.selection.title} ({found.selection.dataset})",
        **found.scoring.facts(found.record),
        **described["facts"],
        "command": described["command"],
        "pictures": ", ".join(sorted(path.name for path in found.path.glob("*.png"))) or "none",
    }
    console.echo(found.run_id)
    width = max(map(len, facts))
    for name, text in facts.items():
        console.echo(f"  {name:<{width}}  {text}")
    for note in described["notes"]:
        console.echo(f"  {'note':<{width}}  {note}")
    if (classes := described["per_class"]) is None:
        return
    columns = ["class", "train", "test", *(heading for heading, _ in classes.columns)]
    rows = [
        [
            one["name"],
            f"{one['n_train']:,}",
            f"{one['support']:,}",
            *(percent(one[key]) for _, key in classes.columns),
        ]
        for one in classes.rows
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
