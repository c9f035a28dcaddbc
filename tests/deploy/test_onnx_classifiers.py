from __future__ import annotations

import numpy as np
import pytest
from conftest import blobs

from featstore.deploy.check import run_file
from featstore.deploy.onnx_classifiers import add_calibration, add_pipeline
from featstore.deploy.onnx_graph import Graph
from featstore.errors import ExportError
from featstore.fitting.classifiers import CLASSIFIERS
from featstore.fitting.evaluate import model_values
from featstore.fitting.regressors import REGRESSORS
from featstore.fitting.tasks.multilabel import Multilabel
from featstore.runs.calibration import DECISION, LOG_PROBABILITY, LOGIT, Calibrator

SMALL = {
    "nystroem-svm": {"n_components": 20},
    "mlp": {"hidden_layer_sizes": (8, 8), "max_iter": 20},
    "softmax": {"max_iter": 20},
    "dbn": {"hidden_layer_sizes": (8, 8), "max_iter": 3, "rbm_epochs": 1},
    "triplet": {"n_iter": 10, "n_components": 4},
}
NOT_WRITTEN = {"svm"}
VARIANTS = [
    *((name, {}) for name in CLASSIFIERS if name not in NOT_WRITTEN),
    ("knn", {"metric": "cosine"}),
    ("knn", {"weights": "distance"}),
    ("knn", {"metric": "cosine", "weights": "distance"}),
    ("sgd", {"loss": "hinge"}),
    ("triplet", {"head": "svm"}),
]
pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    # One class has all rows, and another none.
    pytest.mark.filterwarnings("ignore:Label .* is present:UserWarning"),
    pytest.mark.filterwarnings("ignore:Label not .* is present:UserWarning"),
]


def fitted(classifier, X, y, own):
    model = classifier.pipeline(classifier.params(SMALL.get(classifier.name, {}) | own), 0)
    return model.fit(X, y)


def outputs(model, X, folder):
    graph = Graph()
    found = add_pipeline(graph, graph.input("X", "float32", ["n", X.shape[1]]), model)
    for name, tensor in vars(found).items():
        if tensor is not None:
            graph.output(tensor, name, "float32", ["n"] if name == "value" else ["n", "c"])
    graph.write(folder / "model.onnx", "model", {})
    return run_file(folder / "model.onnx", [X])


def expect_same(found, model, X):
    """Check the outputs against scikit-learn's own."""
    names = {"probabilities": "predict_proba", "decisions": "decision_function"}
    own = {name for name, method in names.items() if hasattr(model, method)}
    assert set(found) == own
    for name in own:
        expected = getattr(model, names[name])(X)
        unit = max(1.0, float(np.abs(expected).max()))
        assert found[name] == pytest.approx(expected.reshape(len(X), -1), abs=1e-5 * unit)


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize(("name", "own"), VARIANTS)
def test_each_classifier_gives_the_scores_of_scikit_learn(name, own, n_classes, tmp_path):
    X, y = blobs(80, 6, n_classes)
    # Some rows are those of the training, and have a distance of 0.
    new = np.concatenate([X[:10], X + 0.5]).astype(np.float32)
    model = fitted(CLASSIFIERS[name], X, y, own)
    expect_same(outputs(model, new, tmp_path), model, new)


@pytest.mark.parametrize("name", ["logreg", "linear-svm", "ridge", "lda", "sgd", "mlp"])
def test_several_classes_have_a_score_each(name, tmp_path):
    X, y = blobs(80, 6)
    # The last class is one that no row has.
    Y = np.stack([y == 0, y > 1, y == y, y < 0], axis=1).astype(int)
    model = fitted(Multilabel.classifiers[name], X, Y, {})
    expect_same(outputs(model, X, tmp_path), model, X)


def calibrator(kind, scores, n_classes, floor):
    slopes, intercepts = np.linspace(0.5, 2, n_classes), np.linspace(-1, 1, n_classes)
    return Calibrator(kind, scores, floor, 0.7, tuple(slopes), tuple(intercepts), "rows", 9)


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize(
    ("name", "scores", "floor"), [("lda", DECISION, 0.0), ("knn", LOG_PROBABILITY, 0.1)]
)
def test_one_class_is_calibrated_by_a_temperature(name, scores, floor, n_classes, tmp_path):
    X, y = blobs(80, 6, n_classes)
    expect_calibrated(
        fitted(CLASSIFIERS[name], X, y, {}), X, "temperature", scores, floor, tmp_path
    )


@pytest.mark.parametrize(
    ("name", "scores", "floor"), [("ridge", DECISION, 0.0), ("mlp", LOGIT, 1e-7)]
)
def test_several_classes_are_calibrated_by_sigmoids(name, scores, floor, tmp_path):
    X, y = blobs(80, 6)
    Y = np.stack([y == 0, y > 1, y == 1], axis=1).astype(int)
    model = fitted(Multilabel.classifiers[name], X, Y, {})
    expect_calibrated(model, X, "sigmoid", scores, floor, tmp_path)


def expect_calibrated(model, X, kind, scores, floor, folder):
    """Check calibrated probabilities against the calibrator's own."""
    values = model_values(model, X, scores)
    n_classes = 2 if values.ndim == 1 else values.shape[1]
    own = calibrator(kind, scores, n_classes, floor)
    graph = Graph()
    found = add_pipeline(graph, graph.input("X", "float32", ["n", X.shape[1]]), model)
    graph.output(add_calibration(graph, found, own, n_classes), "p", "float32", ["n", "c"])
    graph.write(folder / "model.onnx", "model", {})
    assert run_file(folder / "model.onnx", [X])["p"] == pytest.approx(own.apply(values), abs=1e-5)


@pytest.mark.parametrize("name", ["ridge", "mlp"])
def test_numbers_are_those_of_scikit_learn(name, tmp_path):
    X, _ = blobs(80, 6)
    model = fitted(REGRESSORS[name], X, X @ np.arange(6, dtype=np.float32) + 100, {})
    expected = model.predict(X)
    assert outputs(model, X, tmp_path)["value"] == pytest.approx(np.ravel(expected), rel=1e-4)


@pytest.mark.parametrize(
    ("classifier", "own", "cure"),
    [
        (CLASSIFIERS["svm"], {}, "Fit|fit"),
        (CLASSIFIERS["knn"], {"metric": "manhattan"}, "Fit logreg"),
        (CLASSIFIERS["sgd"], {"loss": "modified_huber"}, "log_loss"),
        (REGRESSORS["knn"], {}, "ridge and mlp"),
    ],
)
def test_what_can_not_be_written_is_refused_with_what_can(classifier, own, cure):
    X, y = blobs(40, 6)
    with pytest.raises(ExportError, match=cure):
        add_pipeline(Graph(), "X", fitted(classifier, X, y, own))
