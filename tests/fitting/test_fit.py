import csv
import json
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import CLASSES, add_features, blobs, forget_first_rows
from distributed import LocalCluster
from makers import Listener

from featstore.errors import ConfigError, FitError, RunError, SelectionError
from featstore.fitting import classifiers, cost, worker
from featstore.fitting.classifiers import CLASSIFIERS
from featstore.fitting.fit import fit, fit_each
from featstore.fitting.learning_curve import learning_curve
from featstore.fitting.solvers import linear
from featstore.fitting.solvers.blocks import Samples
from featstore.parallel.cluster import TaskPool
from featstore.parallel.worker_pool import WorkerPool
from featstore.runs.run import list_runs
from featstore.store.feature_store import open_store

TRAIN, TEST, VAL = 0, 1, 2


@pytest.fixture(autouse=True)
def _undrawn(request, monkeypatch):
    """Leave the figures out where they are not what is tested: they take most of a small fit."""
    if "every_classifier" not in request.node.name:
        drawn = {name: lambda *args: None for name in ("draw_confusion", "draw_curves")}
        monkeypatch.setattr(worker, "figures", SimpleNamespace(**drawn, to_png=lambda figure: b""))


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
    monkeypatch.setattr(cost, "QUICK_S", 0)
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
    (phase,) = listener.phases
    assert (phase.total, phase.n_done, len(listener.lines)) == (6, 6, 7)
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
    monkeypatch.setattr(cost, "SVC_S", cost.MAX_S / (240 * 240 * 20))
    message = r"svm on 240 x 20 .* hours.*scikit-learn#13209.*nystroem-svm,.*linear-svm.*--force"
    with pytest.raises(FitError, match=message):
        fit(store, "svm")
    listener = Listener()
    (run,) = fit(store, "svm", force=True, progress=listener)
    assert run.metrics["test"]["accuracy"] > 0.9
    assert "some 4 h on one core" in listener.lines[0]


def test_a_fit_that_finds_too_little_memory_is_refused(make_store, monkeypatch):
    free = SimpleNamespace(available=10**8, total=10**9)
    store = make_store()
    with pytest.raises(
        FitError, match=r"logreg on 240 x 20 .* and 1\.0 MB are allowed by --memory"
    ):
        fit(store, "logreg", memory_nbytes=10**6)
    monkeypatch.setattr(cost.psutil, "virtual_memory", lambda: free)
    with pytest.raises(
        FitError, match="100.0 MB are free. Use logreg, linear-svm, sgd, mlp, ridge"
    ):
        fit(store, "knn")
    assert fit(store, "knn", force=True)
    assert fit(store, "logreg", memory_nbytes=10**9)


def test_fewer_fits_go_on_at_a_time_where_memory_is_short(make_store, monkeypatch):
    monkeypatch.setattr(cost, "QUICK_S", 0)
    listener = Listener()
    store = make_store()
    fit(store, ["knn", "logreg"], n_jobs=2, memory_nbytes=2 * 10**8, progress=listener)
    assert any("at a time, for more would not find the memory" in line for line in listener.lines)
    assert not any("dashboard" in line for line in listener.lines)


def test_classifiers_that_predict_slowly_judge_some_training_rows_only(make_store, monkeypatch):
    monkeypatch.setattr(worker, "TRAIN_ROWS_JUDGED", 50)
    store = make_store()
    assert fit(store, "knn")[0].metrics["train"]["n_samples"] == 50
    assert fit(store, "logreg")[0].metrics["train"]["n_samples"] == 240


def test_no_copy_of_the_matrix_is_made(make_store, monkeypatch):
    # Blocks are so small that a copy of all rows would stand out.
    of_rows = Samples.blocks
    monkeypatch.setattr(Samples, "blocks", lambda self, nbytes=0: of_rows(self, 2**19))
    for name in ("objectives.CACHED_NBYTES", "grams.CACHED_NBYTES", "epochs.EPOCH_NBYTES"):
        monkeypatch.setattr(f"featstore.{name}", 2**19)
    monkeypatch.setattr("featstore.fitting.solvers.linear_loss.N_SAMPLED", 100)
    X, y = blobs(4_000, 1_000)
    store = make_store(4_000, X=X, y=y)
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


def overlapping(n=320):
    """Return features of classes that are hard to tell apart, and labels."""
    X, y = blobs(n, 20, seed=2)
    return X + np.random.default_rng(5).normal(0, 4, size=X.shape).astype(np.float32), y


OWN = """
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression

number = 7

def forest(n_estimators=5):
    return RandomForestClassifier(n_estimators)

class Breaks(ClassifierMixin, BaseEstimator):
    def __init__(self, error="ValueError"):
        self.error = error

    def fit(self, X, y):
        raise getattr(__import__("builtins"), self.error)("it broke")
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Return the path of a module with classifiers, named unlike any other test's."""
    folder = tmp_path / "code"
    folder.mkdir()
    path = folder / f"own_{tmp_path.name}.py"
    path.write_text(OWN)
    monkeypatch.syspath_prepend(folder)
    return path


class TestSearches:
    @pytest.mark.parametrize(("search", "n"), [("grid", 12), ("random", 7), ("halving", 7)])
    def test_the_best_is_fitted_and_all_that_was_tried_is_recorded(self, make_store, search, n):
        store = make_store(X=overlapping()[0])
        (run,) = fit(store, "logreg", search=search, n_candidates=7, cv=3, seed=4)
        record = run.record["search"]
        assert (record["kind"], record["cv"], record["seed"]) == (search, 3, 4)
        assert len(record["candidates"]) == n
        assert all(len(entry["scores"]) == 3 for entry in record["candidates"])
        best = max(entry["mean"] for entry in record["candidates"])
        assert record["accuracy"] == best
        assert record["best"] in [
            entry["params"] for entry in record["candidates"] if entry["mean"] == best
        ]
        assert run.record["params"] == {"C": record["best"]["C"], "max_iter": 1000}
        assert record["best"] == {"C": run.model.named_steps["clf"].C}
        assert run.record["fit"]["search"] == search
        assert f"--search {search} --cv 3" in run.record["command"]
        assert not list(store.cache_dir.glob("scratch/*"))

    def test_it_finds_what_a_bad_default_does_not(self, make_store):
        store = make_store(X=overlapping()[0])
        params = {"n_neighbors": 1}
        (bad,) = fit(store, "knn", params=params)
        (good,) = fit(store, "knn", search="grid", grid={"n_neighbors": [1, 40]})
        assert good.record["params"]["n_neighbors"] == 40
        assert good.metrics["test"]["accuracy"] > bad.metrics["test"]["accuracy"]

    def test_asked_for_again_it_is_answered_from_its_run(self, make_store):
        store = make_store(X=overlapping()[0])
        (first,) = fit_each(store, "ridge", search="grid")
        for more in ({}, {"n_candidates": 3}, {"params": {}}):
            (again,) = fit_each(store, "ridge", search="grid", **more)
            assert again.reused
            assert again.run.record == first.run.record
        keys = {first.run.record["key"]}
        for more in (
            {"search": None},
            {"search": "random"},
            {"cv": 4},
            {"seed": 1},
            {"grid": {"alpha": [1.0, 2.0]}},
            {"params": {"fit_intercept": False}},
        ):
            (other,) = fit_each(store, "ridge", **{"search": "grid", **more})
            assert not other.reused
            keys.add(other.run.record["key"])
        assert len(keys) == 7
        (again,) = fit_each(store, "ridge", cv=9, n_candidates=3)
        assert again.reused

    @pytest.mark.parametrize(
        ("clf", "grid"), [("logreg", {}), ("lda", {}), ("svm", {"C": [0.1, 9.0], "gamma": [0.05]})]
    )
    def test_test_rows_have_no_part_in_it(self, make_store, clf, grid):
        options = {"search": "grid", "grid": grid, "cv": 3}
        X, y = overlapping()
        (first,) = fit(make_store(X=X, y=y, title="a"), clf, dataset="a", **options)
        X[240:] = np.random.default_rng(0).normal(0, 1e5, size=(80, 20))
        y[240:] = y[240:][::-1]
        (second,) = fit(make_store(X=X, y=y, title="b"), clf, dataset="b", **options)
        assert first.record["search"] == second.record["search"]
        assert first.metrics["test"]["accuracy"] > second.metrics["test"]["accuracy"]

    def test_classifiers_are_searched_together_and_one_failure_spares_the_others(self, make_store):
        listener = Listener()
        store = make_store(X=overlapping()[0])
        fits = fit_each(
            store,
            ["logreg", "knn", "ridge"],
            search="grid",
            grid={"knn:n_neighbors": [500, 600]},
            progress=listener,
        )
        assert [one.error is None for one in fits] == [True, False, True]
        assert "None of the 8 settings of knn that were tried could be fitted" in str(fits[1].error)
        assert "Expected n_neighbors <= n_samples" in str(fits[1].error)
        assert len(listener.lines) == 3
        phases = [(phase.what, phase.total) for phase in listener.phases]
        assert phases == [("Searching", 42), ("Fitting", 2)]

    def test_what_there_is_nothing_to_search_for_is_refused_and_others_go_on(self, make_store):
        fits = fit_each(
            make_store(), ["logreg", "ridge"], search="grid", params={"ridge:alpha": 1.0}
        )
        assert fits[0].run
        assert "nothing to search for ridge" in str(fits[1].error)

    def test_too_few_rows_of_a_class_for_the_folds_are_refused_with_a_cure(self, make_store):
        _, y = blobs(320, 20)
        rare = np.flatnonzero(y == 2)
        y[rare[3:]] = 1
        with pytest.raises(
            FitError, match=r"5 training rows or more of each.*grassland has 3.*cv 3"
        ):
            fit(make_store(y=y), "logreg", search="grid")
        (run,) = fit(make_store(y=y, title="again", seed=1), dataset="again", search="grid", cv=3)
        assert run.record["search"]["cv"] == 3

    def test_halving_leaves_rows_enough_of_rare_classes(self, make_store):
        X, y = blobs(1600, 20)
        y[y == 3] = 2
        y[:1200:100] = 3
        store = make_store(1600, X=X, y=y)
        (run,) = fit(store, "logreg", search="halving", n_candidates=9)
        assert run.record["search"]["kind"] == "halving"

    def test_halving_tries_many_on_few_rows_and_the_best_on_all(self, make_store):
        X, y = overlapping(1600)
        store = make_store(1600, X=X, y=y)
        (run,) = fit(store, "ridge", search="halving", n_candidates=9)
        assert sorted({e["n_rows"] for e in run.record["search"]["candidates"]}) == [400, 1200]
        assert run.record["rows"]["n_train"] == 1200

    def test_values_that_are_given_twice_are_all_told_their_scores(self, make_store):
        store = make_store(X=overlapping()[0])
        for clf in ("logreg", "knn"):
            grid = {"logreg:C": [0.1, 0.1, 1.0], "knn:n_neighbors": [1, 1, 3]}
            (run,) = fit(
                store, clf, search="grid", grid={k: v for k, v in grid.items() if clf in k}
            )
            means = [entry["mean"] for entry in run.record["search"]["candidates"]]
            assert None not in means

    @pytest.mark.parametrize("row", [5, 310])
    def test_features_that_are_no_numbers_are_named_before_a_search(
        self, make_store, row, monkeypatch
    ):
        X, _ = blobs(320, 20)
        X[row, 7] = np.nan
        monkeypatch.setattr(linear, "cross_validate", lambda *args: pytest.fail("searched"))
        with pytest.raises(FitError, match=rf"row {row} .*columns 7\."):
            fit(make_store(X=X), "logreg", search="grid")

    def test_searches_and_paths_give_the_same_bits_in_workers_and_here(
        self, make_store, own, monkeypatch
    ):
        monkeypatch.setattr(cost, "QUICK_S", 0)
        X, y = overlapping(1200)
        store = make_store(1200, X=X, y=y)
        forest = f"{own.stem}:forest"
        names = ["logreg", "linear-svm", "ridge", "lda", "knn", forest]
        options = {"search": "random", "n_candidates": 4, "cv": 3}
        options["grid"] = {f"{forest}:max_depth": [2, 4]}
        results = []
        for n_jobs in (2, 1):
            runs = fit(store, names, n_jobs=n_jobs, refit=True, **options)
            models = [run.model.named_steps["clf"] for run in runs[:4]]
            weights = [np.column_stack([one.coef_, one.intercept_]) for one in models]
            results.append(([(run.record["search"], run.metrics) for run in runs], weights))
        assert results[0][0] == results[1][0]
        for there, here in zip(results[0][1], results[1][1], strict=True):
            np.testing.assert_array_equal(there, here)


class TestRepeats:
    SPLIT = {"split": "70 train : 30 test per class, seed 0"}

    def test_each_has_a_split_of_its_own_where_the_dataset_has_none(self, make_store):
        store = make_store(X=overlapping()[0], identity=self.SPLIT)
        fits = fit_each(store, "logreg", repeats=3, seed=5)
        assert [one.run.record["fit"]["seed"] for one in fits] == [5, 6, 7]
        assert [one.run.record["fit"]["split_seed"] for one in fits] == [5, 6, 7]
        assert [one.name.rpartition(" ")[2] for one in fits] == ["5", "6", "7"]
        tested = [{line["sample_id"] for line in predictions(one.run)} for one in fits]
        assert [len(ids) for ids in tested] == [80, 80, 80]
        assert len({frozenset(ids) for ids in tested}) == 3
        again = fit_each(store, "logreg", repeats=4, seed=5)
        assert [one.reused for one in again] == [True, True, True, False]

    def test_an_official_split_is_kept_and_that_is_said(self, make_store):
        store = make_store(X=overlapping()[0])
        listener = Listener()
        fits = fit_each(store, "sgd", repeats=2, progress=listener)
        assert [one.run.record["fit"]["split_seed"] for one in fits] == [None, None]
        tested = [[line["sample_id"] for line in predictions(one.run)] for one in fits]
        assert tested[0] == tested[1]
        assert fits[0].run.metrics != fits[1].run.metrics
        assert "demo has an official split, which the repeats keep" in listener.lines[0]

    def test_unless_new_ones_are_asked_for(self, make_store):
        store = make_store(X=overlapping()[0])
        listener = Listener()
        fits = fit_each(store, repeats=2, split_seed=3, progress=listener)
        assert [one.run.record["fit"]["split_seed"] for one in fits] == [3, 4]
        assert not any("official" in line for line in listener.lines)

    def test_one_is_a_fit_as_it_would_be_without(self, make_store):
        store = make_store(identity=self.SPLIT)
        (alone,), (once,) = fit_each(store), fit_each(store, repeats=1)
        assert once.reused
        assert once.run.run_id == alone.run.run_id

    @pytest.mark.parametrize("repeats", [0, -1, 1.5])
    def test_less_than_one_is_refused(self, make_store, repeats):
        with pytest.raises(ConfigError, match="repeats is .*whole number from 1"):
            fit(make_store(), repeats=repeats)


def test_a_new_split_is_another_run_with_other_rows(make_store):
    store = make_store(X=overlapping()[0])
    (old,), (new,), (other,) = (fit(store, split_seed=seed) for seed in (None, 1, 2))
    assert len({run.record["key"] for run in (old, new, other)}) == 3
    assert {run.record["rows"]["n_test"] for run in (old, new, other)} == {80}
    tested = [{line["sample_id"] for line in predictions(run)} for run in (old, new, other)]
    assert tested[0] != tested[1] != tested[2]
    assert "--split-seed 1" in new.record["command"]


class TestLeaks:
    @pytest.fixture
    def store(self, make_store):
        X, y = overlapping()
        first_rows = np.arange(320)
        X[300:310], y[300:310], first_rows[300:310] = X[:10], y[:10], np.arange(10)
        return make_store(X=X, y=y, first_rows=first_rows)

    def test_they_are_counted_and_kept(self, store):
        (run,) = fit(store, "knn", params={"n_neighbors": 1})
        rows = run.record["rows"]
        assert (rows["n_test"], rows["n_leaked"], rows["n_dropped"]) == (80, 10, 0)
        right = {line["sample_id"]: line["true"] == line["predicted"] for line in predictions(run)}
        assert all(right[f"test/{row:07d}"] for row in range(300, 310))

    def test_they_are_dropped_where_that_is_asked_for(self, store):
        (run,) = fit(store, "knn", params={"n_neighbors": 1}, drop_leaks=True)
        rows = run.record["rows"]
        assert (rows["n_test"], rows["n_leaked"], rows["n_dropped"]) == (70, 10, 10)
        ids = {line["sample_id"] for line in predictions(run)}
        assert not ids & {f"test/{row:07d}" for row in range(300, 310)}
        (kept,) = fit(store, "knn", params={"n_neighbors": 1})
        assert kept.record["key"] != run.record["key"]
        assert kept.metrics["test"]["accuracy"] > run.metrics["test"]["accuracy"]
        assert "--drop-leaks" in run.record["command"]

    def test_of_an_older_set_they_can_not_be(self, store):
        forget_first_rows(store.sets()[0])
        store = open_store(store.path)
        (run,) = fit(store)
        assert run.record["rows"]["n_leaked"] is None
        with pytest.raises(FitError, match="made by an older featstore"):
            fit(store, drop_leaks=True)


class TestOnesOwnClassifier:
    def test_it_is_fitted_judged_and_kept_as_any_other(self, make_store, own):
        store = make_store()
        clf = f"{own.stem}:forest"
        (run,) = fit(store, clf, params={"max_depth": 4})
        assert run.clf == clf
        assert run.metrics["test"]["accuracy"] > 0.8
        assert run.record["params"] == {"max_depth": 4}
        assert run.record["solver"] == "scikit-learn"
        with pytest.raises(RunError, match=r"it holds sklearn\.tree\._tree\.Tree, which.*--trust"):
            _ = run.model
        model = run.load_model(["sklearn.tree._tree.Tree"])
        assert model.named_steps["clf"].get_params()["max_depth"] == 4
        X = store.select().memmap()
        assert np.mean(model.predict(X) == store.select().y) > 0.8
        (again,) = fit_each(store, clf, params={"max_depth": 4})
        assert again.reused

    def test_it_can_be_searched(self, make_store, own):
        clf = f"{own.stem}:forest"
        grid = {"max_depth": [1, 5]}
        (run,) = fit(make_store(), clf, search="grid", grid=grid, cv=3)
        assert run.record["params"] == {"max_depth": 5}
        with pytest.raises(FitError, match="featstore knows no values to try"):
            fit(make_store(title="again", seed=1), clf, dataset="again", search="grid")

    @pytest.mark.parametrize("error", ["ValueError", "KeyError", "RuntimeError"])
    @pytest.mark.parametrize("search", [None, "grid"])
    def test_one_that_raises_fails_and_spares_the_others(self, make_store, own, error, search):
        grid = {f"{own.stem}:Breaks:error": [error]} if search else None
        params = {} if search else {f"{own.stem}:Breaks:error": error}
        fits = fit_each(
            make_store(), [f"{own.stem}:Breaks", "ridge"], search=search, grid=grid, params=params
        )
        assert "it broke" in str(fits[0].error)
        assert fits[1].run

    @pytest.mark.parametrize("name", ["LinearRegression", "number", "nothing"])
    def test_what_is_no_classifier_is_refused_before_any_work(self, make_store, own, name):
        store = make_store()
        with pytest.raises(FitError, match=f"{own.stem}:{name} "):
            fit(store, f"{own.stem}:{name}")
        assert not store.runs_dir.exists()

    def test_another_source_is_another_run(self, make_store, own):
        store = make_store()
        clf = f"{own.stem}:forest"
        (first,) = fit(store, clf)
        own.write_text(OWN.replace("n_estimators=5", "n_estimators=60"))
        del sys.modules[own.stem]
        classifiers._imported.cache_clear()
        (second,) = fit_each(store, clf)
        assert not second.reused
        assert second.run.record["key"] != first.record["key"]


class TestScratch:
    def scratch(self, store):
        # Beside each folder lies its lock.
        return [path for path in (store.cache_dir / "scratch").glob("*") if path.is_dir()]

    def test_standardised_rows_are_there_while_fits_go_on_and_shared(self, make_store, monkeypatch):
        store = make_store()
        seen = []

        def spy(task):
            run = worker.fit_task(task)
            (folder,) = self.scratch(store)
            seen.append({path.name for path in folder.glob("*.npy")})
            return run

        monkeypatch.setattr("featstore.fitting.fit.fit_task", spy)
        fit(store, ["logreg", "ridge", "sgd"])
        assert len(seen) == 3
        assert len(set.union(*seen)) == 1
        assert self.scratch(store) == []

    @pytest.mark.parametrize("error", [FitError("odd"), KeyError("bug"), KeyboardInterrupt()])
    @pytest.mark.parametrize("place", ["fit_task", "cross_validate_task"])
    def test_they_are_gone_whatever_happens(self, make_store, monkeypatch, error, place):
        store = make_store()

        def fails(task):
            (self.scratch(store)[0] / "rows.npy").write_bytes(b"rows")
            raise error

        monkeypatch.setattr(f"featstore.fitting.fit.{place}", fails)
        with pytest.raises(type(error)):
            fit(store, search="grid")
        assert self.scratch(store) == []
        assert list_runs(store) == []

    def test_a_full_disk_is_an_error_of_the_fit(self, make_store, monkeypatch):
        store = make_store()
        store.select().memmap()
        usage = SimpleNamespace(free=1000)
        monkeypatch.setattr(
            "featstore.fitting.solvers.scaling.shutil.disk_usage", lambda path: usage
        )
        fits = fit_each(store, ["logreg", "knn"])
        assert "The standardised copy of 240 x 20 features takes 19 kB" in str(fits[0].error)
        assert fits[1].run


def test_a_scheduler_that_is_running_does_the_work_and_is_sent_little(make_store, monkeypatch):
    sent = []
    submit = WorkerPool.submit

    def spy(self, address, function, task):
        sent.append(len(pickle.dumps(task)))
        return submit(self, address, function, task)

    monkeypatch.setattr(WorkerPool, "submit", spy)
    store = make_store(X=overlapping()[0])
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0"
    ) as cluster:
        (run,) = fit(
            store,
            "svm",
            search="random",
            n_candidates=40,
            cv=2,
            scheduler=cluster.scheduler_address,
        )
    assert len(run.record["search"]["candidates"]) == 40
    assert len(sent) == 81
    assert max(sent) < 20_000


def test_workers_in_another_folder_find_the_shared_copies(make_store, tmp_path, monkeypatch):
    make_store()
    monkeypatch.chdir(tmp_path)
    seen = []
    run_all = TaskPool.run
    monkeypatch.setattr(
        TaskPool,
        "run",
        lambda self, function, worker, *rest, **options: (
            seen.extend(task for (task,) in worker)
            or run_all(self, function, worker, *rest, **options)
        ),
    )
    fit("store", "lda", search="grid", grid={"shrinkage": [0.1, 0.2]}, cv=2)
    learning_curve("store", "lda", sizes=[100], repeats=1)
    assert len(seen) == 3
    assert {Path(task.scratch).parent for task in seen} == {tmp_path / "store/cache/scratch"}


def test_the_number_of_epochs_is_kept_to_and_recorded(make_store):
    store = make_store()
    fits = fit_each(store, ["mlp", "logreg"], n_epochs=3)
    assert len(fits[0].run.curves["loss"]) == 3
    assert fits[0].run.record["converged"]
    assert "--epochs 3" in fits[0].run.record["command"]
    assert "logreg is not trained by epochs" in str(fits[1].error)


def test_validation_rows_are_judged_after_each_epoch_and_change_nothing(make_store):
    splits = np.repeat(np.array([TRAIN, VAL, TEST], np.uint8), [200, 40, 80])
    X, _ = overlapping()
    (run,) = fit(make_store(splits=splits, X=X, title="with"), "mlp", n_epochs=8, dataset="with")
    curves = run.curves
    assert len(curves["validation_accuracy"]) == 8
    assert curves["validation_accuracy"][-1] == pytest.approx(run.metrics["val"]["accuracy"])
    splits[200:240] = TEST
    (bare,) = fit(make_store(splits=splits, X=X, title="bare"), "mlp", n_epochs=8, dataset="bare")
    assert bare.curves["validation_accuracy"] == []
    assert bare.curves["loss"] == curves["loss"]


def test_all_are_all_that_there_are(make_store, monkeypatch):
    made = []
    monkeypatch.setattr("featstore.fitting.fit.fit_task", lambda task: made.append(task.config.clf))
    fits = fit_each(make_store(), ["ridge", "all"])
    assert sorted(made) == sorted(CLASSIFIERS)
    assert fits[0].name.endswith("ridge")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"search": "bayes"}, "search is 'bayes'"),
        ({"cv": 1, "search": "grid"}, "cv is 1"),
        ({"grid": {"C": [1.0]}}, "add --search grid"),
        ({"device": "gpu"}, "device is 'gpu'"),
    ],
)
def test_wrong_settings_are_refused_before_any_work(make_store, options, message):
    store = make_store()
    with pytest.raises(ConfigError, match=message):
        fit(store, **options)
    assert not store.cache_dir.exists()


@pytest.mark.parametrize(
    ("clf", "options", "message"),
    [
        ("logreg", {"intelex": True}, "it has nothing for logreg"),
        ("knn", {"device": "cuda"}, "does not compute knn on a GPU"),
        ("logreg", {"device": "cuda", "search": "grid"}, "A search is computed on the CPU"),
        ("logreg", {"device": "cuda:99"}, "no (CUDA GPU|GPU 99)"),
    ],
)
def test_accelerators_that_are_not_there_fail_the_fit(make_store, clf, options, message):
    with pytest.raises(FitError, match=message):
        fit(make_store(), clf, **options)


SCRIPT = """
import sys
from featstore.fitting.fit import fit
from featstore.report.write import write_report
from featstore.runs.run import list_runs, open_run
from featstore.store.feature_store import open_store

store = open_store(sys.argv[1])
(run,) = fit(store, "mlp", refit="refit" in sys.argv)
open_run(run.path).model
write_report(store, list_runs(store), sys.argv[1] + "/report.html", projection="pca")
assert "torch" not in sys.modules, "torch was imported"
print(run.run_id)
"""


def test_two_processes_at_once_leave_one_whole_run_and_never_import_torch(make_store, pytestconfig):
    store = make_store()
    # As strict as the tests are: old packages warn of what older ones still did.
    action = "error" if "error" in pytestconfig.getini("filterwarnings") else "ignore"
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", action, "-c", SCRIPT, str(store.path), *more],
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
