"""What the tests of extraction share: extracted images, and a scheduler with two workers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from distributed import Client
from makers import tiny, tree_bytes, write_images

from featstore.extraction import coordinator
from featstore.extraction.extract import extract
from featstore.store import writer
from featstore.store.feature_store import FeatureStore, open_store
from featstore.store.format import matrix

LAYERS = "fc,conv1"
"""Layers of resnet18 in the extracted store."""


def five_rows(monkeypatch, n_features):
    """Let chunks have five rows: no multiple of the batch of four."""
    monkeypatch.setattr(matrix, "CHUNK_NBYTES", 4 * n_features * 5)
    monkeypatch.setattr(writer, "CHECKPOINT_S", 0.0)
    monkeypatch.setattr(coordinator, "MIN_BATCHES", 1)


@pytest.fixture
def small_chunks(monkeypatch):
    """Let resnet18's last layer, of 1000 features, have chunks of five rows."""
    five_rows(monkeypatch, 1000)


@pytest.fixture
def small_pixel_chunks(monkeypatch):
    """Let pixel statistics of three bands have chunks of five rows."""
    five_rows(monkeypatch, 29)


@pytest.fixture
def chunks_of_16(monkeypatch):
    """Let a layer of 16 features have chunks of five rows."""
    five_rows(monkeypatch, 16)


@dataclass(frozen=True)
class Extracted:
    """27 images, and a store with resnet18's features of them."""

    images: Path
    store: FeatureStore

    @property
    def group(self) -> dict[str, bytes]:
        """Every file of the one set's group."""
        (feature_set,) = self.store.sets()
        return tree_bytes(feature_set.group)


@pytest.fixture(scope="session")
def extracted(tmp_path_factory):
    """Return images and features that no test changes."""
    folder = tmp_path_factory.mktemp("extracted")
    images = write_images(folder / "images")
    with pytest.MonkeyPatch.context() as patch:
        five_rows(patch, 1000)
        extract(store=folder / "store", **tiny(images, layers=LAYERS))
    return Extracted(images, open_store(folder / "store"))


@pytest.fixture
def stored(extracted, tmp_path):
    """Return a copy of the extracted images and features, for a test to change."""
    shutil.copytree(extracted.images, tmp_path / "my images")
    shutil.copytree(extracted.store.path, tmp_path / "a store")
    return Extracted(tmp_path / "my images", open_store(tmp_path / "a store"))


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """Run a scheduler and two workers as a user does, and return its address.

    They end with the module's tests: idle ones take a tenth of a core.
    """
    folder = tmp_path_factory.mktemp("cluster")
    start = [sys.executable, "-m", "dask"]
    options = ["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"]
    file = folder / "scheduler.json"
    # As many threads as a process here has, on which the last bits depend.
    worker = ["worker", "--scheduler-file", str(file), "--nthreads", str(torch.get_num_threads())]
    worker += ["--local-directory", str(folder), "--no-dashboard", "--no-nanny"]
    commands = [["scheduler", *options, "--scheduler-file", str(file)], worker, worker]
    # As Dask's nanny, which would be two more processes, sets it for its worker.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment["DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED"] = "False"
    with (folder / "log").open("w") as log:
        running = []
        for words in commands:
            running.append(
                subprocess.Popen(
                    [*start, *words], stdout=log, stderr=log, cwd=folder, env=environment
                )
            )
            while not file.exists():
                time.sleep(0.05)
        with Client(scheduler_file=str(file)) as client:
            client.wait_for_workers(2, timeout=600)
            address = client.scheduler.address
        yield address
        for process in reversed(running):
            process.kill()
            process.wait()
