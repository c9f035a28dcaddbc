import itertools

import numpy as np
import pytest
import threadpoolctl
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, RidgeClassifier, SGDClassifier
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from featstore.fitting.solvers import linear, linear_loss
from featstore.fitting.solvers.blocks import Samples, Threads
from featstore.fitting.solvers.linear_loss import MAX_SIDE, Objective, WideObjective, is_wide
from featstore.fitting.solvers.scaling import standardised

TALL, WIDE = (400, 30), (60, 90)


def make(n_samples, n_features, n_classes=4, seed=0):
    """Return standardised X, float32 and read-only, of correlated features, and y."""
    rng = np.random.default_rng(seed)
    y = np.arange(n_samples) % n_classes
    X = rng.normal(size=(n_classes, n_features))[y] + 2 * rng.normal(size=(n_samples, n_features))
    X = X @ (rng.normal(size=(n_features, n_features)) * np.logspace(0, -1.5, n_features))
    X = ((X - X.mean(0)) / X.std(0)).astype(np.float32)
    X.flags.writeable = False
    return X, y


def deal(n_samples, n_folds=4, seed=0):
    """Return in which fold each row is held out."""
    return np.random.default_rng(seed).permutation(np.arange(n_samples) % n_folds)


def logreg(**params):
    return LogisticRegression(**{"C": 0.05, "max_iter": 5000, "tol": 1e-6, **params})


def svm(**params):
    # liblinear's dual would take minutes to get there.
    return LinearSVC(**{"C": 0.01, "max_iter": 100_000, "tol": 1e-6, "dual": False, **params})


@pytest.fixture(autouse=True)
def _one_thread():
    """Keep threads from waiting for each other where the cores are busy."""
    with threadpoolctl.threadpool_limits(1):
        yield


@pytest.fixture(params=[logreg, svm])
def estimator(request):
    return request.param()


shapes = pytest.mark.parametrize("shape", [TALL, WIDE], ids=["tall", "wide"])


@shapes
@pytest.mark.parametrize("n_classes", [2, 3, 7])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("C", [1e-4, 1.0])
def test_the_fit_is_scikit_learns(estimator, shape, n_classes, fit_intercept, C):
    X, y = make(*shape, n_classes)
    params = estimator.get_params() | {"fit_intercept": fit_intercept, "C": C}
    mine, theirs = type(estimator)(**params), type(estimator)(**params)
    assert linear.handles(mine)
    assert linear.fit(mine, X, y)[0]
    theirs.fit(X.astype(np.float64), y)
    scale = np.abs(theirs.coef_).max()
    np.testing.assert_allclose(mine.coef_, theirs.coef_, atol=1e-3 * scale)
    np.testing.assert_allclose(mine.intercept_, theirs.intercept_, atol=1e-3 * max(scale, 0.1))
    assert np.mean(mine.predict(X) == theirs.predict(X)) > 0.99
    assert mine.coef_.shape == theirs.coef_.shape
    assert mine.coef_.dtype == np.float32
    assert mine.coef_.flags.c_contiguous
    assert set(vars(mine)) >= set(vars(theirs))


def test_labels_are_whatever_they_are(estimator):
    X, y = make(*TALL, 3)
    linear.fit(estimator, X, y * 3 + 2)
    plain = type(estimator)(**estimator.get_params())
    linear.fit(plain, X, y)
    assert estimator.classes_.tolist() == [2, 5, 8]
    np.testing.assert_array_equal(estimator.predict(X), plain.predict(X) * 3 + 2)
    folds = deal(len(y))
    np.testing.assert_array_equal(
        linear.cross_validate(estimator, X, y * 3 + 2, folds, [0.01]),
        linear.cross_validate(estimator, X, y, folds, [0.01]),
    )


@shapes
@pytest.mark.parametrize("n_classes", [2, 4, "several"])
def test_fits_without_a_fold_are_those_of_the_other_rows(estimator, shape, n_classes):
    several = n_classes == "several"
    X, y = make(*shape, 4 if several else n_classes)
    if several:
        y = np.stack([y > 1, y % 2], axis=1).astype(np.int8)
        estimator = OneVsRestClassifier(estimator)
    _, problem = linear.fit(estimator, X, y)
    # The rows of a third fold train both.
    folds = np.maximum(deal(len(y), 3) - 1, -1)
    found = linear.fit_without(estimator, X, y, folds, problem)
    for fold, mine in enumerate(found):
        own = clone(estimator)
        linear.fit(own, X[folds != fold], y[folds != fold])
        values, expected = (one.decision_function(X) for one in (mine, own))
        whole = estimator.decision_function(X)
        moved = np.abs(expected - whole).max()
        np.testing.assert_allclose(values, expected, atol=0.01 * moved)
    assert len(found) == 2


def test_rare_classes_are_no_hindrance(estimator):
    X, _ = make(*TALL)
    y = (np.arange(len(X)) < 12).astype(int)
    theirs = type(estimator)(**estimator.get_params()).fit(X.astype(np.float64), y)
    assert linear.fit(estimator, X, y)[0]
    np.testing.assert_allclose(estimator.intercept_, theirs.intercept_, atol=5e-3)


def test_constant_columns_get_no_weight(estimator):
    X, y = make(*TALL)
    X = X.copy()
    X[:, [0, 7]] = 0.0
    linear.fit(estimator, X, y)
    assert np.abs(estimator.coef_[:, [0, 7]]).max() < 1e-12
    assert np.isfinite(linear.cross_validate(estimator, X, y, deal(len(y)), [0.01, 1.0])).all()


@shapes
@pytest.mark.parametrize("n_classes", [2, 4])
def test_folds_are_judged_as_by_a_loop_over_pipelines(estimator, shape, n_classes):
    X, y = make(*shape, n_classes)
    X = X.copy()
    folds = deal(len(y))
    # Constant wherever fold 1 is held out, and not in it.
    X[folds != 1, 5] = 0.25
    values = [1e-4, 3.0, 0.01]
    quick = {"solver": "newton-cholesky"} if isinstance(estimator, LogisticRegression) else {}
    found = linear.cross_validate(estimator, X, y, folds, values)
    assert found.shape == (3, 4)
    for (i, C), fold in itertools.product(enumerate(values), range(4)):
        trains, held = folds != fold, folds == fold
        own = type(estimator)(**estimator.get_params() | quick | {"C": C})
        model = make_pipeline(StandardScaler(), own).fit(X[trains].astype(np.float64), y[trains])
        expected = model.score(X[held], y[held])
        assert abs(found[i, fold] - expected) * held.sum() < 1.5, (C, fold)
    assert len(np.unique(found)) > 2


@shapes
def test_the_order_of_C_and_its_company_do_not_matter(estimator, shape):
    X, y = make(*shape)
    folds = deal(len(y))
    values = [0.3, 1e-3, 1e-5, 0.02]
    found = linear.cross_validate(estimator, X, y, folds, values)
    again = linear.cross_validate(estimator, X, y, folds, values[::-1])
    np.testing.assert_array_equal(found, again[::-1])
    alone = [linear.cross_validate(estimator, X, y, folds, [C])[0] for C in values]
    np.testing.assert_allclose(found, alone, atol=1.5 / np.bincount(folds).min())


@shapes
def test_a_path_is_of_the_fits_with_each_C(estimator, shape):
    X, y = make(*shape)
    values = [0.3, 1e-3, 0.02]
    before = estimator.get_params()
    for C, found in zip(values, linear.fit_path(estimator, X, y, values), strict=True):
        own = type(estimator)(**before | {"C": C})
        linear.fit(own, X, y)
        assert found.C == C
        np.testing.assert_allclose(found.coef_, own.coef_, atol=2e-3 * np.abs(own.coef_).max())
    assert estimator.get_params() == before
    assert not hasattr(estimator, "coef_")


def test_a_huge_mean_with_a_tiny_deviation_is_no_hindrance(estimator, tmp_path):
    X, y = make(*TALL)
    X = X * 0.1 + np.where(np.arange(30) % 2, 10_000, 0)
    X = X.astype(np.float32)
    scaled = standardised(Samples(X, slice(0, len(X))), len(X), "x", tmp_path)
    assert linear.fit(estimator, scaled, y)
    own = type(estimator)(**estimator.get_params())
    theirs = make_pipeline(StandardScaler(), own).fit(X.astype(np.float64), y)
    assert np.mean(estimator.predict(scaled) == theirs.predict(X.astype(np.float64))) > 0.99


@shapes
def test_results_do_not_depend_on_the_number_of_threads(estimator, shape, monkeypatch):
    monkeypatch.setattr(linear_loss, "CACHED_NBYTES", 2000)
    X, y = make(*shape)
    results = []
    for n_threads in (1, 2):
        with threadpoolctl.threadpool_limits(n_threads):
            linear.fit(estimator, X, y)
            scores = linear.cross_validate(estimator, X, y, deal(len(y)), [0.001, 0.1])
            (path,) = linear.fit_path(estimator, X, y, [0.1])
        results.append((estimator.coef_, estimator.intercept_, scores, path.coef_))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("estimator", [logreg(C=1e3), svm(C=1e3)], ids=["logreg", "svm"])
def test_what_has_not_converged_says_so(estimator):
    X, y = make(*TALL)
    estimator.set_params(max_iter=2)
    assert not linear.fit(estimator, X, y)[0]
    assert np.max(estimator.n_iter_) == 2


def test_a_few_passes_serve_all_folds_and_penalties(estimator, monkeypatch):
    X, y = make(2000, 100)
    n_passes = []
    evaluate = Objective.evaluate
    monkeypatch.setattr(Objective, "evaluate", lambda *args: n_passes.append(1) or evaluate(*args))
    estimator = type(estimator)(C=0.01)
    estimator.set_params(tol=1e-4)
    linear.fit(estimator, X, y)
    alone = len(n_passes)
    assert alone < 25
    n_passes.clear()
    linear.cross_validate(estimator, X, y, deal(len(y)), np.logspace(-5, 0, 6))
    assert len(n_passes) < 10 * alone


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(),
        LogisticRegression(C=9, tol=1e-8, max_iter=7, fit_intercept=False, random_state=3),
        LinearSVC(),
        LinearSVC(C=9, dual=True, tol=1e-8, max_iter=7, fit_intercept=False, random_state=3),
    ],
)
def test_what_has_the_same_optimum_is_handled(estimator):
    assert linear.handles(estimator)


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(l1_ratio=1.0, solver="saga"),
        LogisticRegression(l1_ratio=0.5, solver="saga"),
        LogisticRegression(penalty="l1", solver="liblinear"),
        LogisticRegression(penalty=None),
        LogisticRegression(class_weight="balanced"),
        LogisticRegression(class_weight={0: 2.0}),
        LogisticRegression(solver="liblinear"),
        LogisticRegression(solver="newton-cg"),
        LogisticRegression(dual=True, solver="liblinear"),
        LogisticRegression(warm_start=True),
        LinearSVC(loss="hinge"),
        LinearSVC(penalty="l1", dual=False),
        LinearSVC(class_weight="balanced"),
        LinearSVC(multi_class="crammer_singer"),
        LinearSVC(intercept_scaling=10.0),
        SVC(kernel="linear"),
        SGDClassifier(),
        RidgeClassifier(),
        type("Own", (LogisticRegression,), {})(),
        None,
    ],
    ids=repr,
)
def test_what_has_another_optimum_is_left_to_its_own_fit(estimator):
    assert not linear.handles(estimator)


def test_wide_matrices_are_those_whose_rows_span_less():
    assert is_wide(np.empty((10, 10)))
    assert not is_wide(np.empty((11, 10)))
    assert not is_wide(np.empty((MAX_SIDE + 1, MAX_SIDE + 2), np.int8))


def test_more_rows_than_are_worth_it_are_trained_as_they_are(estimator, monkeypatch):
    X, y = make(*WIDE)
    other = type(estimator)(**estimator.get_params())
    linear.fit(estimator, X, y)
    scores = linear.cross_validate(estimator, X, y, deal(len(y)), [0.01])
    monkeypatch.setattr(linear_loss, "MAX_SIDE", 10)
    monkeypatch.setattr(linear, "_wide_fold", None)
    linear.fit(other, X, y)
    np.testing.assert_allclose(other.coef_, estimator.coef_, atol=1e-3 * abs(other.coef_).max())
    again = linear.cross_validate(estimator, X, y, deal(len(y)), [0.01])
    np.testing.assert_allclose(again, scores, atol=1.5 / 15)


def test_rows_that_repeat_each_other_are_no_hindrance(estimator):
    X, y = make(*WIDE)
    X, y = np.concatenate([X[:20], X[:20], X[:5]]), np.concatenate([y[:20], y[:20], y[:5]])
    theirs = type(estimator)(**estimator.get_params()).fit(X.astype(np.float64), y)
    assert linear.fit(estimator, X, y)[0]
    np.testing.assert_allclose(
        estimator.coef_, theirs.coef_, atol=2e-3 * np.abs(theirs.coef_).max()
    )


def reference(estimator, X, y, w, C):
    """Return the objective by its formula, in float64."""
    X = np.column_stack([X.astype(np.float64), np.ones(len(X))])
    z, n = X @ w, len(X)
    classes = np.unique(y)
    signs = np.where(y[:, None] == (classes[1:] if len(classes) == 2 else classes), 1.0, -1.0)
    if isinstance(estimator, LinearSVC):
        loss, shrunk = np.sum(np.maximum(0, 1 - signs * z) ** 2), w
    else:
        shrunk = w[:-1]
        if len(classes) == 2:
            loss = np.sum(np.logaddexp(0, -signs * z))
        else:
            own = z[np.arange(n), np.searchsorted(classes, y)]
            loss = np.sum(np.logaddexp.reduce(z, axis=1) - own)
    return loss / n + np.sum(shrunk**2) / (2 * C * n)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("size", [0.1, 3.0])
def test_the_objective_of_a_fold_is_that_of_its_other_rows_standardised(
    estimator, n_classes, size, monkeypatch
):
    monkeypatch.setattr(linear_loss, "CACHED_NBYTES", 2000)
    X, y = make(*TALL, n_classes)
    folds = deal(len(y))
    problem = Objective(estimator, X, y, folds)
    problem.measure(Threads())
    rng = np.random.default_rng(1)
    points = [size * rng.normal(size=(31, problem.n_outputs)) for _ in range(2)]
    active = [0, 2]
    found = problem.evaluate(Threads(), active, points, C=0.1)
    for fold, w, (value, gradient) in zip(active, points, found, strict=True):
        own = StandardScaler().fit_transform(X[folds != fold].astype(np.float64))
        labels = y[folds != fold]
        assert value == pytest.approx(reference(estimator, own, labels, w, 0.1), rel=1e-5)
        step = 1e-5 * rng.normal(size=w.shape)
        slope = reference(estimator, own, labels, w + step, 0.1)
        slope -= reference(estimator, own, labels, w - step, 0.1)
        assert 2 * np.vdot(gradient, step) == pytest.approx(slope, rel=1e-3, abs=1e-10)
        assert problem.counts[fold] == np.sum(folds != fold)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_large_outputs_do_not_overflow(estimator, n_classes):
    X, y = make(*TALL, n_classes)
    problem = Objective(estimator, X, y, None)
    points = [np.full((31, problem.n_outputs), 1e4) * np.arange(1, problem.n_outputs + 1)]
    ((value, gradient),) = problem.evaluate(Threads(), [0], points, C=1.0)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_without_an_intercept_its_gradient_is_nothing(estimator):
    X, y = make(*TALL)
    estimator.set_params(fit_intercept=False)
    problem = Objective(estimator, X, y, None)
    ((_, gradient),) = problem.evaluate(Threads(), [0], [np.ones((31, 4))], C=1.0)
    estimator.set_params(fit_intercept=True)
    assert not gradient[-1].any()
    assert gradient[:-1].all()


@pytest.mark.parametrize("shape", [TALL, WIDE, (100, 130)])
def test_preconditioners_are_symmetric_and_positive(estimator, shape, monkeypatch):
    monkeypatch.setattr(linear_loss, "N_DIRECTIONS", 20)
    monkeypatch.setattr(linear_loss, "N_SAMPLED", 80)
    X, y = make(*shape)
    kinds = [Objective(estimator, X, y, None)]
    kinds += [WideObjective(estimator, X, y)] if is_wide(X) else []
    for problem in kinds:
        problem.measure(Threads())
        size = problem.n_features + 1
        multiply = problem.preconditioner(0.01)
        inverse = multiply(np.eye(size))
        np.testing.assert_allclose(inverse, inverse.T, atol=1e-3 * np.abs(inverse).max())
        np.linalg.cholesky(inverse + inverse.T)
