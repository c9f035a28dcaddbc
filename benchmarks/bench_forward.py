"""Engines side by side: the bare forward pass through each, in turns, in one process.

    python benchmarks/bench_forward.py [--models resnet50,mobilenet_v2] [--device auto]

plain PyTorch
    torchvision's network in channels_last, batch normalisations as they are.
featstore eager, inductor, openvino
    featstore's own engines (:mod:`featstore.models.engines`), pixels as bytes, normalised inside.
inductor, CUDA graphs
    torch.compile with CUDA graphs, which featstore does not use, on GPUs.
bare OpenVINO, ONNX Runtime
    plain sessions for normalised float32 pixels, if they are installed (requirements.txt).

A CPU that multiplies bfloat16 is measured in bfloat16 and in float32; ONNX Runtime has no bfloat16
for CPUs. featstore's engines compute a network's first layers in float32 in any case. The cosine is
the smallest one, over all images, of features with those of plain PyTorch in float32. Weights are
random.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import torch
from jobs import (
    Job,
    build_backbone,
    device_memory,
    precisions,
    random_pixels,
    random_weights,
    synchronize,
)
from results import save, table
from torch import nn
from turns import Turn, summary, take_turns, without_empty_columns

from featstore.models.devices import (
    DTYPES,
    default_batch_size,
    describe_device,
    resolve_device,
)
from featstore.models.torchvision_source import build_network

COLUMNS = ("precision", "batch", "images/s", "of best", "set-up s", "1 - cosine", "device MB")

Run = Callable[[], torch.Tensor]


@dataclass(frozen=True)
class Case:
    """One network, on the pixels that all engines get.

    Parameters
    ----------
    model : str
        The network.
    precision : str
        ``fp32``, ``bf16`` or ``fp16``.
    where : torch.device
        The device.
    pixels : tensor of shape (batch_size, 3, image_size, image_size)
        uint8, on the device.
    """

    model: str
    precision: str
    where: torch.device
    pixels: torch.Tensor

    def network(self) -> nn.Module:
        """Return torchvision's network with the weights that featstore's has."""
        return build_network(self.model, self.pixels.shape[-1])

    def normalised(self) -> torch.Tensor:
        """Return the pixels as torchvision's networks want them."""
        weights = random_weights(self.model)
        mean, std = (
            torch.tensor(values, device=self.where).view(1, 3, 1, 1)
            for values in (weights.mean, weights.std)
        )
        return (self.pixels.float() / 255 - mean) / std


def plain(case: Case, precision: str) -> Run:
    """Return plain PyTorch."""
    dtype = DTYPES[precision]
    options = {"device": case.where, "dtype": dtype, "memory_format": torch.channels_last}
    network = case.network().to(**options)
    x = case.normalised().to(**options)

    @torch.inference_mode()
    def run() -> torch.Tensor:
        return network(x).float()

    return run


def own(case: Case, engine: str) -> Run:
    """Return one of featstore's engines."""
    batch_size, _, size, _ = case.pixels.shape
    job = Job(case.model, "", "", 0, str(case.where), image_size=size)
    backbone = build_backbone(job, engine, case.precision, batch_size)
    return lambda: next(iter(backbone(case.pixels).values()))


def cuda_graphs(case: Case) -> Run:
    """Return torch.compile with frozen weights and CUDA graphs, on normalised pixels."""
    dtype = DTYPES[case.precision]
    options = {"device": case.where, "dtype": dtype, "memory_format": torch.channels_last}
    x = case.normalised().to(**options)
    compiled = torch.compile(
        case.network().to(**options),
        dynamic=False,
        options={"freezing": True, "triton.cudagraphs": True},
    )

    @torch.inference_mode()
    def run() -> torch.Tensor:
        return compiled(x).float()

    return run


def bare_openvino(case: Case) -> Run:
    """Return an OpenVINO session with default settings."""
    import openvino

    x = case.normalised().contiguous()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = openvino.convert_model(case.network(), example_input=x[:2], input=[list(x.shape)])
    compiled = openvino.Core().compile_model(
        model, "CPU", {"INFERENCE_PRECISION_HINT": "f32" if case.precision == "fp32" else "bf16"}
    )
    return lambda: torch.from_numpy(compiled([x.numpy()])[0])


def onnx_runtime(case: Case) -> Run:
    """Return an ONNX Runtime session with default settings."""
    import onnxruntime

    x = case.normalised().contiguous()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "network.onnx"
        torch.onnx.export(case.network(), (x,), str(path), input_names=["x"], dynamo=False)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda: torch.from_numpy(session.run(None, {"x": x.numpy()})[0])


def contenders(case: Case) -> dict[str, Callable[[], Run]]:
    """Return a function for each engine that can run on this machine, which builds it."""
    found: dict[str, Callable[[], Run]] = {
        "plain PyTorch": partial(plain, case, case.precision),
        "featstore eager": partial(own, case, "eager"),
        "featstore inductor": partial(own, case, "inductor"),
    }
    if case.where.type == "cuda":
        found["inductor, CUDA graphs"] = partial(cuda_graphs, case)
    if case.where.type == "cpu" and importlib.util.find_spec("openvino"):
        found["featstore openvino"] = partial(own, case, "openvino")
        found["bare OpenVINO"] = partial(bare_openvino, case)
    on_cpu_in_fp32 = (case.where.type, case.precision) == ("cpu", "fp32")
    if on_cpu_in_fp32 and importlib.util.find_spec("onnxruntime"):
        found["ONNX Runtime"] = partial(onnx_runtime, case)
    return found


def compare(case: Case, n_images: int, repeats: int) -> list[Turn]:
    """Build all engines, then let them take turns; return a row for each turn."""
    expected = plain(case, "fp32")()
    measures = {}
    for name, build in contenders(case).items():
        began = time.perf_counter()
        run = build()
        # Inductor compiles at the first batch.
        cosine = torch.nn.functional.cosine_similarity(run(), expected)
        facts = {
            "precision": case.precision,
            "batch": len(case.pixels),
            "set-up s": time.perf_counter() - began,
            "1 - cosine": max(0.0, 1 - cosine.min().item()),
        }
        measures[name] = partial(_measure, run, case, n_images, facts)
    return take_turns(measures, repeats, None)


def _measure(run: Run, case: Case, n_images: int, facts: Turn) -> Turn:
    n_batches = max(1, n_images // len(case.pixels))
    if case.where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(case.where)
    run()
    synchronize(case.where)
    began = time.perf_counter()
    for _ in range(n_batches):
        run()
    synchronize(case.where)
    rate = n_batches * len(case.pixels) / (time.perf_counter() - began)
    return facts | {"images/s": rate} | device_memory(str(case.where))


@click.command()
@click.option("--models", default="resnet50,mobilenet_v2", show_default=True)
@click.option("--n-images", default=128, show_default=True, help="In each turn.")
@click.option("--repeats", default=5, show_default=True)
@click.option("--image-size", default=224, show_default=True)
@click.option("--device", default="auto", show_default=True)
def main(models: str, n_images: int, repeats: int, image_size: int, device: str) -> None:
    """Time the forward pass through each engine."""
    where = resolve_device(device)
    pixels = random_pixels(default_batch_size(where, image_size), image_size, where)
    turns: list[Turn] = []
    rows: list[Turn] = []
    for model in models.split(","):
        for title, precision in precisions(model, device).items():
            own_turns = compare(Case(model, precision, where, pixels), n_images, repeats)
            turns += [{"model": title, **turn} for turn in own_turns]
            rows += [{"model": title, **row} for row in summary(own_turns, COLUMNS)]
    rows = without_empty_columns(rows)
    title = f"Forward passes, input {image_size} px"
    table(rows, f"{title}; medians of {repeats} rounds")
    save("forward", rows, turns, title=title, device=describe_device(where))


if __name__ == "__main__":
    main()
