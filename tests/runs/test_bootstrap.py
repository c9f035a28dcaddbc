"""Intervals of test scores by drawing images, or groups of them, again."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, cohen_kappa_score

from featstore.runs import bootstrap
from featstore.runs.bootstrap import class_intervals, difference_by_group
from featstore.runs.significance import accuracy_interval

rng = np.random.default_rng(0)
TRUE = rng.integers(0, 5, 400)
NAMED = np.where(rng.random(400) < 0.8, TRUE, rng.integers(0, 5, 400))


def by_hand(groups=None, n_draws=400):
    """Return the bootstrap's intervals by drawing rows one set at a time."""
    own = np.random.default_rng(1)
    units = np.arange(400) if groups is None else groups
    names = np.unique(units)
    rows_of = [np.flatnonzero(units == name) for name in names]
    drawn = []
    for _ in range(n_draws):
        at = np.concatenate([rows_of[i] for i in own.integers(0, len(names), len(names))])
        y, p = TRUE[at], NAMED[at]
        scores = ((y == p).mean(), balanced_accuracy_score(y, p), cohen_kappa_score(y, p))
        drawn.append(scores)
    return np.quantile(drawn, [0.025, 0.975], axis=0).T


@pytest.mark.parametrize("groups", [None, np.arange(400) // 8])
def test_intervals_are_those_of_draws_one_by_one(groups, monkeypatch):
    found = class_intervals(TRUE, NAMED, 5, groups)
    names = ("accuracy", "average_accuracy", "kappa")
    got = np.array([found["intervals"][name] for name in names])
    np.testing.assert_allclose(got, by_hand(groups), atol=0.012)
    unit, n = ("image", 400) if groups is None else ("group", 50)
    assert (found["unit"], found["n_units"], found["n_draws"]) == (unit, n, 1000)
    assert class_intervals(TRUE, NAMED, 5, groups) == found
    monkeypatch.setattr(bootstrap, "MAX_NUMBERS", 10_000)
    parts = class_intervals(TRUE, NAMED, 5, groups)["intervals"]
    np.testing.assert_allclose([parts[name] for name in names], got, atol=1e-9)


def test_groups_of_one_outcome_widen_the_interval():
    groups = np.arange(400) // 40
    right = groups % 3 > 0
    named = np.where(right, TRUE, (TRUE + 1) % 5)
    alone = class_intervals(TRUE, named, 5)["intervals"]["accuracy"]
    whole = class_intervals(TRUE, named, 5, groups)["intervals"]["accuracy"]
    assert np.ptp(whole) > 3 * np.ptp(alone)


def test_images_that_are_all_right_do_not_give_certainty():
    found = class_intervals(TRUE, TRUE, 5)["intervals"]
    assert found["accuracy"] == pytest.approx(accuracy_interval(1.0, 400))
    assert class_intervals(TRUE * 0, TRUE * 0, 5)["intervals"]["kappa"] is None


def test_a_difference_is_drawn_by_groups():
    difference = np.repeat([1.0, 0.0, -1.0, 1.0], 25)
    groups = np.repeat(["a", "b", "c", "d"], 25)
    low, high = difference_by_group(difference, groups)
    assert low < -0.4
    assert high == 1.0
