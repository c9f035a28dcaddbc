"""Choose the engine of a network by its rates on this machine, which are measured once."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec

import torch

from featstore.environment import version
from featstore.errors import BackboneError
from featstore.models.devices import has_fast_bf16
from featstore.models.model_cache import CacheFile

MIN_IMAGES = 64
"""Fewer images are computed by PyTorch: to measure would take as long as to compute."""


GAINS = {"inductor": 1.1, "openvino fp32": 1.2, "openvino bf16": 1.3}
"""Speed of an engine relative to PyTorch that a network has before it is measured.

On two AVX2 cores, OpenVINO in fp32 was 1.1 (ResNet50) to 1.9 (MobileNetV2) times as fast when the
cores were idle, and 1.3 to 3.5 times, by the processor's time, when they were busy. On two
AVX512-BF16 cores it was 1.1 (VGG19) to 1.4 (MobileNetV2) times as fast in fp32, and 1.0 to 1.4
times in bf16; only of ViT-B/16 it was 0.9 in bf16 and 2 in fp32.
"""


SETUP_S = {
    "cpu inductor": 0.15,
    "cpu openvino": 0.03,
    "cpu openvino bf16": 0.01,
    "cuda inductor": 0.3,
}
"""Seconds to make an engine that is not measured yet, for each node of the network's graph.

Two AVX2 cores made ResNet50's 125 nodes in 20 s (inductor) and 3 to 4 s (OpenVINO), two AVX512-BF16
cores in 1.2 s (OpenVINO). GPUs are unmeasured.
"""


OPENVINO_WITH_MARKS = (2026, 4)
"""The first OpenVINO that computes marked layers in fp32: see first_layers.py."""


OPEN_S = 0.5
"""Seconds to open a compiled network that is kept on disk."""


TIMED_S = 0.3
"""Seconds of one timing, as far as whole batches allow."""


TITLES = {"eager": "PyTorch", "inductor": "torch.compile", "openvino": "OpenVINO"}


@dataclass(frozen=True)
class Plan:
    """The engine to use, and the reason for people."""

    engine: str
    reason: str

    def __str__(self) -> str:
        return f"Computing with {TITLES[self.engine]}: {self.reason}."


@dataclass(frozen=True)
class Rates:
    """What was measured of a network: images/s, and seconds of set-up."""

    eager: float
    """Images/s in PyTorch."""
    n_nodes: int
    """Nodes of the network's graph."""
    compiled: float | None = None
    """Images/s of the engine that compiles; None before it is measured."""
    setup_s: float = 0.0
    """Seconds to make that engine."""


Measure = Callable[[str, Rates | None], Rates]
"""Makes the named engine and measures it: PyTorch without rates, another beside PyTorch's."""


def compiling_engine(device: torch.device, precision: str) -> str | None:
    """Return the engine that would compile a network here, or None."""
    if device.type == "cpu":
        if find_spec("openvino") and (precision == "fp32" or _openvino_computes_bf16(device)):
            return "openvino"
        compilers = (os.environ.get("CXX"), "g++", "clang++")
        return "inductor" if any(name and shutil.which(name) for name in compilers) else None
    return "inductor" if find_spec("triton") else None


def _openvino_computes_bf16(device: torch.device) -> bool:
    """Return whether OpenVINO multiplies bfloat16 here, and keeps marked layers in fp32."""
    release = tuple(map(int, re.findall(r"\d+", version("openvino"))[:2]))
    return has_fast_bf16(device) and release >= OPENVINO_WITH_MARKS


def fixed_plan(compile_: str, engine: str | None, n_images: int) -> Plan | None:
    """Return the plan where nothing is to be measured, else None.

    `compile_` is ``on``, ``off`` or ``auto``; `engine` is that of :func:`compiling_engine`. ``on``
    without an engine raises BackboneError.
    """
    if compile_ == "off":
        return Plan("eager", "--compile off")
    if engine is None:
        if compile_ == "on":
            raise BackboneError(
                "--compile on needs a C++ compiler (g++ or clang++) here, and there is none. "
                "Install one, or `pip install openvino`, or use --compile auto."
            )
        return Plan("eager", "no C++ compiler to compile with")
    if compile_ == "on":
        return Plan(engine, "--compile on")
    if n_images < MIN_IMAGES:
        return Plan("eager", f"{n_images} images are too few for another engine to pay off")
    return None


def choose_engine(
    engine: str,
    device: torch.device,
    precision: str,
    n_images: int,
    kept: CacheFile,
    is_compiled: bool,
    measure: Measure,
) -> Plan:
    """Return the engine that needs less time for a pass, its set-up included.

    PyTorch is measured first. The other engine is made, and measured, only where it would pay off
    if it were as fast as :data:`GAINS` says.

    `engine` is that of :func:`compiling_engine`; `kept` keeps the rates for the next time;
    `is_compiled` says whether the compiled network is kept on disk. An engine that can't run the
    network raises BackboneError.
    """
    rates = _read(kept)
    if rates is None:
        rates = measure("eager", None)
        kept.write_json(asdict(rates))
    eager_s = n_images / rates.eager
    title, found = TITLES[engine], f"PyTorch computes {rates.eager:.3g} images/s here"
    if rates.compiled is None:
        name = f"{device.type} {engine}"
        each_s = SETUP_S.get(f"{name} {precision}", SETUP_S[name])
        setup_s = OPEN_S if is_compiled else each_s * rates.n_nodes
        gain = GAINS.get(f"{engine} {precision}", GAINS["inductor"])
        if eager_s * (1 - 1 / gain) <= setup_s:
            whole = f"{n_images:,} images take {eager_s:.0f} s"
            return Plan("eager", f"{found}, {whole}; {title} needs about {setup_s:.0f} s to start")
        rates, setup_s = measure(engine, rates), 0.0
        kept.write_json(asdict(rates))
    else:
        setup_s = OPEN_S if is_compiled else rates.setup_s
    compiled_s = n_images / (rates.compiled or 1e-9) + setup_s
    started = f" after {setup_s:.1f} s to start" if setup_s else ""
    reason = f"{found}, {title} {rates.compiled:.3g}{started}, for {n_images:,} images"
    return Plan(engine if compiled_s < eager_s else "eager", reason)


def _read(kept: CacheFile) -> Rates | None:
    known = kept.read_json()
    return None if known is None else Rates(**known)


def images_per_s(
    run: Callable[[torch.Tensor], object],
    pixels: torch.Tensor,
    whole: bool,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return the images/s of a network, in a second or so.

    `pixels` is a batch; `whole` says that the network takes no smaller one.
    """

    def seconds(n: int) -> float:
        began = clock()
        run(pixels[:n])
        if pixels.is_cuda:
            torch.cuda.synchronize(pixels.device)
        return clock() - began

    n = len(pixels) if whole else min(2, len(pixels))
    # The first run also takes memory and starts threads.
    best_s = seconds(n)
    if not whole:
        n = max(n, min(len(pixels), int(n * TIMED_S / best_s)))
        best_s = seconds(n)
    if best_s < TIMED_S:
        best_s = min(best_s, seconds(n), seconds(n))
    return n / best_s
