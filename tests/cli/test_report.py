import json
import shutil

import pytest
from conftest import blank_figures, store_in

from featstore.cli.main import main
from featstore.fitting.fit import fit
from featstore.runs.opening import list_runs
from featstore.store.feature_store import open_store

pytestmark = pytest.mark.usefixtures("blank_pictures")


def call(*args):
    """Run the command line as a shell would; return its exit code."""
    with pytest.raises(SystemExit) as caught:
        main(["report", *map(str, args)])
    return caught.value.code


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = store_in(tmp_path_factory.mktemp("report"))
    with blank_figures():
        fit(store, ["lda", "ridge"], n_jobs=1)
    return store


def test_a_table_and_a_page(store, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert call("--store", store.path) == 0
    out = capsys.readouterr().out
    assert out.count("resnet50 (random:0)  fc1000") == 2
    assert "The best run on demo is demo-resnet50-fc1000-" in out
    assert "report.html" in out
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_json_is_one_object(store, tmp_path, capsys):
    assert call("--store", store.path, "--out", tmp_path / "x.html", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["report"] == str(tmp_path / "x.html")
    assert [run["clf"] for run in report["runs"]]
    assert len(report["runs"]) == 2


def test_one_dataset_only(store, tmp_path, capsys):
    assert call("--store", store.path, "--out", tmp_path / "x.html", "--dataset", "demo") == 0
    assert call("--store", store.path, "--out", tmp_path / "y.html", "--dataset", "sat4") == 1
    assert "No runs are on 'sat4'. There are runs on demo." in capsys.readouterr().err
    assert not (tmp_path / "y.html").exists()


def test_broken_runs_are_named_and_passed_over(store, tmp_path, capsys):
    shutil.copytree(store.path, tmp_path / "store")
    store = open_store(tmp_path / "store")
    broken = list_runs(store)[0]
    (broken.path / "metrics.json").write_text("")
    assert call("--store", store.path, "--out", tmp_path / "x.html", "--json") == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out)["runs"]) == 1
    assert broken.run_id in err


def test_an_empty_store_says_what_to_do(tmp_path, capsys):
    assert call("--store", tmp_path / "empty", "--out", tmp_path / "x.html") == 1
    assert "There is no store at" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert call("--store", tmp_path / "empty", "--out", tmp_path / "x.html") == 1
    assert "featstore fit" in capsys.readouterr().err
    assert not (tmp_path / "x.html").exists()
