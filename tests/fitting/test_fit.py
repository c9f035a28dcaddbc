import csv
import json
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import CLASSES, add_features, blobs
from makers import Listener

from featstore.errors import ConfigError, FitError, SelectionError
from featstore.fitting import cost
from featstore.fitting.classifiers import CLASSIFIERS
from featstore.fitting.fit import fit, fit_each
from featstore.fitting.tasks import base
from featstore.runs.opening import list_runs
from featstore.store.feature_store import open_store

TRAIN, TEST, VAL = 0, 1, 2


def predictions(run):
    with (run.path / "predictions.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("clf", CLASSIFIERS)
def test_every_classifier_is_fitted_evaluated_and_kept(clf, make_store):
    store = make_store()
    by_epochs = clf in ("mlp", "dbn", "sgd", "softmax")
    # Five more trainings say nothing more here.
    (run,) = fit(store, clf, calibrate=not by_epochs)
    assert run.clf == clf
    assert run.metrics.test.accuracy > 0.9
    assert run.metrics.train.accuracy == pytest.approx(1.0, abs=0.1)
    assert run.metrics.train.n_samples == 240
    # Its loss still falls after 250 epochs of two steps each.
    assert run.record.converged or clf == "softmax"
    summary = run.summary()
    assert (summary["n_train"], summary["n_test"], summary["n_features"]) == (240, 80, 20)
    assert summary["majority_accuracy"] == 0.25
    assert summary["duration_s"] > 0
    assert summary["peak_rss_nbytes"] > 10e6
    json.dumps(summary, allow_nan=False)
    X = store.select().memmap()
    assert not X.flags.writeable
    assert set(run.model.predict(X)) == {0, 1, 2, 3}
    assert (run.curves is not None) == by_epochs
    if by_epochs:
        assert len(run.curves["loss"]) == len(run.curves["accuracy"]) > 1
        assert run.curves["accuracy"][-1] == pytest.approx(run.metrics.train.accuracy)
    assert run.record.search is None
    assert not list(store.cache_dir.glob("scratch/*"))


def test_a_fit_asked_for_again_is_answered_from_its_run(make_store):
    store = make_store()
    (first,) = fit_each(store, "logreg")
    assert not first.reused
    # The same by other words: defaults spelled out, another order of options.
    for more in ({}, {"params": {"C": 5.0}}, {"dataset": "demo", "layers": ["fc1000"]}):
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
    assert refitted.run.record.duration_s != first.run.record.duration_s
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
    assert runs[0].record.key != runs[1].record.key
    with pytest.raises(SelectionError, match="--dataset"):
        fit(store)


def test_layers_are_combined_side_by_side_and_in_turn(make_store):
    deep, y = blobs(320, 20)
    early = np.random.default_rng(3).normal(size=(320, 7)).astype(np.float32)
    store = make_store(layers={"fc1000": deep, "conv1": early})
    runs = fit(store, ["logreg", "ridge"], layers=["conv1", "fc1000", "conv1,fc1000"], n_jobs=1)
    assert [(r.selection.layers, r.clf) for r in runs] == [
        (("conv1",), "logreg"),
        (("conv1",), "ridge"),
        (("fc1000",), "logreg"),
        (("fc1000",), "ridge"),
        (("conv1", "fc1000"), "logreg"),
        (("conv1", "fc1000"), "ridge"),
    ]
    assert [r.selection.n_features for r in runs] == [7, 7, 20, 20, 27, 27]
    noise, alone, both = (runs[i].metrics.test.accuracy for i in (0, 2, 4))
    assert noise < 0.5 < 0.9 < min(alone, both)


def test_models_fuse(make_store):
    store = make_store()
    X, y = blobs(320, 5, seed=4)
    splits = (np.arange(320) >= 240).astype(np.uint8)
    add_features(store, {"fc8": X}, y, splits, model="alexnet")
    runs = fit(store, model=["resnet50", "resnet50,alexnet"], n_jobs=1)
    assert [run.selection.model for run in runs] == ["resnet50", "resnet50+alexnet"]
    assert [run.selection.n_features for run in runs] == [20, 25]


def test_masked_and_unlabelled_rows_are_left_out_and_counted(make_store):
    X, y = blobs(320, 20)
    X[[3, 300]] = np.nan
    y[10] = -1
    store = make_store(X=X, y=y, masked={3: "not a TIFF", 300: "cut short"})
    (run,) = fit(store)
    rows = run.record.rows
    assert (rows.n_train, rows.n_test) == (238, 79)
    assert (rows.n_masked, rows.n_unlabelled) == (2, 1)
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
    assert run.record.n_constant_features == 3
    assert any("3 of 20 features" in n and "2, 5, 11" in n for n in run.record.notes)
    assert run.metrics.test.accuracy > 0.8


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


def test_val_rows_are_tested_beside_the_test(make_store):
    splits = np.repeat(np.array([TRAIN, VAL, TEST], np.uint8), [200, 40, 80])
    (run,) = fit(make_store(splits=splits))
    assert run.metrics.val.n_samples == 40
    assert run.metrics.test.n_samples == 80
    assert run.record.rows.test_split == "test"
    assert [line["split"] for line in predictions(run)] == ["test"] * 80 + ["val"] * 40


def test_val_rows_are_the_test_where_there_is_no_other(make_store):
    splits = np.repeat(np.array([VAL, TRAIN], np.uint8), [80, 240])
    (run,) = fit(make_store(splits=splits))
    assert run.metrics.val is None
    assert run.record.rows.test_split == "val"
    assert {line["split"] for line in predictions(run)} == {"val"}


def test_what_has_not_converged_is_recorded_and_never_a_warning(make_store):
    store = make_store()
    for clf in ("logreg", "linear-svm", "mlp", "sgd"):
        params = {"max_iter": 1} | ({"C": 100.0} if clf in ("logreg", "linear-svm") else {})
        (run,) = fit(store, clf, params=params)
        assert run.record.converged is False
        assert any("max_iter=1 " in n and "--param max_iter" in n for n in run.record.notes)


def test_other_warnings_of_scikit_learn_are_recorded(make_store):
    (run,) = fit(make_store(), "logreg", params={"penalty": "l2"})
    assert any("scikit-learn says: 'penalty' was deprecated" in n for n in run.record.notes)


def test_parameters_do_what_they_say(make_store):
    store = make_store()
    (run,) = fit(store, "mlp", params={"hidden_layer_sizes": (8, 4), "max_iter": 7, "tol": 0.0})
    assert run.model.named_steps["clf"].get_params()["hidden_layer_sizes"] == (8, 4)
    assert len(run.curves["loss"]) == 7
    (run,) = fit(store, "mlp", params={"solver": "lbfgs"})
    assert run.curves is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"clf": "cnn"}, "no classifier 'cnn'. Did you mean knn\\? There are logreg"),
        ({"params": {"gamma": 1}}, "logreg has no parameter gamma"),
        ({"params": {"C": "x"}}, "'C' parameter"),
    ],
)
def test_wrong_names_are_refused_before_any_work(make_store, wrong, message):
    store = make_store()
    with pytest.raises(FitError, match=message):
        fit(store, **wrong)
    assert not store.runs_dir.exists()
    assert not (store.cache_dir / "scratch").exists()


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
    assert run.metrics.test.accuracy > 0.9
    # Four hours, and 0.8 of that to calibrate.
    assert "some 7 h 12 min on one core" in listener.lines[0]
    # Its run answers now, which takes no time.
    assert fit(store, "svm") == [run]


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


def test_classifiers_that_predict_slowly_are_scored_on_some_training_rows(make_store, monkeypatch):
    monkeypatch.setattr(base, "MAX_SLOW_ROWS", 50)
    store = make_store()
    assert fit(store, "knn")[0].metrics.train.n_samples == 50
    assert fit(store, "logreg")[0].metrics.train.n_samples == 240


def test_the_number_of_epochs_is_kept_to_and_recorded(make_store):
    store = make_store()
    fits = fit_each(store, ["mlp", "logreg"], n_epochs=3)
    assert len(fits[0].run.curves["loss"]) == 3
    assert fits[0].run.record.converged
    assert "--epochs 3" in fits[0].run.record.command
    assert "logreg is not trained by epochs" in str(fits[1].error)


def test_validation_rows_are_tested_after_each_epoch_and_change_nothing(make_store, overlapping):
    splits = np.repeat(np.array([TRAIN, VAL, TEST], np.uint8), [200, 40, 80])
    X, _ = overlapping()
    (run,) = fit(make_store(splits=splits, X=X, title="with"), "mlp", n_epochs=8, dataset="with")
    curves = run.curves
    assert len(curves["validation_accuracy"]) == 8
    assert curves["validation_accuracy"][-1] == pytest.approx(run.metrics.val.accuracy)
    splits[200:240] = TEST
    (bare,) = fit(make_store(splits=splits, X=X, title="bare"), "mlp", n_epochs=8, dataset="bare")
    assert bare.curves["validation_accuracy"] == []
    assert bare.curves["loss"] == curves["loss"]


def test_an_answer_waits_for_no_slow_import(make_store):
    store = make_store()
    fit(store, "ridge")
    code = (
        "import sys\n"
        "from featstore.fitting.fit import fit_each\n"
        f"print([one.reused for one in fit_each({str(store.path)!r}, 'ridge')])\n"
        "print({'sklearn', 'scipy', 'matplotlib', 'pandas', 'dask', 'skops'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-2:] == ["[True]", "set()"], done.stderr


def test_all_are_all_that_there_are(make_store, monkeypatch):
    made = []
    monkeypatch.setattr(
        "featstore.fitting.dispatch.fit_task", lambda task: made.append(task.config.clf)
    )
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
    assert not (store.cache_dir / "scratch").exists()


@pytest.mark.parametrize(
    ("clf", "options", "message"),
    [
        ("logreg", {"intelex": True}, "speeds up svm, not logreg"),
        ("knn", {"device": "cuda"}, "on a GPU, not knn"),
        ("logreg", {"device": "cuda", "search": "grid"}, "A search runs on the CPU"),
        ("logreg", {"device": "cuda:99"}, "no (CUDA GPU|GPU 99)"),
    ],
)
def test_accelerators_that_are_not_there_fail_the_fit(make_store, clf, options, message):
    with pytest.raises(FitError, match=message):
        fit(make_store(), clf, **options)


def test_a_store_may_be_given_by_its_path_and_class_names_come_with_the_run(make_store):
    store = make_store()
    (run,) = fit(str(store.path))
    assert run.class_names == CLASSES
    assert open_store(store.path).runs_dir / run.run_id == run.path.resolve()


def test_a_new_split_is_another_run_with_other_rows(make_store, overlapping):
    store = make_store(X=overlapping()[0])
    (old,), (new,), (other,) = (fit(store, split_seed=seed) for seed in (None, 1, 2))
    assert len({run.record.key for run in (old, new, other)}) == 3
    assert {run.record.rows.n_test for run in (old, new, other)} == {80}
    tested = [{line["sample_id"] for line in predictions(run)} for run in (old, new, other)]
    assert tested[0] != tested[1] != tested[2]
    assert "--split-seed 1" in new.record.command


class TestRepeats:
    SPLIT = {"split": "70 train : 30 test per class, seed 0"}

    def test_each_has_a_split_of_its_own_where_the_dataset_has_none(self, make_store, overlapping):
        store = make_store(X=overlapping()[0], identity=self.SPLIT)
        fits = fit_each(store, "logreg", repeats=3, seed=5)
        assert [one.run.record.fit.seed for one in fits] == [5, 6, 7]
        assert [one.run.record.fit.split_seed for one in fits] == [5, 6, 7]
        assert [one.name.rpartition(" ")[2] for one in fits] == ["5", "6", "7"]
        tested = [{line["sample_id"] for line in predictions(one.run)} for one in fits]
        assert [len(ids) for ids in tested] == [80, 80, 80]
        assert len({frozenset(ids) for ids in tested}) == 3
        again = fit_each(store, "logreg", repeats=4, seed=5)
        assert [one.reused for one in again] == [True, True, True, False]

    def test_an_official_split_is_kept_and_that_is_said(self, make_store, overlapping):
        store = make_store(X=overlapping()[0])
        listener = Listener()
        fits = fit_each(store, "sgd", repeats=2, progress=listener)
        assert [one.run.record.fit.split_seed for one in fits] == [None, None]
        tested = [[line["sample_id"] for line in predictions(one.run)] for one in fits]
        assert tested[0] == tested[1]
        assert fits[0].run.metrics != fits[1].run.metrics
        assert "The repeats keep the official split of demo" in listener.lines[0]

    def test_unless_new_ones_are_asked_for(self, make_store, overlapping):
        store = make_store(X=overlapping()[0])
        listener = Listener()
        fits = fit_each(store, repeats=2, split_seed=3, progress=listener)
        assert [one.run.record.fit.split_seed for one in fits] == [3, 4]
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


class TestLeaks:
    @pytest.fixture
    def store(self, make_store, overlapping):
        X, y = overlapping()
        first_rows = np.arange(320)
        X[300:310], y[300:310], first_rows[300:310] = X[:10], y[:10], np.arange(10)
        return make_store(X=X, y=y, first_rows=first_rows)

    def test_they_are_counted_and_kept(self, store):
        (run,) = fit(store, "knn", params={"n_neighbors": 1})
        rows = run.record.rows
        assert (rows.n_test, rows.n_leaked, rows.n_dropped) == (80, 10, 0)
        right = {line["sample_id"]: line["true"] == line["predicted"] for line in predictions(run)}
        assert all(right[f"test/{row:07d}"] for row in range(300, 310))

    def test_they_are_dropped_where_that_is_asked_for(self, store):
        (run,) = fit(store, "knn", params={"n_neighbors": 1}, drop_leaks=True)
        rows = run.record.rows
        assert (rows.n_test, rows.n_leaked, rows.n_dropped) == (70, 10, 10)
        ids = {line["sample_id"] for line in predictions(run)}
        assert not ids & {f"test/{row:07d}" for row in range(300, 310)}
        (kept,) = fit(store, "knn", params={"n_neighbors": 1})
        assert kept.record.key != run.record.key
        assert kept.metrics.test.accuracy > run.metrics.test.accuracy
        assert "--drop-leaks" in run.record.command
