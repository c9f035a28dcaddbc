"""``featstore fit``: train and evaluate classifiers on stored features."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from featstore.config import (
    FOLDS,
    PROTOCOL_NAMES,
    SCALES,
    SEARCH_SETTINGS,
    SEARCHES,
    FitConfig,
)
from featstore.environment import command as command_line
from featstore.environment import store_option
from featstore.text import duration_text, model_text

from . import completion, console, selecting, tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from featstore.fitting.results import Fit
    from featstore.runs.run import Run
    from featstore.runs.scoring import Column


GROUPS = {
    "Features": (
        "dataset",
        "model",
        "layers",
        "weights",
        "bands",
        "image_size",
        "precision",
        "dtype",
        "set_id",
    ),
    "Classifier": (
        "clf",
        "params",
        "n_epochs",
        "scale",
        "calibrate",
        "protocol",
        "baselines",
        "root",
    ),
    "Search": ("search", "cv", "grids", "n_candidates"),
    "Splits and repeats": ("split_seed", "drop_leaks", "repeats", "seed"),
    "Machine": ("memory_nbytes", "scheduler", "n_jobs", "device", "intelex", "force"),
    "Output": ("refit", "store", "as_json"),
}
"""Headings of the help."""


@click.command(cls=console.grouped(GROUPS))
@selecting.clf_option()
@selecting.selecting_options
@click.option(
    "--search",
    type=click.Choice(SEARCHES),
    help="Choose parameters by cross-validation on the training rows: all values, some drawn at "
    "random, or many tried on few rows first. validation: all values, by the validation images or "
    "a tenth of the training images, which then train too.",
)
@click.option(
    "--cv",
    type=click.IntRange(*FOLDS),
    default=FitConfig.cv,
    show_default=True,
    metavar="K",
    help="Folds of the search.",
)
@click.option(
    "--grid",
    "grids",
    multiple=True,
    metavar="NAME=V1,V2,...",
    help="Values to search, in place of the classifier's own. May be repeated.",
)
@click.option(
    "--n-candidates",
    type=click.IntRange(min=1),
    default=FitConfig.n_candidates,
    show_default=True,
    metavar="N",
    help="Settings that a random or halving search draws.",
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Repeat each fit with seeds that count up, and with new random splits where the dataset "
    "has no official one. The table shows mean and deviation.",
)
@click.option(
    "--scale",
    type=click.Choice(SCALES),
    help="Standardise features, or take them as they are.  [default: as the classifier needs]",
)
@click.option(
    "--protocol",
    type=click.Choice(("list", *PROTOCOL_NAMES)),
    help="Follow a published protocol, which fixes classifiers, parameters, scaling and search; "
    "list says what each does.",
)
@click.option(
    "--calibrate/--no-calibrate",
    default=FitConfig.calibrate,
    show_default=True,
    help="Calibrate the probabilities of classes, on training images that the classifier is fitted "
    "without once more.",
)
@click.option(
    "--baselines",
    is_flag=True,
    help="Add pixel statistics, and the network with random weights, to the table; missing ones "
    "are extracted.",
)
@click.option(
    "--root",
    metavar="DIR",
    shell_complete=completion.folders,
    help="Folder of the images, for --baselines.  [default: the one they were extracted from]",
)
@click.option(
    "--clf-device",
    "device",
    default=FitConfig.device,
    show_default=True,
    metavar="DEVICE",
    help="cuda to train logreg, ridge or lda on a GPU.",
)
@click.option("--intelex", is_flag=True, help="Train svm by scikit-learn-intelex.")
@console.seed_option
@click.option("--refit", is_flag=True, help="Repeat earlier fits.")
@console.store_option
@console.json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    clf: list[str],
    params: tuple[str, ...],
    grids: tuple[str, ...],
    baselines: bool,
    root: str | None,
    store: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Train and evaluate classifiers on stored features.

    Several --clf, --model and --layers are all combined, and run side by side. The run of an
    earlier fit with nothing changed is the answer.

    \b
    featstore fit --clf logreg --clf linear-svm --search grid
    featstore fit --clf mlp --param hidden_layer_sizes=(512,128)
    featstore fit --clf logreg --layers conv1 --layers conv1,fc1000
    featstore fit --clf all --repeats 10
    """  # noqa: D301 - click wants the character itself
    if options["protocol"] == "list":
        show_protocols(as_json)
        return
    if options["protocol"] is not None:
        from featstore.fitting.protocols import FIXED, contradiction

        given = list(console.given(ctx, ("clf", "params", "grids", "baselines", *FIXED)).values())
        if given:
            raise click.UsageError(contradiction(options["protocol"], given))
    for name, option in console.given(ctx, SEARCH_SETTINGS).items():
        if options["search"] not in SEARCH_SETTINGS[name]:
            searches = " or ".join(SEARCH_SETTINGS[name])
            raise click.UsageError(f"{option} is for --search {searches}.")
    started = time.perf_counter()
    with console.progress() as progress:
        opened = selecting.check_names(store, options, progress)
        from featstore.fitting.fit import fit_each
        from featstore.fitting.parameters import parse_grid, parse_param
        from featstore.fitting.results import raise_failures

        options |= {"params": dict(map(parse_param, params)), "grid": dict(map(parse_grid, grids))}
        fits = fit_each(opened, clf, progress=progress, **options)
        if baselines:
            from featstore.baselines import fit_baselines

            fits += fit_baselines(opened, fits, clf, root=root, progress=progress, **options)
    runs = [one.run for one in fits if one.run]
    duration_s = time.perf_counter() - started
    if as_json:
        reused = {one.run.run_id: one.reused for one in fits if one.run}
        failures = [{"fit": one.name, "error": str(one.error)} for one in fits if one.error]
        summaries = [run.summary() | {"reused": reused[run.run_id]} for run in runs]
        report = {"runs": summaries, "failures": failures, "duration_s": duration_s}
        console.emit_json(report)
    elif runs:
        show(fits, store)
        if not all(one.reused for one in fits):
            console.say(
                f"The whole command took {duration_text(duration_s)}; the table's times are those "
                "of loading, fitting and testing, without starting and searching."
            )
    raise_failures(fits)


def show_protocols(as_json: bool) -> None:
    """Print what each protocol does, its source, and what is not known of it."""
    from featstore.fitting.protocols import PROTOCOLS

    if as_json:
        known = {one.name: one.to_dict() for one in PROTOCOLS.values()}
        console.emit_json({"protocols": known})
        return
    for one in PROTOCOLS.values():
        console.echo(one.name)
        lines = (("", one.rules), ("source: ", one.source), ("not known: ", one.unknown))
        for heading, text in lines:
            console.echo(f"  {heading}{text}")


MAX_CHOICES = 12
"""Runs up to which each one's chosen parameters are printed."""

MAX_NOTES = 6
"""Notes that are printed."""


def _cells(summary: dict[str, Any], columns: Sequence[Column]) -> list[str]:
    n_repeats = summary["n_repeats"]
    return [
        model_text(summary["model"], summary["weights"]),
        ",".join(summary["layers"]),
        summary["clf"]
        + (f" x {n_repeats}" if n_repeats > 1 else "")
        + (f" ({summary['settings']})" if summary.get("settings") else "")
        + ("" if summary["converged"] else " *"),
        *("-" if summary[c.key] is None else c.cell(summary) for c in columns),
        duration_text(summary["duration_s"]),
        "best" if summary["is_best"] else "",
    ]


def show_tables(summaries: Sequence[dict[str, Any]]) -> None:
    """Print rows of :func:`featstore.report.summaries.summarize`, a table for each dataset."""
    from featstore.runs.ranking import by_group
    from featstore.runs.scoring import find_scoring

    def about(line: dict[str, Any]) -> str:
        return find_scoring(line["task"]).rows_text(line)

    for title, group in by_group(summaries, about):
        columns = find_scoring(group[0]["task"]).terminal_columns(group)
        numbers = [*(column.heading for column in columns), "time"]
        n_kept = None if len(group) > 1 else -1
        cells = [_cells(summary, columns)[:n_kept] for summary in group]
        headings = ["model", "layers", "clf", *numbers, ""][:n_kept]
        tables.table(headings, cells, title, right=numbers)
        _say_leaks(group)
        if n := max(s["n_cut_groups"] for s in group):
            console.echo(f"{cut_groups(n)} --split-seed 1 draws a split that cuts none.")
    if not all(s["converged"] for s in summaries):
        console.echo("* stopped before it had converged")


def cut_groups(n: int) -> str:
    """Return a sentence on groups that a split cuts."""
    groups = "1 group has" if n == 1 else f"{n:,} groups have"
    return f"{groups} images to train on and to test with, which makes the test too easy."


def _say_leaks(group: Sequence[dict[str, Any]]) -> None:
    n_leaked = max(s["n_leaked"] for s in group)
    n_dropped = max(s["n_dropped"] for s in group)
    if n_dropped:
        console.echo(f"{n_dropped:,} test images that are also training images were left out.")
    elif n_leaked:
        console.echo(
            f"{n_leaked:,} of the test images are also among the training images; --drop-leaks "
            "leaves them out."
        )


def _say_search(runs: Sequence[Run]) -> None:
    """Say which classifiers a search would likely improve, and the command that searches."""
    from featstore.fitting.search import UNSURE_FEATURES, would_pay

    if names := list(dict.fromkeys(run.clf for run in runs if would_pay(run.record))):
        console.echo(
            f"Of {UNSURE_FEATURES[0]} to {UNSURE_FEATURES[-1]} features, other parameters of "
            f"{', '.join(names)} are likely better. "
            f"To search for them: {command_line()} --search grid"
        )


def show(fits: Sequence[Fit], store: str) -> None:
    """Print what fits gave, and what to type next."""
    from featstore.report.summaries import best_fits, summarize

    runs = [one.run for one in fits if one.run]
    show_tables(summarize(runs))
    notes: dict[str, list[str]] = {}
    for run in runs:
        for note in run.record.notes:
            notes.setdefault(note, []).append(run.run_id)
    for note, ids in list(notes.items())[:MAX_NOTES]:
        more = f" and {len(ids) - 1} more" if len(ids) > 1 else ""
        console.echo(f"{ids[0]}{more}: {note}")
    if len(notes) > MAX_NOTES:
        console.echo(f"{len(notes) - MAX_NOTES} more notes are in the runs' metrics.json.")
    for run in runs if len(runs) <= MAX_CHOICES else []:
        if search := run.record.search:
            chosen = ", ".join(f"{k}={v}" for k, v in search.best.items())
            by = f"{search.cv}-fold cross-validation"
            if search.kind == "validation":
                by = "the validation images, or a tenth of the training images"
            console.echo(f"{run.run_id}: {chosen} of {len(search.candidates)} settings, by {by}")
    _say_search(runs)
    option = store_option(store)
    bests = best_fits(runs)
    for best in bests:
        which = f" on {best.title}" if len(bests) > 1 else ""
        console.echo(f"The best run{which} is {console.shown(best.run.path)}")
        if best.text:
            console.echo(best.text)
    what = "FEATURES_FILE" if best.run.selection.is_imported else "IMAGE_OR_FOLDER"
    console.echo(f"Next: featstore predict {best.run.run_id} {what}{option}")
    console.echo(f"      featstore runs show {best.run.run_id}{option}")
    console.echo(f"      featstore report{option}")
