from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from featstore.errors import BackboneError, WeightsError
from featstore.io.fingerprints import FingerprintCache
from featstore.models.backbone import Backbone
from featstore.models.networks import find_layers
from featstore.models.preprocess import Preprocess
from featstore.models.registry import find_network

open_clip = pytest.importorskip("open_clip")

CPU = torch.device("cpu")
SIZE = 32
CONFIG = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": SIZE, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 4, "vocab_size": 9, "width": 8, "heads": 1, "layers": 1},
}


@pytest.fixture(scope="module", autouse=True)
def _tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("configs") / "featstore-tiny.json"
    path.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(path)


@pytest.fixture
def clip(tmp_path):
    """Return a tiny CLIP and the file of all its weights, the text tower's too."""
    torch.manual_seed(0)
    clip = open_clip.create_model("featstore-tiny").eval()
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in clip.state_dict().items()}}, tmp_path / "a.pt"
    )
    return clip, tmp_path / "a.pt"


@pytest.fixture
def cache(tmp_path):
    return FingerprintCache(tmp_path / "cache")


def test_the_default_feature_is_encode_image(clip, cache):
    clip, path = clip
    network = find_network("openclip:featstore-tiny")
    weights = network.find_weights(str(path), cache)
    layers = find_layers(network.model, (), SIZE, weights.n_classes)
    preprocess = Preprocess(SIZE, "rgb", weights.mean, weights.std)
    backbone = Backbone(network.model, weights, layers, preprocess, "auto", "fp32", CPU, 2)
    x = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (weights.mean, weights.std))
    with torch.inference_mode():
        expected = clip.encode_image((x / 255 - mean) / std)
    found = backbone(x)
    assert list(found) == ["image_features"]
    torch.testing.assert_close(found["image_features"], expected, atol=1e-4, rtol=1e-4)


def test_images_are_prepared_as_openclip_prepares_them(clip):
    weights = find_network("openclip:featstore-tiny").preset()
    preprocess = Preprocess(
        SIZE, "rgb", weights.mean, weights.std, weights.interpolation, weights.crop_pct
    )
    image = np.random.default_rng(0).integers(0, 256, (61, 47, 3), dtype=np.uint8)
    found = preprocess([(np.array([0]), image[None])], 1, CPU)[0]
    transform = open_clip.transform.image_transform(SIZE, is_train=False)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (weights.mean, weights.std))
    expected = (transform(Image.fromarray(image)) * std + mean) * 255
    assert (found.float() - expected).abs().max() <= 1.01


def test_weights_decide_the_activation_and_the_input():
    gelu, quick = (
        find_network(f"openclip:ViT-B-32/{tag}") for tag in ("laion2b_s34b_b79k", "openai")
    )
    kinds = [
        type(network.without_data(224).visual.transformer.resblocks[0].mlp.gelu).__name__
        for network in (gelu, quick)
    ]
    assert kinds == ["GELU", "QuickGELU"]
    preset = find_network("openclip:ViT-B-16-SigLIP/webli").preset()
    assert (preset.crop_pct, preset.interpolation, preset.mean) == (None, "bicubic", (0.5,) * 3)
    assert gelu.preset().crop_pct == 1.0


def test_wrong_names_are_answered(cache):
    with pytest.raises(BackboneError, match="ViT-B-32"):
        find_network("openclip:ViT-B-23/openai")
    with pytest.raises(BackboneError, match="laion2b_s34b_b79k"):
        find_network("openclip:ViT-B-32/laion2b_s34b_b97k")
    with pytest.raises(WeightsError, match="Add a tag"):
        find_network("openclip:ViT-B-32").find_weights("imagenet", cache)
