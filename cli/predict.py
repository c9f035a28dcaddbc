"""``featstore predict``: the labels of new images."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import completion, console, tables

if TYPE_CHECKING:
    from featstore.inference.predictions import AnyPrediction


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
@click.option(
    "--familiarity/--no-familiarity",
    default=True,
    show_default=True,
    help="Compare the images with the training images: which share of these are at least as far "
    "from their nearest neighbor. It reads the stored features.",
)
@click.option(
    "--reject",
    type=click.FloatRange(0, 1),
    default=0.0,
    metavar="SHARE",
    help="Give no label to images whose familiarity is below SHARE, such as 0.05.",
)
@console.trust_option
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the table to a file, .csv or .parquet, and print no table.",
)
@click.option("--csv", "as_csv", is_flag=True, help="Print the table as CSV.")
@console.json_option
def command(
    run: str,
    images: tuple[str, ...],
    store: str,
    device: str,
    threshold: float | None,
    familiarity: bool,
    reject: float,
    trusted: tuple[str, ...],
    output: Path | None,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Predict the class, the classes or the number of new images with the model of RUN.

    RUN is the id of a run, part of its id, a tag, last, best, best:DATASET or a run's folder. The
    images take the model's own preprocessing, backbone and layers. Folders are searched for
    images; - stands for paths on stdin, one a line. If an image can't be read, the others are still
    labelled, and the exit code is 1. Of a run on imported features, give files of features instead
    of images.

    \b
    featstore predict feature-store/runs/my-run new-images/
    find new-images -newer last | featstore predict best - --output found.parquet
    """  # noqa: D301 - click wants the character itself
    with console.progress() as progress:
        opened = console.open_store(store, progress, [run])
        chosen = console.open_run(run, opened)
        from featstore.datasets.formats.image_list import find_images
        from featstore.datasets.image_files import LeftOut
        from featstore.inference.predict import predict
        from featstore.inference.predictions import check_table, write_csv, write_table

        if output is not None:
            check_table(output)
        images = _with_stdin(images)
        paths, left_out = list(map(Path, images)), LeftOut()
        if not chosen.selection.is_imported:
            paths, left_out = find_images(images)
        found = predict(
            chosen,
            paths,
            store=opened,
            device=device,
            threshold=threshold,
            familiarity=familiarity,
            reject=reject,
            trusted=trusted,
            progress=progress,
        )
    if output is not None:
        write_table(found, output)
        console.say(f"{len(found):,} predictions in {console.shown(output)}")
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
    elif output is None:
        _print_table(found, chosen.record.target_name)
    if chosen.calibration_text:
        console.say(f"The probabilities are {chosen.calibration_text}.")
    for line in [*_familiarity_lines(found, reject), *left_out.lines()]:
        console.say(line)
    errors = [p for p in found if p.error is not None]
    for prediction in errors:
        console.say(f"Error: {prediction.error}")
    if errors:
        sys.exit(1)


def _with_stdin(images: tuple[str, ...]) -> tuple[str, ...]:
    """Return the images with the paths on stdin in place of ``-``; NUL bytes may part them."""
    if "-" not in images:
        return images
    content = sys.stdin.buffer.read()
    parts = content.split(b"\0") if b"\0" in content else content.splitlines()
    paths = [os.fsdecode(part) for part in parts if part.strip()]
    if not paths:
        raise click.UsageError("- stands for paths on stdin, one a line, and there are none.")
    if not (paths[0].isprintable() or os.path.exists(paths[0])):
        raise click.UsageError(
            "- stands for paths on stdin, one a line, and stdin holds other bytes. Give the image "
            "itself as a path, such as /dev/stdin."
        )
    at = images.index("-")
    return (*images[:at], *paths, *images[at + 1 :])


def _print_table(found: Sequence[AnyPrediction], target_name: str) -> None:
    """Print predictions; `target_name` heads the column of numbers."""
    from featstore.inference.predictions import LabelsPrediction, Prediction

    first, columns = found[0], [target_name]
    if isinstance(first, Prediction):
        columns = ["class", first.score_kind]
    elif isinstance(first, LabelsPrediction):
        columns = [f"classes, {first.score_kind} above {first.threshold:g}"]
    right = [] if isinstance(first, LabelsPrediction) else columns[-1:]
    rows = [[p.path, *p.cells] for p in found]
    if any(p.familiarity is not None for p in found):
        columns, right = [*columns, "familiarity"], [*right, "familiarity"]
        rows = [[*row, _share(p.familiarity)] for row, p in zip(rows, found, strict=True)]
    tables.table(["image", *columns], rows, right=right)


def _share(familiarity: float | None) -> str:
    from featstore.inference.familiarity import UNFAMILIAR

    if familiarity is None:
        return "-"
    mark = " (unlike)" if familiarity < UNFAMILIAR else ""
    # Rounded down, what is below a limit stays below it.
    return f"{int(100 * familiarity)} %{mark}"


def _familiarity_lines(found: Sequence[AnyPrediction], reject: float) -> Iterator[str]:
    """Yield what is to be said of images that are unlike the training images."""
    from featstore.inference.familiarity import UNFAMILIAR

    shares = [p.familiarity for p in found if p.familiarity is not None]
    if reject:
        n = sum(share < reject for share in shares)
        yield (
            f"{n:,} of {len(shares):,} images have no label, as their familiarity is below "
            f"{100 * reject:g} %."
        )
    elif n := sum(share < UNFAMILIAR for share in shares):
        are = "image is" if n == 1 else "images are"
        yield (
            f"{n:,} {are} unlike all training images (familiarity below {100 * UNFAMILIAR:g} %), "
            f"where labels may mean nothing. --reject {UNFAMILIAR:g} gives none."
        )
