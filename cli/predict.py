"""``featstore predict``: new images -> labels."""

from __future__ import annotations

import csv
import sys
from dataclasses import asdict

import click

from . import console


@click.command()
@click.argument("run")
@click.argument("images", metavar="IMAGE_OR_FOLDER...", nargs=-1, required=True)
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
    """Label new images with the model of RUN, a run's folder or name.

    The images take the model's own preprocessing, backbone and layers. Folders are searched for
    images. If an image can't be read, the others are still labelled, and the exit code is 1.

    \b
    featstore predict feature-store/runs/my-run new-images/
    """  # noqa: D301 - click wants the character itself
    from featstore.datasets.formats.image_list import find_images
    from featstore.inference.predict import predict

    paths, left_out = find_images(images)
    with console.progress() as progress:
        found = predict(run, paths, store=store, device=device, trusted=trusted, progress=progress)
    kind = found[0].score_kind
    if as_json:
        predictions = [asdict(p) for p in found]
        console.emit_json({"run": run, "predictions": predictions, "left_out": left_out.to_dict()})
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["path", "class", "score", "score_kind", "error"])
        writer.writerows(
            [
                p.path,
                p.label or "",
                "" if p.score is None else f"{p.score:.6g}",
                p.score_kind,
                p.error or "",
            ]
            for p in found
        )
    else:
        rows = [
            [p.path, p.label or "-", "-" if p.score is None else f"{p.score:.3f}"] for p in found
        ]
        console.table(["image", "class", kind], rows, right=[kind])
    for line in left_out.lines():
        console.say(line)
    errors = [p for p in found if p.error is not None]
    for prediction in errors:
        console.say(f"Error: {prediction.error}")
    if errors:
        sys.exit(1)
