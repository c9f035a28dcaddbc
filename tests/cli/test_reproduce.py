from __future__ import annotations

import json

import pytest
from makers import write_images

from featstore.cli.main import _run

pytestmark = pytest.mark.usefixtures("no_umap", "few_epochs", "small_inputs")


@pytest.fixture
def args(tmp_path):
    options = {"store": "store", "out": "study"}
    places = [text for name, file in options.items() for text in (f"--{name}", tmp_path / file)]
    more = ["--models", "mobilenet_v2", "--weights", "random:0", "--projection", "pca"]
    return ["reproduce", *more, *map(str, places)]


def test_own_images_end_in_a_report(args, tmp_path, capsys):
    images = write_images(tmp_path / "mine")
    assert _run([*args, "--dataset", "folder", "--root", str(images)]) == 0
    out = capsys.readouterr().out
    assert "Early, deep and final layers on mine" in out
    assert "6 runs, 6 of them new" in out
    assert str(tmp_path / "study" / "report.html") in out
    names = {path.name for path in (tmp_path / "study").iterdir()}
    assert {"report.html", "report.json", "layers-mine.md", "bars-mine.png"} <= names
    page = (tmp_path / "study" / "report.html").read_text(encoding="utf-8")
    assert "<h2 id=" in page


@pytest.mark.usefixtures("blank_pictures")
def test_json_is_one_object(args, tmp_path, capsys):
    images = write_images(tmp_path / "mine")
    more = ["--dataset", "folder", "--root", str(images), "--clf", "ridge", "--json"]
    assert _run([*args, *more]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {run["clf"] for run in told["runs"]} == {"ridge", "softmax"}
    assert (told["failures"], told["left_out"]) == ([], [])


@pytest.mark.usefixtures("blank_pictures")
def test_failures_are_named_and_the_code_is_1(args, tmp_path, capsys):
    (tmp_path / "sat-6-full.mat").write_bytes(b"no MATLAB file")
    more = ["--datasets", "sat6,demo", "--root", str(tmp_path), "--limit", "27"]
    with pytest.raises(SystemExit) as caught:
        _run([*args, *more])
    assert caught.value.code == 1
    out = capsys.readouterr().out
    assert "Failed: mobilenet_v2 on sat6: " in out
    assert "Early, deep and final layers on demo" in out
    assert (tmp_path / "study" / "report.html").is_file()


def test_without_any_dataset_it_says_what_to_get(args, tmp_path, capsys):
    assert _run([*args, "--root", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    for file in ("sat-4-full.mat", "sat-6-full.mat", "featstore datasets get ucmerced"):
        assert file in err
    assert not (tmp_path / "study").exists()


def test_quick_is_a_limit(args, capsys):
    assert _run([*args, "--quick", "--limit", "5"]) == 2
    assert "give one of them" in capsys.readouterr().err
