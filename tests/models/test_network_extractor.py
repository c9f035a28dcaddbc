from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from makers import Listener, tiny, tree_bytes

from featstore.datasets.loader import Batch
from featstore.errors import BackboneError, DeviceError
from featstore.extraction.extract import extract
from featstore.io.fingerprints import FingerprintCache
from featstore.models import backbone, engine_choice, engines, network_extractor
from featstore.models.network_extractor import NetworkExtractor
from featstore.models.preprocess import Preprocess
from featstore.models.weights import IMAGENET_MEAN, IMAGENET_STD, find_weights
from featstore.store.feature_store import open_store
from featstore.store.format import matrix
from featstore.store.verification import schedule_repair, verify

CPU = torch.device("cpu")
needs_openvino = pytest.mark.skipif(not find_spec("openvino"), reason="OpenVINO is not installed")


@pytest.fixture
def make(tmp_path):
    """Return a function that makes an extractor of resnet18 for images of 32 pixels."""

    def make(**options):
        weights = find_weights("resnet18", "random:0", FingerprintCache(tmp_path / "cache"))
        preprocess = Preprocess(32, "rgb", IMAGENET_MEAN, IMAGENET_STD)
        return NetworkExtractor("resnet18", weights, preprocess, "fp32", CPU, **options)

    return make


def batch(n=3):
    images = np.random.default_rng(0).integers(0, 256, (n, 40, 40, 3), dtype=np.uint8)
    return Batch(0, n, [(np.arange(n), images)])


def test_a_batch_must_not_come_before_the_network(make):
    with pytest.raises(RuntimeError, match=r"open\(\) comes first"):
        make().begin(batch())


@needs_openvino
def test_openvino_gives_pytorchs_features_and_resumes_with_the_same_bits(make, monkeypatch):
    layers = make().find(["conv1", "layer3", "fc"])
    plain, compiled = (make(batch_size=4, compile_=word) for word in ("off", "on"))
    assert plain.open(layers, 27) == {"device": "cpu", "engine": "eager", "batch_size": 4}
    numerics = compiled.open(layers, 27)
    assert numerics == {"device": "cpu", "engine": "openvino", "batch_size": 4}
    expected, found = (extractor.begin(batch())() for extractor in (plain, compiled))
    assert list(found) == ["conv1", "layer3.1.relu_1", "fc"]
    for name, rows in found.items():
        assert rows.shape == expected[name].shape
        np.testing.assert_allclose(rows, expected[name], atol=1e-4, rtol=1e-3)
    # A pass continues with the engine and the batches that it began with, and OpenVINO's network
    # is not built again.
    monkeypatch.setattr(backbone, "find_network", None)
    resumed = make(batch_size=9, compile_="off")
    assert resumed.open(layers, 27, numerics) == numerics
    for name, rows in resumed.begin(batch())().items():
        assert rows.tobytes() == found[name].tobytes()


@needs_openvino
@pytest.mark.soak
def test_a_damaged_chunk_is_computed_with_the_layers_it_was_read_with(
    images, tmp_path, monkeypatch
):
    """An engine may fuse a network differently where less of it is read."""
    monkeypatch.setattr(matrix, "CHUNK_NBYTES", 4 * 1000 * 5)
    settings = tiny(images, layers="conv1,layer1.0.conv1,fc")
    extract(store=tmp_path / "store", compile="on", **settings)
    store = open_store(tmp_path / "store")
    feature_set = store.sets()[0]
    before = tree_bytes(feature_set.group)
    chunk = feature_set.group / "fc" / "c" / "2" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-9] + b"corrupted")
    schedule_repair(feature_set, verify(feature_set))
    repaired = extract(store=store, **settings)
    assert 0 < repaired.n_computed < 27
    assert tree_bytes(feature_set.group) == before


def test_predict_finds_what_extract_kept_of_the_network(make):
    """A run records the pooling that ``auto`` meant."""
    layers = make().find(["conv1", "fc"])
    places = {make(pool=pool).cache_file(layers, "rates")._path for pool in ("auto", "avg")}
    assert len(places) == 1
    assert make(pool="max").cache_file(layers, "rates")._path not in places


def test_auto_continues_without_an_engine_that_fails(make, monkeypatch):
    def broken(*_):
        raise RuntimeError("no such operation")

    plan = engine_choice.Plan("inductor", "for the test")
    monkeypatch.setattr(network_extractor, "fixed_plan", lambda *_: plan)
    monkeypatch.setattr(engines, "_inductor", broken)
    listener, extractor = Listener(), make()
    layers = extractor.find(["conv1"])
    assert extractor.open(layers, 27, None, listener)["engine"] == "eager"
    assert "no such operation" in listener.lines[0]
    assert listener.lines[1].startswith("Computing with PyTorch: ")
    with pytest.raises(BackboneError, match="no such operation"):
        make(compile_="on").open(layers, 27)


def test_batches_are_halved_until_they_fit(make, monkeypatch):
    original = network_extractor.Backbone
    tried = []

    def greedy(*args):
        tried.append(args[7])
        if args[7] > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(*args)

    monkeypatch.setattr(network_extractor, "Backbone", greedy)
    extractor = make()
    layers = extractor.find(["conv1"])
    assert extractor.open(layers, 27)["batch_size"] == 3
    assert tried == [27, 13, 6, 3]
    assert extractor.begin(batch())()["conv1"].shape == (3, 64)
    with pytest.raises(DeviceError, match="batch of 6 .*--batch-size"):
        make(batch_size=6).open(layers, 27)


def test_the_threads_of_a_cpu_are_set_and_named(make):
    before = torch.get_num_threads()
    try:
        assert make().use_threads(None) == before
        assert make().use_threads(before + 1) == before + 1
        assert make().device_name == f"cpu ({before + 1} threads)"
    finally:
        torch.set_num_threads(before)
