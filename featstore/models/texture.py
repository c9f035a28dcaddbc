"""Features of the texture of images: co-occurrence matrices of grey levels, and what they tell."""

from __future__ import annotations

import numpy as np

TEXTURE = (
    "autoc",
    "contr",
    "corrm",
    "cprom",
    "cshad",
    "dissi",
    "energ",
    "entro",
    "homom",
    "homop",
    "maxpr",
    "sosvh",
    "savgh",
    "svarh",
    "senth",
    "dvarh",
    "denth",
    "inf1h",
    "inf2h",
    "indnc",
    "idmnc",
    "invvr",
    "mean",
    "std",
    "moment2",
    "cov",
)
"""Features of a co-occurrence matrix, by their usual short names.

With p(i, j) the share of the pairs of neighbors whose levels are i and j, from 1 to 16, m the mean
and v the variance of i:

Haralick et al. 1973, doi:10.1109/TSMC.1973.4309314
    energ, sum of p^2; contr, mean of (i - j)^2; corrm, cov / v, and 1 where v is 0; sosvh, v;
    homop, mean of 1 / (1 + (i - j)^2); savgh, svarh and senth, mean, variance and entropy of i + j;
    entro, entropy of p; dvarh and denth, variance and entropy of abs(i - j); inf1h and inf2h, the
    two information measures of correlation
Soh and Tsatsoulis 1999, doi:10.1109/36.752194
    autoc, mean of i j; cshad and cprom, mean of (i + j - 2 m)^3 and ^4; dissi, mean of abs(i - j);
    homom, mean of 1 / (1 + abs(i - j)); maxpr, the largest p
Clausi 2002, doi:10.5589/m02-004
    indnc, mean of 1 / (1 + abs(i - j) / 16); idmnc, mean of 1 / (1 + (i - j)^2 / 16^2)
Zwanenburg et al. 2020, doi:10.1148/radiol.2020191145
    invvr, sum of p / (i - j)^2 over i other than j
first moments
    mean, m; std, root of v; moment2, mean of i^2; cov, mean of (i - m)(j - m)

Entropies are in nats.
"""


N_LEVELS = 16
"""Grey levels of the co-occurrence matrices: a channel's upper four bits."""


OFFSETS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""Neighbors (down, across) whose pairs are counted, in both orders: four directions."""


STEP_PIXELS = 2**15
"""Pixels whose pairs are counted at a time, to stay in a core's cache."""


def count_pairs(planes: np.ndarray, n_rows: int) -> np.ndarray:
    """Return how often each pair of levels are neighbors, (n, 256) int64, in one order.

    `planes` are (n, height, width) uint8. The pairs are those of the first `n_rows` rows with
    their neighbors, which may lie in the next row.
    """
    n, height, width = planes.shape
    levels = planes >> 4
    high = levels << 4
    counts = np.empty((n, N_LEVELS**2), np.int64)
    n_at_once = max(1, STEP_PIXELS // (height * width))
    for start in range(0, n, n_at_once):
        own = slice(start, start + n_at_once)
        codes = []
        for down, across in OFFSETS:
            n_first = min(n_rows, height - down)
            left, right = max(0, -across), width - max(0, across)
            first = high[own, :n_first, left:right]
            second = levels[own, down : down + n_first, left + across : right + across]
            codes.append((first | second).reshape(len(first), -1))
        pairs = np.concatenate(codes, axis=1)
        places = np.arange(len(pairs))[:, None] * N_LEVELS**2
        found = np.bincount((pairs + places).ravel(), minlength=len(pairs) * N_LEVELS**2)
        counts[own] = found.reshape(len(pairs), -1)
    return counts


def _grouped(counts: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Return counts, (n, 256), summed over the pairs of equal key; every key from 0 on has some."""
    order = np.argsort(key, kind="stable")
    starts = np.searchsorted(key[order], np.arange(key.max() + 1))
    # A matrix product would start threads of its own in each thread that computes images.
    found: np.ndarray = np.add.reduceat(counts[:, order], starts, axis=1)
    return found


_I, _J = (level.ravel() for level in np.indices((N_LEVELS, N_LEVELS)))


def texture_features(pairs: np.ndarray) -> np.ndarray:
    """Return the features :data:`TEXTURE` of matrices of counts, (n, 256) int64, of one order each.

    An image without pairs has zeros, and a correlation of 1.
    """
    counts = pairs.reshape(-1, N_LEVELS, N_LEVELS)
    counts = (counts + counts.transpose(0, 2, 1)).reshape(len(pairs), -1).astype(np.float64)
    n = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    sums, gaps, rows = (_grouped(counts, key) / n for key in (_I + _J, np.abs(_I - _J), _I))
    p = counts / n
    level, gap = np.arange(1, N_LEVELS + 1), np.arange(N_LEVELS)
    total = np.arange(2, 2 * N_LEVELS + 1)
    mean, moment2 = (rows * level).sum(axis=1), (rows * level**2).sum(axis=1)
    variance = (rows * (level - mean[:, None]) ** 2).sum(axis=1)
    deviations = total - 2 * mean[:, None]
    sum_variance = (sums * deviations**2).sum(axis=1)
    contrast, dissimilarity = (gaps * gap**2).sum(axis=1), (gaps * gap).sum(axis=1)
    covariance = (sum_variance - contrast) / 4
    entropy, row_entropy = _entropy(p), _entropy(rows)
    flat = variance == 0
    correlation = np.where(flat, 1, covariance / np.where(flat, 1, variance))
    information = entropy - 2 * row_entropy
    values = {
        "autoc": covariance + mean**2,
        "contr": contrast,
        "corrm": correlation,
        "cprom": (sums * deviations**4).sum(axis=1),
        "cshad": (sums * deviations**3).sum(axis=1),
        "dissi": dissimilarity,
        "energ": np.square(p).sum(axis=1),
        "entro": entropy,
        "homom": (gaps / (1 + gap)).sum(axis=1),
        "homop": (gaps / (1 + gap**2)).sum(axis=1),
        "maxpr": p.max(axis=1),
        "sosvh": variance,
        "savgh": 2 * mean,
        "svarh": sum_variance,
        "senth": _entropy(sums),
        "dvarh": (gaps * (gap - dissimilarity[:, None]) ** 2).sum(axis=1),
        "denth": _entropy(gaps),
        # Of a symmetric matrix, both orders of the marginal entropy are the same.
        "inf1h": information / np.where(row_entropy > 0, row_entropy, 1),
        "inf2h": np.sqrt(np.maximum(1 - np.exp(2 * np.minimum(information, 0)), 0)),
        "indnc": (gaps / (1 + gap / N_LEVELS)).sum(axis=1),
        "idmnc": (gaps / (1 + gap**2 / N_LEVELS**2)).sum(axis=1),
        "invvr": (gaps[:, 1:] / gap[1:] ** 2).sum(axis=1),
        "mean": mean,
        "std": np.sqrt(variance),
        "moment2": moment2,
        "cov": covariance,
    }
    return np.stack([values[name] for name in TEXTURE], axis=1)


def _entropy(p: np.ndarray) -> np.ndarray:
    entropy: np.ndarray = -(p * np.log(np.where(p > 0, p, 1))).sum(axis=1)
    return entropy
