from __future__ import annotations

import pickle
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from makers import Listener, real_file

from featstore.errors import BackboneError, DownloadError, WeightsError
from featstore.io.fingerprints import FingerprintCache
from featstore.models import weights
from featstore.models.checkpoints import load_into, read_state_dict
from featstore.models.networks import cut_network, find_layers
from featstore.models.registry import find_network
from featstore.models.torchvision_source import build_network
from featstore.models.weights import checkpoints_folder, find_weights


@pytest.fixture
def cache(tmp_path):
    return FingerprintCache(tmp_path / "cache")


@pytest.fixture
def offline(monkeypatch):
    # What downloads.fetch raises, see test_downloads.py.
    def refuse(url, path, *_):
        by_hand = f"To do it by hand, fetch {url} elsewhere and put it at {path}."
        raise DownloadError(f"{url} can't be fetched: no network. {by_hand}")

    monkeypatch.setattr(weights, "fetch", refuse)


def test_random_weights_are_told_apart_by_seed(cache):
    zero, one = (find_weights("resnet18", f"random:{seed}", cache) for seed in (0, 1))
    assert zero.sha256 != one.sha256
    assert (zero.name, zero.path, zero.image_size) == ("random:0", None, 224)
    assert find_weights("resnet18", "random", cache) == zero


@pytest.mark.parametrize("spec", ["imagenette", "IMAGENET1K_V9", "random:x", "gone.pth", ""])
def test_what_is_nothing_is_answered_with_what_there_is(cache, spec):
    with pytest.raises(WeightsError, match="IMAGENET1K_V2") as caught:
        find_weights("resnet50", spec, cache)
    assert "random:SEED" in str(caught.value)


def test_v1_has_no_weights_at_torchvision(cache):
    with pytest.raises(WeightsError, match="--weights PATH"):
        find_weights("resnet50_v1", "imagenet", cache)


def test_weights_in_torchvisions_cache_are_found(cache):
    path = checkpoints_folder() / "alexnet-owt-7be5be79.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    found = find_weights("alexnet", "imagenet", cache)
    assert (found.name, found.path, found.image_size) == ("IMAGENET1K_V1", path, 224)
    assert found.mean == weights.IMAGENET_MEAN


def test_weights_that_cannot_be_had_come_with_three_ways_out(cache, offline):
    with pytest.raises(WeightsError) as caught:
        find_weights("resnet50", "imagenet", cache)
    message = str(caught.value)
    assert "resnet50-11ad3fa6.pth" in message
    assert str(checkpoints_folder()) in message
    assert "--weights PATH" in message
    assert "random:0" in message


def test_other_imagenet_weights_stand_in_and_are_named(cache, offline):
    path = checkpoints_folder() / "resnet50-0676ba61.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    listener = Listener()
    found = find_weights("resnet50", "imagenet", cache, listener)
    assert found.name == "IMAGENET1K_V1"
    assert "IMAGENET1K_V2" in listener.lines[0]
    with pytest.raises(WeightsError):
        find_weights("resnet50", "IMAGENET1K_V2", cache)


def test_a_download_with_the_wrong_content_is_thrown_away(cache, monkeypatch):
    def fetch(url, path, *_):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"an error page")

    monkeypatch.setattr(weights, "fetch", fetch)
    with pytest.raises(WeightsError, match="sha256 does not begin with 7be5be79"):
        find_weights("alexnet", "imagenet", cache)
    assert not (checkpoints_folder() / "alexnet-owt-7be5be79.pth").exists()


def test_mobilenet_comes_out_of_its_package_and_is_checked(cache, offline, monkeypatch):
    pytest.importorskip(weights.MOBILENET_PACKAGE)
    listener = Listener()
    found = find_weights("mobilenet_v2", "imagenet", cache, listener)
    assert found.sha256 == weights.MOBILENET_SHA256
    assert weights.MOBILENET_PACKAGE in listener.lines[0]
    monkeypatch.setattr(weights, "MOBILENET_SHA256", "0" * 64)
    with pytest.raises(WeightsError, match="not torchvision's file"):
        find_weights("mobilenet_v2", "imagenet", cache)


def test_networks_with_their_own_normalisation_get_it_once(cache):
    assert find_weights("googlenet", "random:0", cache).mean == weights.HALF
    assert find_weights("inception_v3", "random:0", cache).image_size == 299


def test_v1_weights_are_refused_by_v15(cache, tmp_path, monkeypatch):
    path = tmp_path / "resnet50.pth"
    path.write_bytes(b"v1")
    monkeypatch.setattr(weights, "RESNET50_V1_SHA256", cache.sha256([path])[0])
    with pytest.raises(WeightsError, match="--model resnet50_v1"):
        find_weights("resnet50", str(path), cache)
    assert find_weights("resnet50_v1", str(path), cache).path == path


def test_the_real_v1_file_is_known(cache):
    path = real_file("weights/resnet50_v1-imagenet.pth")
    with pytest.raises(WeightsError, match="--model resnet50_v1"):
        find_weights("resnet50", str(path), cache)


@pytest.fixture
def state():
    return build_network("squeezenet1_1", 224, seed=3).state_dict()


def saved(state, path, wrap):
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(wrap(state), path)
    return path


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("a.pth", lambda s: s),
        ("a.safetensors", lambda s: s),
        ("a.pth", lambda s: {"state_dict": s, "epoch": 3}),
        ("a.pth", lambda s: {"model": {f"module.{k}": v for k, v in s.items()}}),
        ("a.pth", lambda s: {"model_state_dict": {f"_orig_mod.{k}": v for k, v in s.items()}}),
        # As Lightning saves a module with a loss, beside its settings.
        (
            "a.pth",
            lambda s: {
                "args": Namespace(lr=0.1),
                "state_dict": {f"model.net.{k}": v for k, v in s.items()}
                | {"loss.weight": torch.ones(3)},
            },
        ),
        # As DINO saves two networks, each with a projection.
        (
            "a.pth",
            lambda s: {
                "student": {f"module.backbone.{k}": v + 1 for k, v in s.items()},
                "teacher": {f"module.backbone.{k}": v for k, v in s.items()}
                | {"head.mlp.weight": torch.ones(3)},
            },
        ),
        (
            "a.pth",
            lambda s: (
                {f"student.net.{k}": v + 1 for k, v in s.items()}
                | {f"teacher.net.{k}": v for k, v in s.items()}
            ),
        ),
    ],
)
def test_checkpoints_are_read_in_all_their_wrappings(state, tmp_path, name, wrap):
    path = saved(state, tmp_path / name, wrap)
    network = build_network("squeezenet1_1", 224, seed=4)
    load_into(network, find_network("squeezenet1_1").read(path), path)
    for key, tensor in network.state_dict().items():
        assert torch.equal(tensor, state[key])


def test_two_networks_in_a_checkpoint_are_named(state, tmp_path):
    both = {f"{name}.{k}": v for name in ("first", "second") for k, v in state.items()}
    path = saved(both, tmp_path / "a.pth", lambda s: s)
    with pytest.raises(WeightsError, match=r"several networks: first\., second\."):
        find_network("squeezenet1_1").read(path)


def test_a_head_of_another_width_is_loaded_and_no_head_leaves_the_layers_before_it(cache, tmp_path):
    network = find_network("resnet18")
    built = network.build(32, 3, n_classes=45)
    state = built.state_dict()
    torch.save(state, tmp_path / "a.pth")
    torch.save({k: v for k, v in state.items() if not k.startswith("fc.")}, tmp_path / "b.pth")
    wide, headless = (
        network.find_weights(str(tmp_path / f"{name}.pth"), cache) for name in ("a", "b")
    )
    assert (wide.n_classes, headless.n_classes) == (45, 0)
    (layer,) = find_layers("resnet18", (), 32, wide.n_classes)
    assert layer.shape == (45,)
    assert torch.equal(network.load(wide, 32).state_dict()["fc.weight"], state["fc.weight"])
    with pytest.raises(BackboneError, match="--layers flatten"):
        find_layers("resnet18", (), 32, headless.n_classes)
    (pooled,) = find_layers("resnet18", ["avgpool"], 32, headless.n_classes)
    loaded = cut_network(network.load(headless, 32), [pooled], network)
    x = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        expected = cut_network(built, [pooled], network)(x)["avgpool"]
        assert torch.equal(loaded(x)["avgpool"], expected)


def test_weights_of_another_network_are_refused_by_its_name(tmp_path, cache):
    path = tmp_path / "some.pth"
    own = "shufflenet_v2_x0_5"
    torch.save(build_network(own, 224).state_dict(), path)
    network = find_network("mobilenet_v2")
    with pytest.raises(WeightsError, match=rf"weights of {own}, not of mobilenet_v2\. Use --model"):
        network.find_weights(str(path), cache)
    # The same names of tensors, and other shapes.
    wider = find_network("shufflenet_v2_x1_0")
    with pytest.raises(WeightsError, match=f"weights of {own}, not of shufflenet_v2_x1_0"):
        wider.load(wider.find_weights(str(path), cache), 224)
    torch.save({"some.weight": torch.ones(2)}, path)
    with pytest.raises(WeightsError, match="another network than mobilenet_v2: of the 260 tensors"):
        network.find_weights(str(path), cache)


def test_what_does_not_match_is_listed(state, tmp_path):
    other = build_network("resnet18", 224)
    with pytest.raises(WeightsError) as caught:
        load_into(other, state, Path("squeeze.pth"))
    message = str(caught.value)
    assert "missing: conv1.weight" in message
    assert "not in the network: features.0.weight" in message
    assert "more" in message


def test_other_shapes_are_listed(state):
    own = build_network("squeezenet1_1", 224)
    state["classifier.1.bias"] = torch.zeros(7)
    with pytest.raises(WeightsError, match=r"classifier.1.bias is \(7,\), not \(1000,\)"):
        load_into(own, state, Path("x.pth"))


class Payload:
    """Writes a file when it is unpickled by a careless reader."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    marker = tmp_path / "executed"
    torch.save({"a": Payload(marker)}, tmp_path / "bad.pth")
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps(Payload(marker)))
    for name in ("bad.pth", "bad.pkl"):
        with pytest.raises(WeightsError):
            read_state_dict(tmp_path / name)
    assert not marker.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_cut_or_empty_file_is_a_clear_error(state, tmp_path, suffix):
    path = saved(state, tmp_path / f"a{suffix}", lambda s: s)
    content = path.read_bytes()
    for cut in (content[: len(content) // 2], b"", b"<html>not found</html>"):
        path.write_bytes(cut)
        with pytest.raises(WeightsError, match="can't be read|no checkpoint"):
            read_state_dict(path)


@pytest.mark.parametrize("value", [[1, 2], {}, {"a": 3}, torch.zeros(2)])
def test_a_file_of_something_else_is_a_clear_error(tmp_path, value):
    torch.save(value, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="no state dict"):
        read_state_dict(tmp_path / "a.pth")


def test_recorded_weights_must_be_the_same(cache, tmp_path, state):
    path = saved(state, tmp_path / "a.pth", lambda s: s)
    found = find_weights("squeezenet1_1", str(path), cache)
    record = {
        "model": "squeezenet1_1",
        "weights": str(path),
        "weights_path": str(path),
        "weights_sha256": found.sha256,
    }
    network = find_network("squeezenet1_1")
    assert network.recorded_weights(record, cache).path == path
    torch.save({**state, "classifier.1.bias": torch.ones(1000)}, path)
    with pytest.raises(WeightsError, match=found.sha256):
        network.recorded_weights(record, cache)


def test_a_presets_size_is_the_networks(cache, monkeypatch):
    path = checkpoints_folder() / "efficientnet_b1-c27df63c.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x")
    assert find_weights("efficientnet_b1", "IMAGENET1K_V2", cache).image_size == 240
    assert SimpleNamespace(**vars(find_weights("mobilenet_v2", "random:7", cache))).seed == 7
