"""The path on a GPU, on machines without one: what is chosen, and in which order work is queued."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from makers import tiny
from torch.utils._python_dispatch import TorchDispatchMode

from featstore.datasets.base import ArrayDataset
from featstore.datasets.formats.given import given_source
from featstore.datasets.loader import Batch
from featstore.extraction.extract import extract
from featstore.extraction.pipeline import PassTimes, feature_batches
from featstore.io.fingerprints import FingerprintCache
from featstore.models import devices, preprocess
from featstore.models.network_extractor import NetworkExtractor
from featstore.models.preprocess import Preprocess
from featstore.models.weights import IMAGENET_MEAN, IMAGENET_STD, find_weights
from featstore.store.feature_store import open_store

GPU = torch.device("cuda", 0)
CPU = torch.device("cpu")


def make_preprocess(**settings):
    return Preprocess(32, "rgb", IMAGENET_MEAN, IMAGENET_STD, **settings)


def make_extractor(tmp_path, device=CPU):
    weights = find_weights("resnet18", "random:0", FingerprintCache(tmp_path))
    return NetworkExtractor("resnet18", weights, make_preprocess(), "bf16", device)


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "fp16"), ((8, 0), "bf16")])
def test_the_precision_follows_the_gpu(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert devices.resolve_precision("auto", GPU) == expected


@pytest.mark.parametrize(
    ("memory_gb", "image_size", "expected"),
    [(141, 224, 256), (8, 224, 256), (4, 224, 128), (24, 448, 64), (24, 112, 1024), (1, 2048, 1)],
)
def test_the_batch_follows_the_gpus_memory(monkeypatch, memory_gb, image_size, expected):
    facts = SimpleNamespace(total_memory=memory_gb * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: facts)
    assert devices.default_batch_size(GPU, image_size) == expected


class Log(list):
    """What a fake GPU was asked for, in order."""

    def stream(self, name):
        return SimpleNamespace(
            name=name, wait_stream=lambda other: self.append(f"{name} waits for {other.name}")
        )


def test_a_copy_has_a_stream_of_its_own_for_which_the_network_waits(monkeypatch):
    log = Log()

    @contextmanager
    def within(stream):
        log.append(f"{stream.name} begins")
        yield
        log.append(f"{stream.name} ends")

    def pin(tensor):
        log.append("pinned")
        return tensor

    original = torch.Tensor.to

    def to(tensor, device, *, non_blocking=False):
        log.append("copied without waiting" if non_blocking else "copied")
        return original(tensor, device)

    monkeypatch.setattr(preprocess, "_copy_stream", lambda _: log.stream("copies"))
    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: log.stream("network"))
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", to)
    monkeypatch.setattr(
        torch.Tensor, "record_stream", lambda _, stream: log.append(f"kept for {stream.name}")
    )
    preprocess._to_device(np.zeros((2, 3), np.uint8), torch.device("meta"))
    assert log == [
        "copies begins",
        "pinned",
        "copied without waiting",
        "copies ends",
        "network waits for copies",
        "kept for network",
    ]


def test_a_batch_is_queued_before_the_one_before_is_waited_for(tmp_path, monkeypatch):
    log = Log()
    numbers = iter(range(9))

    class Event:
        def __init__(self):
            self.number = next(numbers)

        def record(self, stream):
            log.append(f"{self.number} queued")

        def synchronize(self):
            log.append(f"{self.number} awaited")

    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda shape, pin_memory: empty(shape))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: log.stream("network"))
    extractor = make_extractor(tmp_path, device=GPU)
    extractor._batch_size = 2
    extractor.preprocess = lambda groups, n, device: torch.from_numpy(groups[0][1])
    extractor._backbone = lambda pixels: {"mean": pixels.float().mean((1, 2))}
    images = np.random.default_rng(0).integers(0, 256, (7, 4, 4, 3), dtype=np.uint8)
    dataset = ArrayDataset(given_source(images))
    found = [
        rows["mean"]
        for _, rows in feature_batches(
            dataset, extractor, {"mean": "float32"}, range(0, 7, 2), 2, "stop", PassTimes()
        )
    ]
    np.testing.assert_allclose(np.concatenate(found), images.mean((1, 2)), rtol=1e-6)
    assert log == [
        *("0 queued", "1 queued", "0 awaited", "2 queued", "1 awaited", "3 queued"),
        *("2 awaited", "3 awaited"),
    ]


class NoWaiting(TorchDispatchMode):
    """Refuses operations that read a value back from the device, for which the CPU would wait."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "unique")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        indices = args[1] if name.startswith("index") and len(args) > 1 else ()
        masks = [one for one in indices if one is not None and one.dtype == torch.bool]
        assert name not in self.WAITS, name
        assert not masks, name
        return function(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def extractor(tmp_path_factory):
    """Return an extractor that is ready for batches of five."""
    made = make_extractor(tmp_path_factory.mktemp("weights"))
    made.open(made.find(["conv1", "fc"]), 5)
    return made


@pytest.mark.parametrize("settings", [{}, {"crop_pct": 0.9}, {"order": (2, 1, 0)}])
def test_nothing_between_two_batches_waits_for_the_device(extractor, monkeypatch, settings):
    monkeypatch.setattr(extractor, "preprocess", make_preprocess(**settings))
    groups = [
        (np.array([0, 2]), np.zeros((2, 40, 30, 3), np.uint8)),
        (np.array([1]), np.ones((1, 32, 32, 3), np.uint8)),
    ]
    with NoWaiting():
        found = extractor.begin(Batch(0, 3, groups))()
    assert {len(rows) for rows in found.values()} == {3}
    with pytest.raises(AssertionError, match="_local_scalar_dense"), NoWaiting():
        torch.ones(1).item()


def test_weights_and_pixels_are_channels_last(extractor):
    reader = extractor._backbone._run
    seen = []
    hook = reader.network.conv1.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    extractor.begin(Batch(0, 2, [(np.arange(2), np.zeros((2, 32, 32, 3), np.uint8))]))()
    hook.remove()
    maps = {name: tensor for name, tensor in reader.named_parameters() if tensor.dim() == 4}
    assert len(maps) > 10
    maps["pixels"] = seen[0]
    assert all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in maps.values())
    in_fp32 = {name for name, tensor in maps.items() if tensor.dtype == torch.float32}
    assert in_fp32 == {"pixels", "network.conv1.layer.weight"}
    assert {tensor.dtype for tensor in maps.values()} == {torch.float32, torch.bfloat16}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_gives_the_cpus_features_and_the_same_bytes_again(images, tmp_path):
    settings = {"layers": ("conv1", "fc"), "precision": "fp32"}
    X = {}
    for device, store in (("cpu", "a"), ("cuda", "b"), ("cuda", "c")):
        extract(store=tmp_path / store, device=device, **(tiny(images) | settings))
        X[store] = open_store(tmp_path / store).select(layers="fc").memmap()
    np.testing.assert_allclose(X["b"], X["a"], atol=1e-3, rtol=1e-2)
    assert X["b"].tobytes() == X["c"].tobytes()
