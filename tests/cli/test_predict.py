from __future__ import annotations

import csv
import io
import json
import os
import sys

import numpy as np
import pandas as pd
import pytest
from makers import write_images
from PIL import Image

from featstore.cli.main import _run
from featstore.inference.predictions import Prediction, write_csv


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def args(network_sample):
    sample = network_sample
    images, store = sample.images / "test", sample.store.path
    return ["predict", sample.run.run_id, str(images), "--store", str(store)]


def test_a_table_csv_and_json_say_the_same(args, capsys):
    assert _run(args) == 0
    shown = capsys.readouterr().out
    assert _run([*args, "--csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert _run([*args, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["predictions"]
    assert len(rows) == len(found) == 9
    assert [row["class"] for row in rows] == [p["label"] for p in found]
    assert "probability" in shown
    assert rows[0]["path"] in shown


def test_one_bad_image_is_1_and_the_rest_is_printed(args, tmp_path, capsys):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    with pytest.raises(SystemExit) as caught:
        _run([*args, str(bad), "--json"])
    assert caught.value.code == 1
    captured = capsys.readouterr()
    found = json.loads(captured.out)["predictions"]
    assert len(found) == 10
    assert "bad.png" in captured.err
    with pytest.raises(SystemExit):
        _run([*args, str(bad), "--csv"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["error"] for row in rows] == [p["error"] or "" for p in found]
    assert "bad.png" in rows[-1]["error"]


def test_a_run_that_is_not_there_is_1(args, capsys):
    assert _run(["predict", "nothing", *args[2:]]) == 1
    assert "nothing" in capsys.readouterr().err


def test_what_is_left_out_is_counted(args, images, capsys):
    folder = images / "test" / "sand"
    (folder / "notes.txt").touch()
    args[2] = str(folder)
    for more in ([], ["--csv"]):
        assert _run([*args, *more]) == 0
        assert capsys.readouterr().err.count("not of an image format: 1 .txt.") == 1
    assert _run([*args, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["predictions"]) == 3
    assert found["left_out"]["n_files_by_ending"] == {".txt": 1}


def test_an_image_may_come_through_a_pipe(pixel_sample, capsys):
    image = next((pixel_sample.images / "test").rglob("*.png"))
    store = str(pixel_sample.store.path)
    out, into = os.pipe()
    os.write(into, image.read_bytes())
    os.close(into)
    stdin = os.dup(0)
    try:
        with image.open("rb") as stream:
            os.dup2(stream.fileno(), 0)
        images = [f"/dev/fd/{out}", "/dev/stdin"]
        code = _run(["predict", pixel_sample.run.run_id, *images, "--store", store, "--json"])
    finally:
        os.dup2(stdin, 0)
        os.close(stdin)
        os.close(out)
    assert code == 0
    first, second = json.loads(capsys.readouterr().out)["predictions"]
    assert first["path"] == f"/dev/fd/{out}"
    assert second["path"] == "/dev/stdin"
    assert first["label"] == second["label"] is not None


def test_names_of_classes_and_files_move_no_cursor(tmp_path, monkeypatch, capsys):
    unsafe = "\x1b]0;me\x07\x9b2J\u202e"
    images = tmp_path / f"i{unsafe}"
    for path in sorted(write_images(tmp_path / "safe", n=4, size=8).rglob("*.png")):
        folder = images / path.parts[-3] / f"{path.parts[-2]}{unsafe}"
        folder.mkdir(parents=True, exist_ok=True)
        path.rename(folder / f"{path.stem}{unsafe}.png")
    bad = images / f"bad{unsafe}.png"
    bad.touch()
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    store = ["--store", str(tmp_path / f"s{unsafe}")]
    test = [str(images / "test"), str(bad)]
    assert _run(["extract", "--model", "pixelstats", str(images), *store]) == 0
    assert _run(["fit", "--clf", "ridge", "--n-jobs", "1", *store]) == 0
    for words in (
        *(["predict", "best", *test, *more] for more in ([], ["--csv"], ["--json"])),
        ["neighbors", "best", *test, "--out", str(tmp_path / "o.png")],
    ):
        with pytest.raises(SystemExit, match="1"):
            _run([*words, *store])
    assert _run(["datasets", "show", "folder", "--root", f"no{unsafe}"]) == 1
    shown = terminal.getvalue() + capsys.readouterr().err
    assert shown.count("bad\\x1b]0;me") > 3
    # rich itself makes the heads of tables bold.
    assert not any(part in shown for part in ("\x1b]", "\x07", "\x9b", "\u202e"))


def test_no_text_of_a_csv_file_is_a_formula():
    names = ["=1+1", "+a", "-a", "@a", "\ta", "a=1"]
    stream = io.StringIO()
    write_csv([Prediction(name, name, -1.5, "decision value") for name in names], stream)
    rows = list(csv.DictReader(io.StringIO(stream.getvalue())))
    expected = [f"'{name}" for name in names[:-1]] + ["a=1"]
    assert [row["path"] for row in rows] == [row["class"] for row in rows] == expected
    assert rows[0]["score"] == "-1.5"


def test_unfamiliar_images_are_marked_and_left_out_if_asked(args, tmp_path, capsys):
    noise = tmp_path / "noise.png"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(noise)
    args = [*args[:2], str(noise), *args[3:]]
    assert _run(args) == 0
    shown = capsys.readouterr()
    assert "0 % (unlike)" in shown.out
    assert "1 image is unlike all training images (familiarity below 1 %)" in shown.err
    assert _run([*args, "--reject", "0.01", "--csv"]) == 0
    shown = capsys.readouterr()
    (row,) = csv.DictReader(io.StringIO(shown.out))
    assert (row["class"], row["familiarity"]) == ("", "0")
    assert "1 of 1 images have no label, as their familiarity is below 1 %." in shown.err


def test_an_image_on_stdin_in_place_of_its_path_is_named(args, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xd8\xff\xe0\0\x10JFIF")))
    assert _run([*args[:2], "-", *args[3:]]) == 2
    assert "such as /dev/stdin" in " ".join(capsys.readouterr().err.split())


def test_paths_come_from_stdin_and_predictions_go_to_a_file(args, tmp_path, monkeypatch, capsys):
    assert _run([*args, "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)["predictions"]
    paths = [p["path"] for p in expected]
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    for content in ("\n".join([*paths, "", str(bad)]), "\0".join([*paths, str(bad), ""])):
        stdin = io.TextIOWrapper(io.BytesIO(content.encode()))
        monkeypatch.setattr(sys, "stdin", stdin)
        for name in ("found.csv", "found.parquet"):
            stdin.buffer.seek(0)
            table = tmp_path / name
            with pytest.raises(SystemExit):
                _run([*args[:2], "-", *args[3:], "--output", str(table)])
            captured = capsys.readouterr()
            assert captured.out == ""
            assert f"10 predictions in {table}" in captured.err
            frame = pd.read_csv(table) if name.endswith("csv") else pd.read_parquet(table)
            assert frame["path"].tolist() == [*paths, str(bad)]
            assert frame["class"].tolist()[:-1] == [p["label"] for p in expected]
            scores = [p["score"] for p in expected]
            assert frame["score"].tolist()[:-1] == pytest.approx(scores, abs=1e-5)
            assert frame["score"].isna().tolist() == [False] * 9 + [True]
            assert "bad.png" in frame["error"].iloc[-1]
    assert _run([*args[:2], "-", *args[3:]]) == 2
    assert "there are none" in capsys.readouterr().err
    assert _run([*args, "--output", str(tmp_path / "found.xlsx")]) == 1
    assert ".csv or .parquet" in capsys.readouterr().err
