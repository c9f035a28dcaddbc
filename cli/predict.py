"""``featstore predict``: the labels of new images."""

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
@click.option(
    "--threshold",
    type=float,
    metavar="X",
    help="Score above which an image has a class, of a RUN with several classes.  [default: 0.5 of "
    "probabilities, 0 of decision values]",
)
@console.trust_option
@click.option("--csv", "as_csv", is_flag=True, help="Print the table as CSV.")
@console.json_option
def command(
    run: str,
    images: tuple[str, ...],
    store: str,
    device: str,
    threshold: float | None,
    trusted: tuple[str, ...],
    as_csv: bool,
    as_json: bool,
) -> None:
    """Predict the class, the classes or the number of new images with the model of RUN.

    RUN is the id of a run, part of its id, a tag, last, best, best:DATASET or a run's folder. The
    images take the model's own preprocessing, backbone and layers. Folders are searched for
    images. If an image can't be read, the others are still labelled, and the exit code is 1. Of a
    run on imported features, give files of features instead of images.

    \b
    featstore predict feature-store/runs/my-run new-images/
    """  # noqa: D301 - click wants the character itself
    with console.progress() as progress:
        opened = console.open_store(store, progress, [run])
        chosen = console.open_run(run, opened)
        from featstore.datasets.formats.image_list import find_images
        from featstore.datasets.image_files import LeftOut
        from featstore.inference.predict import predict
        from featstore.inference.predictions import LabelsPrediction, Prediction, write_csv

        paths, left_out = list(map(Path, images)), LeftOut()
        if not chosen.selection.is_imported:
            paths, left_out = find_images(images)
        found = predict(
            chosen,
            paths,
            store=opened,
            device=device,
            threshold=threshold,
            trusted=trusted,
            progress=progress,
        )
    if as_json:
        predictions = [asdict(p) for p in found]
        console.emit_json(
            {
                "run": chosen.run_id,
                "calibration": chosen.calibration_text or None,
                "predictions": predictions,
                "left_out": left_out.to_dict(),
            }
        )
    elif as_csv:
        console.emit_csv(lambda stream: write_csv(found, stream))
    else:
        first = found[0]
        columns = [chosen.record.target_name]
        if isinstance(first, Prediction):
            columns = ["class", first.score_kind]
        elif isinstance(first, LabelsPrediction):
            columns = [f"classes, {first.score_kind} above {first.threshold:g}"]
        right = [] if isinstance(first, LabelsPrediction) else columns[-1:]
        tables.table(["image", *columns], [[p.path, *p.cells] for p in found], right=right)
    if chosen.calibration_text:
        console.say(f"The probabilities are {chosen.calibration_text}.")
    for line in left_out.lines():
        console.say(line)
    errors = [p for p in found if p.error is not None]
    for prediction in errors:
        console.say(f"Error: {prediction.error}")
    if errors:
        sys.exit(1)
