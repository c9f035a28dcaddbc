"""Refuse features that are not finite, or that the stored type can't hold."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from featstore.datasets.base import Dataset
from featstore.datasets.loader import Batch
from featstore.errors import FeatstoreError

HALF_MAX = float(np.finfo(np.float16).max)
HALF_TINY = float(np.finfo(np.float16).smallest_normal)


class HalfRangeError(FeatstoreError):
    """A feature does not fit float16."""


def checked_rows(
    features: Mapping[str, np.ndarray], batch: Batch, dataset: Dataset, dtypes: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """Return a batch's features by layer, the rows of masked images NaN.

    `features` are float32, (k, n_features); `dtypes` says what each layer is stored as, and layers
    without a type are left out. Features that float16 can't hold raise HalfRangeError; any other
    value that is not finite raises FeatstoreError with its layer and image.
    """
    rows = {}
    for layer, dtype in dtypes.items():
        block = features[layer]
        # NaN and infinity show in a sum, which is quicker than a test of each value.
        with np.errstate(over="ignore", invalid="ignore"):
            suspect = not np.isfinite(block.sum())
        if suspect and not (finite := np.isfinite(block).all(axis=1)).all():
            row = batch.start + int(np.argmin(finite))
            raise FeatstoreError(
                f"Layer {layer} gives a value that is not finite for image "
                f"{dataset.sample_ids[row]}. If the precision is fp16 or bf16, extract with "
                "--precision fp32; else the weights are at fault."
            )
        if dtype == "float16" and (problem := _half_range_problem(block)):
            raise HalfRangeError(f"Layer {layer} gives {problem}.")
        if batch.masked:
            # The extractor may use the block's memory again.
            block = block.copy()
            block[[row - batch.start for row in batch.masked]] = np.nan
        rows[layer] = block
    return rows


def _half_range_problem(block: np.ndarray) -> str | None:
    """Return what float16 can't hold of a batch's features; None when it holds them.

    A small value beside larger ones of the same feature may become zero. Where most features have
    no value of float16's full precision, the features themselves are lost.
    """
    largest = np.abs(block).max(axis=0)
    if largest.max() > HALF_MAX:
        return f"values beyond {HALF_MAX:.0f}, float16's largest"
    used = largest[largest > 0]
    if used.size and np.median(used) < HALF_TINY:
        return f"mostly values below {HALF_TINY:.0e}, from where on float16 loses digits"
    return None
