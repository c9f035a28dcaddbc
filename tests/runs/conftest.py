"""What tests of runs share: a store with one run, which each test gets a copy of."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import store_in

from featstore.fitting.fit import fit
from featstore.runs.opening import list_runs
from featstore.runs.run import Run
from featstore.store.feature_store import FeatureStore, open_store


@pytest.fixture(autouse=True)
def _no_drawings(blank_pictures: None) -> None:
    """Spare the drawings of runs, which take longer than the fits."""


@pytest.fixture(scope="session")
def shared_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store with one set and one run that no test changes."""
    store = store_in(tmp_path_factory.mktemp("shared"))
    fit(store, n_jobs=1)
    return store.path


@pytest.fixture
def store(shared_run: Path, tmp_path: Path) -> FeatureStore:
    """Return a store with one set and one run."""
    return open_store(shutil.copytree(shared_run, tmp_path / "store"))


@pytest.fixture
def run(store: FeatureStore) -> Run:
    """Return the store's run."""
    (found,) = list_runs(store)
    return found
