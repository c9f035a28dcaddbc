"""Runs that the tests of reports share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import blank_figures, store_in

from featstore.fitting.fit import fit
from featstore.runs.run import Run
from featstore.store.feature_store import FeatureStore, open_store


@pytest.fixture(scope="session")
def sat4_store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Return a store with runs of three classifiers on one network; tests change nothing in it."""
    folder = tmp_path_factory.mktemp("sat4")
    store = store_in(folder, dataset="sat4", weights="IMAGENET1K_V2")
    with blank_figures():
        fit(store, ["logreg", "mlp", "ridge"], n_jobs=1, params={"mlp:max_iter": 3})
    return store


@pytest.fixture
def store(sat4_store: FeatureStore, tmp_path: Path) -> FeatureStore:
    """Return a copy of it that a test may change."""
    shutil.copytree(sat4_store.path, tmp_path / "store")
    return open_store(tmp_path / "store")


@pytest.fixture(scope="session")
def run(sat4_store: FeatureStore) -> Run:
    """Return a run, for :func:`makers.altered`."""
    from featstore.runs.opening import list_runs

    (found,) = [run for run in list_runs(sat4_store) if run.clf == "ridge"]
    return found
