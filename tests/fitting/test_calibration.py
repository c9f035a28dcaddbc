"""Probabilities that hold: temperatures and sigmoids, fitted on rows that trained no model."""

import numpy as np
import pytest
from conftest import CLASSES, blobs
from scipy.special import expit, softmax
from sklearn.linear_model import SGDClassifier
from sklearn.preprocessing import StandardScaler

from featstore.errors import FitError
from featstore.fitting.calibration import fit_sigmoids, fit_temperature
from featstore.fitting.evaluate import model_values
from featstore.fitting.fit import fit
from featstore.fitting.solvers.epochs import train
from featstore.io.files import read_json, write_json
from featstore.runs.calibration import Calibrator, measure_reliability
from featstore.runs.opening import open_run


def calibrator(**more):
    fields = {
        "kind": "temperature",
        "scores": "decision value",
        "floor": 0.0,
        "temperature": 2.0,
        "slopes": (),
        "intercepts": (),
        "fitted_on": "rows",
        "n_samples": 9,
    }
    return Calibrator(**fields | more)


def test_a_temperature_divides_the_scores():
    z = np.array([[4.0, 2.0, 0.0], [0.0, -1.0, 5.0]])
    own = calibrator()
    np.testing.assert_allclose(own.apply(z), softmax(z / 2, axis=1))
    np.testing.assert_allclose(own.apply(z[:, 0])[:, 1], expit(z[:, 0] / 2))
    p = softmax(z, axis=1)
    np.testing.assert_allclose(calibrator(scores="log-probability").apply(p), own.apply(z))
    floored = calibrator(scores="log-probability", floor=0.1).apply(np.array([[1.0, 0.0]]))
    np.testing.assert_allclose(floored, [[11**0.5 / (11**0.5 + 1), 1 / (11**0.5 + 1)]])
    assert Calibrator.from_dict(own.to_dict()) == own


def test_a_sigmoid_takes_each_class_by_itself():
    z = np.array([[4.0, 2.0], [0.0, -1.0]])
    own = calibrator(kind="sigmoid", slopes=(1.0, 0.5), intercepts=(0.0, -1.0))
    np.testing.assert_allclose(own.apply(z), expit(z * [1, 0.5] + [0, -1]))
    logits = calibrator(**own.to_dict() | {"scores": "logit"})
    np.testing.assert_allclose(logits.apply(expit(z)), own.apply(z))
    assert Calibrator.from_dict(own.to_dict()) == own


def test_the_temperature_of_known_probabilities_is_found():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(4000, 5)) * 2
    drawn = np.array([rng.choice(5, p=p) for p in softmax(z, axis=1)])
    assert fit_temperature(3 * z, drawn) == pytest.approx(3, rel=0.06)
    assert fit_temperature(z / 10, drawn) == pytest.approx(0.1, rel=0.06)
    # A class that a fold does not know has no part in it.
    whole = np.column_stack([3 * z, np.full(4000, -np.inf)])
    assert fit_temperature(whole, drawn) == pytest.approx(fit_temperature(3 * z, drawn), rel=1e-4)


def test_scores_without_a_mistake_do_not_become_certainty():
    z = np.eye(3)[np.arange(30) % 3] * 2
    sure = softmax(z / fit_temperature(z, np.arange(30) % 3), axis=1).max(axis=1)
    # 31 of 32 rows: Platt's correction.
    np.testing.assert_allclose(sure, 31 / 32, atol=1e-3)


def test_the_sigmoids_of_known_probabilities_are_found():
    rng = np.random.default_rng(1)
    z = rng.normal(3, 2, size=(6000, 3))
    y = rng.random((6000, 3)) < expit(z * [1, 4, 0.5] + [-3, -12, -1])
    y[:, 2] = z[:, 2] < 2
    slopes, intercepts = fit_sigmoids(z, y.astype(np.int8))
    np.testing.assert_allclose(slopes[:2], [1, 4], rtol=0.1)
    np.testing.assert_allclose(intercepts[:2], [-3, -12], rtol=0.1)
    # The order of the rows stays, even where the classifier has it the wrong way round.
    assert 0 < slopes[2] < 1e-3


def test_the_calibration_error_is_that_of_hand_computation():
    p = np.array([0.05, 0.06, 0.55, 0.58, 0.95, 1.0])
    right = np.array([0, 1, 1, 0, 1, 1])
    found = measure_reliability(p, right)
    assert [one["n_samples"] for one in found["bins"]] == [2, 2, 2]
    gaps = [abs(p[i : i + 2].mean() - right[i : i + 2].mean()) for i in (0, 2, 4)]
    assert found["ece"] == pytest.approx(np.mean(gaps))


PLACES = {"group_by": "place"}


def noisy(n_samples=320, seed=3):
    """Return labels, and features that make every classifier unsure."""
    X, y = blobs(n_samples, 20)
    return X + np.random.default_rng(seed).normal(0, 3, X.shape).astype(np.float32), y


@pytest.mark.parametrize("clf", ["logreg", "linear-svm", "ridge", "lda", "knn", "sgd"])
def test_probabilities_hold_and_classes_stay(clf, make_store):
    X, y = noisy(1200)
    store = make_store(1200, X=X, y=y)
    (bare,) = fit(store, clf, calibrate=False, n_jobs=1)
    (run,) = fit(store, clf, n_jobs=1)
    assert run.run_id != bare.run_id
    names = ("sample_id", "true", "predicted")
    assert all((run.predictions[name] == bare.predictions[name]).all() for name in names)
    assert (run.score_kind, bare.calibrator) == ("probability", None)
    assert bare.score_kind != "probability"
    # Three of five folds give 500 scores; one has to do where a fit takes long.
    assert run.calibrator.n_samples == (180 if clf == "sgd" else 540)
    # Of 300 rows, an error of some 0.04 is chance.
    assert run.metrics.test.reliability.ece < 0.12
    # The record's calibration makes the model's scores those of predictions.csv.
    again = open_run(run.path)
    values = model_values(again.model, store.select().memmap()[900:], again.calibrator.scores)
    p = again.calibrator.apply(values)
    at = [CLASSES.index(name) for name in run.predictions["predicted"]]
    np.testing.assert_allclose(p[np.arange(300), at], run.predictions["score"], rtol=1e-3)
    assert (p.argmax(axis=1) == at).all()


def test_a_classifier_that_is_too_sure_becomes_less_so(make_store):
    X, y = blobs(640, 200)
    X = X + np.random.default_rng(4).normal(0, 9, X.shape).astype(np.float32)
    store = make_store(640, X=X, y=y)
    surest = {"params": {"C": 1000.0}, "n_jobs": 1}
    bare, run = (fit(store, "logreg", calibrate=c, **surest)[0] for c in (False, True))
    assert bare.metrics.test.reliability.ece > 0.2
    assert run.metrics.test.reliability.ece < 0.12
    assert run.calibrator.temperature > 2


def test_test_rows_have_no_part_in_it(make_store, tmp_path):
    X, y = noisy()
    (run,) = fit(make_store(X=X, y=y), "logreg", n_jobs=1)
    X, y = X.copy(), y.copy()
    X[240:], y[240:] = X[240:][::-1] * 2, y[240:][::-1]
    from conftest import store_in

    (other,) = fit(store_in(tmp_path / "other", X=X, y=y), "logreg", n_jobs=1)
    assert other.calibrator == run.calibrator
    assert other.metrics.test != run.metrics.test
    assert run.calibrator.fitted_on == "training images, each scored without its fold of 5"
    assert run.calibrator.n_samples == 240


def test_enough_validation_rows_serve_in_place_of_folds(make_store):
    X, y = noisy(900)
    splits = np.repeat(np.array([0, 1, 2], np.uint8), 300)
    store = make_store(900, X=X, y=y, splits=splits)
    (run,) = fit(store, "logreg", params={"C": 1.0}, n_jobs=1)
    assert (run.calibrator.fitted_on, run.calibrator.n_samples) == ("validation images", 300)
    z = run.model.decision_function(X[600:])
    assert run.calibrator.temperature == pytest.approx(fit_temperature(z, y[600:]), rel=1e-3)
    assert run.metrics.val.reliability is None


def test_rows_that_early_stopping_held_out_serve_in_place_of_a_second_fit(make_store, monkeypatch):
    X, y = noisy(640)
    halved = {"early_stopping": True, "validation_fraction": 0.5, "max_iter": 5}
    store = make_store(640, X=X, y=y)
    monkeypatch.setattr("featstore.fitting.calibration._out_of_fold", lambda *more: 1 / 0)
    (run,) = fit(store, "sgd", params=halved, n_jobs=1)
    own = run.calibrator
    assert own.fitted_on == "training images that early stopping held out"
    clf = SGDClassifier(loss="log_loss", random_state=0, **halved)
    held_out = train(clf, StandardScaler().fit_transform(X[:480]), y[:480]).held_out
    assert own.n_samples == len(held_out) == 240
    z = run.model.decision_function(X[held_out])
    assert own.temperature == pytest.approx(fit_temperature(z, y[held_out]), rel=1e-3)


def test_rows_that_early_stopping_holds_out_do_not_train():
    X, y = noisy()
    once = {"early_stopping": True, "max_iter": 1, "random_state": 0}
    first, second = (SGDClassifier(**once) for _ in range(2))
    held_out = train(first, X, y).held_out
    changed = X.copy()
    changed[held_out] = 0
    train(second, changed, y)
    np.testing.assert_array_equal(first.coef_, second.coef_)


def test_folds_have_whole_groups_and_fewer_folds_serve(make_store):
    X, y = noisy()
    (run,) = fit(
        make_store(X=X, y=y, groups=np.arange(320) // 80, dataset_info=PLACES), "logreg", n_jobs=1
    )
    assert run.calibrator.fitted_on.endswith("its fold of 3")


def test_a_run_that_can_not_be_calibrated_says_why(make_store):
    X, y = noisy()
    groups = (np.arange(320) >= 240).astype(np.int32)
    (run,) = fit(make_store(X=X, y=y, groups=groups, dataset_info=PLACES), "logreg", n_jobs=1)
    assert run.calibrator is None
    assert run.score_kind == "uncalibrated probability"
    assert run.record.notes == (
        "The probabilities are not calibrated: there are too few training images, or groups of "
        "them, to hold some out.",
    )


def test_a_run_of_an_older_version_is_read_as_uncalibrated(make_store):
    X, y = noisy()
    (run,) = fit(make_store(X=X, y=y), "logreg", n_jobs=1)
    record = read_json(run.path / "metrics.json")
    record["score_kind"] = "probability"
    for place, name in (
        (record, "calibration"),
        (record["fit"], "calibrate"),
        (record["metrics"]["test"], "reliability"),
    ):
        del place[name]
    write_json(run.path / "metrics.json", record)
    old = open_run(run.path)
    assert (old.calibrator, old.score_kind) == (None, "uncalibrated probability")
    assert old.calibration_text == "not calibrated: they are the classifier's own"
    assert old.summary()["ece"] is None
    assert old.outline.fit["calibrate"] == "not calibrated"
    assert old.series != run.series


def test_a_fold_without_a_class_gives_it_no_probability():
    z = np.array([[1.0, -np.inf], [2.0, -np.inf]])
    with pytest.raises(FitError, match="no row that is held out"):
        fit_temperature(z, np.array([1, 1]))
