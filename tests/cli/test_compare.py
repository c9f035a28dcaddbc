import json
import shutil

import numpy as np
import pytest
from conftest import add_features, blank_figures, blobs, store_in

from featstore.cli.main import _run
from featstore.fitting.fit import fit
from featstore.runs.opening import open_run
from featstore.store.feature_store import open_store


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    rng = np.random.default_rng(1)
    y = (np.arange(320) % 4).astype(np.int32)
    X = rng.normal(size=(320, 20)).astype(np.float32) * 3 + np.eye(4, 20, dtype=np.float32)[y] * 6
    store = store_in(tmp_path_factory.mktemp("compare"), X=X, y=y)
    with blank_figures():
        return fit(store, ["logreg", "knn"], n_jobs=1)


@pytest.fixture
def own_runs(runs, tmp_path):
    """The runs in a store that the test may change."""
    shutil.copytree(runs[0].path.parent.parent, tmp_path / "store")
    return [open_run(tmp_path / "store" / "runs" / run.run_id) for run in runs]


def call(runs, *args):
    store = runs[0].path.parent.parent
    return _run(["compare", *map(str, args), "--store", str(store)])


def test_tables_and_one_sentence(runs, capsys):
    assert call(runs, *(run.run_id for run in runs)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    words = [line.split() for line in lines]
    accuracy = runs[0].metrics.test.accuracy
    n_right = round(80 * accuracy)
    assert ["A", runs[0].run_id, "demo", str(n_right), f"{100 * accuracy:.2f}"] in words
    rows = [row[2:] for row in words if row[:2] in (["A", "right"], ["A", "wrong"])]
    cells = [int(cell) for row in rows for cell in row]
    assert sum(cells) == 80
    assert cells[0] + cells[1] == n_right
    assert "95 % confidence interval" in lines[-2]
    assert "of 80 test images than" in lines[-1]
    assert "McNemar" in lines[-1]


def test_json_is_one_object(runs, capsys):
    assert call(runs, runs[0].path, runs[1].run_id, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["run_a"], found["run_b"]) == (runs[0].run_id, runs[1].run_id)
    assert found["n_test"] == 80
    assert found["accuracy_b"] == runs[1].metrics.test.accuracy
    low, high = found["interval"]
    assert low < found["difference"] < high
    assert len(found["per_class"]) == 4


@pytest.mark.usefixtures("blank_pictures")
def test_other_images_of_the_same_names_are_named(own_runs, capsys):
    runs = own_runs
    store = open_store(runs[0].path.parent.parent)
    (first,) = store.sets()
    more = {"title": "others", "model": "alexnet"}
    X, _ = blobs(320, 9)
    add_features(store, {"fc8": X}, first.labels, first.splits, **more)
    (other,) = fit(store, dataset="others")
    assert call(runs, runs[0].run_id, other.run_id) == 0
    assert "matched by name and class alone" in capsys.readouterr().out
    assert call(runs, *(run.run_id for run in runs)) == 0
    assert "matched by name" not in capsys.readouterr().out


def test_a_run_with_itself(runs, capsys):
    assert call(runs, runs[0].run_id, runs[0].run_id) == 0
    out = capsys.readouterr().out
    assert "predict the same for all 80 test images: p = 1" in out
    assert "recall" not in out
    assert call(runs, "best", "last", runs[0].run_id, runs[1].run_id) == 0
    assert " are the same run." in capsys.readouterr().err


def test_a_name_that_several_runs_share_lists_them(runs, capsys):
    assert call(runs, "demo-resnet50", runs[1].run_id) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Error: Several runs are named 'demo-resnet50'")
    assert runs[0].run_id in err


@pytest.mark.usefixtures("blank_pictures")
def test_runs_on_other_rows_and_changed_files_are_1_with_a_cure(own_runs, make_store, capsys):
    runs, store = own_runs, make_store(160, title="other")
    (other,) = fit(store, dataset="other")
    assert call(runs, runs[0].run_id, other.run_id, "--json") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "of their 80 and 40 test rows they share" in err
    assert "extract the features for both" in err
    path = runs[1].path / "predictions.csv"
    path.write_bytes(path.read_bytes() + b"x")
    assert call(runs, *(run.run_id for run in runs)) == 1
    err = capsys.readouterr().err
    assert "is not what fit wrote" in err
    assert "--refit" in err


def test_an_empty_store_and_one_run_alone(runs, tmp_path, capsys):
    assert _run(["compare", "x", "y", "--store", str(tmp_path / "empty")]) == 1
    assert "There is no store at" in capsys.readouterr().err
    assert not (tmp_path / "empty").exists()
    assert call(runs, runs[0].run_id) == 2
    assert "Missing argument 'RUN'" in capsys.readouterr().err


def test_several_runs_are_a_table_against_the_first(own_runs, capsys):
    runs = own_runs
    with blank_figures():
        runs += fit(open_store(runs[0].path.parent.parent), ["ridge"], n_jobs=1)
    names = [run.run_id for run in runs]
    assert call(runs, *names, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["reference"] == names[0]
    assert [one["run_a"] for one in found["comparisons"]] == names[1:]
    for one in found["comparisons"]:
        assert one["run_b"] == names[0]
        assert one["p_value"] <= one["p_value_holm"] <= 1
    assert call(runs, "best", *names[1:]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in names[1:])
    assert "Holm's correction for 2 comparisons" in out
