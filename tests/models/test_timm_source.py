from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from featstore.errors import BackboneError, WeightsError
from featstore.io.fingerprints import FingerprintCache
from featstore.models.backbone import Backbone
from featstore.models.networks import find_layers, network_layers
from featstore.models.preprocess import Preprocess
from featstore.models.registry import find_network
from featstore.models.weights import checkpoints_folder

timm = pytest.importorskip("timm")
SIZE = pytest.importorskip("tiny_networks").SIZE
CPU = torch.device("cpu")


@pytest.fixture
def cache(tmp_path):
    return FingerprintCache(tmp_path / "cache")


def preprocess_of(weights, size=None):
    return Preprocess(
        size or weights.image_size,
        "rgb",
        weights.mean,
        weights.std,
        weights.interpolation,
        weights.crop_pct,
    )


def features(model, weights, names=(), pool="auto", size=SIZE, engine="eager"):
    """Return the features of two images by layer, and the images as the network gets them."""
    layers = find_layers(model, names, size, weights.n_classes)
    preprocess = preprocess_of(weights, size)
    backbone = Backbone(model, weights, layers, preprocess, pool, "fp32", CPU, 2, engine)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8, generator=generator)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (weights.mean, weights.std))
    return backbone(pixels), (pixels / 255 - mean) / std


def source_network(name):
    network = timm.create_model(name).eval()
    network.load_state_dict(find_network(f"timm:{name}").build(SIZE, 3).state_dict())
    return network


@pytest.mark.parametrize(
    "name",
    [
        "tiny_resnet",
        "tiny_vit",
        "tiny_swin",
        "tiny_mixer",
        "tiny_own_linear",
        "tiny_hidden_head",
        "tiny_distilled",
    ],
)
def test_the_default_feature_is_timms_own(name, cache):
    weights = find_network(f"timm:{name}").find_weights("random:3", cache)
    found, x = features(f"timm:{name}", weights)
    network = source_network(name)
    with torch.inference_mode():
        expected = network.forward_head(network.forward_features(x), pre_logits=True)
    assert list(found) == ["pre_logits"]
    torch.testing.assert_close(found["pre_logits"], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pool", ["auto", "cls", "tokens", "cls+tokens", "avg"])
def test_registers_and_the_class_token_stay_out_of_the_mean_of_tokens(pool, cache):
    weights = find_network("timm:tiny_vit").find_weights("random:3", cache)
    found, x = features("timm:tiny_vit", weights, ["norm"], pool)
    network = source_network("tiny_vit")
    with torch.inference_mode():
        tokens = network.forward_features(x)
    assert tokens.shape[1] == 1 + 4 + 16
    cls, image = tokens[:, 0], tokens[:, 5:].mean(1)
    name, expected = {
        "auto": ("norm.layer_norm@cls", cls),
        "cls": ("norm.layer_norm@cls", cls),
        "tokens": ("norm.layer_norm@tokens", image),
        "cls+tokens": ("norm.layer_norm@cls+tokens", torch.cat([cls, image], 1)),
        # As it was before there was a choice, and under the same name.
        "avg": ("norm.layer_norm", tokens.mean(1)),
    }[pool]
    assert list(found) == [name]
    torch.testing.assert_close(found[name], expected, atol=1e-4, rtol=1e-4)


def test_pooling_by_tokens_that_a_layer_lacks_is_refused():
    patches, norm = find_layers("timm:tiny_vit", ["patch_embed.proj", "norm"], SIZE)
    assert (norm.n_prefix, norm.n_features("cls+tokens"), norm.n_features("cls")) == (5, 32, 16)
    with pytest.raises(BackboneError, match="map of 16x4x4 and has no tokens"):
        patches.pooled_by("cls")
    (mixed,) = find_layers("timm:tiny_mixer", ["norm"], SIZE)
    assert (mixed.pooled_by("auto"), mixed.pooled_by("tokens")) == ("avg", "avg")
    with pytest.raises(BackboneError, match="no class token"):
        mixed.pooled_by("cls")


def test_the_classes_values_are_a_layer_too(cache):
    weights = find_network("timm:tiny_vit").find_weights("random:3", cache)
    found, x = features("timm:tiny_vit", weights, ["head"])
    with torch.inference_mode():
        expected = source_network("tiny_vit")(x)
    torch.testing.assert_close(found["head"], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["tiny_resnet", "tiny_vit", "tiny_swin"])
@pytest.mark.parametrize("shape", [(40, 40), (28, 28), (61, 47), (33, 130)])
def test_images_are_prepared_as_timm_prepares_them(name, shape, cache):
    """To a grey level, as far as Pillow's resize and torch's agree."""
    weights = find_network(f"timm:{name}").preset()
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    found = preprocess_of(weights)([(np.array([0]), image[None])], 1, CPU)[0]
    config = timm.data.resolve_data_config({}, model=timm.create_model(name))
    transform = timm.data.create_transform(**config, is_training=False)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (config["mean"], config["std"]))
    expected = (transform(Image.fromarray(image)) * std + mean) * 255
    assert found.shape == expected.shape == (3, SIZE, SIZE)
    assert (found.float() - expected).abs().max() <= 1.01


def test_what_decides_the_pixels_is_in_the_record():
    preprocess = preprocess_of(find_network("timm:tiny_vit").preset())
    record = preprocess.to_dict()
    assert (record["interpolation"], record["crop_pct"]) == ("bicubic", 0.9)
    assert "shorter side to 35 px" in record["resize"]
    assert Preprocess.from_dict(record) == preprocess
    assert preprocess.resized_size == 35


def test_another_size_resamples_the_positions(cache, tmp_path):
    network = find_network("timm:tiny_vit")
    torch.save(network.build(SIZE, 3).state_dict(), tmp_path / "a.pth")
    weights = network.find_weights(str(tmp_path / "a.pth"), cache)
    found, x = features("timm:tiny_vit", weights, size=64)
    resized = timm.create_model(
        "tiny_vit",
        img_size=64,
        pretrained=True,
        pretrained_cfg_overlay={"state_dict": torch.load(tmp_path / "a.pth")},
    ).eval()
    with torch.inference_mode():
        expected = resized.forward_head(resized.forward_features(x), pre_logits=True)
    torch.testing.assert_close(found["pre_logits"], expected, atol=1e-4, rtol=1e-4)
    with pytest.raises(BackboneError, match="can't take images of 4 px"):
        network_layers("timm:tiny_vit", 4)


@pytest.mark.parametrize("n_classes", [7, 45, 0])
def test_a_file_may_have_a_head_of_any_width_or_none(n_classes, cache, tmp_path):
    network = find_network("timm:tiny_vit")
    built = network.build(SIZE, 3, n_classes=n_classes)
    torch.save(
        {"teacher": {f"backbone.{k}": v for k, v in built.state_dict().items()}}, tmp_path / "a.pth"
    )
    weights = network.find_weights(str(tmp_path / "a.pth"), cache)
    assert weights.n_classes == n_classes
    found, x = features("timm:tiny_vit", weights, ["pre_logits", "head"] if n_classes else ())
    with torch.inference_mode():
        expected = built.forward_head(built.forward_features(x), pre_logits=True)
        if n_classes:
            torch.testing.assert_close(found["head"], built(x), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found["pre_logits"], expected, atol=1e-4, rtol=1e-4)


def test_a_file_of_another_network_is_refused_with_what_differs(cache, tmp_path):
    state = find_network("timm:tiny_vit").build(SIZE).state_dict()
    del state["norm.weight"]
    state["norm.extra"] = torch.zeros(3)
    torch.save(state, tmp_path / "a.pth")
    network = find_network("timm:tiny_vit")
    weights = network.find_weights(str(tmp_path / "a.pth"), cache)
    with pytest.raises(WeightsError) as caught:
        network.load(weights, SIZE)
    assert "missing: norm.weight" in str(caught.value)
    assert "not in the network: norm.extra" in str(caught.value)


def test_wrong_names_are_answered_with_near_ones(cache):
    with pytest.raises(BackboneError, match="resnet18"):
        find_network("timm:resnet81")
    with pytest.raises(BackboneError, match="use timm:legacy_xception"):
        find_network("timm:xception")
    with pytest.raises(BackboneError, match="a1_in1k"):
        find_network("timm:resnet18.a1_in2k")
    with pytest.raises(WeightsError, match="is no file"):
        find_network("timm:resnet18.a1_in1k").find_weights("gone.pth", cache)


def test_a_file_put_where_the_message_says_is_found(cache):
    path = checkpoints_folder() / "resnet18.a1_in1k.safetensors"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    found = find_network("timm:resnet18.a1_in1k").find_weights("imagenet", cache)
    assert (found.name, found.path) == ("a1_in1k", path)
    assert (found.interpolation, found.crop_pct, found.image_size) == ("bicubic", 0.95, 224)
