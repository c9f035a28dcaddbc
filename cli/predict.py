"""``featstore predict``: label new images."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from . import completion, console, tables


@click.command()
@console.run_argument
@click.argument(
    "images",
    metavar="IMAGE_OR_FOLDER...",
    nargs=-1,
    required=True,
    shell_complete=completion.files,
)
@console.store_option
@console.device_option
@console.trust_option
@click.option("--csv", "as_csv", is_flag=True, help="Print the table as CSV.")
@console.json_option
def command(
    run: str,
    images: tuple[str, ...],
    store: str,
    device: str,
    trusted: tuple[str, ...],
    as_csv: bool,
    as_json: bool,
) -> None:
    """Label new images with the model of RUN.

    RUN is the id of a run, part of its id, a tag, last, best, best:DATASET or a run's folder. The
    images take the model's own preprocessing, backbone and layers. Folders are searched for
    images. If an image can't be read, the others are still labelled, and the exit code is 1. Of a
    run on imported features, give files of features instead of images.

    \b
    featstore predict feature-store/runs/my-run new-images/
    """  # noqa: D301 - click wants the character itself
    from featstore.store.feature_store import open_store

    with console.progress() as progress:
        opened = open_store(store, progress)
        chosen = console.open_run(run, opened)
        from featstore.datasets.formats.image_list import find_images
        from featstore.datasets.image_files import LeftOut
        from featstore.inference.predict import predict, write_csv

        paths, left_out = list(map(Path, images)), LeftOut()
        if not chosen.selection.is_imported:
            paths, left_out = find_images(images)
        found = predict(
            chosen, paths, store=opened, device=device, trusted=trusted, progress=progress
        )
    kind = found[0].score_kind
    if as_json:
        predictions = [asdict(p) for p in found]
        console.emit_json(
            {"run": chosen.run_id, "predictions": predictions, "left_out": left_out.to_dict()}
        )
    elif as_csv:
        console.emit_csv(lambda stream: write_csv(found, stream))
    else:
        rows = [
            [p.path, p.label or "-", "-" if p.score is None else f"{p.score:.3f}"] for p in found
        ]
        tables.table(["image", "class", kind], rows, right=[kind])
    for line in left_out.lines():
        console.say(line)
    errors = [p for p in found if p.error is not None]
    for prediction in errors:
        console.say(f"Error: {prediction.error}")
    if errors:
        sys.exit(1)
