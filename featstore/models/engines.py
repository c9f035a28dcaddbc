"""Choose and build the engine that does a network's arithmetic.

``eager``
    PyTorch, operation by operation, batch normalisations folded into the convolutions.
``inductor``
    ``torch.compile`` with frozen weights.
``openvino``
    OpenVINO, on CPUs, where it is installed (``pip install openvino``).
"""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import platformdirs
import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from featstore.environment import available_cores
from featstore.errors import BackboneError
from featstore.models.devices import has_fast_bf16

EAGER_FLOPS_PER_S = {"cpu fp32": 8e10, "cpu bf16": 2e11, "cuda": 4e13}
"""PyTorch's rate of arithmetic, for one core of a CPU. Only the order of magnitude matters.

ResNet50 and MobileNetV2 at 224 px show the CPU's in fp32 on two AVX2 cores; the rates for bf16 and
a GPU are assumptions.
"""


EAGER_BYTES_PER_S = {"cpu": 1e10, "cuda": 1e12}
"""PyTorch's rate of memory, measured and assumed in the same way."""


GAINS = {"inductor": 1.1, "openvino": 1.2}
"""Speed relative to eager, as benchmarks/bench_forward.py measures it, rounded down."""


SETUP_S = {"cpu inductor": 0.08, "cpu openvino": 0.01, "cuda inductor": 0.15}
"""Seconds to make an engine, for each of the network's operations; on GPUs an assumption.

ResNet50 has 278 operations and takes inductor 20 s and OpenVINO 3 s on two AVX2 cores.
"""


TOLERANCES = {torch.float32: 1e-2, torch.bfloat16: 1e-1, torch.float16: 1e-1}
"""Largest distance of an engine's results from PyTorch's, relative to their norm."""


ENGINES = ("eager", "inductor", "openvino")


Forward = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]


@dataclass(frozen=True)
class ForwardCost:
    """The cost of one image in a network."""

    flops: float
    """Floating-point operations."""
    nbytes: float
    """Bytes of all operations' results, in float32."""
    n_operations: int
    """Operations in the network."""


@dataclass(frozen=True)
class Plan:
    """The engine to use, and the reason for people."""

    engine: str
    reason: str


def choose_engine(
    compile_: str, device: torch.device, precision: str, cost: ForwardCost, n_images: int
) -> Plan:
    """Return the engine for a pass, by its size and the installed packages, never by a timing.

    Parameters
    ----------
    compile_ : str
        ``on``, ``off``, or ``auto`` to compile when that saves more time than it takes.
    device : torch.device
        Runs the network.
    precision : str
        ``fp32``, ``bf16`` or ``fp16``.
    cost : ForwardCost
        ForwardCost of one image: ``flops``, ``nbytes`` and ``n_operations``.
    n_images : int
        Images to compute.

    Returns
    -------
    Plan
        The ``engine`` (``eager``, ``inductor`` or ``openvino``), and the ``reason`` for people.

    Raises
    ------
    BackboneError
        When `compile_` is ``on`` and nothing here can compile.
    """
    if compile_ == "off":
        return Plan("eager", "--compile off")
    engine = _compiled_engine(device, precision)
    if engine is None:
        if compile_ == "on":
            raise BackboneError(
                "--compile on needs a C++ compiler (g++ or clang++) here, and there is none. "
                "Install one, or `pip install openvino`, or use --compile auto."
            )
        return Plan("eager", "no C++ compiler to compile with")
    if compile_ == "on":
        return Plan(engine, "--compile on")
    kind = device.type if device.type == "cuda" else f"cpu {precision}"
    n_cores = available_cores() if device.type == "cpu" else 1
    image_s = cost.flops / (EAGER_FLOPS_PER_S[kind] * n_cores)
    image_s += cost.nbytes / EAGER_BYTES_PER_S[device.type]
    saved_s = n_images * image_s * (1 - 1 / GAINS[engine])
    setup_s = SETUP_S[f"{device.type} {engine}"] * cost.n_operations
    estimate = f"an estimated {saved_s:.0f} s saved for {setup_s:.0f} s of set-up"
    return Plan(engine if saved_s > setup_s else "eager", estimate)


def _compiled_engine(device: torch.device, precision: str) -> str | None:
    if device.type == "cpu":
        emulated = precision == "bf16" and not has_fast_bf16(device)
        if find_spec("openvino") and not emulated:
            return "openvino"
        compilers = (os.environ.get("CXX"), "g++", "clang++")
        return "inductor" if any(name and shutil.which(name) for name in compilers) else None
    return "inductor" if find_spec("triton") else None


def build(
    network: fx.GraphModule | nn.Module,
    engine: str,
    example: torch.Tensor,
    dtype: torch.dtype,
) -> Forward:
    """Return a function that runs a network, for batches of the example's shape.

    The network is in eval mode and returns a tuple of tensors; `example` is a uint8 batch on the
    device; `dtype` is the precision of the arithmetic. An engine that can't run the network, or
    gives other results than PyTorch, raises BackboneError.
    """
    if engine == "eager":
        return network
    try:
        run = _openvino(network, example, dtype) if engine == "openvino" else _inductor(network)
        _check(run, network, example, TOLERANCES[dtype])
    except Exception as error:
        raise BackboneError(
            f"{engine} can't run this network ({_first_line(error)}). Use --compile off."
        ) from error
    return run


@torch.inference_mode()
def _check(run: Forward, network: nn.Module, example: torch.Tensor, tolerance: float) -> None:
    """Compare an engine's results for a few pixels with PyTorch's own."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, example.shape[1:], dtype=torch.uint8, generator=generator)
    batch = example.clone()
    batch[:2] = pixels.to(example.device)
    for found, expected in zip(run(batch), network(batch[:2]), strict=True):
        distance = (found[: len(expected)] - expected).norm()
        if not distance <= tolerance * expected.norm():
            raise ValueError(f"its results are {distance:.3g} off, of {expected.norm():.3g}")


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _inductor(network: nn.Module) -> Forward:
    # Its default is a temporary folder, gone at the next boot.
    cache = platformdirs.user_cache_path("featstore") / "inductor"
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache))
    compiled: Forward = torch.compile(network, dynamic=False, options={"freezing": True})
    return compiled


def _openvino(network: nn.Module, example: torch.Tensor, dtype: torch.dtype) -> Forward:
    # OpenVINO reports its use over the network through this package, and runs without it.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    with torch.no_grad(), warnings.catch_warnings():
        # The tracer warns wherever the network reads a shape; shapes never change here.
        warnings.simplefilter("ignore")
        # OpenVINO would trace by itself, and check the trace: a minute for a vision transformer.
        traced = torch.jit.trace(network, example[:2], check_trace=False)  # type: ignore[no-untyped-call]
        model = openvino.convert_model(
            traced, example_input=example[:2], input=[(list(example.shape), openvino.Type.u8)]
        )
    compiled = openvino.Core().compile_model(
        model,
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32",
            # Pinned threads of several processes would all sit on the first cores.
            "ENABLE_CPU_PINNING": False,
        },
    )

    def run(images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = compiled([np.ascontiguousarray(images.numpy())])
        return tuple(torch.from_numpy(found[i]) for i in range(len(compiled.outputs)))

    return run


def fold_batch_norms(extractor: fx.GraphModule) -> None:
    """Fold each batch normalisation into the convolution before it, unless that is read too.

    The arithmetic is the same in fewer passes over memory: MobileNetV2 runs 1.7 times as fast on a
    2-core AVX2 CPU, ResNet50 1.08 times.
    """
    modules = dict(extractor.named_modules())
    n_calls = Counter(str(node.target) for node in extractor.graph.nodes)
    for node in list(extractor.graph.nodes):
        norm = modules.get(str(node.target))
        # A subclass may do more: timm's also applies its activation.
        if type(norm) is not nn.BatchNorm2d or norm.running_mean is None:
            continue
        before = node.args[0]
        convolution = modules.get(str(before.target))
        shared = len(before.users) > 1 or n_calls[str(before.target)] > 1
        # Hooks may change the weights, as weight normalisation does.
        if type(convolution) is not nn.Conv2d or shared or convolution._forward_pre_hooks:
            continue
        folded = fuse_conv_bn_eval(convolution, norm)
        parent, _, name = str(before.target).rpartition(".")
        setattr(extractor.get_submodule(parent), name, folded)
        node.replace_all_uses_with(before)
        extractor.graph.erase_node(node)
    extractor.recompile()
