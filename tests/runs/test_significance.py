from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from featstore.runs.significance import (
    CHI_SQUARED,
    EXACT,
    accuracy_interval,
    difference_interval,
    mcnemar,
    sign_flip,
)


def test_chi_squared_begins_at_25_rows():
    # The binomial sums by hand: 16 or more heads in 24 tosses, both tails.
    tail = sum(math.comb(24, k) for k in range(16, 25))
    assert mcnemar(8, 16) == (EXACT, None, pytest.approx(2 * tail / 2**24))
    name, statistic, _ = mcnemar(8, 17)
    assert (name, statistic) == (CHI_SQUARED, pytest.approx(8**2 / 25))


@pytest.mark.parametrize("n", [0, 7, 12, 13, 400])
def test_equal_numbers_give_p_1(n):
    assert mcnemar(n, n)[2] == 1.0


def test_sign_flips_count_all_choices_of_signs():
    differences = np.array([1, 1, 1, 0, 1, -1, -1, 0, 1, 1, 1, 1, -1, 1])
    groups = np.array(list("aaabbbcddeeffg"))
    totals = [3, 0, -1, 1, 2, 0, 1]
    choices = itertools.product((1, -1), repeat=len(totals))
    far = [abs(np.dot(signs, totals)) >= sum(totals) for signs in choices]
    assert sign_flip(differences, groups) == pytest.approx(np.mean(far))
    assert sign_flip(-differences[::-1], groups[::-1]) == pytest.approx(np.mean(far))
    # Images that are groups of their own: the exact McNemar test.
    alone = np.repeat([1, -1, 0], [8, 16, 300])
    assert sign_flip(alone, np.arange(324)) == pytest.approx(mcnemar(8, 16)[2])
    assert sign_flip(np.repeat([1, -1], 50), np.repeat([0, 1], 50)) == 1.0
    # Five groups that agree: 2 of 32 choices of signs.
    assert sign_flip(np.ones(500, int), np.arange(500) // 100) == pytest.approx(2 / 32)
    assert 0 < sign_flip(np.ones(500, int), np.arange(500)) < 1e-14


def test_the_interval_is_that_of_r():
    # PropCIs 0.3-0: diffpropci.mp(b = 40, c = 20, n = 160, conf.level = 0.95).
    assert difference_interval(20, 40, 160) == pytest.approx((-0.21601726, -0.03089632), abs=1e-8)
    low, high = difference_interval(1, 0, 1)
    assert -1 <= low < 1 / 3 < high == 1.0
    # Without a row that tells the runs apart there still is a bound on what may tell them apart.
    half = 1.959964 / 102
    assert difference_interval(0, 0, 100) == pytest.approx((-half, half))


@pytest.mark.parametrize(
    ("n_right", "n_test", "bounds"),
    [
        # Newcombe 1998, doi:10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E,
        # Table I, method 3.
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_the_interval_of_an_accuracy_is_newcombes(n_right, n_test, bounds):
    found = accuracy_interval(n_right / n_test, n_test)
    assert found == pytest.approx(bounds, abs=5e-5)
