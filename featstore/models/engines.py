"""Build the engine that does a network's arithmetic.

``eager``
    PyTorch, operation by operation, batch normalisations folded into the convolutions.
``inductor``
    ``torch.compile`` with frozen weights.
``openvino``
    OpenVINO, on CPUs, where it is installed (``pip install openvino``).
"""

from __future__ import annotations

import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import platformdirs
import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from featstore.errors import BackboneError
from featstore.models.first_layers import mark_first_layers
from featstore.models.model_cache import CacheFile

TOLERANCES = {torch.float32: 1e-2, torch.bfloat16: 1e-1, torch.float16: 1e-1}
"""Largest distance of an engine's results from PyTorch's, relative to their norm."""


Forward = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]


def build(
    network: fx.GraphModule | nn.Module,
    engine: str,
    example: torch.Tensor,
    dtype: torch.dtype,
    kept: CacheFile | None = None,
) -> Forward:
    """Return a function that runs a network, for batches of the example's shape.

    The network is in eval mode and returns a tuple of tensors; `example` is a uint8 batch on the
    device; `dtype` is the precision of the arithmetic; `kept` keeps what OpenVINO compiled for
    :func:`reopen`. An engine that can't run the network, or gives other results than PyTorch,
    raises BackboneError.
    """
    if engine == "eager":
        return network
    try:
        if engine == "openvino":
            compiled = _compile_openvino(network, example, dtype)
            run = _runner(compiled)
        else:
            run = _inductor(network)
        _check(run, network, example, TOLERANCES[dtype])
    except Exception as error:
        raise BackboneError(
            f"{engine} can't run this network ({_first_line(error)}). Use --compile off."
        ) from error
    if engine == "openvino" and kept is not None:
        kept.write(compiled.export_model().getvalue())
    return run


def reopen(kept: CacheFile, dtype: torch.dtype) -> Forward | None:
    """Return a function that runs the network that OpenVINO compiled before, or None."""
    content = kept.read()
    if content is None:
        return None
    openvino = _import_openvino()
    try:
        return _runner(openvino.Core().import_model(content, "CPU", _openvino_options(dtype)))
    except RuntimeError:
        # Another build of OpenVINO wrote it.
        return None


@torch.inference_mode()
def _check(run: Forward, network: nn.Module, example: torch.Tensor, tolerance: float) -> None:
    """Compare an engine's results for a few pixels with PyTorch's own."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, example.shape[1:], dtype=torch.uint8, generator=generator)
    batch = example.clone()
    batch[:2] = pixels.to(example.device)
    for found, expected in zip(run(batch), network(batch[:2]), strict=True):
        # The squares of small features would vanish in fp32.
        found, expected = found.double(), expected.double()
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


def _import_openvino() -> Any:
    # OpenVINO reports its use over the network through this package, and runs without it.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _openvino_options(dtype: torch.dtype) -> dict[str, Any]:
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32",
        # Pinned threads of several processes would all sit on the first cores.
        "ENABLE_CPU_PINNING": False,
    }


def _compile_openvino(network: nn.Module, example: torch.Tensor, dtype: torch.dtype) -> Any:
    openvino = _import_openvino()
    with torch.no_grad(), warnings.catch_warnings():
        # The tracer warns wherever the network reads a shape; shapes never change here.
        warnings.simplefilter("ignore")
        # OpenVINO would trace by itself, and check the trace: a minute for a vision transformer.
        traced = torch.jit.trace(network, example[:2], check_trace=False)  # type: ignore[no-untyped-call]
        model = openvino.convert_model(
            traced, example_input=example[:2], input=[(list(example.shape), openvino.Type.u8)]
        )
    core = openvino.Core()
    if dtype == torch.bfloat16:
        model = mark_first_layers(openvino, core, model)
    return core.compile_model(model, "CPU", _openvino_options(dtype))


def _runner(compiled: Any) -> Forward:
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
        module = modules.get(str(node.target))
        if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
            # Blocks of torchvision's, such as Conv2dNormActivation.
            _fold_within(module)
        if type(module) is not nn.BatchNorm2d:
            continue
        before = node.args[0]
        shared = len(before.users) > 1 or n_calls[str(before.target)] > 1
        folded = None if shared else _folded(modules.get(str(before.target)), module)
        if folded is not None:
            parent, _, name = str(before.target).rpartition(".")
            setattr(extractor.get_submodule(parent), name, folded)
            node.replace_all_uses_with(before)
            extractor.graph.erase_node(node)
    extractor.recompile()


def _fold_within(block: nn.Sequential) -> None:
    """Fold the batch normalisations of a sequence of layers that is read only as a whole."""
    for i in range(len(block) - 1):
        if (folded := _folded(block[i], block[i + 1])) is not None:
            block[i], block[i + 1] = folded, nn.Identity()


def _folded(convolution: nn.Module | None, norm: nn.Module | None) -> nn.Module | None:
    """Return a convolution with the normalisation after it, or None where they don't fit."""
    # A subclass may do more: timm's also applies its activation.
    if type(norm) is not nn.BatchNorm2d or norm.running_mean is None:
        return None
    # Hooks may change the weights, as weight normalisation does.
    if type(convolution) is not nn.Conv2d or convolution._forward_pre_hooks:
        return None
    return fuse_conv_bn_eval(convolution, norm)
