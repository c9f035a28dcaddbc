"""Preprocessing: raw images to the network's square, on the device and by Pillow.

    python benchmarks/bench_preprocess.py [--n-images 512] [--repeats 5] [--device auto]

featstore
    :class:`featstore.models.preprocess.Preprocess`, a batch at a time, on the network's device: it
    gets bytes and resizes them to bytes. Normalisation is the network's first operation.
Pillow, resized
    `Image.resize` to the same square in one thread, to an array of bytes.
PIL transforms
    torchvision's Resize, ToTensor and Normalize, as in a DataLoader's worker, in one thread.
"""

from __future__ import annotations

import time
from functools import partial

import click
import numpy as np
import torch
from bench_extract import prepare
from jobs import synchronize
from PIL import Image
from results import save, table
from turns import Turn, summary, take_turns

from featstore.models.devices import default_batch_size, describe_device, resolve_device
from featstore.models.preprocess import Preprocess
from featstore.models.weights import IMAGENET_MEAN, IMAGENET_STD

IMAGE_SIZE = 224
SHAPES = {"SAT, 28 x 28 x 4": (28, 28, 4), "256 x 256 x 3": (256, 256, 3)}
COLUMNS = ("batch", "images/s", "of PIL transforms")


def run_featstore(images: np.ndarray, where: torch.device) -> Turn:
    """Preprocess all images on the device."""
    preprocess = Preprocess(IMAGE_SIZE, "rgb", IMAGENET_MEAN, IMAGENET_STD)
    batch_size = min(default_batch_size(where, IMAGE_SIZE), len(images))
    positions = np.arange(batch_size)
    n_batches = len(images) // batch_size
    preprocess([(positions, images[:batch_size])], batch_size, where)
    synchronize(where)
    began = time.perf_counter()
    for i in range(n_batches):
        block = images[i * batch_size : (i + 1) * batch_size]
        preprocess([(positions, block)], batch_size, where)
    synchronize(where)
    rate = n_batches * batch_size / (time.perf_counter() - began)
    return {"batch": batch_size, "images/s": rate}


def run_pillow(images: np.ndarray) -> Turn:
    """Resize all images in this thread."""
    size = (IMAGE_SIZE, IMAGE_SIZE)
    began = time.perf_counter()
    for image in images:
        rgb = Image.fromarray(np.ascontiguousarray(image[..., :3]))
        np.asarray(rgb.resize(size, Image.Resampling.BILINEAR))
    return {"batch": 1, "images/s": len(images) / (time.perf_counter() - began)}


def run_transforms(images: np.ndarray) -> Turn:
    """Transform all images in this thread."""
    transform = prepare(IMAGE_SIZE)
    n_threads = torch.get_num_threads()
    # As in a DataLoader's workers; with more threads, small tensors take ten times as long.
    torch.set_num_threads(1)
    try:
        began = time.perf_counter()
        for image in images:
            transform(Image.fromarray(np.ascontiguousarray(image[..., :3])))
        return {"batch": 1, "images/s": len(images) / (time.perf_counter() - began)}
    finally:
        torch.set_num_threads(n_threads)


@click.command()
@click.option("--n-images", default=512, show_default=True)
@click.option("--repeats", default=5, show_default=True)
@click.option("--device", default="auto", show_default=True)
def main(n_images: int, repeats: int, device: str) -> None:
    """Compare preprocessing with Pillow's."""
    where = resolve_device(device)
    rng = np.random.default_rng(0)
    turns: list[Turn] = []
    rows: list[Turn] = []
    for kind, shape in SHAPES.items():
        images = rng.integers(0, 256, (n_images, *shape), dtype=np.uint8)
        contenders = {
            "featstore": partial(run_featstore, images, where),
            "Pillow, resized": partial(run_pillow, images),
            "PIL transforms": partial(run_transforms, images),
        }
        found = take_turns(contenders, repeats, "PIL transforms")
        turns += [{"images": kind, **turn} for turn in found]
        rows += [{"images": kind, **row} for row in summary(found, COLUMNS)]
    title = f"Preprocessing to {IMAGE_SIZE} px"
    table(rows, f"{title}; medians of {repeats} rounds")
    save("preprocess", rows, turns, title=title, device=describe_device(where))


if __name__ == "__main__":
    main()
