"""``featstore demo``: everything once, on generated images."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from featstore.environment import store_option

from . import console


@click.command()
@console.root_option
@console.store_option
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    default="report.html",
    show_default=True,
    metavar="FILE",
    help="The page to write.",
)
@click.option("--limit", type=int, metavar="N", help="Use N of the images.")
@console.seed_option
@console.json_option
def command(
    root: str | None, store: str, report: Path, limit: int | None, seed: int, as_json: bool
) -> None:
    """Run a small study of generated images: extract, fit, report.

    The images look like SAT-4's: four kinds of land cover in four bands, written to a file of
    SAT-4's own format and read back. The network is MobileNetV2, with its ImageNet weights from
    torchvision, or else from a package that carries them.
    """
    from featstore.demo import run_demo
    from featstore.store.feature_store import open_store

    with console.progress() as progress:
        opened = open_store(store, progress)
        demo = run_demo(
            opened,
            root,
            report=report,
            limit=limit,
            seed=seed,
            progress=progress,
        )
    if as_json:
        result = demo.outcome.report | {"failures": demo.outcome.failures}
        console.emit_json({"weights": demo.weights} | result)
    else:
        from . import reproduce

        console.echo(f"Weights: {demo.weights}.\n")
        reproduce.show(demo.outcome, demo.report, opened)
        options = store_option(store)
        console.echo(
            "\nNow your own images, one folder a class (fit prints the RUN's name):\n"
            "  featstore extract --model mobilenet_v2 --dataset folder --root MY_IMAGES"
            f"{options}\n"
            f"  featstore fit --clf logreg --dataset MY_IMAGES{options}\n"
            f"  featstore predict RUN NEW_IMAGES{options}\n"
            f"  featstore report{options}\n"
            "or the whole comparison at once:\n"
            "  featstore reproduce --models mobilenet_v2 --dataset folder --root MY_IMAGES"
            f"{options}"
        )
    if demo.outcome.failures:
        sys.exit(1)
