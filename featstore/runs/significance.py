"""Test whether two classifiers differ, and give the intervals of their scores."""

from __future__ import annotations

import math
import statistics

import numpy as np

from featstore.config import LEVEL

MIN_DISCORDANT = 25
"""Fewest rows that only one run gets right for the chi-squared distribution."""


Z = statistics.NormalDist().inv_cdf(1 - LEVEL / 2)
"""Standard deviations on either side of the mean that hold 95 % of a normal distribution."""


EXACT = "exact McNemar test"


CHI_SQUARED = "McNemar's chi-squared test with continuity correction"


SIGN_FLIP = "exact sign-flip test over groups"


def mcnemar(n_only_a: int, n_only_b: int) -> tuple[str, float | None, float]:
    """Test whether two classifiers are equally often right, by the rows that only one gets right.

    McNemar 1947, doi:10.1007/BF02295996: if they are equally good, each of these rows falls to
    either with probability 1/2. Up to 24 rows the binomial distribution gives the exact
    two-sided p-value. From 25 on, ``(|n_only_a - n_only_b| - 1)^2 / (n_only_a + n_only_b)`` is
    compared with the chi-squared distribution of one degree of freedom; the 1 corrects for
    continuity, Edwards 1948, doi:10.1007/BF02289261.

    Parameters
    ----------
    n_only_a, n_only_b : int
        Rows that only the first, and only the second, gets right.

    Returns
    -------
    tuple of (str, float or None, float)
        The test's name, the value of chi-squared (None for the exact test), and the p-value,
        which is 1 when the two numbers are equal.
    """
    n_discordant = n_only_a + n_only_b
    if n_discordant < MIN_DISCORDANT:
        # Both tails are alike, as the probability is 1/2.
        tail = sum(math.comb(n_discordant, k) for k in range(min(n_only_a, n_only_b) + 1))
        return EXACT, None, min(1.0, 2 * tail / 2**n_discordant)
    # The correction must not turn equal numbers into a difference.
    statistic = max(abs(n_only_a - n_only_b) - 1, 0) ** 2 / n_discordant
    # With one degree of freedom, chi-squared is the square of a normal variable.
    return CHI_SQUARED, statistic, math.erfc(math.sqrt(statistic / 2))


def sign_flip(differences: np.ndarray, groups: np.ndarray) -> float:
    """Return the two-sided p-value of paired differences whose groups are independent.

    If two classifiers are equally good, the difference of each group may as well have the other
    sign (Fisher 1935, The Design of Experiments, section 21; of whole groups Winkler et al. 2015,
    doi:10.1016/j.neuroimage.2015.05.092). The p-value is the share of all choices of signs whose
    total is at least as far from 0. It is exact, without draws; of groups of one image it is that
    of the exact McNemar test.

    Parameters
    ----------
    differences : ndarray of shape (n_samples,), int
        1 where only the first is right, -1 where only the second is, else 0.
    groups : ndarray of shape (n_samples,)
    """
    _, codes = np.unique(groups, return_inverse=True)
    sums = np.abs(np.rint(np.bincount(codes, differences)).astype(np.int64))
    sizes, counts = np.unique(sums[sums > 0], return_counts=True)
    total, farthest = abs(int(differences.sum())), int(sizes @ counts)
    if not total:
        return 1.0
    # The product of the cosines is the characteristic function of the total.
    angles = 2 * np.pi * np.arange(2 * farthest + 1) / (2 * farthest + 1)
    spectrum = np.ones(len(angles))
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        spectrum *= np.cos(size * angles) ** count
    shares = np.fft.fft(spectrum).real / len(angles)
    p_value = 2 * float(shares[total : farthest + 1].sum())
    # Two choices of signs are as far as possible.
    return min(1.0, max(p_value, 2.0 ** (1 - int(counts.sum()))))


def accuracy_interval(accuracy: float, n_test: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of an accuracy, for other images of the same kind.

    The score interval of Wilson 1927, doi:10.1080/01621459.1927.10502953. It holds for the
    classifier as it was trained; it does not include the luck of the training images.

    Parameters
    ----------
    accuracy : float
        A fraction.
    n_test : int
        Test rows, at least 1.

    Returns
    -------
    tuple of (float, float)
        Bounds, as fractions.
    """
    p, z_squared = round(accuracy * n_test) / n_test, Z**2
    middle = p + z_squared / (2 * n_test)
    half = Z * math.sqrt(p * (1 - p) / n_test + z_squared / (4 * n_test**2))
    scale = 1 + z_squared / n_test
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def difference_interval(n_only_a: int, n_only_b: int, n_test: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of the difference of two accuracies on the same rows.

    The interval Wald+2 of Agresti & Min 2005, doi:10.1002/sim.1781: half a row is added to each of
    the four cells of the table of right and wrong, so that the normal approximation for paired
    proportions holds for small samples. With ``b = n_only_a``,
    ``c = n_only_b`` and ``n = n_test + 2`` it is
    ``(b - c) / n -+ 1.96 sqrt(b + c + 1 - (b - c)^2 / n) / n``, cut off at -1 and 1.

    Parameters
    ----------
    n_only_a, n_only_b : int
        Rows that only the first, and only the second, gets right.
    n_test : int
        All rows.

    Returns
    -------
    tuple of (float, float)
        Bounds of the first accuracy less the second, as fractions.
    """
    n = n_test + 2
    more = n_only_a - n_only_b
    half = Z * math.sqrt(n_only_a + n_only_b + 1 - more**2 / n) / n
    return float(max(more / n - half, -1.0)), float(min(more / n + half, 1.0))
