"""Solvers of several classes at once, and of numbers, against scikit-learn's own."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.metrics import average_precision_score, r2_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from featstore.config import FitConfig
from featstore.fitting.solvers import epochs, linear, ridge_targets
from featstore.fitting.solvers.train import train
from featstore.runs.scoring.influence import r2

ESTIMATORS = {
    "logreg": LogisticRegression(C=0.05, max_iter=5000, tol=1e-7),
    "linear-svm": LinearSVC(C=0.01, max_iter=100_000, tol=1e-7, dual=False),
    "ridge": RidgeClassifier(alpha=20.0),
    "lda": LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.4),
}
FOLDS = 4
by_name = pytest.mark.parametrize("name", ESTIMATORS)
shapes = pytest.mark.parametrize("shape", [(300, 20), (60, 90)], ids=["tall", "wide"])


def make(n, p, seed=0):
    """Return standardised X, float32, three classes of each row, and a number of each row."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p)) @ (rng.normal(size=(p, p)) * np.logspace(0, -1, p))
    X = ((X - X.mean(0)) / X.std(0)).astype(np.float32)
    z = X @ rng.normal(size=(p, 4)) / 2 + rng.normal(size=(n, 4)) * 3
    Y = (z[:, :3] > [0, 1, 4]).astype(np.int8)
    return X, Y, (z[:, 3] + 1000).astype(np.float32)


@shapes
@by_name
def test_each_class_gets_scikit_learns_classifier(name, shape):
    X, Y, _ = make(*shape)
    mine = OneVsRestClassifier(clone(ESTIMATORS[name]))
    trained = train(Pipeline([("clf", mine)]), X, Y, FitConfig(name))
    assert trained.solver != "scikit-learn"
    theirs = OneVsRestClassifier(clone(ESTIMATORS[name])).fit(X.astype(np.float64), Y)
    assert set(vars(mine)) == set(vars(theirs))
    found, expected = (one.decision_function(X) for one in (mine, theirs))
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())
    assert [type(one) for one in mine.estimators_] == [type(one) for one in theirs.estimators_]
    np.testing.assert_array_equal(mine.predict(X), theirs.predict(X))


@by_name
@pytest.mark.filterwarnings("ignore:Label")
def test_classes_that_no_row_has_or_all_have_are_predicted_so(name):
    X, Y, _ = make(120, 10)
    Y = np.column_stack([Y[:, 0], np.zeros(120), np.ones(120)]).astype(np.int8)
    clf = OneVsRestClassifier(clone(ESTIMATORS[name]))
    train(Pipeline([("clf", clf)]), X, Y, FitConfig(name))
    np.testing.assert_array_equal(clf.predict(X)[:, 1:], Y[:, 1:])


@shapes
@pytest.mark.parametrize("name", ["logreg", "ridge"])
def test_cross_validation_fits_on_the_other_folds_alone(name, shape):
    X, Y, _ = make(*shape)
    folds = np.random.default_rng(0).permutation(np.arange(len(X)) % FOLDS)
    clf = OneVsRestClassifier(clone(ESTIMATORS[name]))
    values = [0.001, 0.1] if name == "logreg" else [3.0, 300.0]
    if name == "logreg":
        found = linear.cross_validate(clf, X, Y, folds, values)
    else:
        found = ridge_targets.cross_validate(clf, X, Y, folds, values, average_precision_score)
    param = "C" if name == "logreg" else "alpha"
    for i, value in enumerate(values):
        for fold in range(FOLDS):
            own, held = folds != fold, folds == fold
            base = clone(ESTIMATORS[name]).set_params(**{param: value})
            model = make_pipeline(StandardScaler(), OneVsRestClassifier(base))
            z = model.fit(X[own].astype(np.float64), Y[own]).decision_function(X[held])
            present = Y[held].any(axis=0)
            expected = average_precision_score(Y[held][:, present], z[:, present])
            assert found[i, fold] == pytest.approx(expected, abs=0.02)


@shapes
def test_ridge_regression_is_scikit_learns(shape):
    X, _, y = make(*shape)
    mine, theirs = Ridge(alpha=5.0), Ridge(alpha=5.0)
    assert ridge_targets.handles(mine)
    train(Pipeline([("clf", mine)]), X, y, FitConfig("ridge"))
    theirs.fit(X.astype(np.float64), y.astype(np.float64))
    np.testing.assert_allclose(mine.coef_, theirs.coef_, atol=1e-3)
    assert mine.intercept_ == pytest.approx(theirs.intercept_)
    assert set(vars(mine)) == set(vars(theirs))


@shapes
def test_ridge_regression_is_cross_validated_in_one_pass(shape):
    X, _, y = make(*shape)
    folds = np.arange(len(X)) % FOLDS
    alphas = [1.0, 100.0]
    found = ridge_targets.cross_validate(
        Ridge(), X, y, folds, alphas, lambda y, predicted: r2(y, predicted).value
    )
    for i, alpha in enumerate(alphas):
        for fold in range(FOLDS):
            own, held = folds != fold, folds == fold
            model = make_pipeline(StandardScaler(), Ridge(alpha=alpha)).fit(X[own], y[own])
            expected = r2_score(y[held], model.predict(X[held]))
            assert found[i, fold] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    "estimator",
    [Ridge(positive=True), Ridge(fit_intercept=False), Ridge(alpha=0.0), Ridge(solver="svd")],
)
def test_other_settings_are_left_to_scikit_learn(estimator):
    assert not ridge_targets.handles(estimator)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_network_learns_a_number_in_its_own_unit(early_stopping):
    X, _, y = make(200, 10)
    params = {"hidden_layer_sizes": (16,), "random_state": 0, "early_stopping": early_stopping}
    mine, seen = MLPRegressor(**params), []
    curves = epochs.train(
        mine,
        X,
        y,
        n_epochs=None if early_stopping else 30,
        validate=lambda one: seen.append(one.predict(X).mean()) or 0.5,
    )
    assert curves.name == "r2"
    assert set(curves.to_dict()) == {"loss", "r2", "validation_r2", "converged"}
    assert mine.predict(X).mean() == pytest.approx(y.mean(), rel=0.01)
    if not early_stopping:
        assert r2_score(y, mine.predict(X)) == pytest.approx(curves.score[-1], abs=1e-4)
        # What validates sees the number's unit as well.
        assert seen[-1] == pytest.approx(y.mean(), rel=0.01)


def test_a_network_learns_several_classes():
    X, Y, _ = make(200, 10)
    clf = MLPClassifier((16,), random_state=0, max_iter=30, early_stopping=True)
    curves = epochs.train(clf, X, Y)
    assert curves.name == "map"
    assert len(curves.score) == len(curves.validation_score)
    assert clf.predict_proba(X).shape == Y.shape
