from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio

from featstore.cli.main import _run

pytestmark = pytest.mark.usefixtures("blank_pictures")


@pytest.fixture
def args(pixel_sample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, store = pixel_sample.run, str(pixel_sample.store.path)
    pixels = np.full((4, 80, 120), 60, np.uint16)
    pixels[3], pixels[0], pixels[0, :, :40] = 30, 150, 1000
    place = rasterio.Affine(10, 0, 500_000, 0, -10, 4_600_000)
    with rasterio.open(
        "scene.tif", "w", "GTiff", 120, 80, 4, "EPSG:32633", place, dtype="uint16", nodata=1000
    ) as raster:
        raster.write(np.where(pixels[0] == 1000, np.uint16(1000), pixels))
    choice = ["--bands", "4,2,1", "--range", "0,255"]
    return ["map", run.run_id, "scene.tif", "--store", store, *choice]


def test_people_see_classes_shares_and_files(args, capsys, tmp_path):
    assert _run(args) == 0
    out = capsys.readouterr().out
    assert "2 x 3 cells of 40 x 40 pixels" in out
    assert "4 classified, 2 beyond the scene or without data." in out
    assert "share of the area (%)" in out
    assert "water" in out
    assert "100.0" in out
    assert "4 windows at " in out
    assert " with opening and drawing" in out
    assert "The map: scene-classes.tif (class names: scene-classes.tif.aux.xml" in out
    assert "QGIS style: scene-classes.qml" in out
    assert "The picture: scene-classes.png" in out
    assert "Next: " in out
    assert (tmp_path / "scene-classes.tif.aux.xml").is_file()
    assert (tmp_path / "scene-classes.qml").is_file()


def test_programs_get_one_object(args, capsys, tmp_path):
    more = ["--window", "20", "--stride", "10", "--probability"]
    assert _run([*args, *more, "--out", "a.tif", "--preview", "b.png", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["window"], found["stride"], found["n_rows"], found["n_cols"]) == (20, 10, 8, 12)
    assert sum(found["counts"]) + found["n_empty"] == 96
    assert found["class_names"] == ["forest", "sand", "water"]
    assert (found["path"], found["preview"]) == ("a.tif", "b.png")
    assert found["style"] == "a.qml"
    assert (tmp_path / "b.png").is_file()
    with rasterio.open("a.tif") as raster:
        assert raster.count == 2


@pytest.mark.parametrize(
    "wrong", [["--bands", "red"], ["--range", "5"], ["--range", "a,b"], ["--window", "0"]]
)
def test_wrong_usage_is_2(args, wrong, capsys):
    assert _run([*args, *wrong]) == 2
    assert wrong[0] in capsys.readouterr().err


def test_a_scene_that_does_not_exist_is_1(args, capsys):
    args[2] = "nothing.tif"
    assert _run(args) == 1
    assert "nothing.tif does not exist" in capsys.readouterr().err


def test_colors_come_from_a_file(args, tmp_path, capsys):
    (tmp_path / "colors.csv").write_text("class,color\nwater,#010203\n")
    assert _run([*args, "--colors", "colors.csv", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["colors"][found["class_names"].index("water")] == "#010203"
    (tmp_path / "colors.csv").write_text("lava,#ff0000\n")
    assert _run([*args, "--colors", "colors.csv"]) == 1
    assert "colors.csv has a colour for 'lava'" in capsys.readouterr().err
