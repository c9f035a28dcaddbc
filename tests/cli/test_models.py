from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from featstore.cli.main import _run
from featstore.models import names, search


def test_networks_are_listed_with_their_feature_layers(capsys):
    assert _run(["models"]) == 0
    out = capsys.readouterr().out
    assert "loss3-classifier" in out
    assert "resnet50_v1" in out
    assert "mobilenet_v2" in out
    assert _run(["models", "--json"]) == 0
    assert "vgg19" in json.loads(capsys.readouterr().out)["models"]


def test_layers_are_listed_with_both_names(capsys):
    assert _run(["models", "show", "resnet50"]) == 0
    out = capsys.readouterr().out
    assert "fc1000 (default)" in out
    line = next(line for line in out.splitlines() if "res4e_branch2c" in line)
    assert line.split() == ["res4e_branch2c", "layer3.4.conv3", "1024x14x14", "1024", "200704"] or (
        "layer3.4.conv3" in line and "1024" in line
    )
    assert _run(["models", "show", "resnet50", "--json"]) == 0
    layers = json.loads(capsys.readouterr().out)["layers"]
    assert [layer["layer"] for layer in layers if layer["default"]] == ["fc1000"]


def test_models_without_a_network_are_shown(capsys):
    assert _run(["models", "show", "mosaiks:64/5"]) == 0
    out = capsys.readouterr().out
    assert "features (default), 64: the mean" in out
    assert "5 x 5 pixels of all bands; they are patches" in out
    assert _run(["models", "show", "deepsat"]) == 0
    assert "features, 150 features of rgb and nir: hue_mean, " in capsys.readouterr().out
    assert _run(["models", "show", "rcf", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["layers"][0]["n_features"] == 512
    assert _run(["models", "show", "rcf", "--image-size", "64"]) == 2
    assert "leave --image-size out" in capsys.readouterr().err
    assert _run(["models", "show", "rcf:13"]) == 1


def test_sources_are_listed_without_loading_them():
    code = "from featstore.cli.main import _run\nassert _run(['models']) == 0"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint('torch' in sys.modules)"],
        capture_output=True,
        text=True,
    )
    assert "timm:vit_small_patch14_dinov2.lvd142m" in done.stdout
    assert "package.module:function" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"


def test_networks_are_searched_and_shown(capsys):
    pytest.importorskip("timm")
    pytest.importorskip("tiny_networks")
    assert _run(["models", "timm:*small*dinov3*lvd*"]) == 0
    assert "timm:vit_small_patch16_dinov3.lvd1689m" in capsys.readouterr().out.splitlines()
    assert _run(["models", "small_patch16_dinov3.lvd"]) == 0
    assert "timm:vit_small_patch16_dinov3.lvd1689m" in capsys.readouterr().out.splitlines()
    assert _run(["models", "shw"]) == 2
    assert "Did you mean 'show'?" in capsys.readouterr().err
    assert _run(["models", "timm:*dinov9*"]) == 1
    assert "No network fits" in capsys.readouterr().err
    assert _run(["models", "resnt50"]) == 1
    assert "Did you mean resnet50" in capsys.readouterr().err
    assert _run(["models", "show", "timm:tiny_vit"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "timm:tiny_vit at 32 px" in out
    assert "bicubic, antialiased, shorter side to 35 px" in out
    assert "Feature layer: pre_logits" in out
    assert "Tokens: 5 before those of the image; --pool auto is cls." in out
    assert _run(["models", "show", "timm:tiny_swin", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["traced"], shown["preprocess"]["interpolation"]) == (True, "bicubic")


def run_apart(*commands):
    """Run commands in a process of their own; return what they print, and what was imported."""
    code = f"""
import sys
from featstore.cli.main import _run
assert not any(_run(words) for words in {[list(words) for words in commands]!r})
print(*sorted({{"timm", "torch"}} & {{*sys.modules}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *lines, imported = done.stdout.splitlines()
    return lines, imported.split()


def test_what_is_known_of_networks_is_answered_without_their_library(tmp_path, monkeypatch):
    pytest.importorskip("timm")
    monkeypatch.setenv("FEATSTORE_CACHE", str(tmp_path))
    commands = (
        ("models", "timm:*mobilenetv3*"),
        ("models", "show", "mobilenet_v2"),
        ("models", "show", "mobilenet_v2", "--image-size", "64", "--json"),
    )
    first, imported = run_apart(*commands)
    assert imported == ["timm", "torch"]
    assert run_apart(*commands) == (first, [])


def test_the_names_are_those_of_the_installed_code(tmp_path, monkeypatch):
    monkeypatch.setenv("FEATSTORE_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "library.py"
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(search, "SOURCES", {"lib": ("library", "library")})
    listed = []
    lists = SimpleNamespace(list_names=lambda: listed.append(1) or [source.read_text()[2:]])
    monkeypatch.setitem(sys.modules, "featstore.models.lib_source", lists)
    for name in ("net_a", "net_a", "net_b"):
        source.write_text(f"# {name}")
        assert search.search_names("net*") == [f"lib:{name}"]
    assert len(listed) == 2


def test_a_source_that_is_not_installed_says_how_to_get_it(capsys, monkeypatch):
    monkeypatch.setattr(names, "find_spec", lambda name: None)
    assert _run(["models", "show", "timm:resnet18"]) == 1
    assert "pip install timm" in capsys.readouterr().err


def test_an_unknown_network_is_1(capsys):
    assert _run(["models", "show", "resnet51"]) == 1
    assert "featstore models" in capsys.readouterr().err
