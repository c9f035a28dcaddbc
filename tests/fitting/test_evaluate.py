import tracemalloc

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression, RidgeClassifier, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from featstore.fitting.evaluate import predict_blocks
from featstore.fitting.solvers.blocks import Samples


@pytest.fixture
def data(tmp_path):
    """Return X, a read-only memory map of float32, and y, of three classes."""
    rng = np.random.default_rng(0)
    y = (np.arange(150) % 3).astype(np.int32)
    X = rng.normal(size=(3, 12))[y] + rng.normal(size=(150, 12))
    np.save(tmp_path / "X.npy", X.astype(np.float32))
    return np.load(tmp_path / "X.npy", mmap_mode="r"), y


class Plain(ClassifierMixin, BaseEstimator):
    """A classifier that can do no more than predict."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return self.classes_[(X[:, 0] > 0).astype(int)]


@pytest.mark.parametrize("rows", [slice(0, 150), slice(20, 90), np.array([3, 140, 7, 8])])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(
    ("estimator", "kind"),
    [
        (LogisticRegression(), "uncalibrated probability"),
        (SGDClassifier(loss="modified_huber", random_state=0), "uncalibrated probability"),
        (GaussianNB(), "uncalibrated probability"),
        (RidgeClassifier(), "decision value"),
        (SVC(), "decision value"),
    ],
)
def test_labels_are_the_predicted_and_scores_theirs(data, rows, n_classes, estimator, kind):
    X, y = data
    y = y % n_classes
    model = make_pipeline(StandardScaler(), estimator).fit(X, y)
    predicted = predict_blocks(model, Samples(X, rows))
    np.testing.assert_array_equal(predicted.labels, model.predict(X[rows]))
    assert (predicted.labels.dtype, predicted.scores.dtype) == (np.int32, np.float32)
    assert predicted.score_kind == kind
    assert np.isfinite(predicted.scores).all()
    if kind != "decision value":
        values = model.predict_proba(X[rows])
        assert predicted.scores.max() <= 1
    else:
        values = model.decision_function(X[rows])
        values = np.stack([-values, values], axis=1) if n_classes == 2 else values
    expected = values[np.arange(len(predicted.labels)), predicted.labels]
    np.testing.assert_allclose(predicted.scores, expected, rtol=1e-5)


def test_labels_need_not_begin_at_0(data):
    X, y = data
    model = make_pipeline(LogisticRegression()).fit(X, y * 3 + 2)
    assert set(predict_blocks(model, Samples(X, slice(0, 150))).labels) == {2, 5, 8}


def test_what_only_predicts_has_no_scores(data):
    X, y = data
    model = Pipeline([("clf", Plain())]).fit(X, y % 2 + 4)
    predicted = predict_blocks(model, Samples(X, slice(0, 150)))
    np.testing.assert_array_equal(predicted.labels, model.predict(X))
    assert np.isnan(predicted.scores).all()


def test_rows_are_judged_in_blocks(monkeypatch):
    X = np.random.default_rng(0).normal(size=(40_000, 50)).astype(np.float32)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(X[:99], np.arange(99) % 2)
    whole = predict_blocks(model, Samples(X, slice(0, len(X))))
    monkeypatch.setattr(
        Samples, "blocks", lambda self, **_: [slice(i, i + 1000) for i in range(0, 40_000, 1000)]
    )
    tracemalloc.start()
    parts = predict_blocks(model, Samples(X, np.arange(len(X))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(parts.labels, whole.labels)
    np.testing.assert_allclose(parts.scores, whole.scores, rtol=1e-4)
    assert peak < X.nbytes / 4


def test_scores_of_pairs_of_classes_are_none_of_classes(data):
    X, y = data
    model = make_pipeline(SVC(decision_function_shape="ovo")).fit(X, y)
    predicted = predict_blocks(model, Samples(X, slice(0, 150)))
    np.testing.assert_array_equal(predicted.labels, model.predict(X))
    assert np.isnan(predicted.scores).all()
