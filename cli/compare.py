"""``featstore compare``: runs on the same test images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from featstore.config import LEVEL

from . import completion, console, tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from featstore.runs.compare import Comparison
    from featstore.runs.run import Run
    from featstore.runs.score_comparison import ScoreComparison


@click.command()
@click.argument("names", metavar="RUN RUN...", nargs=-1, shell_complete=completion.run_names)
@console.store_option
@console.json_option
def command(names: tuple[str, ...], store: str, as_json: bool) -> None:
    """Test whether one run is better than another by more than chance.

    Each RUN is the id of a run, part of its id, a tag, last, best or a run's folder. All must have
    been judged on the same test images; McNemar's test looks at those that only one of two runs
    gets right, and a sign-flip test at groups of images where there are groups. Runs with several
    classes are compared by their mAP, runs that predict a number by R². Of more than two runs, each
    is compared with the first.

    \b
    featstore compare 5f148603 0c9e21d7
    featstore compare best 5f148603 0c9e21d7
    """  # noqa: D301 - click wants the character itself
    if len(names) < 2:
        raise click.UsageError("Missing argument 'RUN': give two runs or more.")
    opened = console.open_store(store, named=names)
    runs = [console.open_run(name, opened) for name in names]
    meant = {run.run_id: name for name, run in zip(names, runs, strict=True)}
    for name, run in zip(names, runs, strict=True):
        if meant[run.run_id] != name:
            console.say(f"{name} and {meant[run.run_id]} are the same run.")
    from featstore.runs.compare import Comparison, compare, compare_all

    if len(runs) > 2:
        found = compare_all(runs[0], runs[1:])
        if as_json:
            compared = [one.to_dict() | {"p_value_holm": p_value} for one, p_value in found]
            console.emit_json({"reference": runs[0].run_id, "comparisons": compared})
        else:
            show_all(runs, found)
        return
    comparison = compare(*runs)
    if as_json:
        console.emit_json(comparison.to_dict())
    elif isinstance(comparison, Comparison):
        show(runs, comparison)
    else:
        show_scores(runs, comparison)


def show_all(
    runs: Sequence[Run], found: Sequence[tuple[Comparison | ScoreComparison, float]]
) -> None:
    """Print each run beside the first, the best first."""
    reference, scoring = runs[0].run_id, runs[0].scoring
    text, signed = (_percent, _points) if scoring.unit else (_number, _difference)
    rows = [(runs[0].score, [reference, text(runs[0].score), *"----"])]
    for run, (one, p_value) in zip(runs[1:], found, strict=True):
        low, high = one.interval
        interval = f"{signed(low)} to {signed(high)}"
        verdict = "yes" if p_value < LEVEL else "no"
        cells = [one.run_a, text(run.score), signed(one.difference), interval]
        rows.append((run.score, [*cells, f"{p_value:.3g}", verdict]))
    rows.sort(key=lambda row: -row[0])
    columns = ["run", scoring.name, "difference", "95 % interval", "p", "significant"]
    units = (" in %", " in points") if scoring.unit else ("", "")
    name = "Accuracy" if scoring.name == "accuracy" else scoring.name
    title = f"{name}{units[0]}, and its difference from {reference}{units[1]}"
    tables.table(columns, [cells for _, cells in rows], title, right=columns[1:])
    for caution in dict.fromkeys(one.caution for one, _ in found if one.caution):
        console.echo(caution)
    # McNemar's test has a name for few images and one for many.
    names = ["McNemar's test" if "McNemar" in one.test else one.test for one, _ in found]
    test = ", ".join(dict.fromkeys(names))
    console.echo(
        f"p: {test} with Holm's correction for {len(found)} comparisons; significant at "
        f"{100 * LEVEL:.0f} %."
    )


def show(runs: Sequence[Run], comparison: Comparison) -> None:
    """Print both runs, the table of right and wrong, the classes that differ, and the outcome."""
    c = comparison
    n_right = [c.n_both_right + n for n in (c.n_only_a_right, c.n_only_b_right)]
    accuracies = [_percent(c.accuracy_a), _percent(c.accuracy_b)]
    tables.table(
        ["", "run", "dataset", "right", "accuracy"],
        [
            [letter, run.run_id, run.selection.title, f"{n:,}", accuracy]
            for letter, run, n, accuracy in zip("AB", runs, n_right, accuracies, strict=True)
        ],
        right=["right", "accuracy"],
    )
    tables.table(
        ["", "B right", "B wrong"],
        [
            ["A right", f"{c.n_both_right:,}", f"{c.n_only_a_right:,}"],
            ["A wrong", f"{c.n_only_b_right:,}", f"{c.n_both_wrong:,}"],
        ],
        right=["B right", "B wrong"],
    )
    if differing := c.most_different():
        rows = [
            [
                one.name,
                f"{one.support:,}",
                _percent(one.recall_a),
                _percent(one.recall_b),
                _points(one.difference),
            ]
            for one in differing
        ]
        columns = ["class", "images", "recall of A", "of B", "A - B"]
        tables.table(columns, rows, right=columns[1:])
    low, high = c.interval
    console.echo(
        f"Accuracy of A less B: {_points(c.difference)} points, 95 % confidence interval "
        f"{_points(low)} to {_points(high)}"
    )
    if c.n_groups:
        console.echo(
            f"Interval and test are of the {c.n_groups:,} groups of test images, since images of "
            "a group are right or wrong together."
        )
    if c.caution:
        console.echo(c.caution)
    console.echo(c.sentence)


def show_scores(runs: Sequence[Run], comparison: ScoreComparison) -> None:
    """Print the scores of both runs, their difference, and the outcome."""
    c, scoring = comparison, runs[0].scoring
    text, signed = (_percent, _points) if scoring.unit else (_number, _difference)
    tables.table(
        ["", "run", "dataset", scoring.name],
        [
            [letter, run.run_id, run.selection.title, text(score)]
            for letter, run, score in zip("AB", runs, (c.score_a, c.score_b), strict=True)
        ],
        right=[scoring.name],
    )
    low, high = c.interval
    console.echo(
        f"{scoring.name} of A less B: {signed(c.difference)}{' points' if scoring.unit else ''}, "
        f"95 % confidence interval {signed(low)} to {signed(high)}"
    )
    if c.caution:
        console.echo(c.caution)
    console.echo(c.sentence)


def _number(value: float) -> str:
    return f"{value:.4f}"


def _difference(value: float) -> str:
    return f"{value:+.4f}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _points(difference: float) -> str:
    return f"{100 * difference:+.2f}"
