"""``featstore curve``: accuracy by the number of training rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from featstore.text import parse_integers

from . import console, selecting, tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from featstore.fitting.learning_curve import LearningCurve


@click.command()
@selecting.clf_option(multiple=False)
@selecting.selecting_options
@click.option(
    "--sizes",
    metavar="N,N,...",
    callback=selecting.parsed_by(parse_integers),
    help="Numbers of training rows.  [default: eight, up to all of them]",
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    metavar="N",
    help="Random choices of the rows of each size.",
)
@click.option(
    "--out",
    default="learning-curve.png",
    show_default=True,
    metavar="FILE",
    help="The figure, a PNG file.",
)
@console.seed_option
@console.store_option
@console.json_option
def command(
    params: tuple[str, ...],
    sizes: list[int] | None,
    out: str,
    store: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Show how accuracy grows with the number of training images.

    Each size is trained on several random choices of the training rows, with each class's share,
    and tested on all test rows.

    \b
    featstore curve --clf logreg --layers fc1000
    featstore curve --clf lda --sizes 100,200,400 --repeats 10
    """  # noqa: D301 - click wants the character itself
    with console.progress() as progress:
        opened = selecting.check_names(store, options, progress)
        from featstore.fitting.curve_chart import write_figure
        from featstore.fitting.learning_curve import learning_curve
        from featstore.fitting.parameters import parse_param
        from featstore.plotting import check_png

        check_png(out, "--out")
        curves = learning_curve(
            opened,
            params=dict(map(parse_param, params)),
            sizes=sizes or (),
            progress=progress,
            **options,
        )
    # Before the figure: the numbers take long to get, and the disk may be full.
    if as_json:
        console.emit_json({"figure": out, "curves": [curve.to_dict() for curve in curves]})
    else:
        show(curves)
    write_figure(curves, out)
    if not as_json:
        console.echo(f"The figure: {out}")


def show(curves: Sequence[LearningCurve]) -> None:
    """Print the curves as one table for each dataset."""
    columns = ("model", "layers", "clf", "rows", "accuracy", "train")
    for title in dict.fromkeys(curve.title for curve in curves):
        own = [curve for curve in curves if curve.title == title]
        rows = [
            [
                curve.model,
                ",".join(curve.layers),
                curve.clf,
                f"{point.n_train:,}",
                f"{100 * point.mean:.1f}"
                + (f" ± {100 * point.deviation:.1f}" if point.deviation is not None else ""),
                f"{100 * point.train_mean:.1f}",
            ]
            for curve in own
            for point in curve.points
        ]
        split = f", {own[0].split}" if own[0].split else ""
        heading = f"{title}: accuracies in % on {own[0].n_test:,} test rows{split}"
        tables.table(columns, rows, heading, right=columns[3:])
