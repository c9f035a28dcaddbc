from __future__ import annotations

import os
import subprocess
import sys
import types
import warnings

import numpy as np
import pytest
from conftest import blobs
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_info, threadpool_limits

from featstore.errors import ConfigError
from featstore.report import charts
from featstore.report.charts import project


def test_pca_is_scikit_learns_on_standardised_rows():
    X, _ = blobs(200, 10)
    rows = np.arange(0, 200, 2)
    found = project(X, rows, method="pca")
    want = PCA(2).fit(StandardScaler().fit_transform(X[rows]))
    theirs = want.transform(StandardScaler().fit_transform(X[rows]))
    for own, other in zip(found.points.T, theirs.T, strict=True):
        assert abs(np.corrcoef(own, other)[0, 1]) > 0.999
    assert found.method == "PCA"
    assert f"{100 * want.explained_variance_ratio_[0]:.0f} %" in found.axes[0]


def test_rows_that_are_all_alike_are_one_point():
    with warnings.catch_warnings(action="error"):
        found = project(np.ones((6, 3), np.float32), np.arange(6), method="pca")
    np.testing.assert_array_equal(found.points, 0)
    assert found.axes == tuple(f"component {i} (0 % of the variance)" for i in (1, 2))


def test_one_column_has_two_dimensions_too():
    X, _ = blobs(20, 1)
    points = project(X, np.arange(20), method="pca").points
    assert points.shape == (20, 2)
    assert (points[:, 1] == 0).all()


def test_tsne_computes_with_one_thread(monkeypatch):
    used = []

    def fit_transform(self, points):
        used.extend(library["num_threads"] for library in threadpool_info())
        return points[:, :2]

    monkeypatch.setattr(charts.TSNE, "fit_transform", fit_transform)
    X, _ = blobs(20, 5)
    with threadpool_limits(2):
        project(X, np.arange(20), method="tsne")
    assert set(used) == {1}


@pytest.mark.soak
def test_umap_keeps_classes_together_and_repeats_itself():
    pytest.importorskip("umap")
    X, y = blobs(120, 30)
    found = project(X, np.arange(120), method="umap", random_state=3)
    assert found.method == "UMAP"
    assert found.points.shape == (120, 2)
    gaps = ((found.points[:, None] - found.points[None]) ** 2).sum(axis=2)
    np.fill_diagonal(gaps, np.inf)
    assert (y[gaps.argmin(axis=1)] == y).mean() > 0.9
    again = project(X, np.arange(120), method="umap", random_state=3)
    np.testing.assert_array_equal(found.points, again.points)


BY_UMAP = """
import numpy as np
from featstore.report.charts import project
X = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32)
for n in (3, 16):
    found = project(X[:n], np.arange(n), method="umap")
    print(found.method, found.points.shape, np.isfinite(found.points).all())
"""


@pytest.mark.soak
def test_umap_of_few_rows():
    pytest.importorskip("umap")
    # Few rows do not need the minute of compiling.
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    command = [sys.executable, "-W", "ignore", "-c", BY_UMAP]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout.splitlines() == ["UMAP (3, 2) True", "UMAP (16, 2) True"]


@pytest.mark.parametrize(
    ("n_rows", "settings"),
    [
        (3, {"n_neighbors": 2, "init": "random"}),
        (16, {"n_neighbors": 15, "init": "random"}),
        (40, {"n_neighbors": 15, "init": "spectral"}),
    ],
)
def test_umap_gets_what_its_number_of_rows_allows(monkeypatch, n_rows, settings):
    asked = {}

    class UMAP:
        def __init__(self, **more):
            asked.update(more)

        def fit_transform(self, points):
            asked["shape"] = points.shape
            return points[:, :2].astype(np.float64)

    monkeypatch.setattr(charts, "find_spec", lambda name: True)
    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=UMAP))
    X, _ = blobs(60, 30)
    found = project(X, np.arange(n_rows), method="umap", random_state=3)
    assert (found.method, found.points.shape, found.points.dtype) == (
        "UMAP",
        (n_rows, 2),
        np.float32,
    )
    assert asked.pop("shape") == (n_rows, min(n_rows, 30))
    assert asked == {**settings, "random_state": 3, "n_jobs": 1}


def test_pca_is_the_default_and_umap_needs_its_package(monkeypatch):
    monkeypatch.setattr(charts, "find_spec", lambda name: None)
    X, _ = blobs(20, 5)
    assert project(X, np.arange(20)).method == "PCA"
    with pytest.raises(ConfigError, match="pip install umap-learn"):
        project(X, np.arange(20), method="umap")
    with pytest.raises(ConfigError, match="one of pca, tsne, umap"):
        project(X, np.arange(20), method="isomap")


def test_tsne_keeps_neighbors_together_and_is_seeded():
    X, y = blobs(60, 10, 3)
    found = project(X, np.arange(60), method="tsne", random_state=1)
    assert (found.method, found.points.shape) == ("t-SNE", (60, 2))
    again = project(X, np.arange(60), method="tsne", random_state=1)
    np.testing.assert_array_equal(found.points, again.points)
    distances = np.linalg.norm(found.points[:, None] - found.points, axis=2)
    np.fill_diagonal(distances, np.inf)
    assert np.mean(y[distances.argmin(axis=1)] == y) > 0.9
    assert project(np.ones((6, 3), np.float32), np.arange(6), method="tsne").points.shape == (6, 2)
