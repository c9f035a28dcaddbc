import csv
import json
import subprocess
import sys
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import CLASSES, add_features, blobs

from featstore import costs, tasks
from featstore.blocks import Samples
from featstore.classifiers import CLASSIFIERS
from featstore.errors import FitError, SelectionError
from featstore.fitting import fit, fit_each
from featstore.runs import list_runs
from featstore.store import open_store

TRAIN, TEST, VAL = 0, 1, 2


class Listener:
    def __init__(self):
        self.lines, self.n_done = [], 0

    def start(self, what, total, unit):
        self.total = total

    def advance(self, n):
        self.n_done += n

    def stop(self):
        pass

    def say(self, line):
        self.lines.append(line)


def predictions(run):
    with (run.path / "predictions.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("clf", CLASSIFIERS)
def test_every_classifier_is_fitted_judged_and_kept(clf, make_store):
    store = make_store()
    (run,) = fit(store, clf)
    assert run.clf == clf
    assert run.metrics["test"]["accuracy"] > 0.9
    assert run.metrics["train"] == {"accuracy": pytest.approx(1.0, abs=0.1), "n_samples": 240}
    # Its loss still falls after 250 epochs of two steps each.
    assert run.record["converged"] or clf == "softmax"
    summary = run.summary()
    assert (summary["n_train"], summary["n_test"], summary["n_features"]) == (240, 80, 20)
    assert summary["majority_accuracy"] == 0.25
    assert 0 < summary["duration_s"] < 60
    assert summary["peak_rss_nbytes"] > 10e6
    json.dumps(summary, allow_nan=False)
    X = store.select().memmap()
    assert not X.flags.writeable
    assert set(run.model.predict(X)) == {0, 1, 2, 3}
    by_epochs = clf in ("mlp", "sgd", "softmax")
    assert (run.curves is not None) == by_epochs == (run.path / "curves.png").exists()
    if by_epochs:
        assert len(run.curves["loss"]) == len(run.curves["accuracy"]) > 1
        assert run.curves["accuracy"][-1] == pytest.approx(run.metrics["train"]["accuracy"])
    assert run.record["search"] is None
    assert not list(store.cache_dir.glob("scratch/*"))


def test_a_fit_asked_for_again_is_answered_from_its_run(make_store):
    store = make_store()
    (first,) = fit_each(store, "logreg")
    assert not first.reused
    # The same by other words: defaults spelled out, another order of options.
    for more in ({}, {"params": {"C": 0.01}}, {"dataset": "demo", "layers": ["fc1000"]}):
        (again,) = fit_each(store, ["logreg"], **more)
        assert again.reused
        assert again.run.record == first.run.record
    for more in ({"params": {"C": 0.1}}, {"seed": 1}, {"clf": "ridge"}):
        (other,) = fit_each(store, **{"clf": "logreg", **more})
        assert not other.reused
        assert other.run.run_id != first.run.run_id
    (refitted,) = fit_each(store, "logreg", refit=True)
    assert not refitted.reused
    assert refitted.run.run_id == first.run.run_id
    assert refitted.run.record["duration_s"] != first.run.record["duration_s"]
    assert len(list_runs(store)) == 4


def test_a_damaged_run_is_fitted_again_and_that_is_said(make_store):
    store = make_store()
    (run,) = fit(store)
    (run.path / "metrics.json").write_text("{")
    listener = Listener()
    (again,) = fit(store, progress=listener)
    assert again.metrics == run.metrics
    assert listener.lines[0].startswith("Fitting again: ")


def test_other_features_are_another_run(make_store):
    store = make_store(title="a")
    X, y = blobs(320, 20, seed=9)
    splits = (np.arange(320) >= 240).astype(np.uint8)
    add_features(store, {"fc1000": X}, y, splits, title="b")
    runs = [fit(store, dataset=title)[0] for title in "ab"]
    assert runs[0].record["key"] != runs[1].record["key"]
    with pytest.raises(SelectionError, match="--dataset"):
        fit(store)


def test_layers_are_combined_side_by_side_and_in_turn(make_store):
    deep, y = blobs(320, 20)
    early = np.random.default_rng(3).normal(size=(320, 7)).astype(np.float32)
    store = make_store(layers={"fc1000": deep, "conv1": early})
    runs = fit(store, ["logreg", "ridge"], layers=["conv1", "fc1000", "conv1,fc1000"], n_jobs=1)
    assert [(r.selection["layers"], r.clf) for r in runs] == [
        (["conv1"], "logreg"),
        (["conv1"], "ridge"),
        (["fc1000"], "logreg"),
        (["fc1000"], "ridge"),
        (["conv1", "fc1000"], "logreg"),
        (["conv1", "fc1000"], "ridge"),
    ]
    assert [r.selection["n_features"] for r in runs] == [7, 7, 20, 20, 27, 27]
    noise, alone, both = (runs[i].metrics["test"]["accuracy"] for i in (0, 2, 4))
    assert noise < 0.5 < 0.9 < min(alone, both)


def test_models_fuse(make_store):
    store = make_store()
    X, y = blobs(320, 5, seed=4)
    splits = (np.arange(320) >= 240).astype(np.uint8)
    add_features(store, {"fc8": X}, y, splits, model="alexnet")
    runs = fit(store, model=["resnet50", "resnet50,alexnet"], n_jobs=1)
    assert [run.selection["model"] for run in runs] == ["resnet50", "resnet50+alexnet"]
    assert [run.selection["n_features"] for run in runs] == [20, 25]


def test_workers_give_the_same_as_this_process_and_one_failure_spares_the_others(
    make_store, monkeypatch
):
    monkeypatch.setattr(costs, "QUICK_S", 0)
    deep, y = blobs(320, 20)
    layers = {"fc1000": deep, "conv1": deep[:, :6].copy()}
    store = make_store(layers=layers)
    asked = {
        "clf": ["logreg", "knn", "sgd"],
        "layers": ["fc1000", "conv1"],
        "params": {"knn:n_neighbors": 500},
    }
    listener = Listener()
    fits = fit_each(store, **asked, n_jobs=2, progress=listener)
    assert [one.error is None for one in fits] == [True, False, True] * 2
    assert "Expected n_neighbors <= n_samples" in str(fits[1].error)
    assert (listener.total, listener.n_done, len(listener.lines)) == (6, 6, 7)
    assert listener.lines[0].startswith("Dask's dashboard")
    here = fit_each(store, **asked, n_jobs=1, refit=True)
    for one, other in zip(fits, here, strict=True):
        if one.run:
            assert one.run.run_id == other.run.run_id
            assert one.run.metrics == other.run.metrics
            assert one.run.curves == other.run.curves
    with pytest.raises(
        FitError, match=r"2 of 6 fits failed; the runs of the others are kept\.\n.*knn"
    ):
        fit(store, **asked, n_jobs=1)
    assert len(list_runs(store)) == 4


def test_masked_and_unlabelled_rows_are_left_out_and_counted(make_store):
    X, y = blobs(320, 20)
    X[[3, 300]] = np.nan
    y[10] = -1
    store = make_store(X=X, y=y, masked={3: "not a TIFF", 300: "cut short"})
    (run,) = fit(store)
    rows = run.record["rows"]
    assert (rows["n_train"], rows["n_test"]) == (238, 79)
    assert (rows["n_masked"], rows["n_unlabelled"]) == (2, 1)
    ids = [line["sample_id"] for line in predictions(run)]
    assert len(ids) == 79
    assert "test/0000300" not in ids


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [5, 310])
def test_features_that_are_no_numbers_are_named(make_store, value, row):
    X, _ = blobs(320, 20)
    X[row, 7] = value
    split = "train" if row == 5 else "test"
    with pytest.raises(FitError, match=rf"row {row} \({split}/{row:07d}\), columns 7\.") as caught:
        fit(make_store(X=X))
    assert "--precision fp32" in str(caught.value)


def test_constant_features_are_named_and_counted(make_store):
    X, _ = blobs(320, 20)
    X[:, [2, 11]] = 4.0
    # Constant where it is trained, whatever it is elsewhere.
    X[:240, 5] = 0.0
    (run,) = fit(make_store(X=X))
    assert run.record["n_constant_features"] == 3
    assert any("3 of 20 features" in n and "2, 5, 11" in n for n in run.record["notes"])
    assert run.metrics["test"]["accuracy"] > 0.8


def test_nothing_but_constant_features_is_refused(make_store):
    with pytest.raises(FitError, match="All 20 features are the same"):
        fit(make_store(X=np.ones((320, 20), np.float32)))


def test_a_class_without_training_rows_is_refused(make_store):
    _, y = blobs(320, 20)
    y[:240][y[:240] == 2] = 1
    with pytest.raises(FitError, match="No training rows for the class grassland"):
        fit(make_store(y=y))


def test_fits_that_can_not_be_split_do_not_stop_others(make_store):
    store = make_store(title="good")
    X, y = blobs(40, 20)
    add_features(store, {"fc1000": X}, y, np.zeros(40, np.uint8), model="alexnet", title="good")
    fits = fit_each(store, model=["resnet50", "alexnet"], n_jobs=1)
    assert fits[0].run
    assert "no rows to test with" in str(fits[1].error)


def test_val_rows_are_judged_beside_the_test(make_store):
    splits = np.repeat(np.array([TRAIN, VAL, TEST], np.uint8), [200, 40, 80])
    (run,) = fit(make_store(splits=splits))
    assert run.metrics["val"]["n_samples"] == 40
    assert run.metrics["test"]["n_samples"] == 80
    assert run.record["rows"]["test_split"] == "test"
    assert [line["split"] for line in predictions(run)] == ["test"] * 80 + ["val"] * 40


def test_val_rows_are_the_test_where_there_is_no_other(make_store):
    splits = np.repeat(np.array([VAL, TRAIN], np.uint8), [80, 240])
    (run,) = fit(make_store(splits=splits))
    assert run.metrics["val"] is None
    assert run.record["rows"]["test_split"] == "val"
    assert {line["split"] for line in predictions(run)} == {"val"}


def test_what_has_not_converged_is_recorded_and_never_a_warning(make_store):
    store = make_store()
    for clf in ("logreg", "linear-svm", "mlp", "sgd"):
        params = {"max_iter": 1} | ({"C": 100.0} if clf in ("logreg", "linear-svm") else {})
        (run,) = fit(store, clf, params=params)
        assert run.record["converged"] is False
        assert any("max_iter=1 " in n and "--param max_iter" in n for n in run.record["notes"])


def test_other_warnings_of_scikit_learn_are_recorded(make_store):
    (run,) = fit(make_store(), "logreg", params={"penalty": "l2"})
    assert any("scikit-learn says: 'penalty' was deprecated" in n for n in run.record["notes"])


def test_parameters_do_what_they_say(make_store):
    store = make_store()
    (run,) = fit(store, "mlp", params={"hidden_layer_sizes": (8, 4), "max_iter": 7, "tol": 0.0})
    assert run.model.named_steps["clf"].get_params()["hidden_layer_sizes"] == (8, 4)
    assert len(run.curves["loss"]) == 7
    (run,) = fit(store, "mlp", params={"solver": "lbfgs"})
    assert run.curves is None


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"clf": "cnn"}, "no classifier 'cnn'; there are logreg"),
        ({"params": {"gamma": 1}}, "logreg has no parameter gamma"),
        ({"params": {"C": "x"}}, "'C' parameter"),
    ],
)
def test_wrong_names_are_refused_before_any_work(make_store, asked, message):
    store = make_store()
    with pytest.raises(FitError, match=message):
        fit(store, **asked)
    assert not store.runs_dir.exists()
    assert not store.cache_dir.exists()


def test_a_store_without_features_says_how_to_make_some(tmp_path):
    with pytest.raises(SelectionError, match="featstore extract"):
        fit(tmp_path / "nothing")


def test_an_svm_that_would_not_end_is_refused_with_an_estimate(make_store, monkeypatch):
    store = make_store()
    monkeypatch.setattr(costs, "SVC_S", costs.MAX_S / (240 * 240 * 20))
    message = r"svm on 240 x 20 .* hours.*scikit-learn#13209.*nystroem-svm,.*linear-svm.*--force"
    with pytest.raises(FitError, match=message):
        fit(store, "svm")
    listener = Listener()
    (run,) = fit(store, "svm", force=True, progress=listener)
    assert run.metrics["test"]["accuracy"] > 0.9
    assert "some 4.0 h on one core" in listener.lines[0]


def test_a_fit_that_finds_too_little_memory_is_refused(make_store, monkeypatch):
    free = SimpleNamespace(available=10**8, total=10**9)
    store = make_store()
    with pytest.raises(
        FitError, match=r"logreg on 240 x 20 .* and 1\.0 MB are allowed by --memory"
    ):
        fit(store, "logreg", memory_nbytes=10**6)
    monkeypatch.setattr(costs.psutil, "virtual_memory", lambda: free)
    with pytest.raises(
        FitError, match="100.0 MB are free. Use logreg, linear-svm, sgd, mlp, ridge"
    ):
        fit(store, "knn")
    assert fit(store, "knn", force=True)
    assert fit(store, "logreg", memory_nbytes=10**9)


def test_fewer_fits_go_on_at_a_time_where_memory_is_short(make_store, monkeypatch):
    monkeypatch.setattr(costs, "QUICK_S", 0)
    listener = Listener()
    store = make_store()
    fit(store, ["knn", "logreg"], n_jobs=2, memory_nbytes=2 * 10**8, progress=listener)
    assert any("at a time, for more would not find the memory" in line for line in listener.lines)
    assert not any("dashboard" in line for line in listener.lines)


def test_classifiers_that_predict_slowly_judge_some_training_rows_only(make_store, monkeypatch):
    monkeypatch.setattr(tasks, "TRAIN_ROWS_JUDGED", 50)
    store = make_store()
    assert fit(store, "knn")[0].metrics["train"]["n_samples"] == 50
    assert fit(store, "logreg")[0].metrics["train"]["n_samples"] == 240


def test_no_copy_of_the_matrix_is_made(make_store, monkeypatch):
    # Blocks are so small that a copy of all rows would stand out.
    of_rows = Samples.blocks
    monkeypatch.setattr(Samples, "blocks", lambda self, nbytes=0: of_rows(self, 2**20))
    for name in ("objectives.CACHED_NBYTES", "grams.CACHED_NBYTES", "epochs.EPOCH_NBYTES"):
        monkeypatch.setattr(f"featstore.{name}", 2**20)
    monkeypatch.setattr("featstore.objectives.N_SAMPLED", 100)
    X, y = blobs(8_000, 1_000)
    store = make_store(8_000, X=X, y=y)
    fit(store, "logreg", params={"max_iter": 1})
    for clf, params in (
        ("sgd", {"max_iter": 2, "early_stopping": False}),
        ("softmax", {"max_iter": 2, "early_stopping": False}),
        ("logreg", {"max_iter": 3}),
    ):
        tracemalloc.start()
        fit(store, clf, params=params)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # Not even the scaled training rows, three quarters of all, are in memory.
        assert peak < 0.5 * X.nbytes, clf


SCRIPT = """
import sys
from featstore.fitting import fit
from featstore.report import write_report
from featstore.runs import list_runs, open_run
from featstore.store import open_store

store = open_store(sys.argv[1])
(run,) = fit(store, "mlp", refit="refit" in sys.argv)
open_run(run.path).model
write_report(store, list_runs(store), sys.argv[1] + "/report.html")
assert "torch" not in sys.modules, "torch was imported"
print(run.run_id)
"""


def test_two_processes_at_once_leave_one_whole_run_and_never_import_torch(make_store):
    store = make_store()
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", SCRIPT, str(store.path), *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for more in ([], ["refit"])
    ]
    results = [process.communicate(timeout=100) for process in processes]
    assert [err for _, err in results] == ["", ""]
    assert results[0][0] == results[1][0]
    (run,) = list_runs(store)
    assert run.run_id == results[0][0].strip()
    assert [path.name for path in store.runs_dir.iterdir()] == [run.run_id]
    assert run.model.predict(store.select().memmap()[:4]).tolist() == [0, 1, 2, 3]


def test_a_store_may_be_given_by_its_path_and_class_names_come_with_the_run(make_store):
    store = make_store()
    (run,) = fit(str(store.path))
    assert run.class_names == CLASSES
    assert open_store(store.path).runs_dir / run.run_id == run.path.resolve()
