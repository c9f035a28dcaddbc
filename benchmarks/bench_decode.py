"""Decoding: image files to RGB bytes, by featstore's loader and by Pillow in one thread.

    python benchmarks/bench_decode.py [--n-images 200] [--repeats 5]

featstore
    :func:`featstore.datasets.loader.batches` as in an extraction with ResNet50: several threads,
    and large JPEGs decoded at the smallest fraction that is large enough for the network.
featstore, in full
    The same with all images at full size, as for pixel statistics.
Pillow
    `Image.open(path).convert("RGB")` to an array, one after the other.

Files are in the page cache, and freed memory is kept, as in an extraction. The loader's results
stay grouped by size, ready for the device.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path

import click
import numpy as np
from inputs import write_images
from PIL import Image
from results import save, table
from turns import Turn, summary, take_turns

from featstore.config import ExtractConfig
from featstore.datasets.base import FileDataset
from featstore.datasets.loader import batches
from featstore.datasets.registry import open_dataset
from featstore.environment import available_cores
from featstore.io.fingerprints import FingerprintCache
from featstore.models.freed_memory import keep_freed_memory
from featstore.models.registry import open_model

MODEL = "resnet50"
BATCH_SIZE = 32
KINDS = {
    "JPEG 256 x 256": (".jpg", 256, 256, 1),
    "PNG 256 x 256": (".png", 256, 256, 1),
    "TIFF 256 x 256": (".tif", 256, 256, 1),
    "TIFF, LZW, 256 x 256": (".lzw.tif", 256, 256, 1),
    "JPEG 2000 x 1500": (".jpg", 2000, 1500, 10),
}
"""Ending, width and height of the files, and the divisor of their number."""

COLUMNS = ("images/s", "MB/s", "of Pillow")


def run_loader(dataset: FileDataset, min_size: int | None) -> Turn:
    """Read all images through the loader."""
    starts = range(0, len(dataset), BATCH_SIZE)
    began = time.perf_counter()
    n_read = sum(
        len(images)
        for batch in batches(dataset, starts, BATCH_SIZE, "stop", min_size)
        for _, images in batch.groups
    )
    return {"images/s": n_read / (time.perf_counter() - began)}


def run_pillow(dataset: FileDataset) -> Turn:
    """Read all images in this thread."""
    began = time.perf_counter()
    for path in dataset.paths:
        with Image.open(path) as image:
            np.asarray(image.convert("RGB"))
    return {"images/s": len(dataset) / (time.perf_counter() - began)}


def least_size(root: Path) -> int | None:
    """Return the smallest side, in pixels, at which an extraction decodes an image."""
    config = ExtractConfig(MODEL, "folder", root=str(root), weights="random:0", device="cpu")
    model = open_model(config, open_dataset("folder", root), FingerprintCache(root / ".cache"))
    return model.extractor.min_size


def compare(root: Path, repeats: int) -> list[Turn]:
    """Read a folder's images in turns, and return a row for each turn."""
    dataset = open_dataset("folder", root)
    assert isinstance(dataset, FileDataset)
    nbytes = sum(path.stat().st_size for path in dataset.paths) / len(dataset)
    contenders = {
        "featstore": partial(run_loader, dataset, least_size(root)),
        "featstore, in full": partial(run_loader, dataset, None),
        "Pillow": partial(run_pillow, dataset),
    }
    turns = take_turns(contenders, repeats, "Pillow")
    return [turn | {"MB/s": turn["images/s"] * nbytes / 1e6} for turn in turns]


@click.command()
@click.option("--n-images", default=400, show_default=True, help="Large ones: a tenth of it.")
@click.option("--repeats", default=5, show_default=True)
def main(n_images: int, repeats: int) -> None:
    """Time the loader beside Pillow."""
    keep_freed_memory()
    turns: list[Turn] = []
    rows: list[Turn] = []
    for kind, (suffix, width, height, divisor) in KINDS.items():
        with tempfile.TemporaryDirectory() as root:
            write_images(Path(root), max(2, n_images // divisor), width, height, suffix)
            found = compare(Path(root), repeats)
        turns += [{"files": kind, **turn} for turn in found]
        rows += [{"files": kind, **row} for row in summary(found, COLUMNS)]
    title = f"Decoding on {available_cores()} cores, for {MODEL}"
    table(rows, f"{title}; medians of {repeats} rounds")
    save("decode", rows, turns, title=title, device=f"cpu ({available_cores()} threads)")


if __name__ == "__main__":
    main()
