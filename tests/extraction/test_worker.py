"""Workers run in this process here: none of these tests needs a cluster."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from makers import of_pixels, tiny

import featstore
from featstore.config import ExtractConfig
from featstore.errors import DatasetError, DeviceError, SchedulerError
from featstore.extraction import worker
from featstore.extraction.extract import extract
from featstore.extraction.worker import Shard, WorkerContext, WorkerState, token_path
from featstore.io.fingerprints import FingerprintCache, dataset_fingerprint
from featstore.parallel import cluster
from featstore.store.feature_store import open_store
from featstore.store.writer import FeatureWriter


@pytest.fixture(autouse=True)
def _worker(monkeypatch):
    """Make this process a worker with one thread, which keeps nothing afterwards."""
    monkeypatch.setattr(cluster, "worker_name", lambda: "0")
    monkeypatch.setattr(cluster, "worker_threads", lambda: 1)
    n_threads = torch.get_num_threads()
    yield
    worker._states.clear()
    torch.set_num_threads(n_threads)


def make_context(settings, tmp_path):
    dataset = featstore.open_dataset("folder", settings["root"])
    cache = FingerprintCache(tmp_path / "cache")
    fingerprint = dataset_fingerprint(dataset.identity(), dataset.files(), cache)
    return WorkerContext(ExtractConfig(**settings).to_dict(), str(tmp_path / "store"), fingerprint)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "another"}, "same files at the same paths"),
        ({"weights_sha256": "another"}, "other weights than here"),
        ({"versions": {"torch": "0.1"}}, "torch .* not 0.1"),
    ],
)
def test_a_worker_that_would_compute_other_features_is_refused(images, tmp_path, change, message):
    context = replace(make_context(of_pixels(images), tmp_path), **change)
    with pytest.raises(SchedulerError, match=message):
        worker.describe_device(context)


def test_a_worker_without_the_package_of_a_dataset_is_refused(images, tmp_path):
    context = make_context(of_pixels(images), tmp_path)
    context = replace(context, config=context.config | {"dataset": "labelled"})
    with pytest.raises(SchedulerError, match=r"On a worker: labelled is neither .* the package"):
        worker.describe_device(context)


def test_a_worker_on_a_device_of_another_type_is_refused():
    state = WorkerState.__new__(WorkerState)
    state.extractor = SimpleNamespace(device_type="cpu", device_name="cpu (2 threads)")
    with pytest.raises(DeviceError, match="computed on cuda, and a worker has cpu"):
        state.prepare({"device": "cuda"})


def test_a_gpu_that_does_not_exist_is_named(images, tmp_path):
    with pytest.raises(DeviceError, match="cuda:31 was requested"):
        WorkerState(make_context(tiny(images), tmp_path), "cuda:31", None)


def test_a_cpus_threads_are_the_workers_or_those_of_the_pass(extracted, tmp_path):
    context = make_context(tiny(extracted.images), tmp_path)
    assert worker.describe_device(context)["device_name"] == "cpu (1 threads)"
    numerics, lines = worker.choose_numerics(context, ["fc"], 27)
    assert numerics == {"device": "cpu", "engine": "eager", "batch_size": 4, "n_threads": 1}
    assert lines[0].startswith("Computing with PyTorch: ")
    (state,) = worker._states
    state.prepare({**numerics, "nodes": ["fc"], "n_threads": 2})
    assert torch.get_num_threads() == 2


@pytest.fixture
def shard(images, tmp_path, small_pixel_chunks):
    """Return a shard of the last two chunks of a set that was begun, and its context."""
    settings = of_pixels(images, batch_size=4)
    store = open_store(tmp_path / "store")
    extract(store=store, **settings)
    (feature_set,) = store.sets()
    numerics = feature_set.layer("stats").numerics.to_dict()
    feature_set.layer_path("stats").unlink()
    with FeatureWriter(feature_set, ["stats"], numerics, "x"):
        pass
    token_path(feature_set).write_text("token", encoding="utf-8")
    made = Shard(str(feature_set.path), {"stats": [4, 5]}, "token-0", numerics, "token", "x")
    return made, make_context(settings, tmp_path), feature_set


def test_a_shard_writes_its_chunks_and_lists_them(shard):
    made, context, feature_set = shard
    chunks = [feature_set.group / "stats" / "c" / str(index) / "0" for index in (4, 5)]
    before = [path.read_bytes() for path in chunks]
    for path in chunks:
        path.unlink()
    times = worker.compute_shard(context, made)
    assert times["forward_s"] > 0
    assert [path.read_bytes() for path in chunks] == before
    with FeatureWriter(feature_set, ["stats"], made.numerics, "x") as writer:
        writer.gather()
    assert set(writer.layers["stats"].hashes) == {4, 5}


def test_a_shard_of_an_ended_pass_writes_nothing(shard):
    made, context, feature_set = shard
    for path in (token_path(feature_set), None):
        with pytest.raises(SchedulerError, match="was ended"):
            worker.compute_shard(context, replace(made, token="another"))
        if path is not None:
            path.unlink()


def test_a_worker_that_does_not_see_the_store_says_so(shard, tmp_path):
    made, context, _ = shard
    with pytest.raises(SchedulerError, match="does not see"):
        worker.compute_shard(context, replace(made, set_path=str(tmp_path / "elsewhere")))


def test_a_worker_forgets_images_that_changed(shard, images):
    made, context, _ = shard
    worker.describe_device(context)
    assert worker._states
    for path in featstore.open_dataset("folder", images).paths:
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DatasetError, match="was changed"):
        worker.compute_shard(context, made)
    assert worker._states == []


def test_memory_is_released_unless_a_task_runs(images, tmp_path):
    worker.describe_device(make_context(of_pixels(images), tmp_path))
    with worker._turn:
        worker.release_memory()
        assert worker._states
    worker.release_memory()
    assert worker._states == []
