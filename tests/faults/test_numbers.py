"""Numbers that no feature may be: named with layer and image, or stored so that they fit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from makers import Listener, tiny, write_images

from featstore.datasets.registry import open_dataset
from featstore.errors import FeatstoreError, SelectionError
from featstore.extraction import coordinator
from featstore.extraction.extract import extract
from featstore.models.torchvision_source import build_network
from featstore.store.feature_store import open_store
from featstore.store.format import matrix


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(matrix, "CHUNK_NBYTES", 4 * 1000 * 5)
    monkeypatch.setattr(coordinator, "MIN_BATCHES", 1)


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images", n=4, size=16)


MODEL = "resnet18"
"""A network whose last layer is fc."""


def weights(tmp_path, factor):
    """Write weights whose last layer gives values as large as that."""
    network = build_network(MODEL, 32, seed=0)
    last = {name: network.get_parameter(name).data * factor for name in ("fc.weight", "fc.bias")}
    state = network.state_dict() | last
    if not math.isfinite(factor):
        state["fc.weight"] = network.fc.weight.data
        state["fc.bias"] = torch.full((1000,), factor)
    torch.save(state, tmp_path / "weights.pth")
    return str(tmp_path / "weights.pth")


def half(images, tmp_path, factor):
    """Return the settings of an extraction in bfloat16 by such weights."""
    own = weights(tmp_path, factor)
    return tiny(images, model=MODEL, weights=own, precision="bf16", compile="off")


WORKERS = [
    pytest.param((), id="one process"),
    pytest.param(("cpu", "cpu"), id="two workers", marks=pytest.mark.soak),
]


@pytest.mark.parametrize("devices", WORKERS)
@pytest.mark.parametrize("factor", [math.inf, math.nan])
def test_a_value_that_is_not_finite_is_named_with_layer_and_image(
    devices, factor, images, tmp_path
):
    settings = tiny(
        images, model=MODEL, weights=weights(tmp_path, factor), compile="off", devices=devices
    )
    first = open_dataset("folder", str(images)).sample_ids[0]
    named = r"Layer fc gives a value that is not finite for image \S+\.png"
    with pytest.raises(FeatstoreError, match=named) as caught:
        extract(store=tmp_path / "store", **settings)
    if not devices:
        assert str(first) in str(caught.value)
    with pytest.raises((FeatstoreError, SelectionError)):
        open_store(tmp_path / "store").select()


@pytest.mark.parametrize("devices", WORKERS)
def test_what_float16_can_not_hold_is_stored_as_float32_and_is_never_infinite(
    devices, images, tmp_path
):
    listener = Listener()
    settings = half(images, tmp_path, 1e6)
    result = extract(store=tmp_path / "store", devices=devices, progress=listener, **settings)
    assert result.dtype == "float32"
    (said,) = [line for line in listener.lines if "Starting again in float32" in line]
    assert "--dtype" not in said
    X = open_store(tmp_path / "store").select().memmap()
    assert np.isfinite(X).all()
    assert np.abs(X).max() > 65504


@pytest.mark.parametrize("devices", WORKERS)
def test_float16_that_was_asked_for_stops_where_it_can_not_hold_a_value(devices, images, tmp_path):
    settings = half(images, tmp_path, 1e6)
    with pytest.raises(FeatstoreError, match=r"Layer fc gives values beyond 65504.*--dtype auto"):
        extract(store=tmp_path / "store", devices=devices, dtype="float16", **settings)
    with pytest.raises(FeatstoreError):
        open_store(tmp_path / "store").select()


@pytest.mark.parametrize("devices", WORKERS)
def test_features_too_small_for_float16_are_stored_as_float32(devices, images, tmp_path):
    listener = Listener()
    settings = half(images, tmp_path, 1e-9)
    result = extract(store=tmp_path / "store", devices=devices, progress=listener, **settings)
    assert result.dtype == "float32"
    assert any("mostly values below 6e-05" in line for line in listener.lines)
    X = open_store(tmp_path / "store").select().memmap()
    assert 0 < np.abs(X).max() < 6e-8
    assert (X.std(axis=0) > 0).mean() > 0.9


def test_float16_that_was_asked_for_stops_where_features_would_vanish(images, tmp_path):
    settings = half(images, tmp_path, 1e-9)
    with pytest.raises(FeatstoreError, match=r"Layer fc gives mostly values below.*--dtype auto"):
        extract(store=tmp_path / "store", dtype="float16", **settings)


def test_float16_holds_all_that_fits_it(images, tmp_path):
    settings = half(images, tmp_path, 1.0)
    result = extract(store=tmp_path / "store", **settings)
    assert result.dtype == "float16"
    assert np.isfinite(open_store(tmp_path / "store").select().memmap()).all()
