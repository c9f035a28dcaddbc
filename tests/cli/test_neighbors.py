from __future__ import annotations

import json

import pytest
from makers import of_pixels
from PIL import Image

import featstore
from featstore.cli.main import _run


@pytest.fixture
def args(pixel_sample, tmp_path):
    store, sheet = str(pixel_sample.store.path), str(tmp_path / "sheet.png")
    words = [pixel_sample.run.run_id, "test/water/water01.png", "--store", store, "--out", sheet]
    return ["neighbors", *words]


def test_a_table_and_a_sheet(args, tmp_path, capsys):
    assert _run([*args, "-k", "3"]) == 0
    out = capsys.readouterr().out
    assert "test/water/water01.png (water)" in out
    assert out.count("train/water/") == 3
    assert "Classes: water 100 %" in out
    assert f"The contact sheet: {tmp_path / 'sheet.png'}" in out
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.format == "PNG"


def test_json_says_all(args, pixel_sample, tmp_path, capsys):
    new = str(pixel_sample.images / "test" / "sand" / "sand00.png")
    assert _run([*args, new, "--k", "4", "--metric", "euclidean", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["metric"], found["split"], found["n_rows"]) == ("euclidean", "train", 18)
    assert found["figures"] == [str(tmp_path / "sheet.png")]
    stored, asked = found["queries"]
    assert (stored["label"], asked["label"]) == ("water", None)
    assert asked["shares"] == {"sand": 1.0}
    assert len(asked["neighbors"]) == 4
    assert set(asked["neighbors"][0]) == {
        *("row", "sample_id", "label", "labels", "split", "distance"),
    }


def test_one_bad_image_is_1_and_the_rest_is_shown(args, tmp_path, capsys):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    with pytest.raises(SystemExit) as caught:
        _run([*args, str(bad)])
    assert caught.value.code == 1
    captured = capsys.readouterr()
    assert captured.out.count("Classes: ") == 1
    assert "bad.png" in captured.err


def test_moved_images_are_named_and_found_by_root(images, tmp_path, capsys):
    store = str(tmp_path / "store")
    done = featstore.extract(store=store, **of_pixels(images))
    out = str(tmp_path / "sheet.png")
    args = ["neighbors", done.set_id, "test/water/water01.png", "--store", store, "--out", out]
    images.rename(tmp_path / "moved")
    assert _run(args) == 0
    assert "Gray tiles" in capsys.readouterr().err
    assert _run([*args, "--root", str(tmp_path / "moved")]) == 0
    assert "Gray tiles" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({1: "nothing"}, 1, "neither a run nor a feature set"),
        ({2: "nothing.png"}, 1, "nothing.png does not exist"),
        ({6: "nb.jpg"}, 1, "Write: --out nb.png"),
        ({6: f"{__file__}/x.png"}, 1, f"{__file__}/x.png can't be written: {__file__} is a file"),
    ],
)
def test_what_can_not_be_is_told(args, change, code, message, capsys):
    words = [change.get(i, word) for i, word in enumerate(args)]
    assert _run(words) == code
    assert message in capsys.readouterr().err
