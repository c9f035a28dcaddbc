"""Extraction throughput against the bare forward pass, the usual script, and thingsvision.

    python benchmarks/bench_extract.py [--models resnet50,vgg19] [--n-images 512] [--device auto]

All take the same images, image size and layer. They take turns, each in a process of its own:

featstore
    `featstore.extract` from files to the store.
bare forward
    the network alone, with featstore's engine, precision and batch size, on pixels that are
    already in the device's memory.
usual script
    a DataLoader with PIL transforms, a float32 forward pass, and np.save at the end.
thingsvision
    its own ImageDataset, DataLoader and extractor, where it is installed (requirements.txt).

A CPU that multiplies bfloat16 is measured in bfloat16, and featstore without the others in float32
once more. The usual script and thingsvision compute in float32, which they do by default.

Rates are of the steady state, from the end of the first batch to the end of the last; set-up has a
column of its own. Weights are random, which does not change the time. Peak memory is of the main
process; the usual script's loader processes take more.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from inputs import write_images
from jobs import Clock, Job, build_backbone, device_memory, precisions, random_pixels, synchronize
from results import save, table
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from turns import Turn, in_fresh_process, summary, take_turns, without_empty_columns

import featstore
from featstore.environment import available_cores
from featstore.models.devices import describe_device, resolve_device
from featstore.models.networks import find_layers
from featstore.models.torchvision_source import build_network
from featstore.models.weights import IMAGENET_MEAN, IMAGENET_STD

MODELS = "resnet50,mobilenet_v2"
SCRIPT_BATCH = 32
WARM_UP = 3
PHASES = ("read", "preprocess", "forward", "write")
COLUMNS = (
    "engine",
    "precision",
    "batch",
    "images/s",
    "of bare forward",
    *(f"{phase} %" for phase in PHASES),
    "set-up s",
    "peak RSS MB",
    "device MB",
)


def run_featstore(job: Job) -> Turn:
    """Extract into a new store."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as store:
        done = featstore.extract(
            job.model,
            job.dataset,
            root=job.root,
            weights="random:0",
            image_size=job.image_size,
            device=job.device,
            precision=job.precision,
            compile=job.compile,
            store=store,
            progress=clock,
        )
    whole = sum(done.times[f"{phase}_s"] for phase in PHASES)
    shares = {f"{phase} %": 100 * done.times[f"{phase}_s"] / whole for phase in PHASES}
    return {
        "engine": done.engine,
        "precision": done.precision,
        "batch": done.batch_size,
        "images/s": clock.images_per_s(),
        "set-up s": done.times["setup_s"],
        **shares,
        **device_memory(job.device),
    }


def run_bare(job: Job, like: Turn) -> Turn:
    """Run the network alone, as featstore did in the turn `like`."""
    where = resolve_device(job.device)
    began = time.perf_counter()
    backbone = build_backbone(job, like["engine"], like["precision"], like["batch"])
    pixels = random_pixels(like["batch"], job.image_size, where)
    for _ in range(WARM_UP):
        backbone(pixels)
    synchronize(where)
    set_up_s = time.perf_counter() - began
    n_batches = max(1, job.n_images // like["batch"])
    began = time.perf_counter()
    for _ in range(n_batches):
        backbone(pixels)
    synchronize(where)
    return {
        **{key: like[key] for key in ("engine", "precision", "batch")},
        "images/s": n_batches * like["batch"] / (time.perf_counter() - began),
        "set-up s": set_up_s,
        **device_memory(job.device),
    }


def prepare(image_size: int) -> transforms.Compose:
    """Return the transforms of a usual tutorial."""
    return transforms.Compose(
        [
            transforms.Resize((image_size, image_size)),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )


def run_usual_script(job: Job) -> Turn:
    """Extract features as a usual tutorial does."""
    where = resolve_device(job.device)
    began = time.perf_counter()
    dataset = ImageFolder(job.root, prepare(job.image_size))
    loader = DataLoader(dataset, batch_size=SCRIPT_BATCH, num_workers=available_cores())
    network = build_network(job.model, job.image_size).to(where)
    set_up_s = time.perf_counter() - began
    clock = Clock()
    features = []
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        for images, _ in loader:
            features.append(network(images.to(where)).cpu().numpy())
            clock.advance(len(images))
        np.save(Path(folder) / "features.npy", np.concatenate(features))
    return {
        "engine": "eager",
        "precision": "fp32",
        "batch": SCRIPT_BATCH,
        "images/s": clock.images_per_s(),
        "set-up s": set_up_s,
        **device_memory(job.device),
    }


def run_thingsvision(job: Job) -> Turn:
    """Extract features with thingsvision, as its manual shows."""
    began = time.perf_counter()
    # It uses names that NumPy 2 removed, and it imports TensorFlow, which prints a lot.
    np.AxisError = np.exceptions.AxisError  # noqa: NPY201 - the very name that is wanted
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    clock = Clock()
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        # TensorFlow, which thingsvision imports, ends the process if this comes after it.
        importlib.import_module("torch._dynamo")
        from thingsvision import get_extractor_from_model
        from thingsvision.utils.data import DataLoader as ThingsLoader
        from thingsvision.utils.data import ImageDataset

        class Loader(ThingsLoader):
            def __iter__(self) -> Iterator[Any]:
                clock.marks.clear()
                return clock.around(super().__iter__())

        extractor = get_extractor_from_model(
            model=build_network(job.model, job.image_size),
            device=str(resolve_device(job.device)),
            backend="pt",
        )
        dataset = ImageDataset(
            root=job.root,
            out_path=folder,
            backend="pt",
            transforms=extractor.get_transformations(job.image_size, job.image_size),
        )
        set_up_s = time.perf_counter() - began
        features = extractor.extract_features(
            batches=Loader(dataset, SCRIPT_BATCH, "pt"),
            module_name=find_layers(job.model, (), job.image_size)[0].node,
            flatten_acts=True,
            output_type="ndarray",
        )
        np.save(Path(folder) / "features.npy", features)
    return {
        "engine": "eager",
        "precision": "fp32",
        "batch": SCRIPT_BATCH,
        "images/s": clock.images_per_s(),
        "set-up s": set_up_s,
        **device_memory(job.device),
    }


def compare(job: Job, repeats: int, *, peers: bool = True) -> list[Turn]:
    """Let featstore and the others take turns, and return a row for each turn."""
    last: Turn = {}

    def featstore_turn() -> Turn:
        last.update(in_fresh_process(run_featstore, job))
        return dict(last)

    contenders = {
        "featstore": featstore_turn,
        "bare forward": lambda: in_fresh_process(run_bare, job, last),
    }
    if peers:
        contenders["usual script"] = partial(in_fresh_process, run_usual_script, job)
        if importlib.util.find_spec("thingsvision"):
            contenders["thingsvision"] = partial(in_fresh_process, run_thingsvision, job)
    rows = take_turns(contenders, repeats, "bare forward")
    return [{"model": job.title or job.model, **row} for row in rows]


def summary_by_model(turns: list[Turn]) -> list[Turn]:
    """Return a row for each network and contender, without empty columns."""
    rows = []
    for model in dict.fromkeys(turn["model"] for turn in turns):
        own = [turn for turn in turns if turn["model"] == model]
        rows += [{"model": model, **row} for row in summary(own, COLUMNS)]
    return without_empty_columns(rows)


@click.command()
@click.option("--models", default=MODELS, show_default=True, metavar="NAME[,NAME...]")
@click.option("--n-images", default=512, show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--compile", "compile_", default="auto", show_default=True)
def main(models: str, n_images: int, repeats: int, device: str, compile_: str) -> None:
    """Time extraction beside the bare forward pass, the usual script and thingsvision."""
    turns: list[Turn] = []
    with tempfile.TemporaryDirectory() as root:
        write_images(Path(root), n_images)
        for model in models.split(","):
            for i, (title, precision) in enumerate(precisions(model, device).items()):
                job = Job(model, "folder", root, n_images, device, compile_, precision, title)
                turns += compare(job, repeats, peers=i == 0)
    rows = summary_by_model(turns)
    title = f"{n_images:,} JPEG files of 256 px, network input {job.image_size} px"
    table(rows, f"{title}; medians of {repeats} rounds")
    save("extract", rows, turns, title=title, device=describe_device(resolve_device(device)))


if __name__ == "__main__":
    main()
