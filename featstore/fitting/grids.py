"""The values of parameters that searches try."""

from __future__ import annotations

import numpy as np


def logarithmic(low: float, high: float, n: int) -> list[float]:
    """Return `n` values from 10^low to 10^high, each to three digits."""
    return [float(f"{value:.3g}") for value in np.logspace(low, high, n)]


def gammas(n_features: int) -> list[float]:
    """Return widths of the RBF kernel to try."""
    # scikit-learn's gamma="scale" is 1 / n_features on standardised features.
    return [float(f"{factor / n_features:.3g}") for factor in (0.25, 0.5, 1.0, 2.0)]
