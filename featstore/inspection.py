"""Inspection: features that are no numbers or tell nothing are found before they are trained on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from featstore.blocks import Samples
from featstore.errors import FitError
from featstore.selection import Selection
from featstore.splits import Split, row_numbers


def check_features(
    selection: Selection, split: Split, features: Mapping[str, Samples], notes: list[str]
) -> int:
    """Refuse features that are no numbers, note those that are constant, and count these.

    Parameters
    ----------
    selection : Selection
    split : Split
    features : mapping of str to Samples
        The rows of each use.
    notes : list of str
        Added to.

    Raises
    ------
    FitError
        When a feature is not finite, or all are constant.
    """
    n_features = selection.n_features
    lowest = np.full(n_features, np.inf, dtype=np.float32)
    highest = -lowest
    for use, rows in split.uses().items():
        for block in features[use].blocks():
            values = features[use].take(block)
            low, high = values.min(axis=0), values.max(axis=0)
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                _refuse_non_finite(selection, row_numbers(rows)[block], values)
            if use == "train":
                np.minimum(lowest, low, out=lowest)
                np.maximum(highest, high, out=highest)
    constant = np.flatnonzero(lowest == highest)
    if constant.size == n_features:
        raise FitError(
            f"All {n_features} features are the same in every training row, so nothing can be "
            "learned from them. Extract with other weights or another layer."
        )
    if constant.size:
        notes.append(
            f"{constant.size} of {n_features:,} features are the same in every training row "
            f"(columns {_numbers(constant)}); they tell nothing."
        )
    return int(constant.size)


def _refuse_non_finite(selection: Selection, rows: np.ndarray, values: np.ndarray) -> None:
    bad = ~np.isfinite(values)
    row = rows[bad.any(axis=1)][0]
    raise FitError(
        f"{int(bad.any(axis=1).sum())} rows have features that are not finite numbers, the first "
        f"being row {row} ({selection.sample_ids[row]}), columns "
        f"{_numbers(np.flatnonzero(bad.any(axis=0)))}. Look for damage with featstore store "
        "verify; if there is none, extract again with --precision fp32."
    )


def _numbers(values: np.ndarray) -> str:
    shown = ", ".join(map(str, values[:5]))
    return shown if values.size <= 5 else f"{shown}, ..."
