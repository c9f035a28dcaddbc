from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from makers import Listener, tiny, tree_bytes

from featstore.errors import BackboneError, DeviceError
from featstore.extraction.extract import extract
from featstore.models import backbone, engines
from featstore.store import writer
from featstore.store.feature_store import open_store
from featstore.store.format import matrix
from featstore.store.verification import schedule_repair, verify

needs_openvino = pytest.mark.skipif(not find_spec("openvino"), reason="OpenVINO is not installed")


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(matrix, "CHUNK_NBYTES", 4 * 1000 * 5)
    monkeypatch.setattr(writer, "CHECKPOINT_S", 0.0)


def group_bytes(result):
    return tree_bytes(Path(result.path))


@pytest.mark.parametrize("n_in_flight", [2, 3, 50])
def test_batches_in_flight_come_out_in_order(images, tmp_path, monkeypatch, n_in_flight):
    """What a GPU's queue does, on a CPU: begin several batches before the first is finished."""
    one = extract(store=tmp_path / "one", **tiny(images))
    original = backbone.NetworkExtractor.__init__
    begun = []

    def eager(self, *args):
        original(self, *args)
        self.n_in_flight = n_in_flight

    begin = backbone.NetworkExtractor.begin

    def queued(self, batch):
        features = begin(self, batch)()
        begun.append(batch.start)
        return lambda: begun.remove(batch.start) or features

    monkeypatch.setattr(backbone.NetworkExtractor, "__init__", eager)
    monkeypatch.setattr(backbone.NetworkExtractor, "begin", queued)
    many = extract(store=tmp_path / "many", **tiny(images))
    assert group_bytes(many) == group_bytes(one)
    assert begun == []


@needs_openvino
def test_openvinos_features_are_pytorchs(images, tmp_path):
    settings = tiny(images, layers="conv1,layer3,fc")
    plain = extract(store=tmp_path / "plain", **settings)
    compiled = extract(store=tmp_path / "compiled", compile="on", **settings)
    assert (plain.engine, compiled.engine) == ("eager", "openvino")
    for layer in plain.layers:
        X, Z = (
            open_store(tmp_path / name).select(layers=layer).memmap()
            for name in ("plain", "compiled")
        )
        np.testing.assert_allclose(Z, X, atol=1e-4, rtol=1e-3)


@needs_openvino
def test_a_pass_is_gone_on_with_by_the_engine_that_began_it(
    images, tmp_path, small_chunks, monkeypatch
):
    unbroken = extract(store=tmp_path / "unbroken", compile="on", **tiny(images))
    original = writer.FeatureWriter.add

    def interrupted(self, start, *rest):
        if start == 12:
            raise KeyboardInterrupt
        original(self, start, *rest)

    monkeypatch.setattr(writer.FeatureWriter, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract(store=tmp_path / "store", compile="on", **tiny(images))
    monkeypatch.setattr(writer.FeatureWriter, "add", original)
    resumed = extract(store=tmp_path / "store", compile="off", **tiny(images))
    assert (resumed.engine, resumed.n_computed) == ("openvino", 15)
    assert group_bytes(resumed) == group_bytes(unbroken)


@needs_openvino
def test_a_damaged_chunk_is_computed_with_the_layers_it_was_read_with(
    images, tmp_path, small_chunks
):
    """An engine may fuse a network otherwise where less is read of it."""
    settings = tiny(images, layers="conv1,layer1.0.conv1,fc")
    first = extract(store=tmp_path / "store", compile="on", **settings)
    before = group_bytes(first)
    store = open_store(tmp_path / "store")
    feature_set = store.sets()[0]
    chunk = feature_set.group / "fc" / "c" / "2" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-9] + b"corrupted")
    schedule_repair(feature_set, verify(feature_set))
    repaired = extract(store=store, **settings)
    assert 0 < repaired.n_computed < 27
    assert group_bytes(repaired) == before


def test_auto_goes_on_without_an_engine_that_fails(images, tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("no such operation")

    monkeypatch.setattr(
        backbone, "choose_engine", lambda *_: engines.Plan("inductor", "for the test")
    )
    monkeypatch.setattr(engines, "_inductor", broken)
    listener = Listener()
    result = extract(store=tmp_path / "store", progress=listener, **tiny(images))
    assert result.engine == "eager"
    assert any("no such operation" in line for line in listener.lines)
    with pytest.raises(BackboneError, match="no such operation"):
        extract(store=tmp_path / "other", compile="on", **tiny(images))


def test_batches_are_halved_until_they_fit(images, tmp_path, monkeypatch):
    original = backbone.Backbone
    tried = []

    def greedy(*args):
        tried.append(args[7])
        if args[7] > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(*args)

    monkeypatch.setattr(backbone, "Backbone", greedy)
    result = extract(store=tmp_path / "store", **tiny(images, batch_size=None))
    assert tried == [27, 13, 6, 3]
    assert result.batch_size == 3
    with pytest.raises(DeviceError, match="batch of 6 .*--batch-size"):
        extract(store=tmp_path / "other", **tiny(images, batch_size=6))


@pytest.mark.parametrize(
    ("options", "dtype"),
    [
        ({}, "float32"),
        ({"precision": "bf16"}, "float16"),
        ({"dtype": "float16"}, "float16"),
        ({"precision": "bf16", "dtype": "float32"}, "float32"),
    ],
)
def test_features_are_stored_as_they_were_computed(images, tmp_path, options, dtype):
    import zarr

    store = open_store(tmp_path / "store")
    result = extract(store=store, **tiny(images) | options)
    assert result.dtype == dtype
    array = zarr.open_group(result.path, mode="r")["fc"]
    assert array.dtype == dtype
    selection = store.select()
    assert selection.memmap().dtype == np.float32
    assert selection.dask().dtype == np.float32
    np.testing.assert_array_equal(selection.memmap(), np.asarray(array[:], np.float32))
    assert extract(store=store, **tiny(images) | options).n_computed == 0


def test_half_precision_storage_is_near_and_told_apart(images, tmp_path):
    store = open_store(tmp_path / "store")
    extract(store=store, **tiny(images))
    extract(store=store, **tiny(images, dtype="float16"))
    assert len(store.sets()) == 2
    full, half = (store.select(dtype=name).memmap() for name in ("float32", "float16"))
    np.testing.assert_allclose(half, full, rtol=1e-3, atol=1e-4)
    assert not np.array_equal(half, full)


def test_values_too_large_for_float16_are_kept_in_float32(images, tmp_path, monkeypatch):
    original = backbone.Backbone.__call__
    n_batches = []

    def large(self, x):
        n_batches.append(1)
        found = original(self, x)
        return {"fc": found["fc"] + (1e5 if len(n_batches) % 7 == 5 else 0.0)}

    monkeypatch.setattr(backbone.Backbone, "__call__", large)
    store, listener = open_store(tmp_path / "store"), Listener()
    result = extract(store=store, progress=listener, **tiny(images, precision="bf16"))
    assert result.dtype == "float32"
    assert store.select().memmap().max() > 9e4
    assert any("float16's largest" in line for line in listener.lines)
    assert verify(store.sets()[0]) == []
    n_batches.clear()
    with pytest.raises(Exception, match="--dtype auto or float32"):
        extract(store=tmp_path / "other", **tiny(images, dtype="float16"))
