import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    mean_absolute_error,
    r2_score,
    root_mean_squared_error,
)

from featstore.runs.scoring.influence import (
    Estimate,
    average_precisions,
    mae,
    mean_average_precision,
    r2,
    rmse,
)

N = 200


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def labels(rng):
    """Several classes, one of them rare, and scores of which many are equal."""
    y = (rng.random((N, 4)) < [0.1, 0.3, 0.5, 0.02]).astype(np.int8)
    return y, np.round(y + rng.normal(size=y.shape), 1)


def test_average_precision_is_scikit_learns(labels):
    y, scores = labels
    found, _ = average_precisions(y, scores)
    expected = [average_precision_score(y[:, c], scores[:, c]) for c in range(4)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert mean_average_precision(y, scores).value == pytest.approx(np.mean(expected))


def test_classes_without_rows_have_no_part_in_the_mean(labels):
    y, scores = labels
    whole = mean_average_precision(y, scores)
    y, scores = (np.column_stack([one, np.zeros(N)]) for one in (y, scores))
    assert np.isnan(average_precisions(y, scores)[0][4])
    assert mean_average_precision(y, scores).value == whole.value
    assert np.isnan(mean_average_precision(0 * y, scores).value)


def slopes(score, y, predicted, rows):
    """Return the derivatives of a weighted score by the weights of some rows."""
    found = []
    for row in rows:
        ends = []
        for step in (1e-5, -1e-5):
            weights = np.ones(len(y))
            weights[row] += step
            ends.append(score(y, predicted, sample_weight=weights))
        found.append((ends[0] - ends[1]) / 2e-5)
    return found


def test_influences_are_the_scores_derivatives_by_the_rows_weights(labels, rng):
    y, scores = labels
    _, influences = average_precisions(y, scores)
    rows = range(0, N, 23)
    for c in range(4):
        expected = slopes(average_precision_score, y[:, c], scores[:, c], rows)
        np.testing.assert_allclose(influences[::23, c], expected, atol=1e-9)
    true = rng.normal(5, 2, N)
    predicted = true + rng.normal(size=N)
    for mine, theirs in (
        (r2, r2_score),
        (mae, mean_absolute_error),
        (rmse, root_mean_squared_error),
    ):
        found = mine(true, predicted)
        assert found.value == pytest.approx(theirs(true, predicted))
        expected = slopes(theirs, true, predicted, rows)
        np.testing.assert_allclose(found.influences[::23], expected, atol=1e-7)


def test_the_deviation_is_about_the_bootstraps(labels, rng):
    y, scores = labels
    y, scores = y[:, :3], scores[:, :3]
    draws = rng.integers(0, N, (300, N))
    drawn = [mean_average_precision(y[at], scores[at]).value for at in draws]
    found = mean_average_precision(y, scores)
    assert found.deviation == pytest.approx(np.std(drawn), rel=0.15)
    low, high = found.interval(0.0, 1.0)
    assert low < found.value < high
    np.testing.assert_allclose([low, high], np.percentile(drawn, [2.5, 97.5]), atol=0.02)


def test_intervals_end_where_the_score_does():
    assert Estimate(0.9, np.array([0.3])).interval(0.0, 1.0)[1] == 1.0
    assert r2(np.ones(3), np.arange(3)) is None


def test_a_difference_is_tested_row_by_row(rng):
    noise = rng.normal(size=N)
    a, same = Estimate(0.6, noise), Estimate(0.5, noise)
    # Of rows that influence both alike, a small difference is sure.
    assert (a - same).p_value == 0.0
    assert (a - a).p_value == 1.0
    assert 0.05 < (a - Estimate(0.5, -noise)).p_value < 1
