"""Extraction throughput against the bare forward pass and against the usual script.

    python benchmarks/bench_extract.py [--model resnet50] [--n-images 256] [--device auto]

All three do the same images, at the same size and layer, in one run, in turns:

bare forward
    the network alone, at featstore's own precision and batch size, on data already in memory.
featstore
    `featstore.extract` from files to the store, in its steady state (from the first batch on).
usual script
    a DataLoader with PIL transforms, a float32 forward pass, and np.save at the end.

Weights are random: they make no difference to the time.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import click
import numpy as np
import psutil
import torch
import torchvision.models
from PIL import Image
from results import save, table
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

import featstore
from featstore.backbones import Backbone, find_layers
from featstore.devices import describe_device, resolve_device
from featstore.progress import Silent
from featstore.provenance import FingerprintCache, available_cores
from featstore.weights import find_weights

IMAGE_SIZE = 224
WARM_UP = 2


class Clock(Silent):
    """A progress that notes when batches got done."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, int]] = []

    def start(self, what: str, total: int, unit: str) -> None:
        """Begin anew: the images come last, after the files' fingerprints."""
        self.marks = []

    def advance(self, n: int) -> None:
        """Note the time."""
        self.marks.append((time.perf_counter(), n))

    def images_per_s(self) -> float:
        """Return the rate from the end of the first batch on."""
        (began, _), (ended, _) = self.marks[0], self.marks[-1]
        return sum(n for _, n in self.marks[1:]) / (ended - began)


def write_images(root: Path, n_images: int) -> None:
    """Write 256x256 JPEG files of smooth noise, in two classes of a train and a test split."""
    rng = np.random.default_rng(0)
    for i in range(n_images):
        folder = root / ("train" if i % 4 else "test") / f"class{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        coarse.resize((256, 256), Image.Resampling.BICUBIC).save(folder / f"{i:05d}.jpg")


def run_featstore(
    model: str, root: Path, store: Path, device: str
) -> tuple[float, featstore.extraction.Extraction]:
    """Return featstore's steady rate in images/s, and its own account of the run."""
    clock = Clock()
    result = featstore.extract(
        model,
        "folder",
        root=str(root),
        weights="random:0",
        image_size=IMAGE_SIZE,
        device=device,
        store=store,
        progress=clock,
    )
    return clock.images_per_s(), result


def run_bare(model: str, precision: str, batch_size: int, n_images: int, device: str) -> float:
    """Return the network's rate in images/s on random data in the device's memory."""
    where = resolve_device(device)
    weights = find_weights(model, "random:0", FingerprintCache(Path(tempfile.gettempdir())))
    layers = find_layers(model, (), IMAGE_SIZE)
    backbone = Backbone(model, weights, layers, IMAGE_SIZE, "avg", precision, where)
    x = torch.randn(batch_size, 3, IMAGE_SIZE, IMAGE_SIZE, device=where)
    x = x.to(memory_format=torch.channels_last)

    def batch() -> None:
        for features in backbone(x).values():
            features.cpu()

    for _ in range(WARM_UP):
        batch()
    n_batches = max(1, n_images // batch_size)
    began = time.perf_counter()
    for _ in range(n_batches):
        batch()
    return n_batches * batch_size / (time.perf_counter() - began)


def run_usual_script(model: str, root: Path, out: Path, device: str) -> float:
    """Return the usual script's rate in images/s, the network's construction left out."""
    where = resolve_device(device)
    prepare = transforms.Compose(
        [
            transforms.Resize((IMAGE_SIZE, IMAGE_SIZE)),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    dataset = ImageFolder(str(root / "train"), prepare)
    loader = DataLoader(dataset, batch_size=32, num_workers=available_cores())
    network = torchvision.models.get_model(model, weights=None).eval().to(where)
    features = []
    with torch.no_grad():
        network(torch.randn(32, 3, IMAGE_SIZE, IMAGE_SIZE, device=where))
        began = time.perf_counter()
        for images, _ in loader:
            features.append(network(images.to(where)).cpu().numpy())
    np.save(out, np.concatenate(features))
    return len(dataset) / (time.perf_counter() - began)


@click.command()
@click.option("--model", default="resnet50", show_default=True)
@click.option("--n-images", default=256, show_default=True)
@click.option("--repeats", default=2, show_default=True)
@click.option("--device", default="auto", show_default=True)
def main(model: str, n_images: int, repeats: int, device: str) -> None:
    """Time extraction beside the bare forward pass and the usual script."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images", n_images)
        for repeat in range(repeats):
            rate, result = run_featstore(model, folder / "images", folder / f"s{repeat}", device)
            bare = run_bare(model, result.precision, result.batch_size, n_images, device)
            usual = run_usual_script(model, folder / "images", folder / "x.npy", device)
            rows.append(
                {
                    "model": model,
                    "device": describe_device(resolve_device(device)),
                    "precision": result.precision,
                    "batch": result.batch_size,
                    "bare images/s": bare,
                    "featstore images/s": rate,
                    "usual images/s": usual,
                    "of bare": rate / bare,
                    "over usual": rate / usual,
                    "RSS MB": psutil.Process().memory_info().rss / 1e6,
                }
            )
    table(rows, f"{n_images} JPEG files of 256 px, network input {IMAGE_SIZE} px")
    save(f"extract-{model}", rows, [f"--model={model}", f"--n-images={n_images}"])


if __name__ == "__main__":
    main()
