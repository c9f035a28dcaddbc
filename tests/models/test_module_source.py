from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from featstore.config import ExtractConfig
from featstore.errors import BackboneError, WeightsError
from featstore.extraction import extract as stage_one
from featstore.extraction.extract import extract
from featstore.io.fingerprints import FingerprintCache
from featstore.models import names, registry
from featstore.models.networks import network_layers
from featstore.models.registry import find_network, open_model
from featstore.store.feature_store import open_store

NETWORK = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x, scale=None):
        x = self.norm(self.conv(x)).relu()
        if {branch}:
            x = x + 1
        return self.head(x.mean((2, 3)))


def random():
    return Net()


def build():
    net = Net()
    with torch.no_grad():
        for i, parameter in enumerate(net.parameters()):
            parameter.fill_(0.1 * (i + 1))
    return net, {settings}
"""
SETTINGS = {"image_size": 24, "mean": (0, 0, 0), "std": (1, 1, 1), "feature_layer": "conv"}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Return a function that writes the user's module into the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(settings=SETTINGS, branch="False"):
        text = NETWORK.replace("{settings}", repr(settings)).replace("{branch}", branch)
        (tmp_path / "mynet.py").write_text(text)
        sys.modules.pop("mynet", None)
        registry.find_network.cache_clear()
        network_layers.cache_clear()

    yield write
    write()
    sys.modules.pop("mynet", None)
    sys.path_importer_cache.clear()


@pytest.fixture
def cache(tmp_path):
    return FingerprintCache(tmp_path / "cache")


def opened(cache, **settings):
    # Where the processor has bfloat16, auto would look at images.
    config = ExtractConfig("mynet:build", "folder", **{"precision": "fp32", **settings})
    return open_model(config, SimpleNamespace(bands=("red", "green", "blue")), cache)


def test_a_function_says_what_its_network_expects(write, cache):
    write()
    model = opened(cache)
    assert [(layer.name, layer.shape) for layer in model.layers] == [("conv", (4, 22, 22))]
    assert model.preprocess["image_size"] == 24
    assert model.backbone["weights_name"] == "own"
    named = [layer.name for layer in network_layers("mynet:build", 24)]
    assert named[:2] == ["conv", "norm"]
    assert named[-1] == "head"


def test_changed_code_and_changed_weights_are_other_features(write, cache):
    write()
    first = opened(cache).backbone["weights_sha256"]
    assert opened(cache).backbone["weights_sha256"] == first
    write(branch="True")
    assert opened(cache).backbone["weights_sha256"] != first


def test_a_network_that_torch_fx_cannot_trace_is_read_by_hooks(write, cache):
    write(branch="x.shape[0] > 1", settings={"image_size": 24})
    layers = network_layers("mynet:build", 24)
    assert {layer.hooked for layer in layers} == {True}
    assert [(layer.name, layer.default) for layer in layers][-1] == ("output", True)
    write(branch="x.sum() > 0")
    with pytest.raises(BackboneError, match="depend on the other images"):
        network_layers("mynet:build", 24)


def test_weights_that_are_random_have_to_be_asked_for(write, cache):
    write()
    with pytest.raises(WeightsError, match="random weights.*--weights random:0"):
        find_network("mynet:random").find_weights("imagenet", cache)
    zero, one = (find_network("mynet:random").find_weights(f"random:{i}", cache) for i in (0, 1))
    assert zero.sha256 != one.sha256
    with pytest.raises(WeightsError, match="weights of its own"):
        find_network("mynet:build").find_weights("random:0", cache)
    torch.save(find_network("mynet:random").build(24, 5).state_dict(), "mine.pth")
    assert find_network("mynet:random").find_weights("mine.pth", cache).name == "mine.pth"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_sise": 3}, "Did you mean image_size"),
        ({"mean": (0, 0)}, "3 bands, 2 means"),
        ({"std": (1, 0, 1)}, "above 0"),
        ({"interpolation": "nearest"}, "bilinear or bicubic"),
        ({"feature_layer": "konv"}, "Did you mean conv"),
        (3, "a module and a dict"),
    ],
)
def test_wrong_settings_are_named(write, cache, settings, message):
    write(settings)
    with pytest.raises(BackboneError, match=message):
        opened(cache)


def test_names_that_mean_nothing_are_answered(write):
    write()
    for name, message in {
        "tim:resnet18": "Did you mean timm",
        "mynet:": "package.module:function",
        "mynet:bild": "has no attribute 'bild'",
    }.items():
        with pytest.raises(BackboneError, match=message):
            find_network(name)


def test_an_installed_package_adds_a_source(write, monkeypatch, cache):
    write()

    class Entry:
        dist = None

        def load(self):
            return lambda name: getattr(__import__("mynet"), name)()

    monkeypatch.setattr(
        names, "entry_points", lambda group, name: [Entry()] if name == "acme" else []
    )
    sys.path.insert(0, ".")
    assert find_network("acme:build").preset().image_size == 24
    registry.find_network.cache_clear()


def test_an_extraction_is_answered_until_the_code_changes(write, images, tmp_path, monkeypatch):
    write()
    store = open_store(tmp_path / "store")
    settings = {"root": str(images), "precision": "fp32", "batch_size": 4}
    made = extract("mynet:build", "folder", store=store, **settings)
    assert (made.n_computed, made.n_features) == (27, {"conv": 4})
    monkeypatch.setattr(stage_one, "open_model", lambda *_: pytest.fail("opened"))
    assert extract("mynet:build", "folder", store=store, **settings).set_id == made.set_id
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    write(branch="True")
    again = extract("mynet:build", "folder", store=store, **settings)
    assert again.n_computed == 27
    assert again.set_id != made.set_id
