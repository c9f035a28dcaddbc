"""Fits of images with several classes each, and with a number each."""

import json

import numpy as np
import pytest
from conftest import TAGS, measured, tagged
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    mean_absolute_error,
    r2_score,
    root_mean_squared_error,
)

from featstore.errors import ConfigError, FitError, RunError
from featstore.fitting.classifiers import CLASSIFIERS
from featstore.fitting.evaluate import model_values
from featstore.fitting.fit import fit, fit_each
from featstore.fitting.learning_curve import learning_curve
from featstore.fitting.regressors import REGRESSORS
from featstore.fitting.run_features import features_of
from featstore.fitting.tasks import find_task
from featstore.fitting.tasks.multilabel import score_labels
from featstore.runs.opening import open_run
from featstore.store.feature_store import open_store


@pytest.fixture(scope="module")
def tags(tmp_path_factory):
    """A store of images with several classes; tests add runs to it."""
    return tagged(tmp_path_factory.mktemp("tags"))


@pytest.fixture(scope="module")
def heights(tmp_path_factory):
    """A store of images with a number; tests add runs to it."""
    return measured(tmp_path_factory.mktemp("heights"))


@pytest.mark.parametrize("clf", CLASSIFIERS)
def test_every_classifier_learns_several_classes(clf, tags):
    params = {name: {"max_iter": n} for name, n in (("mlp", 60), ("dbn", 60), ("softmax", 150))}
    (run,) = fit(tags, clf, params=params.get(clf, {}))
    test = run.metrics.test
    assert test.chance_map + 0.2 < test.map <= 1
    assert test.map_interval[0] < test.map < test.map_interval[1]
    assert (test.n_samples, test.n_unscored, run.class_names) == (80, 1, TAGS)
    assert [one.name for one in test.per_class] == list(TAGS)
    assert test.per_class[3].average_precision is None
    assert run.record.rows.n_unlabelled == 1
    assert run.record.rows.n_train == 239
    json.dumps(run.summary(), allow_nan=False)
    again = open_run(run.path)
    assert again.record == run.record
    # The saved model gives the scores of predictions.csv again, without another type to trust.
    selection = tags.select()
    _, split = features_of(run, tags)
    X = selection.memmap()[split.test]
    calibrator = again.calibrator
    assert (run.score_kind, test.threshold) == ("probability", 0.5)
    assert calibrator.n_samples > 40
    scores = np.stack([again.predictions[f"score:{name}"] for name in TAGS], axis=1)
    expected = calibrator.apply(model_values(again.model, X, calibrator.scores))
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-5)
    # About as many images have a class as it is predicted for.
    assert np.abs((scores > 0.5).mean(axis=0) - scores.mean(axis=0)).max() < 0.2
    assert test.reliability.ece < 0.1


def test_scores_are_scikit_learns():
    rng = np.random.default_rng(1)
    y = (rng.random((150, 5)) < [0.5, 0.3, 0.1, 0.05, 0.0]).astype(np.int8)
    scores = rng.random((150, 5)) * 0.6 + y * 0.3
    found = score_labels(y, scores, "abcde", 0.5)
    predicted, own = scores > 0.5, slice(0, 4)
    assert found["map"] == pytest.approx(average_precision_score(y[:, own], scores[:, own]))
    assert found["micro_f1"] == pytest.approx(f1_score(y, predicted, average="micro"))
    macro = f1_score(y[:, own], predicted[:, own], average="macro")
    assert found["macro_f1"] == pytest.approx(macro)
    assert found["subset_accuracy"] == np.mean((predicted == y).all(axis=1))
    assert found["chance_map"] == pytest.approx(y[:, own].mean())
    assert found["n_unscored"] == 1
    for c, one in enumerate(found["per_class"]):
        assert one["support"] == y[:, c].sum()
        assert one["f1"] == pytest.approx(f1_score(y[:, c], predicted[:, c], zero_division=0))


@pytest.mark.parametrize("clf", REGRESSORS)
def test_every_regressor_learns_a_number(clf, heights):
    (run,) = fit(heights, clf)
    test = run.metrics.test
    assert 0.3 < test.r2 < 1
    assert run.record.target_name == "height_m"
    assert (run.class_names, run.record.rows.n_train_of_class) == ((), ())
    json.dumps(run.summary(), allow_nan=False)
    rows = open_run(run.path).predictions
    true, predicted = rows["true"], rows["predicted"]
    assert test.r2 == pytest.approx(r2_score(true, predicted), abs=1e-5)
    assert test.mae == pytest.approx(mean_absolute_error(true, predicted), rel=1e-4)
    assert test.rmse == pytest.approx(root_mean_squared_error(true, predicted), rel=1e-4)
    for name in ("r2", "mae", "rmse"):
        low, high = getattr(test, f"{name}_interval")
        assert low < getattr(test, name) < high
    _, split = features_of(run, heights)
    model = open_run(run.path).model
    found = np.ravel(model.predict(heights.select().memmap()[split.test]))
    np.testing.assert_allclose(found, predicted, rtol=1e-5)


@pytest.mark.parametrize("clf", ["logreg", "linear-svm", "ridge", "lda", "knn", "nystroem-svm"])
def test_a_search_chooses_by_mean_average_precision(clf, tags):
    grid = {"C": [1e-6, 0.1]} if clf in ("logreg", "linear-svm", "nystroem-svm") else {}
    grid = {"alpha": [1e-3, 1e6]} if clf == "ridge" else grid
    grid = {"n_neighbors": [1, 15]} if clf == "knn" else grid
    grid = {"shrinkage": [0.1, 0.95]} if clf == "lda" else grid
    (run,) = fit(tags, clf, search="grid", cv=3, grid=grid, n_jobs=1)
    search = run.record.search
    best = max(search.candidates, key=lambda one: one["mean"])
    assert search.map == best["mean"] > 0.4
    assert search.accuracy is None
    assert run.summary()["cv_map"] == search.map


@pytest.mark.parametrize("clf", ["ridge", "kernel-ridge", "knn", "mlp"])
def test_a_search_chooses_by_r2(clf, heights):
    grid = {"alpha": [0.1, 1e4]} if "ridge" in clf else {"n_neighbors": [1, 8]}
    if clf == "mlp":
        grid = {"alpha": [1e-4, 1e-3]}
    params = {"max_iter": 40, "hidden_layer_sizes": (16,)} if clf == "mlp" else {}
    params |= {"gamma": 0.02} if clf == "kernel-ridge" else {}
    (run,) = fit(heights, clf, search="grid", cv=3, grid=grid, params=params, n_jobs=1)
    search = run.record.search
    assert search.r2 == max(one["mean"] for one in search.candidates)
    assert len(search.candidates[0]["scores"]) == 3


@pytest.mark.parametrize("make", [tagged, measured])
def test_new_splits_keep_groups_whole(make, tmp_path):
    groups = (np.arange(320) // 8).astype(np.int32)
    info = {"group_by": "column scene"}
    base = make(tmp_path / "plain").sets()[0].info.dataset
    info |= {"task": base.task, "target_names": list(base.target_names)}
    store = make(tmp_path / "grouped", groups=groups, dataset_info=info)
    runs = fit(store, "ridge", split_seed=1, repeats=2)
    rows = [features_of(run, store)[1] for run in runs]
    for split in rows:
        assert not set(groups[split.train]) & set(groups[split.test])
    assert not np.array_equal(rows[0].test, rows[1].test)
    task, selection = find_task(base.task), store.select()
    folds = task.draw_folds(selection, np.arange(320), 5, 0)
    assert all(len(set(folds[groups == group])) == 1 for group in range(40))


@pytest.mark.parametrize("make", [tagged, measured])
def test_the_rows_of_a_new_split_are_as_many_and_repeat(make, tmp_path):
    store = make(tmp_path)
    task, selection = find_task(store.select().task), store.select()
    first, again, other = (task.split(selection, seed) for seed in (1, 1, 2))
    assert len(first.test) == 80
    np.testing.assert_array_equal(first.test, again.test)
    assert not np.array_equal(first.test, other.test)
    assert 7 not in {*first.train.tolist(), *first.test.tolist()}


def test_classifiers_of_another_task_are_refused_with_those_that_fit(tags, heights, make_store):
    with pytest.raises(FitError, match="labels are numbers, which logreg can't.*ridge, kernel-"):
        fit(heights)
    with pytest.raises(FitError, match="several classes each, which kernel-ridge can't.*logreg"):
        fit(tags, "kernel-ridge")
    with pytest.raises(FitError, match="one class each, which kernel-ridge can't.*logreg"):
        fit(make_store(), "kernel-ridge")


def test_all_are_those_of_the_task(heights):
    fits = fit_each(heights, "all", params={"mlp:max_iter": 20})
    assert [one.run.clf for one in fits] == list(REGRESSORS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda"}, "--clf-device is for images of one class each"),
        ({"params": {"class_weight": {"trees": 2}}}, "class_weight by class name is for images"),
        ({"n_epochs": 3}, "--epochs is for mlp, dbn, sgd and softmax; logreg"),
        ({"search": "grid", "cv": 100, "n_jobs": 1}, "A fold of the search has [23] images"),
    ],
)
def test_settings_without_a_meaning_are_refused(tags, options, message):
    with pytest.raises(FitError, match=message):
        fit(tags, **options)


def targets_of(store):
    return np.array(store.select().targets)


def test_labels_that_say_nothing_are_refused(tmp_path, tags, heights):
    given = targets_of(tags)

    def refused(make, targets, message, **more):
        store = make(tmp_path / f"{len(list(tmp_path.iterdir()))}", targets=targets, **more)
        with pytest.raises(FitError, match=message):
            fit(store, "ridge")

    refused(tagged, np.full_like(given, np.nan), "None of the 320 images has a label")
    nothing = np.where(np.arange(320)[:, None] < 240, given, 0.0)
    refused(tagged, nothing, "None of the 80 test images has a class")
    same = np.where(np.arange(320)[:, None] < 240, [1.0, 0, 0, 0], given).astype(np.float32)
    refused(tagged, same, "All 240 training images have the same classes")
    info = {"task": "multilabel", "target_names": ["trees"]}
    alone = {"class_names": ("trees",), "dataset_info": info}
    refused(tagged, given[:, :1], "have one class between them", **alone)
    numbers = targets_of(heights)
    refused(
        measured,
        np.where(np.arange(320)[:, None] < 240, numbers, 5.0).astype(np.float32),
        "All 80 test images have the number 5;",
    )
    numbers[3] = np.inf
    refused(measured, numbers, "number of row 3 is infinite")


def test_other_labels_are_another_run(tmp_path, heights):
    (first,) = fit(heights, "ridge")
    numbers = targets_of(heights)
    numbers[300] += 1
    (second,) = fit(measured(tmp_path / "b", targets=numbers), "ridge")
    assert first.record.key != second.record.key


@pytest.mark.parametrize("name", ["tags", "heights"])
def test_a_learning_curve_ends_where_a_fit_does(name, request):
    store = request.getfixturevalue(name)
    (curve,) = learning_curve(store, "ridge", sizes=[60], repeats=2)
    (run,) = fit(store, "ridge")
    (last,) = learning_curve(store, "ridge", sizes=[239], repeats=1)
    assert curve.task == run.task
    assert [point.n_train for point in curve.points] == [60]
    assert last.points[0].scores[0] == pytest.approx(run.score)
    with pytest.raises(ConfigError, match="A size is 500; with 239 training rows it may be from"):
        learning_curve(store, "ridge", sizes=[500])


def test_validation_rows_are_scored_and_draw_curves(tmp_path):
    splits = np.repeat([0, 2, 1], [200, 60, 60]).astype(np.uint8)
    for make, score in ((tagged, "map"), (measured, "r2")):
        store = make(tmp_path / score, splits=splits)
        (run,) = fit(store, "mlp", n_epochs=5)
        assert run.metrics.val.n_samples == 60
        assert len(run.curves[score]) == len(run.curves[f"validation_{score}"]) == 5
        assert run.curves[f"validation_{score}"][-1] == pytest.approx(
            getattr(run.metrics.val, score), abs=1e-4
        )


OWN = """
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
def trees(): return RandomForestClassifier(5)
def numbers(): return RandomForestRegressor(5)
"""


def test_estimators_of_ones_own(tags, heights, own):
    own.write_text(OWN)
    (run,) = fit(tags, f"{own.stem}:trees", n_jobs=1)
    assert run.metrics.test.map > 0.4
    (run,) = fit(heights, f"{own.stem}:numbers", n_jobs=1)
    assert run.metrics.test.r2 > 0.2
    with pytest.raises(FitError, match="not a scikit-learn regressor"):
        fit(heights, f"{own.stem}:trees")
    with pytest.raises(FitError, match="not a scikit-learn classifier"):
        fit(tags, f"{own.stem}:numbers")


def test_the_record_of_one_task_is_not_that_of_another(tags, tmp_path):
    (run,) = fit(tags, "ridge")
    from featstore.io.files import read_json, write_json

    path = run.path / "metrics.json"
    record = read_json(path)
    for changes, wrong in (
        ({"task": "classification"}, "metrics: those of another task"),
        ({"class_names": list(TAGS[:2])}, "4 values of 2 classes"),
        ({"task": "regression", "class_names": []}, "metrics: those of another task"),
    ):
        target = tmp_path / run.run_id
        target.mkdir(exist_ok=True)
        write_json(target / "metrics.json", record | changes)
        with pytest.raises(RunError):
            open_run(target)
        with pytest.raises(Exception, match=wrong):
            type(run.record).read(target / "metrics.json")


def test_a_store_reopened_finds_its_runs_by_task(tags):
    (run,) = fit(tags, "ridge")
    store = open_store(tags.path)
    assert open_run("best:tags", store).task == "multilabel"
    assert "mAP" in repr(open_run(run.run_id, store))
