from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import zarr
from makers import Listener, of_pixels, tree_bytes

from featstore.config import ExtractConfig
from featstore.datasets.registry import open_dataset
from featstore.errors import FeatstoreError
from featstore.extraction import pipeline, spec
from featstore.extraction.extract import extract
from featstore.extraction.pipeline import PassTimes, feature_batches
from featstore.models.base import Layer, Model
from featstore.models.pixelstats import PixelExtractor
from featstore.store.feature_store import open_store
from featstore.store.verification import verify


class Means:
    """An extractor of each image's mean, which counts the batches in flight."""

    min_size = None

    def __init__(self, n_in_flight):
        self.n_in_flight = n_in_flight
        self.begun, self.most = [], 0

    def begin(self, batch):
        self.begun.append(batch.start)
        self.most = max(self.most, len(self.begun))

        def finish():
            assert self.begun.pop(0) == batch.start
            rows = np.zeros((batch.stop - batch.start, 1), np.float32)
            for at, images in batch.groups:
                rows[at, 0] = images.mean((1, 2, 3))
            return {"mean": rows}

        return finish


def means(dataset, extractor):
    found = feature_batches(
        dataset, extractor, {"mean": "float32"}, range(0, 27, 4), 4, "stop", PassTimes()
    )
    return [rows["mean"][:, 0].tolist() for _, rows in found]


@pytest.mark.parametrize("n_in_flight", [1, 2, 50])
def test_batches_in_flight_come_out_in_order(images, n_in_flight, monkeypatch):
    dataset = open_dataset("folder", images)
    expected = [dataset.read(row).mean() for row in range(27)]
    extractor = Means(n_in_flight)
    found = means(dataset, extractor)
    np.testing.assert_allclose(np.concatenate(found), expected, rtol=1e-6)
    assert [len(rows) for rows in found] == [4] * 6 + [3]
    assert extractor.begun == []
    assert extractor.most == min(n_in_flight, 7)
    monkeypatch.setattr(pipeline, "AHEAD_NBYTES", 1)
    large = Means(n_in_flight)
    assert means(dataset, large) == found
    assert large.most == 1, "large batches are in memory one at a time"


def test_a_resumed_pass_reads_the_layers_it_began_with():
    """An engine may fuse a network differently where less of it is read."""
    layers = {name: Layer(name, name, (name,), (3,), False) for name in ("conv1", "fc", "other")}
    opened = []

    class Extractor:
        device_type = "cpu"

        def find(self, nodes):
            return [layers[node] for node in nodes]

        def open(self, layers, n_images, numerics, progress):
            opened.append(([layer.name for layer in layers], n_images, numerics))
            return {"device": "cpu", "engine": "x", "batch_size": 2}

    job = SimpleNamespace(
        model=Model(Extractor(), {}, {}, {}), images=SimpleNamespace(dataset=range(9))
    )
    begun = {"device": "cpu", "engine": "x", "batch_size": 4, "nodes": ["conv1", "fc"]}
    for wanted in ("fc", "other"):
        found = pipeline._open_extractor(job, None, [layers[wanted]], begun, Listener())
        expected = list(dict.fromkeys(["conv1", "fc", wanted]))
        assert opened.pop() == (expected, 9, found)
        assert found == begun | {"nodes": expected}
    new = pipeline._open_extractor(job, None, [layers["fc"]], None, Listener())
    assert new == {"device": "cpu", "engine": "x", "batch_size": 2, "nodes": ["fc"]}


@pytest.mark.parametrize(
    ("precision", "dtype", "expected"),
    [
        ("fp32", "auto", "float32"),
        ("bf16", "auto", "float16"),
        ("fp16", "auto", "float16"),
        ("fp32", "float16", "float16"),
        ("bf16", "float32", "float32"),
    ],
)
def test_the_precision_decides_the_stored_type_unless_one_is_given(precision, dtype, expected):
    model = Model(None, {}, {"precision": precision}, {})
    config = ExtractConfig("resnet18", "folder", dtype=dtype)
    assert spec.ExtractionSpec(config, None, model, {}, "").dtype == expected


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_features_are_stored_in_their_type_and_read_as_float32(images, tmp_path, dtype):
    store = open_store(tmp_path / "store")
    result = extract(store=store, **of_pixels(images, dtype=dtype))
    assert result.dtype == dtype
    array = zarr.open_group(result.path, mode="r")["stats"]
    assert array.dtype == dtype
    selection = store.select()
    assert selection.memmap().dtype == np.float32
    assert selection.dask().dtype == np.float32
    np.testing.assert_array_equal(selection.memmap(), np.asarray(array[:], np.float32))
    assert extract(store=store, **of_pixels(images, dtype=dtype)).n_computed == 0


def test_half_precision_is_near_full_precision_and_another_set(images, tmp_path):
    store = open_store(tmp_path / "store")
    for dtype in ("float32", "float16"):
        extract(store=store, **of_pixels(images, dtype=dtype))
    assert len(store.sets()) == 2
    full, half = (store.select(dtype=name).memmap() for name in ("float32", "float16"))
    np.testing.assert_allclose(half, full, rtol=1e-3, atol=1e-4)
    assert not np.array_equal(half, full)


def test_a_value_too_large_for_float16_in_the_middle_starts_again_in_float32(
    images, tmp_path, small_pixel_chunks, monkeypatch
):
    compute = PixelExtractor._compute

    def large(self, batch):
        return compute(self, batch) + np.float32(1e5 if batch.start == 16 else 0)

    monkeypatch.setattr(PixelExtractor, "_compute", large)
    whole = extract(store=tmp_path / "whole", **of_pixels(images, batch_size=4))
    # Only half precision is stored as float16 by itself, and pixel statistics have none.
    monkeypatch.setattr(spec.ExtractionSpec, "dtype", "float16")
    store, listener = open_store(tmp_path / "store"), Listener()
    result = extract(store=store, progress=listener, **of_pixels(images, batch_size=4))
    assert (whole.dtype, result.dtype) == ("float32", "float32")
    assert store.select().memmap().max() > 9e4
    assert any("float16's largest. Starting again in" in line for line in listener.lines)
    assert verify(store.sets()[0]) == []
    (feature_set,) = store.sets()
    stats = feature_set.group / "stats"
    assert tree_bytes(stats) == tree_bytes(open_store(tmp_path / "whole").sets()[0].group / "stats")
    with pytest.raises(FeatstoreError, match="--dtype auto or float32"):
        extract(store=tmp_path / "other", **of_pixels(images, dtype="float16", batch_size=4))
