"""``featstore fit``: stored features -> trained and judged classifiers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from . import console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from featstore.fitting import Fit


@click.command()
@click.option(
    "--clf",
    multiple=True,
    default=("logreg",),
    metavar="NAME[,NAME...]",
    help="Classifier: logreg, linear-svm, svm, mlp, sgd, ridge or knn. May be repeated, or "
    "several with commas.  [default: logreg]",
)
@click.option("--dataset", metavar="NAME", help="Dataset, or the folder that was extracted.")
@click.option(
    "--model",
    multiple=True,
    metavar="NAME[,NAME...]",
    help="Network whose features to use; a comma puts several side by side. May be repeated.",
)
@click.option(
    "--layers",
    multiple=True,
    metavar="NAME[,NAME...]",
    help="Layer to use; a comma puts several side by side. May be repeated.",
)
@click.option("--weights", metavar="NAME", help="Weights, where a network has several.")
@click.option("--bands", metavar="NAME", help="rgb or gray, where both were extracted.")
@click.option("--image-size", type=int, metavar="PX", help="Where several were extracted.")
@click.option("--precision", metavar="NAME", help="Where several were extracted.")
@click.option("--dtype", metavar="NAME", help="Where several were extracted.")
@click.option("--set", "set_id", metavar="SET", help="Feature set; see `featstore store ls`.")
@click.option(
    "--param",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="A parameter of the classifier, by scikit-learn's name; clf:NAME=VALUE for one of "
    "several classifiers. May be repeated.",
)
@console.seed_option
@click.option(
    "--n-jobs",
    type=click.IntRange(min=1),
    metavar="N",
    help="Fits at a time.  [default: the number of cores]",
)
@click.option("--refit", is_flag=True, help="Fit again what was fitted before.")
@click.option("--force", is_flag=True, help="Begin fits that can't be expected to end.")
@console.store_option
@console.json_option
def command(
    clf: tuple[str, ...],
    dataset: str | None,
    model: tuple[str, ...],
    layers: tuple[str, ...],
    weights: str | None,
    bands: str | None,
    image_size: int | None,
    precision: str | None,
    dtype: str | None,
    set_id: str | None,
    params: tuple[str, ...],
    seed: int,
    n_jobs: int | None,
    refit: bool,
    force: bool,
    store: str,
    as_json: bool,
) -> None:
    """Train and evaluate classifiers on stored features.

    Several --clf, --model and --layers are all combined, and run side by side. What was fitted
    before, with nothing changed, is answered from its run.

    \b
    featstore fit --clf logreg --clf linear-svm
    featstore fit --clf mlp --param hidden_layer_sizes=(512,128) --layers conv1,fc1000
    """  # noqa: D301 - click wants the character itself
    from featstore.classifiers import parse_param
    from featstore.fitting import fit_each, raise_failures

    with console.progress() as progress:
        fits = fit_each(
            store,
            [name.strip() for value in clf for name in value.split(",")],
            dataset=dataset,
            model=model,
            layers=layers,
            params=dict(map(parse_param, params)),
            seed=seed,
            n_jobs=n_jobs,
            refit=refit,
            force=force,
            progress=progress,
            weights=weights,
            bands=bands,
            image_size=image_size,
            precision=precision,
            dtype=dtype,
            set_id=set_id,
        )
    runs = [one.run for one in fits if one.run]
    if as_json:
        reused = {one.run.run_id: one.reused for one in fits if one.run}
        failures = [{"fit": one.name, "error": str(one.error)} for one in fits if one.error]
        summaries = [run.summary() | {"reused": reused[run.run_id]} for run in runs]
        console.emit_json({"runs": summaries, "failures": failures})
    elif runs:
        show(fits, store)
    raise_failures(fits)


COLUMNS = ("model", "layers", "clf", "accuracy", "average", "kappa", "train", "time")


def _cells(summary: dict[str, Any]) -> list[str]:
    kappa = summary["kappa"]
    return [
        summary["model"],
        ",".join(summary["layers"]),
        summary["clf"] + ("" if summary["converged"] else " *"),
        f"{100 * summary['accuracy']:.1f}",
        f"{100 * summary['average_accuracy']:.1f}",
        "-" if kappa is None else f"{kappa:.3f}",
        f"{100 * summary['train_accuracy']:.1f}",
        console.duration_text(summary["duration_s"]),
    ]


def show_tables(summaries: Sequence[dict[str, Any]]) -> None:
    """Print runs as one table for each dataset."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for summary in summaries:
        title = (
            f"{summary['title']}: {summary['n_train']:,} rows to train, {summary['n_test']:,} to "
            f"test; accuracies in % (majority class: {100 * summary['majority_accuracy']:.1f})"
        )
        groups.setdefault(title, []).append(summary)
    for title, group in groups.items():
        console.table(COLUMNS, [_cells(s) for s in group], title, right=COLUMNS[3:])
    if not all(s["converged"] for s in summaries):
        click.echo("* stopped before it had converged")


def show(fits: Sequence[Fit], store: str) -> None:
    """Print what fits gave, and what to type next."""
    runs = [one.run for one in fits if one.run]
    show_tables([run.summary() for run in runs])
    for run in runs:
        for note in run.record["notes"]:
            click.echo(f"{run.run_id}: {note}")
    option = console.store_hint(store)
    best = max(runs, key=lambda run: run.metrics["test"]["accuracy"])
    click.echo(f"The best run is {best.path}")
    click.echo(f"Next: featstore predict {best.run_id} IMAGE_OR_FOLDER{option}")
    click.echo(f"      featstore report{option}")
