from __future__ import annotations

import json

from featstore.cli.main import _run


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


def test_an_unknown_network_is_1(capsys):
    assert _run(["models", "show", "resnet51"]) == 1
    assert "featstore models" in capsys.readouterr().err
