"""Models without a network: images in memory to features, on all cores.

    python benchmarks/bench_statistics.py [--n-images 20000] [--repeats 5]

Images are of SAT's size and bands. pixelstats and deepsat compute the same way, a batch in each
core's thread; reading files and writing the store are left out. `images/CPU s` divides by the
time that the cores worked, so that it stays the same on a busy machine.
"""

from __future__ import annotations

import time
from collections import deque
from functools import partial

import click
import numpy as np
from results import save, table
from turns import Turn, summary, take_turns

from featstore.datasets.loader import Batch
from featstore.datasets.source import RGB_NIR
from featstore.models.deepsat import HandExtractor
from featstore.models.pixelstats import BATCH_SIZE, PixelExtractor

SHAPE = (28, 28, 4)
EXTRACTORS = (PixelExtractor, HandExtractor)


def run(kind: type[PixelExtractor], images: np.ndarray) -> Turn:
    """Compute the features of all images, with as many batches begun as in an extraction."""
    extractor = kind(None, RGB_NIR)
    began, began_cpu = time.perf_counter(), time.process_time()
    waiting: deque = deque()
    for start in range(0, len(images), BATCH_SIZE):
        own = images[start : start + BATCH_SIZE]
        batch = Batch(start, start + len(own), [(np.arange(len(own)), own)], {})
        waiting.append(extractor.begin(batch))
        if len(waiting) >= extractor.n_in_flight:
            waiting.popleft()()
    for finish in waiting:
        finish()
    duration_s, cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
    return {
        "features": len(kind.statistics.names(RGB_NIR)),
        "images/s": len(images) / duration_s,
        "images/CPU s": len(images) / cpu_s,
    }


@click.command()
@click.option("--n-images", default=20_000, show_default=True)
@click.option("--repeats", default=5, show_default=True)
def main(n_images: int, repeats: int) -> None:
    """Compare the models without a network."""
    images = np.random.default_rng(0).integers(0, 256, (n_images, *SHAPE), dtype=np.uint8)
    contenders = {kind.statistics.model: partial(run, kind, images) for kind in EXTRACTORS}
    turns = take_turns(contenders, repeats, "pixelstats")
    rows = summary(turns, ("features", "images/s", "images/CPU s", "of pixelstats"))
    title = f"{n_images:,} images of 28 x 28 pixels and 4 bands"
    table(rows, f"{title}; medians of {repeats} rounds")
    save("statistics", rows, turns, title=title, device=PixelExtractor(None, RGB_NIR).device_name)


if __name__ == "__main__":
    main()
