import csv
import json
import os
import pickle
import shutil
import subprocess

import numpy as np
import pytest
import skops.io
from makers import Listener
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer

from featstore.config import FitConfig
from featstore.errors import RunError
from featstore.fitting.fit import fit
from featstore.io.files import file_sha256, json_digest, rename_for_deletion
from featstore.runs.model_file import load_model, save_model
from featstore.runs.opening import list_runs, open_run
from featstore.runs.run import Run
from featstore.runs.verification import verify_runs
from featstore.store import backend
from featstore.store.backend import Backend
from featstore.store.feature_store import open_store


def edit(run, **changes):
    """Change a run's record, and make its digest fit."""
    path = run.path / "metrics.json"
    record = json.loads(path.read_text()) | changes
    del record["digest"]
    path.write_text(json.dumps(record | {"digest": json_digest(record)}))


def test_a_run_has_all_its_files_and_fields(run, store):
    names = {path.name for path in run.path.iterdir()}
    # Pictures are drawn when it is shown.
    assert names == {"metrics.json", "model.skops", "predictions.csv"}
    record = json.loads((run.path / "metrics.json").read_text())
    assert record["fit"] == json.loads(json.dumps(FitConfig("logreg").to_dict()))
    assert (record["search"], record["solver"]) == (None, "passes")
    assert record["params"] == {"C": 5.0, "max_iter": 1000}
    assert record["provenance"]["versions"]["scikit-learn"]
    assert record["selection"]["digest"] == store.select().describe().digest
    assert set(record["duration_s"]) == {"total", "load", "scale", "fit", "calibrate", "evaluate"}
    assert run.curves is None


def test_predictions_are_those_of_the_saved_model(run, store):
    selection = store.select()
    with (run.path / "predictions.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    test = selection.splits == 1
    assert [line["sample_id"] for line in lines] == selection.sample_ids[test].tolist()
    again = open_run(run.path).model
    assert isinstance(again, Pipeline)
    labels = again.predict(selection.memmap()[test])
    assert [line["predicted"] for line in lines] == [run.class_names[c] for c in labels]
    assert [line["true"] for line in lines] == [run.class_names[c] for c in selection.y[test]]
    probabilities = run.calibrator.apply(again.decision_function(selection.memmap()[test]))
    scores = probabilities.max(axis=1)
    np.testing.assert_allclose([float(line["score"]) for line in lines], scores, rtol=1e-4)
    right = np.mean([line["true"] == line["predicted"] for line in lines])
    assert right == run.metrics.test.accuracy


@pytest.mark.parametrize("part", [slice(None), slice(0, 12), slice(-8, None)])
def test_a_run_is_found_by_name_beginning_or_end(run, store, part):
    assert open_run(run.run_id[part], store).path == run.path
    assert open_run(str(run.path), store).path == run.path


def test_an_ambiguous_or_unknown_name_lists_the_runs(run, store):
    other = fit(store, "ridge")[0]
    with pytest.raises(RunError, match="Several runs") as caught:
        open_run("demo", store)
    assert run.run_id in str(caught.value)
    assert other.run_id in str(caught.value)
    with pytest.raises(RunError, match=f"No run .*'sat4'.*\n.*{run.run_id}|{run.run_id}"):
        open_run("sat4", store)
    with pytest.raises(RunError, match="No run"):
        open_run("", store)


def test_a_run_without_a_record_is_named_in_a_store_of_a_relative_path(run, store, monkeypatch):
    monkeypatch.chdir(store.path.parent)
    near = open_store(store.path.name)
    (run.path / "metrics.json").unlink()
    n_runs, (damage,) = verify_runs(near)
    assert (n_runs, damage.set_id) == (1, run.run_id)
    assert "metrics.json is missing, damaged or edited" in damage.problem


def test_without_runs_it_says_how_to_make_one(make_store, tmp_path):
    store = make_store()
    with pytest.raises(RunError, match="featstore fit"):
        open_run("x", store)
    with pytest.raises(RunError, match="not a run's folder"):
        open_run(tmp_path / "nowhere")
    assert list_runs(store) == []


class _Payload:
    """What pickle would run when it is loaded."""

    def __reduce__(self):
        return os.system, ("touch /tmp/featstore-was-here",)


@pytest.mark.parametrize("function", [shutil.rmtree, subprocess.check_call])
def test_a_model_that_would_call_a_function_is_refused_even_with_the_right_hash(run, function):
    steps = [("scale", FunctionTransformer(function)), ("clf", LogisticRegression())]
    (run.path / "model.skops").write_bytes(skops.io.dumps(Pipeline(steps)))
    # First as a careless attacker, then as one who corrects all hashes.
    with pytest.raises(RunError, match="not what fit wrote"):
        _ = open_run(run.path).model
    files = run.record.files | {"model.skops": file_sha256(run.path / "model.skops")}
    edit(run, files=files)
    with pytest.raises(RunError, match=f"holds {function.__module__}.*meant to run code"):
        _ = open_run(run.path).model


def test_types_that_are_trusted_are_loaded_and_no_others(run):
    model = Pipeline([("clf", RandomForestClassifier(3).fit([[0.0], [1.0]], [0, 1]))])
    (run.path / "model.skops").write_bytes(skops.io.dumps(model))
    edit(run, files=run.record.files | {"model.skops": file_sha256(run.path / "model.skops")})
    forest = open_run(run.path)
    for trusted in ([], ["sklearn.tree._tree.Other"]):
        with pytest.raises(RunError, match=r"holds sklearn\.tree\._tree\.Tree, .*with --trust"):
            forest.load_model(trusted)
    loaded = forest.load_model(["sklearn.tree._tree.Tree"])
    assert loaded.predict([[0.0], [1.0]]).tolist() == model.predict([[0.0], [1.0]]).tolist()


def test_a_pickle_in_place_of_the_model_is_refused(run):
    (run.path / "model.skops").write_bytes(pickle.dumps(_Payload()))
    files = run.record.files | {"model.skops": file_sha256(run.path / "model.skops")}
    edit(run, files=files)
    with pytest.raises(RunError, match="not a skops file.*--refit"):
        _ = open_run(run.path).model


def test_a_run_that_was_replaced_or_removed_since_it_was_opened_is_not_called_damaged(run):
    old = open_run(run.path)
    predictions = run.path / "predictions.csv"
    predictions.write_bytes(predictions.read_bytes() + b"\n")
    with pytest.raises(RunError, match=r"is damaged: predictions\.csv is not what.*--refit"):
        _ = old.predictions
    edit(run, files=run.record.files | {"predictions.csv": file_sha256(predictions)})
    with pytest.raises(RunError, match="was fitted again, or removed, since it was opened"):
        _ = old.predictions
    shutil.rmtree(run.path)
    with pytest.raises(RunError, match="was fitted again, or removed, since it was opened"):
        _ = old.model


def test_a_model_that_is_not_a_pipeline_is_refused(tmp_path):
    with pytest.raises(RunError, match="holds a LogisticRegression, not a pipeline"):
        load_model(skops.io.dumps(LogisticRegression()))
    save_model(Pipeline([("clf", LogisticRegression())]), tmp_path / "m.skops")
    assert isinstance(load_model((tmp_path / "m.skops").read_bytes()), Pipeline)


def test_broken_runs_are_refused_and_passed_over_by_the_list(run, store):
    good = fit(store, "ridge")[0]
    copies = {name: run.path.with_name(f"broken-{name}") for name in ["edited", "lacking", "new"]}
    for copy in copies.values():
        shutil.copytree(run.path, copy)
    metrics = copies["edited"] / "metrics.json"
    metrics.write_text(metrics.read_text().replace('"accuracy": ', '"accuracy": 0.9'))
    (copies["lacking"] / "predictions.csv").unlink()
    edit(open_run(copies["new"]), format=99)
    (run.path.parent / "empty").mkdir()
    (run.path.parent / "notes.txt").write_text("mine")
    for path, message in (
        (copies["edited"], "edited"),
        (copies["lacking"], r"lacks predictions\.csv"),
        (copies["new"], "format 99"),
        (run.path.parent / "empty", "not a run as fit wrote it"),
    ):
        with pytest.raises(RunError, match=message):
            open_run(path)
    listener = Listener()
    assert [one.run_id for one in list_runs(store, listener)] == [run.run_id, good.run_id]
    assert len(listener.lines) == 4
    assert all(line.startswith("Passed over: ") for line in listener.lines)


@pytest.mark.parametrize("is_replaced", [True, False])
def test_a_run_that_is_replaced_or_removed_meanwhile_is_no_damage(
    run, store, tmp_path, monkeypatch, is_replaced
):
    path = shutil.copytree(run.path, tmp_path / "other")
    other = Run.of(path, run.record, Backend(tmp_path))
    (other.path / "model.skops").write_bytes(b"another")
    files = run.record.files | {"model.skops": file_sha256(other.path / "model.skops")}
    edit(other, files=files)
    original, looked = backend.file_problem, []

    def look(path, sha256):
        if not looked:
            rename_for_deletion(run.path)
            if is_replaced:
                other.path.rename(run.path)
        looked.append(path)
        return original(path, sha256)

    monkeypatch.setattr(backend, "file_problem", look)
    assert verify_runs(store) == (1, [])
    (run.path if is_replaced else other.path).joinpath("model.skops").write_bytes(b"damaged")
    assert [damage.file for damage in verify_runs(store)[1]] == ["model.skops"] * is_replaced
