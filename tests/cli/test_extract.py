from __future__ import annotations

import json

import pytest

from featstore.cli.main import _run
from featstore.extraction.result import BOTTLENECKS
from featstore.store import writer
from featstore.store.feature_store import open_store


@pytest.fixture
def args(images, tmp_path):
    return [
        *("extract", "--model", "resnet18", "--dataset", "folder", "--root", str(images)),
        *("--weights", "random:0", "--image-size", "32", "--store", str(tmp_path / "my store")),
    ]


def test_the_contract_of_json(args, capsys):
    assert _run([*args, "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert {"path", "n_images", "n_computed", "n_reused", "layers"} <= set(result)
    assert result["layers"] == ["fc"]
    assert result["n_images"] == result["n_computed"] == 27
    assert result["duration_s"] > 0
    assert result["images_per_s"] > 0
    assert "Extracting" in captured.err
    assert _run([*args, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["n_computed"], again["n_reused"]) == (0, 27)


def test_people_are_told_what_happened_and_what_comes_next(args, capsys, tmp_path):
    assert _run(args) == 0
    out = capsys.readouterr().out
    assert "27 images computed" in out
    assert "arithmetic" in out
    assert any(sentence in out for sentence in BOTTLENECKS.values())
    assert f"featstore fit --clf logreg --store '{tmp_path / 'my store'}'" in out
    assert _run(args) == 0
    assert "nothing was computed" in capsys.readouterr().out


@pytest.mark.parametrize(
    "layers", [["--layers", "conv1,fc"], ["--layers", "conv1", "--layers", "fc"]]
)
def test_layers_are_taken_both_ways(args, layers, capsys):
    assert _run([*args, *layers, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["layers"] == ["conv1", "fc"]


@pytest.mark.parametrize(
    ("option", "code", "text"),
    [
        (["--batch-size", "many"], 2, "neither a number nor auto"),
        (["--batch-size", "0"], 1, "batch_size"),
        (["--pool", "sum"], 2, "gem"),
        (["--layers", "conv7"], 1, "no layer 'conv7'"),
        (["--weights", "imagenet-22k"], 1, "random:SEED"),
        (["--dataset", "sat5"], 1, "sat4"),
        (["--image-size", "3"], 1, "image_size"),
    ],
)
def test_mistakes_are_answered(args, option, code, text, capsys):
    assert _run([*args, *option]) == code
    captured = capsys.readouterr()
    assert text in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_ctrl_c_is_130_and_says_how_to_go_on(args, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(writer.FeatureWriter, "add", interrupt)
    assert _run(args) == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_masked_images_are_counted_and_listed(args, images, capsys):
    next(images.rglob("sand01.png")).write_bytes(b"")
    assert _run(args) == 1
    assert "--on-error mask" in capsys.readouterr().err
    assert _run([*args, "--on-error", "mask"]) == 0
    assert "1 image" in capsys.readouterr().out
    (set_id,) = [one.set_id for one in open_store(args[-1]).sets()]
    assert _run(["store", "show", set_id, *args[-2:]]) == 0
    assert "masked: test/sand/sand01.png: " in capsys.readouterr().out
