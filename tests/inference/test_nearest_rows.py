from __future__ import annotations

import numpy as np
import pytest
import threadpoolctl
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from featstore.config import METRICS
from featstore.errors import ConfigError
from featstore.inference import nearest_rows
from featstore.inference.nearest_rows import nearest


def features(n_samples=500, n_features=40, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.gamma(0.3, size=(n_samples, n_features)) * rng.uniform(0.01, 100, n_features)
    return X.astype(np.float32)


def expected(X, rows, queries, k, metric, scaler=None):
    scaler = scaler or StandardScaler().fit(X[rows].astype(np.float64))
    found = NearestNeighbors(n_neighbors=k, metric=metric, algorithm="brute")
    found.fit(scaler.transform(X[rows].astype(np.float64)))
    distances, at = found.kneighbors(scaler.transform(queries.astype(np.float64)))
    return np.asarray(rows)[at], distances


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("nbytes", [1, 4000, 2**22])
def test_they_are_those_that_scikit_learn_finds(metric, nbytes, monkeypatch):
    monkeypatch.setattr(nearest_rows, "CACHED_NBYTES", nbytes)
    X, queries = features(), features(30, seed=1)
    rows = np.random.default_rng(2).permutation(500)[:350]
    found, distances = nearest(X, rows, queries, 7, metric=metric)
    at, far = expected(X, rows, queries, 7, metric)
    assert (found.dtype, distances.dtype) == (np.int64, np.float32)
    np.testing.assert_array_equal(found, at)
    np.testing.assert_allclose(distances, far, rtol=1e-5)


def test_rows_may_be_a_slice_and_the_scaler_a_given_one():
    X, queries = features(), features(5, seed=1)
    scaler = StandardScaler().fit(X[:50].astype(np.float64))
    found, distances = nearest(X, slice(100, 400), queries, 4, scaler=scaler)
    at, far = expected(X, np.arange(100, 400), queries, 4, "cosine", scaler)
    np.testing.assert_array_equal(found, at)
    np.testing.assert_allclose(distances, far, rtol=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_neither_blocks_nor_threads_change_a_bit(metric, monkeypatch, tmp_path):
    X = features(3000, 257)
    X[1000:2000] = X[:1000] * (1 + 1e-7)
    np.save(tmp_path / "X.npy", X)
    X = np.load(tmp_path / "X.npy", mmap_mode="r")
    queries = np.concatenate([X[:20], features(20, 257, seed=1)])
    answers = []
    for nbytes, n_threads in ((2**22, 2), (100_000, 1), (7_000, 2)):
        monkeypatch.setattr(nearest_rows, "CACHED_NBYTES", nbytes)
        with threadpoolctl.threadpool_limits(n_threads):
            answers.append(nearest(X, slice(0, 3000), queries, 9, metric=metric))
    for rows, distances in answers[1:]:
        np.testing.assert_array_equal(rows, answers[0][0])
        np.testing.assert_array_equal(distances, answers[0][1])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("nbytes", [600, 2**22])
def test_of_equals_the_lower_rows_come_first(metric, nbytes, monkeypatch):
    monkeypatch.setattr(nearest_rows, "CACHED_NBYTES", nbytes)
    X = features(60)
    X[[3, 17, 30, 45, 59]] = X[30]
    rows = np.arange(60)[::-1]
    found, distances = nearest(X, rows, X[30:31], 4, metric=metric)
    assert found.tolist() == [[3, 17, 30, 45]]
    assert distances.tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("nbytes", [600, 2**22])
@pytest.mark.parametrize("given", [True, False])
def test_masked_rows_never_come_back(metric, nbytes, given, monkeypatch):
    monkeypatch.setattr(nearest_rows, "CACHED_NBYTES", nbytes)
    X = features(60)
    X[::2] = np.nan
    X[7, 3] = np.inf
    whole = np.setdiff1d(np.arange(1, 60, 2), 7)
    scaler = StandardScaler().fit(X[whole].astype(np.float64)) if given else None
    queries = features(3, seed=1)
    found, distances = nearest(X, slice(0, 60), queries, 100, scaler=scaler, metric=metric)
    at, far = expected(X, whole, queries, len(whole), metric)
    np.testing.assert_array_equal(found, at)
    np.testing.assert_allclose(distances, far, rtol=1e-5)


def test_large_means_cost_no_precision():
    X = features(400, 30)
    X = (X - X.mean(axis=0)) / X.std(axis=0) * 1e-3 + 100
    queries = X[::40]
    found, distances = nearest(X.astype(np.float32), slice(0, 400), queries.astype(np.float32), 6)
    at, far = expected(
        X.astype(np.float32), np.arange(400), queries.astype(np.float32), 6, "cosine"
    )
    np.testing.assert_array_equal(found, at)
    np.testing.assert_allclose(distances, far, rtol=1e-5, atol=1e-7)


def test_rows_of_zeros_are_at_right_angles_to_all():
    X = np.array([[1, 1], [-1, -1], [0, 0], [2, 2], [-2, -2]], np.float32)
    found, distances = nearest(X, slice(0, 5), X[:1], 5)
    assert found.tolist() == [[0, 3, 2, 1, 4]]
    np.testing.assert_allclose(distances, [[0, 0, 1, 2, 2]], atol=1e-7)


def test_there_may_be_no_rows_and_no_queries():
    X = features(10)
    X[:5] = np.nan
    for rows in (slice(0, 0), slice(0, 5)):
        found, distances = nearest(X, rows, X[5:], 3)
        assert found.shape == distances.shape == (5, 0)
    found, distances = nearest(X, slice(5, 10), X[:0], 3)
    assert len(found) == len(distances) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [({"metric": "taxi"}, "cosine, euclidean"), ({"k": 0}, "one neighbor or more")],
)
def test_what_can_not_be_is_refused(change, message):
    X = features(10)
    options = {"X": X, "rows": slice(0, 10), "queries": X, "k": 2} | change
    with pytest.raises(ConfigError, match=message):
        nearest(**options)
    with pytest.raises(ConfigError, match="not finite"):
        nearest(X, slice(0, 10), np.full((1, 40), np.nan, np.float32), 2)
