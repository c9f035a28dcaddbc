"""``featstore curve``: the score by the number of training rows."""

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
    "--shots",
    metavar="K,K,...",
    callback=selecting.parsed_by(parse_integers),
    help="Numbers of training images of each class, in place of --sizes, such as 1,5,10,20.",
)
@click.option(
    "--episodes",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    metavar="N",
    help="Random choices of the images of each of --shots.",
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
@click.pass_context
def command(
    ctx: click.Context,
    /,
    params: tuple[str, ...],
    sizes: list[int] | None,
    shots: list[int] | None,
    episodes: int,
    repeats: int,
    out: str,
    store: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Show how accuracy (mAP, R²) grows with the number of training images.

    Each size is trained on several random choices of the training rows, with each class's share,
    and tested on all test rows. With --shots, each class has that number of training images.

    \b
    featstore curve --clf logreg --layers fc1000
    featstore curve --clf lda --sizes 100,200,400 --repeats 10
    featstore curve --clf logreg --shots 1,5,10,20 --episodes 5
    """  # noqa: D301 - click wants the character itself
    wrong = console.given(ctx, ("sizes", "repeats") if shots else ("episodes",))
    for option in wrong.values():
        raise click.UsageError(
            f"{option} is {'not ' if shots else ''}for --shots. Leave out one or the other."
        )
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
            shots=shots or (),
            repeats=episodes if shots else repeats,
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
    from featstore.runs.scoring import find_scoring

    for title in dict.fromkeys(curve.title for curve in curves):
        own = [curve for curve in curves if curve.title == title]
        scoring = find_scoring(own[0].task)
        by_shots = own[0].points[0].n_shots is not None
        numbers = ("shots",) if by_shots else ()
        columns = ("model", "layers", "clf", *numbers, "rows", scoring.name, "train")
        rows = [
            [
                curve.model,
                ",".join(curve.layers),
                curve.clf,
                *([f"{point.n_shots:,}"] if by_shots else []),
                f"{point.n_train:,}",
                scoring.text(point.mean)
                + (f" ± {scoring.text(point.deviation)}" if point.deviation is not None else ""),
                scoring.text(point.train_mean),
            ]
            for curve in own
            for point in curve.points
        ]
        split = f", {own[0].split}" if own[0].split else ""
        heading = f"{title}: {scoring.plural} on {own[0].n_test:,} test rows{split}"
        tables.table(columns, rows, heading, right=columns[3:])
