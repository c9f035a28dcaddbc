from __future__ import annotations

import json
import shutil

import pytest
from conftest import blank_figures, short_training, small_networks
from makers import write_images

from featstore.cli.main import _run

pytestmark = pytest.mark.usefixtures("blank_pictures", "few_epochs", "small_inputs")

STUDY = ["reproduce", "--models", "mobilenet_v2", "--weights", "random:0", "--clf", "lda"]
"""A study of one network, on the images of a folder."""


def words(folder, out, *more):
    places = ["--root", folder / "mine", "--store", folder / "store", "--out", out]
    return [*STUDY, "--dataset", "folder", *map(str, places), *more]


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """Return a folder with images, the store of a study on them, and its report in study/."""
    folder = tmp_path_factory.mktemp("reproduce")
    write_images(folder / "mine", 2, 32)
    with blank_figures(), short_training(), small_networks():
        assert _run(words(folder, folder / "study")) == 0
    return folder


def test_own_images_end_in_a_report(studied, tmp_path, capsys):
    assert _run(words(studied, tmp_path / "again")) == 0
    out = capsys.readouterr().out
    assert "Early, deep and final layers on mine" in out
    assert "6 runs, 0 of them new" in out
    assert "The best run on mine: " in out
    assert str(tmp_path / "again" / "report.html") in out
    names = {path.name for path in (studied / "study").iterdir()}
    assert {"report.html", "report.json", "layers-mine.md", "bars-mine.png"} <= names
    page = (studied / "study" / "report.html").read_text(encoding="utf-8")
    assert "<h2 id=" in page


def test_json_is_one_object(studied, tmp_path, capsys):
    assert _run(words(studied, tmp_path / "again", "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert {run["clf"] for run in told["runs"]} == {"lda", "softmax"}
    assert (told["failures"], told["left_out"]) == ([], [])


def test_failures_are_named_and_the_code_is_1(studied, tmp_path, capsys):
    for name in ("mine", "store"):
        shutil.copytree(studied / name, tmp_path / name)
    (tmp_path / "mine" / "sat-6-full.mat").write_bytes(b"no MATLAB file")
    with pytest.raises(SystemExit) as caught:
        _run(words(tmp_path, tmp_path / "study", "--dataset", "sat6"))
    assert caught.value.code == 1
    captured = capsys.readouterr()
    assert "Failed: mobilenet_v2 on sat6: " in captured.out
    assert "Early, deep and final layers on" in captured.out
    assert (tmp_path / "study" / "report.html").is_file()


def test_without_any_dataset_it_says_what_to_get(tmp_path, capsys):
    out = ["--store", str(tmp_path / "store"), "--out", str(tmp_path / "study")]
    assert _run([*STUDY, "--root", str(tmp_path), *out]) == 1
    err = capsys.readouterr().err
    for file in ("sat-4-full.mat", "sat-6-full.mat", "featstore datasets get ucmerced"):
        assert file in err
    assert not (tmp_path / "study").exists()


def test_quick_is_a_limit(capsys):
    assert _run([*STUDY, "--quick", "--limit", "5"]) == 2
    assert "give one of them" in capsys.readouterr().err


def test_help_names_the_librarys_networks_and_datasets(capsys):
    from featstore.report import paper

    assert _run(["reproduce", "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert all(name in out for name in paper.study_models())
    assert ",".join(paper.DATASETS) in out
