from __future__ import annotations

import sys

import pytest
import torch
import torchvision.models
from makers import real_file

from featstore.config import POOLS, TOKEN_POOLS
from featstore.errors import BackboneError, WeightsError
from featstore.io.files import file_sha256
from featstore.io.fingerprints import FingerprintCache
from featstore.models import networks
from featstore.models.backbone import Backbone, pool_map
from featstore.models.layer_names import paper_layers
from featstore.models.names import backbone_names
from featstore.models.networks import (
    _channel_axes,
    find_layers,
    network_layers,
)
from featstore.models.preprocess import Preprocess
from featstore.models.torchvision_source import build_network
from featstore.models.weights import IMAGENET_MEAN, IMAGENET_STD, find_weights

CPU = torch.device("cpu")


class Uncached(FingerprintCache):
    """Hashes that are kept nowhere."""

    def __init__(self):
        pass

    def sha256(self, files, progress=None):
        return [file_sha256(path) for path in files]


def backbone(
    model, layers=(), image_size=64, pool="avg", precision="fp32", spec="random:0", engine="eager"
):
    weights = find_weights(model, spec, Uncached())
    wanted = find_layers(model, layers, image_size)
    preprocess = Preprocess(image_size, "rgb", IMAGENET_MEAN, IMAGENET_STD)
    return Backbone(model, weights, wanted, preprocess, pool, precision, CPU, 2, engine)


def noise(n=2, size=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator)


def normalised(pixels):
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels / 255 - mean) / std


def hooked(network, modules, x):
    """Return what modules give, taken by hooks before anything can overwrite it."""
    found = {}
    for name in modules:
        network.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: found.__setitem__(name, output.clone())
        )
    with torch.inference_mode():
        network(x)
    return found


@pytest.mark.parametrize("model", ["alexnet", "vgg19", "googlenet", "resnet50", "resnet50_v1"])
def test_every_papers_name_is_a_layer(model):
    layers = {layer.name: layer for layer in network_layers(model, 224)}
    assert set(paper_layers(model)) <= set(layers)
    (default,) = find_layers(model, (), 224)
    assert default.shape == (1000,)
    assert default.name in ("fc8", "loss3-classifier", "fc1000")


def test_v1_strides_in_the_first_convolution_of_a_stage():
    v1 = {layer.name: layer.shape for layer in network_layers("resnet50_v1", 224)}
    v15 = {layer.name: layer.shape for layer in network_layers("resnet50", 224)}
    assert v1["res3a_branch2a"] == (128, 28, 28)
    assert v15["res3a_branch2a"] == (128, 56, 56)
    assert v1["fc1000"] == v15["fc1000"]


def test_shapes_are_the_networks():
    layers = {layer.name: layer for layer in network_layers("resnet50", 224)}
    assert layers["conv1"].shape == (64, 112, 112)
    assert layers["res4e_branch2c"].shape == (1024, 14, 14)
    assert layers["pool5"].shape == (2048, 1, 1)
    assert layers["conv1"].n_features("avg") == 64
    assert layers["conv1"].n_features("avgmax") == 128
    assert layers["conv1"].n_features("flatten") == 64 * 112 * 112
    assert layers["pool5"].n_features("avgmax") == 2048
    assert layers["conv1"].stored_name("max") == "conv1@max"
    assert layers["conv1"].stored_name("avg") == "conv1"
    assert layers["pool5"].stored_name("max") == "pool5"
    assert layers["fc1000"].stored_name("gem") == "fc1000"


@pytest.mark.parametrize("name", ["mobilenet_v2", "regnet_y_400mf"])
def test_other_networks_have_layers_too(name):
    assert name in backbone_names()
    (default,) = find_layers(name, (), 224)
    assert default.shape == (1000,)


def test_both_names_and_modules_find_a_layer():
    (paper,) = find_layers("resnet50", ["res3d_branch2c"], 224)
    assert find_layers("resnet50", ["layer2.3.conv3"], 224) == (paper,)
    (stage,) = find_layers("resnet50", ["layer4"], 224)
    assert stage.node == "layer4.2.relu_2"
    assert find_layers("resnet50", ["fc", "fc1000"], 224) == find_layers("resnet50", (), 224)


def test_layers_are_listed_without_the_compiler_and_leave_no_trace_of_it(monkeypatch):
    """The compiler takes seconds to import; it may hide functions from itself afterwards."""
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    # To ask torch for the attribute would import the compiler.
    monkeypatch.delitem(vars(torch), "_dynamo", raising=False)
    hidden = torch._disable_dynamo(lambda: "called")
    read = networks._read
    monkeypatch.setattr(networks, "_read", lambda *given: hidden() and read(*given))
    assert networks._list_layers("alexnet", 224, None)
    assert "torch._dynamo" not in sys.modules
    assert not vars(hidden.__wrapped__)


def test_an_unknown_layer_is_answered_with_near_ones():
    with pytest.raises(BackboneError, match="res3d_branch2c"):
        find_layers("resnet50", ["res3d_branch2d"], 224)
    with pytest.raises(BackboneError, match="There is no network 'resnet51'"):
        network_layers("resnet51", 224)


def test_a_size_that_the_network_cannot_take_is_named():
    with pytest.raises(BackboneError, match="16 px"):
        network_layers("alexnet", 16)
    with pytest.raises(BackboneError, match="100 px"):
        network_layers("vit_b_16", 100)


@pytest.mark.parametrize(
    ("model", "names"),
    [
        ("alexnet", ["conv1", "conv5", "relu5", "fc6", "fc7", "fc8"]),
        pytest.param("vgg11", ["conv1_1", "conv3_2", "fc7", "fc8"], marks=pytest.mark.soak),
        ("resnet50_v1", ["conv1", "res2a_branch1", "bn3d_branch2b", "res5a_branch2b", "fc1000"]),
        ("googlenet", ["conv1", "inception_3a-1x1", "inception_4e-5x5", "loss3-classifier"]),
    ],
)
def test_layers_give_what_hooks_on_the_whole_network_see(model, names):
    # Also shows that no in-place ReLU overwrites a layer before it is read.
    x = noise()
    nodes = paper_layers(model)
    wanted = find_layers(model, names, 64)
    modules = [layer.node for layer in wanted]
    network = build_network(model, 64, seed=0)
    assert set(modules) <= set(dict(network.named_modules()))
    expected = hooked(network, modules, normalised(x))
    found = backbone(model, names)(x)
    assert nodes
    for layer in wanted:
        value = expected[layer.node]
        value = value.mean((2, 3)) if value.dim() == 4 else value
        torch.testing.assert_close(found[layer.name], value, atol=1e-4, rtol=1e-3)


def test_one_pass_gives_all_layers_and_is_cut_after_the_last():
    early = backbone("resnet50", ["conv1", "res2a_branch2a"])
    names = {name for name, _ in early._run.network.named_modules()}
    assert "layer1.0.conv1" in names
    assert not any(name.startswith(("layer2", "fc")) for name in names)
    assert list(early(noise())) == ["conv1", "res2a_branch2a"]


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "flatten", "gem"])
def test_pooling(pool):
    value = torch.rand(2, 3, 4, 5)
    expected = {
        "avg": value.mean((2, 3)),
        "max": value.amax((2, 3)),
        "avgmax": torch.cat([value.mean((2, 3)), value.amax((2, 3))], 1),
        "flatten": value.reshape(2, -1),
        "gem": value.pow(3).mean((2, 3)).pow(1 / 3),
    }[pool]
    torch.testing.assert_close(pool_map(value, pool), expected)


@pytest.mark.parametrize("pool", [pool for pool in POOLS if pool not in TOKEN_POOLS])
def test_the_promised_width_is_the_real_one(pool):
    for layer in find_layers("resnet18", ["conv1", "avgpool", "fc"], 64):
        value = torch.zeros(2, *layer.shape)
        pooled = layer.pooled_by(pool)
        vectors = value if pooled is None else pool_map(value, pooled)
        assert vectors.flatten(1).shape == (2, layer.n_features(pool))


def test_a_pooled_layer_has_its_own_name_and_width():
    found = backbone("resnet18", ["conv1", "avgpool", "fc"], pool="avgmax")(noise())
    assert {name: rows.shape for name, rows in found.items()} == {
        "conv1@avgmax": (2, 128),
        "avgpool": (2, 512),
        "fc": (2, 1000),
    }
    assert {rows.dtype for rows in found.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("model", "nodes"),
    [
        ("swin_t", {"features.0.0": 96, "features.0.1": 96, "features.1.1.add_1": 96}),
        pytest.param("swin_v2_t", {"features.0.0": 96}, marks=pytest.mark.soak),
        (
            "convnext_tiny",
            {
                "features.1.0.block.0": 96,
                "features.1.0.block.3": 384,
                "features.1.0.block.5": 96,
                "features.1.0.block.6": 96,
                "features.2.0.layer_norm": 96,
            },
        ),
    ],
)
def test_channels_are_found_on_any_axis(model, nodes):
    layers = find_layers(model, list(nodes), 64)
    found = backbone(model, list(nodes))(noise())
    for layer, n_channels in zip(layers, nodes.values(), strict=True):
        assert layer.shape == (n_channels, 16, 16)
        assert found[layer.name].shape == (2, n_channels)


def test_tokens_may_be_on_either_side_of_their_channels():
    nodes = ["reshape", "permute", "encoder.ln"]
    before, after, encoder, start = find_layers("vit_b_32", [*nodes, "expand"], 64)
    assert before.shape == after.shape == (768, 4)
    assert start.shape == (768, 1)
    assert encoder.n_features("avg") == 768
    found = backbone("vit_b_32", nodes)(noise())
    torch.testing.assert_close(found["reshape"], found["permute"], rtol=0, atol=0)
    assert found["encoder.ln"].shape == (2, 768)


def test_windows_are_places_and_what_no_image_changes_is_no_layer():
    # As in MaxVit, which takes long to trace.
    shapes = {
        "partition": ((2, 64, 49, 96), (3, 256, 49, 96)),
        "grid": ((2, 49, 64, 96), (3, 49, 256, 96)),
        "convolution": ((2, 96, 56, 56), (3, 96, 112, 112)),
        "pooled": ((2, 96, 6, 6), (3, 96, 6, 6)),
        "table of positions of two heads": ((2, 49, 49), (2, 49, 49)),
        "windows as images": ((128, 49, 96), (768, 49, 96)),
    }
    expected = {"partition": 3, "grid": 3, "convolution": 1, "pooled": 1}
    assert _channel_axes(shapes) == expected


def test_googlenet_is_normalised_once():
    """Our network and preset give what torchvision's own give with transform_input."""
    network = torchvision.models.googlenet(
        weights=None, aux_logits=False, init_weights=False, transform_input=True
    ).eval()
    ours = build_network("googlenet", 64)
    ours.load_state_dict(network.state_dict())
    weights = find_weights("googlenet", "random:0", Uncached())
    pixels = torch.rand(2, 3, 64, 64)

    def normalise(mean, std):
        return (pixels - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)

    with torch.inference_mode():
        theirs = network(normalise((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        found = ours(normalise(weights.mean, weights.std))
    torch.testing.assert_close(found, theirs, atol=1e-4, rtol=1e-4)


def test_auxiliary_heads_in_a_weight_file_are_no_hindrance(tmp_path):
    network = build_network("googlenet", 64, seed=5, heads=True)
    torch.save(network.state_dict(), tmp_path / "googlenet.pth")
    found = backbone("googlenet", spec=str(tmp_path / "googlenet.pth"))(noise())
    with torch.inference_mode():
        expected = network(normalised(noise()))
    torch.testing.assert_close(found["loss3-classifier"], expected, atol=1e-4, rtol=1e-4)


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(build_network("resnet18", 64).state_dict(), tmp_path / "r18.pth")
    with pytest.raises(WeightsError, match="holds weights of resnet18, not of resnet50"):
        backbone("resnet50", spec=str(tmp_path / "r18.pth"))


def test_features_hardly_depend_on_the_batch_and_repeat_bit_for_bit():
    """The documented tolerance: 1e-4 of a feature's spread, at fp32."""
    net, again = (backbone("resnet18", ["layer4", "fc"]) for _ in range(2))
    x = noise(8)
    whole = net(x)
    for n in (1, 3, 5):
        part = net(x[:n])
        for name, value in part.items():
            spread = whole[name].std()
            assert (value - whole[name][:n]).abs().max() < 1e-4 * spread
    for name, value in again(x).items():
        assert torch.equal(value, whole[name])


def test_seeds_make_random_weights_and_leave_the_callers_alone():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    a, b, c = (build_network("resnet18", 64, seed=s).fc.weight for s in (0, 0, 1))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.soak
def test_bfloat16_is_near_float32_on_real_weights():
    path = real_file("weights/mobilenet_v2-b0353104.pth")
    x = noise(2, 64)
    full = backbone("mobilenet_v2", spec=str(path))(x)["classifier.1"]
    half = backbone("mobilenet_v2", spec=str(path), precision="bf16")(x)
    assert half["classifier.1"].dtype == torch.float32
    cosine = torch.nn.functional.cosine_similarity(full, half["classifier.1"])
    assert cosine.min() > 0.99
