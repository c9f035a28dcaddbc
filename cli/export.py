"""``featstore export``: a run's model as one file for other programs."""

from __future__ import annotations

import click

from featstore.config import EXPORT_TARGETS
from featstore.text import nbytes_text

from . import completion, console


@click.command()
@console.run_argument
@click.argument("file", metavar="FILE.onnx", shell_complete=completion.files)
@click.option(
    "--for",
    "target",
    type=click.Choice(EXPORT_TARGETS),
    default=EXPORT_TARGETS[0],
    show_default=True,
    help="The program that reads the file: onnxruntime takes images of any size; deepness, a "
    "plugin of QGIS, takes tiles of one size and shows a map.",
)
@click.option(
    "--tile-size",
    type=click.IntRange(min=8),
    metavar="PX",
    help="Side of Deepness' tiles, in pixels.  [default: that of RUN's images]",
)
@click.option(
    "--resolution",
    type=click.FloatRange(min=0, min_open=True),
    metavar="CM",
    help="Side of a pixel on the ground, in centimetres, for Deepness.  [default: that of RUN's "
    "scenes]",
)
@console.store_option
@console.json_option
def command(
    run: str,
    file: str,
    target: str,
    tile_size: int | None,
    resolution: float | None,
    store: str,
    as_json: bool,
) -> None:
    """Write the model of RUN as an ONNX file: images in, classes and probabilities out.

    RUN is the id of a run, part of its id, a tag, last, best, best:DATASET or a run's folder. The
    file holds the resizing, the networks and the classifier, and works without featstore and
    PyTorch. It is compared with featstore on the run's images before it is put in place.

    \b
    featstore export best model.onnx
    """  # noqa: D301 - click wants the character itself
    if target != "deepness" and (tile_size or resolution):
        raise click.UsageError("--tile-size and --resolution are for --for deepness.")
    with console.progress() as progress:
        opened = console.open_store(store, progress, [run])
        chosen = console.open_run(run, opened)
        from featstore.deploy import require_onnx

        require_onnx()
        from featstore.deploy.export import export_run

        found = export_run(
            chosen,
            file,
            store=opened,
            target=target,
            tile_size=tile_size,
            resolution_cm=resolution,
            progress=progress,
        )
    if as_json:
        console.emit_json(
            {
                "run": chosen.run_id,
                "path": str(found.path),
                "nbytes": found.nbytes,
                "n_checked": found.n_checked,
                "difference": found.difference,
                "metadata": dict(found.metadata),
            }
        )
    else:
        size = nbytes_text(found.nbytes)
        console.echo(f"{console.shown(found.path)}: the model of {chosen.run_id}, {size}")
        console.echo(f"Checked: {found.check_text}.")
    for note in found.notes:
        console.say(note)
