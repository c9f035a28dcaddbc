"""Write normalisation, network and pooling, which are a module of PyTorch, as ONNX."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import torch
from torch import nn

from featstore.deploy.onnx_graph import OPSET
from featstore.errors import ExportError


def network_as_onnx(module: nn.Module, n_bands: int, image_size: int, model: str) -> bytes:
    """Return an ONNX model: uint8 images (n, n_bands, size, size) in, a matrix of each layer out.

    PyTorch's tracer needs no package and takes seconds; its successor needs onnxscript, and took
    MobileNetV2 32 s in place of 2.
    """
    example = torch.zeros((2, n_bands, image_size, image_size), dtype=torch.uint8)
    with (
        tempfile.TemporaryDirectory(prefix="featstore-") as folder,
        torch.no_grad(),
        warnings.catch_warnings(),
    ):
        path = Path(folder) / "network.onnx"
        # It warns of its successor, and wherever the network reads a shape, which is fixed here.
        warnings.simplefilter("ignore")
        n_outputs = len(module(example))
        outputs = [f"features_{i}" for i in range(n_outputs)]
        try:
            torch.onnx.export(
                module,
                (example,),
                path,
                dynamo=False,
                opset_version=OPSET,
                input_names=["images"],
                output_names=outputs,
                dynamic_axes={name: {0: "n"} for name in ("images", *outputs)},
            )
        except Exception as error:
            first = next(iter(str(error).splitlines()), type(error).__name__)
            raise ExportError(f"PyTorch can't write {model} as ONNX: {first}") from error
        return path.read_bytes()
