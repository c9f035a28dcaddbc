"""``featstore reproduce``: the paper's comparison, from images to the report."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from featstore.report import paper

from . import console, tables

if TYPE_CHECKING:
    from featstore.store.feature_store import FeatureStore
    from featstore.study import Outcome


@click.command()
@click.option(
    "--datasets",
    "--dataset",
    "datasets",
    multiple=True,
    default=paper.DATASETS,
    metavar="NAME[,NAME...]",
    help="Datasets of the paper, or folder for your own images.  [default: "
    f"{','.join(paper.DATASETS)}]",
)
@click.option(
    "--models",
    "--model",
    "models",
    multiple=True,
    default=paper.MODELS,
    metavar="NAME[,NAME...]",
    help=f"Networks: {', '.join(paper.study_models())}.  [default: {','.join(paper.MODELS)}]",
)
@click.option(
    "--clf",
    multiple=True,
    default=("logreg",),
    metavar="NAME[,NAME...]",
    help="Classifiers to fit on every layer.  [default: logreg]",
)
@click.option("--quick", is_flag=True, help="Take 1,000 images of each dataset.")
@click.option("--limit", type=int, metavar="N", help="Take N images of each dataset.")
@click.option(
    "--weights",
    default="imagenet",
    show_default=True,
    metavar="SPEC",
    help="As of extract; a file fits one network.",
)
@click.option(
    "--rivals",
    is_flag=True,
    help="Also run methods after DeepSat, SatCNN and triplet networks; it trains networks.",
)
@console.device_option
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default="study",
    show_default=True,
    metavar="DIR",
    help="Folder for report.html, its figures, its tables and report.json.",
)
@console.projection_option
@console.root_option
@console.seed_option
@console.store_option
@console.json_option
def command(
    datasets: tuple[str, ...],
    models: tuple[str, ...],
    clf: tuple[str, ...],
    quick: bool,
    limit: int | None,
    weights: str,
    rivals: bool,
    device: str,
    out: Path,
    projection: str,
    root: str | None,
    seed: int,
    store: str,
    as_json: bool,
) -> None:
    """Run the paper's comparison of networks and layers, and write its report.

    For every network: its first convolution, a deep one, the final layer, and all three side by
    side; the training of a softmax classifier over 250 epochs; and pixel statistics as a baseline.
    The same command resumes an interrupted study. Datasets and weights that this machine lacks are
    named and left out.

    \b
    featstore reproduce --root /data --quick
    featstore reproduce --dataset folder --root my-images --models resnet50
    """  # noqa: D301 - click wants the character itself
    from featstore.store.feature_store import open_store
    from featstore.study import QUICK_IMAGES, Study, reproduce

    if quick and limit is not None:
        raise click.UsageError("--quick is --limit 1000; give one of them.")
    study = Study(
        datasets=_names(datasets),
        models=_names(models),
        clf=_names(clf),
        root=root,
        limit=QUICK_IMAGES if quick else limit,
        seed=seed,
        weights=weights,
        device=device,
        rivals=rivals,
    )
    page = out / "report.html"
    with console.progress() as progress:
        opened = open_store(store, progress)
        outcome = reproduce(
            study,
            opened,
            page,
            files=out,
            projection=projection,
            command=shlex.join(["featstore", *sys.argv[1:]]),
            progress=progress,
        )
    if as_json:
        console.emit_json(outcome.report | {"failures": outcome.failures})
    else:
        show(outcome, page, opened)
        console.echo(f"Its tables and figures: {out}")
    if outcome.failures:
        sys.exit(1)


def _names(values: tuple[str, ...]) -> tuple[str, ...]:
    names = [name.strip() for value in values for name in value.split(",")]
    return tuple(dict.fromkeys(filter(None, names)))


def show(outcome: Outcome, page: Path, store: FeatureStore) -> None:
    """Print a study's tables, and where the rest is."""
    from featstore.report.result_tables import study_tables

    for table in study_tables(outcome.runs, store):
        tables.show_table(table)
        if table.name == "rivals":
            tables.paragraph(table.note)
    for title, best in outcome.report["best"].items():
        console.echo(f"The best run on {title}: {best['name']}. {best['choice']}".rstrip())
    n_runs = len(outcome.runs)
    console.echo(
        f"{n_runs} run{'s' if n_runs > 1 else ''}, {n_runs - outcome.n_reused} of them new; pixel "
        "statistics and everything else are in the report."
    )
    for one in outcome.left_out:
        console.echo(f"Left out: {one}")
    for one in outcome.failures:
        console.echo(f"Failed: {one}")
    console.echo(f"The report: {page.absolute()}")
