import tracemalloc

import numpy as np
import pytest
import threadpoolctl
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from featstore.errors import FitError
from featstore.fitting.solvers import ridge_lda
from featstore.runs.model_file import load_model, save_model

TALL, WIDE = (300, 40), (60, 110)
PENALTIES = {"ridge": [0.1, 3.0, 1e4], "lda": [0.01, 0.3, 0.9]}


def ridge(alpha=20.0, **params):
    return RidgeClassifier(alpha=alpha, **params)


def lda(shrinkage=0.2, **params):
    return LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage, **params)


@pytest.fixture(autouse=True)
def _one_thread():
    """Keep threads from waiting for each other where the cores are busy."""
    with threadpoolctl.threadpool_limits(1):
        yield


@pytest.fixture(params=[ridge, lda])
def make_estimator(request):
    return request.param


shapes = pytest.mark.parametrize("shape", [TALL, WIDE, (90, 90)], ids=["tall", "wide", "square"])


def make(n_samples, n_features, n_classes=4, seed=0):
    """Return standardised X, float32 and read-only, of correlated features, and y, unbalanced."""
    rng = np.random.default_rng(seed)
    y = np.minimum(np.arange(n_samples) % (n_classes + 2), n_classes - 1)
    X = rng.normal(size=(n_classes, n_features))[y] + 2 * rng.normal(size=(n_samples, n_features))
    X = X @ (rng.normal(size=(n_features, n_features)) * np.logspace(0, -1.5, n_features))
    X = ((X - X.mean(0)) / X.std(0)).astype(np.float32)
    X.flags.writeable = False
    return X, y


def deal(n_samples, n_folds=4, seed=0):
    """Return in which fold each row is held out."""
    return np.random.default_rng(seed).permutation(np.arange(n_samples) % n_folds)


def assert_alike(mine, theirs, X):
    for name in ("coef_", "intercept_"):
        # scikit-learn's ridge leaves a vector where it documents one row.
        found, expected = getattr(mine, name), np.asarray(getattr(theirs, name))
        expected = expected.reshape(-1, X.shape[1]) if name == "coef_" else expected.ravel()
        assert found.shape == expected.shape
        assert found.dtype == np.float32
        scale = np.abs(theirs.coef_).max()
        np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4 * scale)
    np.testing.assert_array_equal(mine.classes_, theirs.classes_)
    assert np.mean(mine.predict(X) == theirs.predict(X)) > 0.99


@shapes
@pytest.mark.parametrize("n_classes", [2, 3, 7])
@pytest.mark.parametrize("strength", [0, 1, 2])
def test_the_fit_is_scikit_learns(make_estimator, shape, n_classes, strength):
    X, y = make(*shape, n_classes)
    penalty = PENALTIES[make_estimator.__name__][strength]
    mine, theirs = make_estimator(penalty), make_estimator(penalty)
    assert ridge_lda.handles(mine)
    ridge_lda.fit(mine, X, y)
    theirs.fit(X.astype(np.float64), y)
    assert_alike(mine, theirs, X)
    decided = mine.decision_function(X)
    expected = theirs.decision_function(X.astype(np.float64))
    np.testing.assert_allclose(decided, expected, atol=2e-3 * np.abs(expected).max())
    assert mine.coef_.flags.c_contiguous


@pytest.mark.parametrize("n_classes", [2, 4])
def test_fits_without_a_fold_are_those_of_the_other_rows(make_estimator, n_classes, monkeypatch):
    X, y = make(*TALL, n_classes)
    estimator, folds = make_estimator(), np.maximum(deal(len(y), 3) - 1, -1)
    sums = ridge_lda.fit(estimator, X, y)
    found = ridge_lda.fit_without(estimator, X, y, folds, sums)
    for fold, mine in enumerate(found):
        theirs = make_estimator().fit(X[folds != fold].astype(np.float64), y[folds != fold])
        assert_alike(mine, theirs, X)
    assert len(found) == 2
    monkeypatch.setattr(ridge_lda, "KEPT_NBYTES", 1)
    assert ridge_lda.fit(estimator, X, y) is None, "sums of many features take much memory"


@shapes
@pytest.mark.parametrize("n_classes", [2, 4])
def test_ridge_without_an_intercept_is_scikit_learns(shape, n_classes):
    X, y = make(*shape, n_classes)
    X = X + np.float32(0.5)
    mine, theirs = ridge(fit_intercept=False), ridge(fit_intercept=False)
    ridge_lda.fit(mine, X, y)
    theirs.fit(X.astype(np.float64), y)
    expected = theirs.coef_.reshape(-1, X.shape[1])
    np.testing.assert_allclose(mine.coef_, expected, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(np.ravel(mine.intercept_), 0)
    np.testing.assert_array_equal(mine.predict(X), theirs.predict(X))


@pytest.mark.parametrize("n_classes", [2, 4])
def test_what_a_fit_leaves_is_what_scikit_learns_leaves(make_estimator, n_classes):
    X, y = make(*TALL, n_classes)
    mine, theirs = make_estimator(), make_estimator().fit(X, y)
    ridge_lda.fit(mine, X, y)
    assert set(vars(mine)) == set(vars(theirs)) - {"covariance_"}
    assert mine.n_features_in_ == theirs.n_features_in_ == 40
    if make_estimator is lda:
        np.testing.assert_allclose(mine.priors_, theirs.priors_)
        np.testing.assert_allclose(mine.means_, theirs.means_, atol=1e-5)
        np.testing.assert_allclose(mine.predict_proba(X), theirs.predict_proba(X), atol=1e-4)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_labels_are_whatever_they_are(make_estimator, n_classes):
    X, y = make(*TALL, n_classes)
    mine, plain = make_estimator(), make_estimator()
    ridge_lda.fit(mine, X, y * 3 + 2)
    ridge_lda.fit(plain, X, y)
    np.testing.assert_array_equal(mine.predict(X), plain.predict(X) * 3 + 2)
    folds = deal(len(y))
    np.testing.assert_array_equal(
        ridge_lda.cross_validate(mine, X, y * 3 + 2, folds, [0.5]),
        ridge_lda.cross_validate(mine, X, y, folds, [0.5]),
    )


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("n_features", [2, 110])
def test_a_saved_model_predicts_the_same(make_estimator, n_classes, n_features, tmp_path):
    X, y = make(80, n_features, n_classes)
    estimator = make_estimator()
    ridge_lda.fit(estimator, X, y)
    model = Pipeline([("clf", estimator)])
    save_model(model, tmp_path / "model.skops")
    loaded = load_model((tmp_path / "model.skops").read_bytes())
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    np.testing.assert_array_equal(loaded.decision_function(X), model.decision_function(X))


@shapes
@pytest.mark.parametrize("n_classes", [2, 4])
def test_folds_are_judged_as_by_a_loop_over_pipelines(make_estimator, shape, n_classes):
    X, y = make(*shape, n_classes)
    X = X.copy()
    folds = deal(len(y))
    # Constant wherever fold 1 is held out, and not in it.
    X[folds != 1, 5] = 0.25
    values = PENALTIES[make_estimator.__name__][::-1]
    found = ridge_lda.cross_validate(make_estimator(), X, y, folds, values)
    assert found.shape == (3, 4)
    for i, penalty in enumerate(values):
        for fold in range(4):
            trains, held = folds != fold, folds == fold
            model = make_pipeline(StandardScaler(), make_estimator(penalty))
            model.fit(X[trains].astype(np.float64), y[trains])
            expected = model.score(X[held], y[held])
            assert abs(found[i, fold] - expected) * held.sum() < 1.5, (penalty, fold)
    assert len(np.unique(found)) > 1


@shapes
def test_the_order_of_penalties_and_their_company_do_not_matter(make_estimator, shape):
    X, y = make(*shape)
    folds = deal(len(y))
    values = PENALTIES[make_estimator.__name__]
    found = ridge_lda.cross_validate(make_estimator(), X, y, folds, values)
    again = ridge_lda.cross_validate(make_estimator(), X, y, folds, values[::-1])
    np.testing.assert_array_equal(found, again[::-1])


@shapes
def test_results_do_not_depend_on_the_number_of_threads(make_estimator, shape, monkeypatch):
    monkeypatch.setattr(ridge_lda, "CACHED_NBYTES", 2000)
    X, y = make(*shape)
    results = []
    for n_threads in (1, 2):
        with threadpoolctl.threadpool_limits(n_threads):
            estimator = make_estimator()
            ridge_lda.fit(estimator, X, y)
            scores = ridge_lda.cross_validate(estimator, X, y, deal(len(y)), [0.001, 0.1])
        results.append((estimator.coef_, estimator.intercept_, scores))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_constant_columns_get_no_weight(make_estimator):
    X, y = make(*TALL)
    X = X.copy()
    X[:, [0, 7]] = 0.0
    estimator = make_estimator()
    ridge_lda.fit(estimator, X, y)
    assert np.abs(estimator.coef_[:, [0, 7]]).max() < 1e-9
    folds = deal(len(y))
    assert np.isfinite(ridge_lda.cross_validate(estimator, X, y, folds, [0.01, 0.5])).all()


def test_columns_that_repeat_each_other_are_no_hindrance(make_estimator):
    X, y = make(*TALL)
    X = np.concatenate([X, X], axis=1)
    mine, theirs = make_estimator(), make_estimator().fit(X.astype(np.float64), y)
    ridge_lda.fit(mine, X, y)
    assert_alike(mine, theirs, X)


def test_no_copy_of_a_tall_matrix_is_made(make_estimator, monkeypatch):
    monkeypatch.setattr(ridge_lda, "CACHED_NBYTES", 2**16)
    X, y = make(40_000, 30)
    tracemalloc.start()
    ridge_lda.fit(make_estimator(), X, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < X.nbytes / 2


def test_more_features_than_their_products_fit_memory_are_refused(make_estimator, monkeypatch):
    monkeypatch.setattr(ridge_lda, "MAX_FEATURES", 39)
    X, y = make(*TALL)
    with pytest.raises(FitError, match="products of all pairs of features, and there are 40"):
        ridge_lda.fit(make_estimator(), X, y)
    with pytest.raises(FitError, match="Use logreg, linear-svm or sgd"):
        ridge_lda.cross_validate(make_estimator(), X, y, deal(len(y)), [0.5])
    X, y = make(*WIDE)
    ridge_lda.fit(make_estimator(), X, y)


@pytest.mark.parametrize(
    ("estimator", "name"),
    [
        (ridge(), "alpha"),
        (ridge(solver="cholesky", fit_intercept=False, random_state=3), "alpha"),
        (lda(), "shrinkage"),
        (lda(shrinkage=1), "shrinkage"),
        (lda(tol=1e-9, store_covariance=True), "shrinkage"),
    ],
)
def test_what_has_the_same_solution_is_handled(estimator, name):
    assert ridge_lda.handles(estimator)
    assert ridge_lda.penalty_name(estimator) == name


@pytest.mark.parametrize(
    "estimator",
    [
        ridge(0.0),
        ridge(np.ones(4)),
        ridge(class_weight="balanced"),
        ridge(positive=True, solver="lbfgs"),
        ridge(solver="saga"),
        ridge(solver="svd"),
        LinearDiscriminantAnalysis(),
        LinearDiscriminantAnalysis(solver="eigen", shrinkage=0.5),
        lda(None),
        lda("auto"),
        lda(0.0),
        lda(priors=[0.5, 0.5]),
        LogisticRegression(),
        type("Own", (RidgeClassifier,), {})(),
        None,
    ],
    ids=repr,
)
def test_what_has_another_solution_is_left_to_its_own_fit(estimator):
    assert not ridge_lda.handles(estimator)
