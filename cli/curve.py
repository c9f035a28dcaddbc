"""``featstore curve``: accuracy by the number of training rows."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

import click

from . import console, selecting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from featstore.fitting.learning_curve import LearningCurve


@click.command()
@selecting.clf_option(multiple=False)
@selecting.selecting_options
@click.option(
    "--sizes",
    metavar="N,N,...",
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
    sizes: str | None,
    out: str,
    store: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Show how accuracy grows with the number of training images.

    Each size is trained on several random choices of the training rows, with each class's share,
    and judged on all test rows.

    \b
    featstore curve --clf logreg --layers fc1000
    featstore curve --clf lda --sizes 100,200,400 --repeats 10
    """  # noqa: D301 - click wants the character itself
    from featstore.fitting.classifiers import parse_param
    from featstore.fitting.learning_curve import learning_curve, write_figure
    from featstore.plotting import check_png

    check_png(out, "--out")
    with console.progress() as progress:
        curves = learning_curve(
            store,
            params=dict(map(parse_param, params)),
            sizes=_numbers(sizes),
            progress=progress,
            **options,
        )
    # First, for it takes long to get them, and a disk may be full.
    if as_json:
        console.emit_json({"figure": out, "curves": [curve.to_dict() for curve in curves]})
    else:
        show(curves)
    write_figure(curves, out)
    if not as_json:
        click.echo(f"The figure: {out}")


def _numbers(text: str | None) -> list[int]:
    if text is None:
        return []
    try:
        return [int(word.strip().replace("_", "")) for word in text.split(",")]
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is no list of whole numbers, as 100,200,400.", param_hint="--sizes"
        ) from None


def show(curves: Sequence[LearningCurve]) -> None:
    """Print the curves as one table for each dataset."""
    columns = ("model", "layers", "clf", "rows", "accuracy", "train")
    for title in dict.fromkeys(curve.title for curve in curves):
        own = [curve for curve in curves if curve.title == title]
        rows = []
        for curve in own:
            for point in curve.points:
                mean = statistics.fmean(point.accuracies)
                spread = (
                    f" ± {100 * statistics.stdev(point.accuracies):.1f}"
                    if len(point.accuracies) > 1
                    else ""
                )
                rows.append(
                    [
                        curve.model,
                        ",".join(curve.layers),
                        curve.clf,
                        f"{point.n_train:,}",
                        f"{100 * mean:.1f}{spread}",
                        f"{100 * statistics.fmean(point.train_accuracies):.1f}",
                    ]
                )
        heading = f"{title}: accuracies in % on {own[0].n_test:,} test rows"
        console.table(columns, rows, heading, right=columns[3:])
