"""``featstore compare``: two runs on the same test images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from . import console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from featstore.runs.compare import Comparison
    from featstore.runs.run import Run


@click.command()
@click.argument("run_a", metavar="RUN")
@click.argument("run_b", metavar="RUN")
@console.store_option
@console.json_option
def command(run_a: str, run_b: str, store: str, as_json: bool) -> None:
    """Test whether one of two runs is better than the other by more than chance.

    Each RUN is a run's folder or name. Both must have been judged on the same test images;
    McNemar's test looks at those that only one of them gets right.

    \b
    featstore compare 5f148603 0c9e21d7
    """  # noqa: D301 - click wants the character itself
    from featstore.runs.compare import compare
    from featstore.runs.run import open_run
    from featstore.store.feature_store import open_store

    opened = open_store(store)
    runs = [open_run(run, opened) for run in (run_a, run_b)]
    comparison = compare(*runs)
    if as_json:
        console.emit_json(comparison.to_dict())
    else:
        show(runs, comparison)


def show(runs: Sequence[Run], comparison: Comparison) -> None:
    """Print both runs, the table of right and wrong, the classes that differ, and the outcome."""
    c = comparison
    n_right = [c.n_both_right + n for n in (c.n_only_a_right, c.n_only_b_right)]
    accuracies = [_percent(c.accuracy_a), _percent(c.accuracy_b)]
    console.table(
        ["", "run", "dataset", "right", "accuracy"],
        [
            [letter, run.run_id, run.selection.title, f"{n:,}", accuracy]
            for letter, run, n, accuracy in zip("AB", runs, n_right, accuracies, strict=True)
        ],
        right=["right", "accuracy"],
    )
    console.table(
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
        console.table(columns, rows, right=columns[1:])
    low, high = c.interval
    click.echo(
        f"Accuracy of A less B: {_points(c.difference)} points, 95 % confidence interval "
        f"{_points(low)} to {_points(high)}"
    )
    if c.caution:
        click.echo(c.caution)
    click.echo(c.sentence)


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _points(difference: float) -> str:
    return f"{100 * difference:+.2f}"
