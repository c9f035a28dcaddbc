"""All tests and tables for one GPU, in under eight minutes, without network access.

    python benchmarks/bench_gpu.py

First the tests of the GPU run (tests/models/test_gpu.py); where one fails, nothing is measured.
Then, for each of the paper's networks and a ViT, with random weights, in turns, each in a process
of its own:

featstore
    `featstore.extract` over images in SAT-4's format and size, from the file to the store, in its
    steady state.
bare forward
    the network alone, with the same engine, precision and batch size, on pixels that are already
    in the GPU's memory.

Then ResNet50's forward pass through all engines, CUDA graphs among them, while time remains
(bench_forward.py). Then the whole command for ResNet50, from the start of Python to its end, over
as many images as SAT-4 has, or as many as fit the remaining time. Without a GPU the script says so
and ends; with `--device cpu` and few images it runs anywhere.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import torch
from bench_extract import compare, summary_by_model
from bench_forward import COLUMNS, Case
from bench_forward import compare as compare_forward
from bench_memory import run_extract, write_file
from jobs import Job, random_pixels
from results import save, table
from torch.utils.flop_counter import FlopCounterMode
from turns import Turn, in_fresh_process, summary

from featstore.cli import console
from featstore.models.devices import (
    default_batch_size,
    describe_device,
    resolve_device,
    resolve_precision,
)
from featstore.models.torchvision_source import build_network

MODELS = "resnet50,alexnet,googlenet,vgg19,vit_b_16"
WHOLE_MODEL = "resnet50"

TESTS = Path(__file__).parents[1] / "tests" / "models" / "test_gpu.py"

START_S = 15.0
"""Seconds of a turn beside its pass."""

ENGINES_S = 120.0
"""Seconds of the comparison of engines, most of them for compiling."""

SPARE_S = 60.0
"""Seconds of the whole command beside its pass: writing the file, start and end."""

LEAST_IMAGES = 1000
"""Fewest images of the whole command, even on a slow device."""

LEAD = {
    "model": "resnet50",
    "contender": "timm, published: bare forward, RTX 5090",
    "engine": "inductor",
    "precision": "amp",
    "batch": 1024,
    "images/s": 12400.78,
}
"""Published, not measured here: huggingface/pytorch-image-models, in its folder ``results``,
benchmark-infer-amp-nchw-pt291-cu130-5090-dynamo.csv."""


def run_whole(rate: float, n_images: int, left_s: float, device: str) -> Turn:
    """Run the command over all images, or as many as fit the time at the given rate."""
    n_images = min(n_images, max(int(rate * (left_s - SPARE_S)), LEAST_IMAGES))
    with tempfile.TemporaryDirectory() as name:
        in_fresh_process(write_file, Path(name), n_images)
        found = run_extract(Path(name), WHOLE_MODEL, n_images, device)
    seconds = found["seconds"]
    return {
        "model": WHOLE_MODEL,
        "contender": f"featstore, whole command: {n_images:,} images in {seconds:,.0f} s",
        **{key: found[key] for key in ("engine", "precision", "batch", "images/s", "peak RSS MB")},
    }


def run_tests() -> None:
    """Run the tests of the GPU; a failure ends the script."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TESTS)]
    if subprocess.run(command, check=False).returncode:
        raise click.ClickException(f"{TESTS} fails, so that nothing was measured.")


def compare_engines(device: str, n_images: int) -> Turn:
    """Compare the engines' forward passes of one network."""
    where, size = resolve_device(device), Job.image_size
    pixels = random_pixels(default_batch_size(where, size), size, where)
    case = Case(WHOLE_MODEL, resolve_precision("auto", where), where, pixels)
    turns = compare_forward(case, n_images, repeats=2)
    rows = [{"model": WHOLE_MODEL, **row} for row in summary(turns, COLUMNS)]
    return {"rows": rows, "turns": turns, "device": describe_device(where)}


def run_models(job: Job, models: list[str], repeats: int, end: float) -> list[Turn]:
    """Compare each network's extraction with its bare forward pass, while time remains."""
    turns: list[Turn] = []
    for model in models:
        try:
            if turns and time.monotonic() + expected_s(job.of(model), turns, repeats) > end:
                console.say(f"{model} is left out: it would take too long. Raise --minutes.")
                continue
            turns += compare(job.of(model), repeats, peers=False)
        except Exception as error:
            # A network that fails must not cost the figures of the others.
            console.say(f"{model} failed: {error}")
    return turns


def expected_s(job: Job, turns: list[Turn], repeats: int) -> float:
    """Return the seconds of the next comparison, estimated from the last one's rate."""
    flops_per_s = turns[-1]["images/s"] * flops(turns[-1]["model"], job.image_size)
    pass_s = job.n_images * flops(job.model, job.image_size) / flops_per_s
    return 2 * repeats * (START_S + pass_s)


def flops(model: str, image_size: int) -> float:
    """Return the floating-point operations that an image costs."""
    with torch.device("meta"):
        network = build_network(model, image_size)
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(2, 3, image_size, image_size))
    return counter.get_total_flops() / 2


@click.command()
@click.option("--models", default=MODELS, show_default=True, metavar="NAME[,NAME...]")
@click.option("--n-images", default=20480, show_default=True, help="For each network.")
@click.option("--n-whole", default=500_000, show_default=True, help="For the whole command.")
@click.option("--repeats", default=2, show_default=True)
@click.option("--compile", "compile_", default="auto", show_default=True)
@click.option("--minutes", default=8.0, show_default=True, help="All in all.")
@click.option("--device", default="cuda", show_default=True)
def main(
    models: str,
    n_images: int,
    n_whole: int,
    repeats: int,
    compile_: str,
    minutes: float,
    device: str,
) -> None:
    """Run all measurements on a GPU."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise click.ClickException(
            "torch sees no GPU here, so that there is nothing to measure. Run this on a machine "
            "with a GPU and a torch build that fits its driver."
        )
    began = time.monotonic()
    where = resolve_device(device)
    if where.type == "cuda":
        run_tests()
    with tempfile.TemporaryDirectory() as root:
        in_fresh_process(write_file, Path(root), n_images)
        job = Job("", "sat4", root, n_images, device, compile_)
        # The networks get half of the time, the whole command the rest.
        turns = run_models(job, models.split(","), repeats, began + 30 * minutes)
    if not turns:
        raise click.ClickException("No network could be measured; see above.")
    if where.type == "cuda" and time.monotonic() - began < 60 * minutes - ENGINES_S - SPARE_S:
        engines = in_fresh_process(compare_engines, str(where), n_images // 4)
        title = f"Forward passes of {WHOLE_MODEL}, input {job.image_size} px"
        table(engines["rows"], title)
        save("forward", engines["rows"], engines["turns"], title=title, device=engines["device"])
    rows = summary_by_model(turns)
    rates = [r["images/s"] for r in rows if r["model"] == WHOLE_MODEL]
    if rates:
        left_s = 60 * minutes - (time.monotonic() - began)
        rows.append({**dict.fromkeys(rows[0]), **run_whole(min(rates), n_whole, left_s, device)})
    rows.append({**dict.fromkeys(rows[0]), **LEAD})
    title = f"{n_images:,} images of 28 x 28 x 4, network input {job.image_size} px"
    table(rows, f"{title}; medians of {repeats} rounds")
    save("gpu", rows, turns, title=title, device=describe_device(where))
    console.say(f"All took {(time.monotonic() - began) / 60:.1f} minutes.")


if __name__ == "__main__":
    main()
