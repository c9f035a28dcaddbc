"""Compare an ONNX file with featstore; the only file that imports onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from featstore.errors import ExportError

TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 5e-2}
"""Largest difference of scores, by the precision of the run's features; the file computes in fp32.
Of decision values beyond 1, and of numbers, it is relative."""

DECISION_FACTOR = 10
"""Decision values may differ by so much more: they grow with the classifier's weights, by which the
last bits of the features are multiplied. The classes must be the same."""


@dataclass(frozen=True)
class Expected:
    """What featstore predicts of some images.

    `scores` are (n_images, n_classes) float, or (n_images, 1) numbers; `labels` are the names of
    the classes, None where images have several classes or a number.
    """

    names: Sequence[str]
    scores: np.ndarray
    labels: Sequence[str] | None


def run_file(path: Path, images: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Return a file's outputs for images, each (1, ...), by name."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: image}) for image in images]
    outputs = [output.name for output in session.get_outputs()]
    return {
        output: np.concatenate(own)
        for output, own in zip(outputs, zip(*parts, strict=True), strict=True)
    }


def compare(
    expected: Expected, scores: np.ndarray, labels: Sequence[str] | None, tolerance: float
) -> float:
    """Return the largest difference of scores; ExportError says where the file is wrong."""
    largest = np.abs(expected.scores).max()
    units = np.maximum(np.abs(expected.scores), 1) if expected.labels or largest <= 1 else largest
    differences = (np.abs(scores - expected.scores) / units).max(axis=1)
    worst = int(np.argmax(np.nan_to_num(differences, nan=np.inf)))
    # Not a number is not within any tolerance.
    if not differences[worst] <= tolerance:
        raise ExportError(
            f"No file is written: onnxruntime does not give featstore's scores. Of "
            f"{expected.names[worst]} they differ by {differences[worst]:.2g}; at most "
            f"{tolerance:g} is expected."
        )
    if expected.labels is not None and labels is not None:
        for name, own, other in zip(expected.names, expected.labels, labels, strict=True):
            if own != other:
                raise ExportError(
                    f"No file is written: featstore predicts {own} for {name}, and onnxruntime "
                    f"{other}."
                )
    return float(differences[worst])
