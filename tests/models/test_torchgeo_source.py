"""torchgeo takes long to import: most tests use a module of the same interface in its place."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from featstore.config import ExtractConfig
from featstore.errors import BackboneError, ConfigError
from featstore.io.fingerprints import FingerprintCache
from featstore.models import registry
from featstore.models.backbone import Backbone
from featstore.models.networks import find_layers, network_layers
from featstore.models.preprocess import Preprocess
from featstore.models.registry import find_network, open_model

timm = pytest.importorskip("timm")
pytest.importorskip("tiny_networks")

CPU = torch.device("cpu")
RGB_NIR = ("red", "green", "blue", "nir")


def _weights(name, bands, *steps):
    meta = {"in_chans": len(bands), "bands": bands}
    return SimpleNamespace(
        name=name, meta=meta, transforms=nn.Sequential(*steps), url="http://127.0.0.1:9/a.pth"
    )


WEIGHTS = [
    _weights(
        "NAIP_RGBN", ["N", "R", "G", "B"], v2.CenterCrop(64), v2.Normalize(mean=[0], std=[255])
    ),
    _weights(
        "SENTINEL2_RGB",
        ["B4", "B3", "B2"],
        v2.Resize((74, 74)),
        v2.CenterCrop(64),
        v2.Normalize(mean=[0], std=[255]),
        v2.Normalize(mean=[0.4, 0.3, 0.2], std=[0.1, 0.2, 0.3]),
    ),
    _weights("SENTINEL2_ALL", ["B1", "B8", "B8a"], v2.Normalize(mean=[0], std=[10000])),
]


@pytest.fixture
def torchgeo(monkeypatch, tmp_path):
    """Put a module of torchgeo's interface, with one tiny network, into its place."""
    monkeypatch.setenv("FEATSTORE_CACHE", str(tmp_path / "cache of networks"))
    package, models = ModuleType("torchgeo"), ModuleType("torchgeo.models")
    package.models, package.__spec__ = models, SimpleNamespace(origin="")
    models.list_models = lambda: ["resnet18", "croma_base"]
    models.get_model_weights = lambda name: WEIGHTS
    models.get_model = lambda name, weights=None, **options: timm.create_model(
        "tiny_resnet", **options
    )
    monkeypatch.setitem(sys.modules, "torchgeo", package)
    monkeypatch.setitem(sys.modules, "torchgeo.models", models)
    monkeypatch.delitem(sys.modules, "featstore.models.torchgeo_source", raising=False)
    registry.find_network.cache_clear()
    network_layers.cache_clear()
    yield
    registry.find_network.cache_clear()
    network_layers.cache_clear()
    sys.modules.pop("featstore.models.torchgeo_source", None)


@pytest.fixture
def cache(tmp_path):
    return FingerprintCache(tmp_path / "cache")


def opened(weights, of_images, cache, **settings):
    settings = {"weights": "random:0", "precision": "fp32"} | settings
    config = ExtractConfig(f"torchgeo:resnet18/{weights}", "folder", **settings)
    return open_model(config, SimpleNamespace(bands=of_images), cache)


def test_bands_are_matched_by_name(torchgeo, cache):
    network = find_network("torchgeo:resnet18/NAIP_RGBN")
    assert network.bands == ("nir", "red", "green", "blue")
    model = opened("NAIP_RGBN", RGB_NIR, cache)
    assert model.preprocess["bands"] == "nir,red,green,blue"
    assert model.extractor.preprocess.order == (3, 0, 1, 2)
    model.extractor.open(list(model.layers), 2)
    weights = network.find_weights("random:0", cache)
    preprocess = Preprocess(64, "nir,red,green,blue", weights.mean, weights.std, order=(3, 0, 1, 2))
    images = torch.randint(0, 256, (2, 64, 64, 4), dtype=torch.uint8)
    pixels = preprocess([(torch.arange(2).numpy(), images.numpy())], 2, CPU)
    layers = find_layers(network.model, (), 64)
    backbone = Backbone(network.model, weights, layers, preprocess, "auto", "fp32", CPU, 2)
    x = images.permute(0, 3, 1, 2)[:, [3, 0, 1, 2]] / 255
    built = network.build(64, 0)
    with torch.inference_mode():
        expected = built.forward_head(built.forward_features(x), pre_logits=True)
    torch.testing.assert_close(backbone(pixels)["pre_logits"], expected, atol=1e-4, rtol=1e-4)


def test_other_bands_and_other_values_are_refused(torchgeo, cache):
    with pytest.raises(
        BackboneError, match=r"takes 4 bands .*the images have 3 \(red, green, blue"
    ):
        opened("NAIP_RGBN", RGB_NIR[:3], cache)
    with pytest.raises(BackboneError, match="--bands gray"):
        opened("NAIP_RGBN", RGB_NIR, cache, bands="gray")
    with pytest.raises(ConfigError, match="from 0 to 10000.*--range 0,10000"):
        opened("SENTINEL2_ALL", ("a", "b", "c"), cache)
    assert opened("SENTINEL2_RGB", RGB_NIR, cache).preprocess["bands"] == "rgb"


def test_transforms_become_one_preset(torchgeo):
    preset = find_network("torchgeo:resnet18/SENTINEL2_RGB").preset()
    assert (preset.image_size, preset.squash) == (64, True)
    assert preset.crop_pct == pytest.approx(64 / 74)
    assert preset.mean == pytest.approx((0.4, 0.3, 0.2))
    assert preset.std == pytest.approx((0.1, 0.2, 0.3))
    assert find_network("torchgeo:resnet18/NAIP_RGBN").preset().crop_pct is None


def test_wrong_names_are_answered(torchgeo):
    for name, message in {
        "croma_base": "reads no network 'croma_base'",
        "resnet18": "SENTINEL2_RGB",
        "resnet18/NAIP_RGB": "Did you mean NAIP_RGBN",
    }.items():
        with pytest.raises(BackboneError, match=message):
            find_network(f"torchgeo:{name}")


@pytest.mark.soak
def test_torchgeos_own_networks_and_transforms():
    models = pytest.importorskip("torchgeo.models")
    from featstore.models.torchgeo_source import list_names

    for name in list_names():
        network = find_network(f"torchgeo:{name}")
        preset = network.preset()
        if preset.max_value is None:
            continue
        architecture, _, weights = name.partition("/")
        size = preset.image_size
        whole = round(size / preset.crop_pct) if preset.crop_pct else size
        pixels = torch.rand(1, len(network.bands), whole, whole) * preset.max_value
        expected = models.get_model_weights(architecture)[weights].transforms(pixels.clone())
        margin = (whole - size) // 2
        middle = pixels[..., margin : margin + size, margin : margin + size] / preset.max_value
        mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (preset.mean, preset.std))
        torch.testing.assert_close((middle - mean) / std, expected, atol=1e-5, rtol=1e-5)
    layers = network_layers("torchgeo:vit_small_patch16_224/SENTINEL2_ALL_MOCO", 224)
    assert [layer.shape for layer in layers if layer.default] == [(384,)]
