from __future__ import annotations

import json

import numpy as np
import pytest

from featstore.cli.main import _run


@pytest.fixture
def store(make_store):
    return make_store(n_samples=40)


@pytest.fixture
def option(store):
    return ["--store", str(store.path)]


def test_an_empty_store_says_how_to_begin(tmp_path, capsys):
    assert _run(["store", "ls", "--store", str(tmp_path)]) == 0
    assert "featstore extract" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["store", "ls"], ["store", "verify"], ["report"], ["fit"]])
@pytest.mark.parametrize(
    ("name", "said"), [("", "name is empty; give a folder"), ("s3://[x", "can't be opened")]
)
def test_a_store_without_a_name_or_of_a_bad_url_is_refused(command, name, said, capsys):
    assert _run([*command, "--store", name]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Error: ")
    assert said in err
    assert err.count("\n") == 1


def test_sets_are_listed(store, option, capsys):
    assert _run(["store", "ls", *option]) == 0
    out = capsys.readouterr().out
    assert store.sets()[0].set_id in out
    assert "fc1000" in out
    assert _run(["store", "ls", *option, "--json"]) == 0
    (value,) = json.loads(capsys.readouterr().out)["sets"]
    assert value["layers"] == ["fc1000"]
    assert value["n_samples"] == 40


def test_a_broken_set_does_not_hide_the_others(store, option, capsys):
    (store.sets()[0].path / "set.json").write_text("{}")
    assert _run(["store", "ls", *option]) == 0
    assert "not as it was written" in capsys.readouterr().err


def test_verify_is_0_or_1(store, option, capsys):
    assert _run(["store", "verify", *option]) == 0
    assert "intact" in capsys.readouterr().out
    store.sets()[0].matrix("fc1000").chunk_path(0).write_bytes(b"damaged")
    with pytest.raises(SystemExit) as caught:
        _run(["store", "verify", *option, "--json"])
    assert caught.value.code == 1
    found = json.loads(capsys.readouterr().out)
    assert not found["intact"]
    assert found["damages"][0]["chunk"] == 0
    assert found["repair"]


def test_rm_asks_first(store, option, capsys, monkeypatch):
    set_id = store.sets()[0].set_id
    monkeypatch.setattr("sys.stdin.readline", lambda *_: "n\n")
    assert _run(["store", "rm", set_id, *option]) == 1
    err = capsys.readouterr().err
    assert err.endswith("Nothing was removed.\n")
    assert "Interrupted" not in err
    assert store.sets()
    assert _run(["store", "rm", set_id, "--yes", *option]) == 0
    assert store.sets() == []
    assert _run(["store", "rm", set_id, "--yes", *option]) == 1
    assert "No feature set" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "resnet50", "demo", "9"])
def test_rm_refuses_a_short_part_of_a_name(store, option, capsys, name):
    assert _run(["store", "rm", name, "--yes", *option]) == 1
    assert "Error" in capsys.readouterr().err
    (feature_set,) = store.sets()
    assert _run(["store", "rm", feature_set.set_id[-8:], "--yes", *option]) == 0
    assert store.sets() == []


@pytest.mark.parametrize("inner", ["", "features.zarr"])
def test_the_path_of_a_set_is_as_good_as_its_name_and_its_store(
    store, tmp_path, monkeypatch, capsys, inner
):
    (feature_set,) = store.sets()
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    path = str(feature_set.path / inner)
    assert _run(["store", "show", path]) == 0
    assert capsys.readouterr().out.startswith(feature_set.set_id)
    assert _run(["store", "verify", path]) == 0
    assert "1 feature set is intact" in capsys.readouterr().out
    assert _run(["store", "export", "x.npy", "--set", path]) == 0
    assert (folder / "x.npy").is_file()
    monkeypatch.chdir(feature_set.path.parent)
    assert _run(["store", "show", f"./{feature_set.set_id}/{inner}"]) == 0
    assert _run(["store", "rm", path, "--yes"]) == 0
    assert store.sets() == []


def test_a_set_of_another_store_is_named_with_its_store(store, tmp_path, capsys):
    (feature_set,) = store.sets()
    option = ["--store", str(tmp_path / "other")]
    assert _run(["fit", "--set", str(feature_set.path), *option]) == 1
    assert f"Give its store: --store {store.path}" in capsys.readouterr().err


def test_export_writes_a_file(store, option, tmp_path, capsys):
    path = tmp_path / "x.npz"
    assert _run(["store", "export", str(path), *option]) == 0
    assert "40 rows of 20 features" in capsys.readouterr().out
    with np.load(path) as found:
        assert found["X"].shape == (40, 20)
    assert _run(["store", "export", str(tmp_path / "x.doc"), *option]) == 1
