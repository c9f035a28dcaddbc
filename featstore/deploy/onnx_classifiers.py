"""Write fitted scikit-learn pipelines as operations of an ONNX graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import is_regressor
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier, SGDClassifier
from sklearn.multiclass import OneVsRestClassifier, _ConstantPredictor
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.svm import LinearSVC

from featstore.deploy.onnx_graph import Graph
from featstore.errors import ExportError
from featstore.fitting.solvers.similarity import SimilarityNeighbors
from featstore.fitting.solvers.triplet import TripletClassifier
from featstore.runs.calibration import DECISION, LOGIT, Calibrator
from featstore.text import nbytes_text

MAX_TRAINING_NBYTES = 500 * 2**20
"""Largest training rows of a nearest-neighbor classifier, float64, that a file takes."""


SURE = 50.0
"""A decision value whose sigmoid is 1 in float32."""


@dataclass(frozen=True)
class Scores:
    """What a classifier computes of each row: tensors (n, n_classes), or None.

    Of two classes, `decisions` is (n, 1), positive for the second. Of a regression, `value` is
    (n,).
    """

    decisions: str | None = None
    probabilities: str | None = None
    value: str | None = None


def add_pipeline(graph: Graph, features: str, model: Pipeline) -> Scores:
    """Append a fitted pipeline to rows of features, (n, n_features) float32."""
    for _, step in model.steps[:-1]:
        features = _add_step(graph, features, step)
    clf = model.steps[-1][1]
    for type_, function in _CONVERTERS.items():
        if isinstance(clf, type_):
            return function(graph, features, clf)
    known = (
        "logreg, linear-svm, nystroem-svm, ridge, lda, sgd, mlp, softmax, dbn, triplet, knn and "
        "similarity-knn"
    )
    raise ExportError(
        f"{type(clf).__name__} can't be written as ONNX. "
        f"{'ridge and mlp' if is_regressor(clf) else known} can: fit one of them on the same "
        "features."
    )


def add_calibration(graph: Graph, found: Scores, calibrator: Calibrator, n_classes: int) -> str:
    """Append a calibration to a classifier's scores, and return probabilities (n, n_classes)."""
    floor, one = graph.constant(calibrator.floor), graph.constant(1.0)
    if calibrator.scores == DECISION:
        scores = str(found.decisions)
        if calibrator.kind == "temperature" and n_classes == 2:
            halves = graph.constant([[-0.5, 0.5]])
            scores = graph.add("MatMul", scores, halves)
    else:
        p = str(found.probabilities)
        odds = graph.add("Add", p, floor)
        if calibrator.scores == LOGIT:
            odds = graph.add("Div", odds, graph.add("Add", graph.add("Sub", one, p), floor))
        scores = graph.add("Log", odds)
    if calibrator.kind == "temperature":
        divided = graph.add("Div", scores, graph.constant(calibrator.temperature))
        return graph.add("Softmax", divided, axis=1)
    stretched = graph.add("Mul", scores, graph.constant(calibrator.slopes))
    return graph.add("Sigmoid", graph.add("Add", stretched, graph.constant(calibrator.intercepts)))


def _add_step(graph: Graph, X: str, step: Any) -> str:
    if isinstance(step, StandardScaler):
        X = graph.add("Sub", X, graph.constant(step.mean_))
        return graph.add("Div", X, graph.constant(step.scale_))
    if isinstance(step, MinMaxScaler) and step.clip:
        X = graph.add(
            "Add", graph.add("Mul", X, graph.constant(step.scale_)), graph.constant(step.min_)
        )
        low, high = (graph.constant(float(bound)) for bound in step.feature_range)
        return graph.add("Clip", X, low, high)
    if isinstance(step, Nystroem) and step.kernel == "rbf":
        squares = _squared_distances(graph, X, step.components_)
        gamma = 1 / step.components_.shape[1] if step.gamma is None else step.gamma
        kernel = graph.add("Exp", graph.add("Mul", squares, graph.constant(-gamma, np.float64)))
        basis = graph.constant(step.normalization_.T, np.float64)
        return graph.cast(graph.add("MatMul", kernel, basis), np.float32)
    raise ExportError(f"{type(step).__name__} before a classifier can't be written as ONNX.")


def _squared_distances(graph: Graph, X: str, rows: np.ndarray) -> str:
    """Return the squared distances from each row of X to other rows, float64."""
    rows = np.asarray(rows, np.float64)
    X = graph.cast(X, np.float64)
    axis = graph.constant([1], np.int64)
    own = graph.add("ReduceSum", graph.add("Mul", X, X), axis, keepdims=1)
    products = graph.add("MatMul", X, graph.constant(-2 * rows.T, np.float64))
    squares = graph.add(
        "Add", graph.add("Add", products, own), graph.constant((rows**2).sum(axis=1), np.float64)
    )
    return graph.add("Max", squares, graph.constant(0.0, np.float64))


def _affine(graph: Graph, X: str, weights: np.ndarray, biases: np.ndarray) -> str:
    return graph.add("Gemm", X, graph.constant(weights), graph.constant(biases))


def _decisions(graph: Graph, X: str, clf: Any) -> str:
    """Return the decision values of a linear classifier."""
    coef = np.atleast_2d(clf.coef_)
    return _affine(graph, X, coef.T, np.broadcast_to(clf.intercept_, len(coef)))


def _both(graph: Graph, p: str) -> str:
    """Return the probabilities of two classes from that of the second, (n, 1)."""
    return graph.add("Concat", graph.add("Sub", graph.constant(1.0), p), p, axis=1)


def _linear(graph: Graph, X: str, clf: Any) -> Scores:
    return Scores(_decisions(graph, X, clf))


def _softmax(graph: Graph, X: str, clf: Any) -> Scores:
    values = _decisions(graph, X, clf)
    if len(clf.classes_) == 2:
        return Scores(values, _both(graph, graph.add("Sigmoid", values)))
    return Scores(values, graph.add("Softmax", values, axis=1))


def _sgd(graph: Graph, X: str, clf: SGDClassifier) -> Scores:
    if clf.loss != "log_loss":
        if clf.loss == "modified_huber":
            raise ExportError(
                "sgd with loss=modified_huber can't be written as ONNX; with loss=log_loss it can."
            )
        return _linear(graph, X, clf)
    values = _decisions(graph, X, clf)
    if len(clf.classes_) == 2:
        return Scores(values, _both(graph, graph.add("Sigmoid", values)))
    # The sigmoids divided by their sum. Where all are tiny, their logarithms still tell them apart.
    logarithms = graph.add("Neg", graph.add("Softplus", graph.add("Neg", values)))
    return Scores(values, graph.add("Softmax", logarithms, axis=1))


def _mlp(graph: Graph, X: str, clf: Any) -> Scores:
    hidden = {"relu": "Relu", "logistic": "Sigmoid", "tanh": "Tanh", "identity": "Identity"}
    last = len(clf.coefs_) - 1
    for i, (weights, biases) in enumerate(zip(clf.coefs_, clf.intercepts_, strict=True)):
        X = _affine(graph, X, weights, biases)
        if i < last:
            X = graph.add(hidden[clf.activation], X)
    if isinstance(clf, MLPRegressor):
        return Scores(value=graph.add("Squeeze", X, graph.constant([1], np.int64)))
    if clf.out_activation_ == "softmax":
        return Scores(probabilities=graph.add("Softmax", X, axis=1))
    shares = graph.add("Sigmoid", X)
    is_pair = clf.n_outputs_ == 1
    return Scores(probabilities=_both(graph, shares) if is_pair else shares)


def _triplet(graph: Graph, X: str, clf: TripletClassifier) -> Scores:
    points = graph.add("MatMul", X, graph.constant(clf.components_))
    points = graph.add("LpNormalization", points, axis=1, p=2)
    if clf.head == "svm":
        return _linear(graph, points, clf.svm_)
    means = clf.means_ if len(clf.classes_) > 2 else clf.means_[1:] - clf.means_[:1]
    return Scores(graph.add("MatMul", points, graph.constant(means.T)))


def _knn(graph: Graph, X: str, clf: KNeighborsClassifier) -> Scores:
    rows, metric = np.asarray(clf._fit_X), clf.effective_metric_
    if clf.outputs_2d_ or metric not in ("euclidean", "cosine") or callable(clf.weights):
        raise ExportError(
            "knn is written as ONNX for images of one class each, with the metrics euclidean and "
            "cosine. Fit logreg, or another classifier, on the same features."
        )
    if rows.size * 8 > MAX_TRAINING_NBYTES:
        raise ExportError(
            f"knn keeps its {len(rows):,} training rows, {nbytes_text(rows.size * 8)} in "
            "the file. Fit logreg, or another classifier, on the same features."
        )
    if metric == "cosine":
        X = graph.add("LpNormalization", graph.cast(X, np.float64), axis=1, p=2)
        lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
        rows = rows / np.where(lengths > 0, lengths, 1)
    distances = _squared_distances(graph, X, rows)
    if metric == "cosine":
        # Of vectors of length 1, half the squared distance is 1 less the cosine.
        distances = graph.add("Mul", distances, graph.constant(0.5, np.float64))
    k = graph.constant([min(clf.n_neighbors, len(rows))], np.int64)
    nearest, at = graph.add_several("TopK", 2, distances, k, axis=1, largest=0)
    own = np.eye(len(clf.classes_), dtype=np.float64)[clf._y]
    votes = graph.add("Gather", graph.constant(own, np.float64), at, axis=0)
    axis = graph.constant([1], np.int64)
    if clf.weights == "distance":
        if metric == "euclidean":
            nearest = graph.add("Sqrt", nearest)
        # Rows that are the same as training rows count these alone.
        same = graph.cast(graph.add("Equal", nearest, graph.constant(0.0, np.float64)), np.float64)
        any_same = graph.add("ReduceMax", same, axis, keepdims=1)
        weights = graph.add(
            "Where", graph.cast(any_same, np.bool_), same, graph.add("Reciprocal", nearest)
        )
        votes = graph.add(
            "Mul", votes, graph.add("Unsqueeze", weights, graph.constant([2], np.int64))
        )
    if isinstance(clf, SimilarityNeighbors):
        first = graph.add("ReduceMin", nearest, axis, keepdims=1)
        temperature = graph.constant(clf.temperature, np.float64)
        gaps = graph.add("Div", graph.add("Sub", first, nearest), temperature)
        weights = graph.add("Unsqueeze", graph.add("Exp", gaps), graph.constant([2], np.int64))
        votes = graph.add("Mul", votes, weights)
    counts = graph.add("ReduceSum", votes, axis, keepdims=0)
    total = graph.add("ReduceSum", counts, axis, keepdims=1)
    return Scores(probabilities=graph.cast(graph.add("Div", counts, total), np.float32))


def _one_vs_rest(graph: Graph, X: str, clf: OneVsRestClassifier) -> Scores:
    fitted = [one for one in clf.estimators_ if not isinstance(one, _ConstantPredictor)]
    kind = type(fitted[0])
    if kind not in _LINEAR or getattr(fitted[0], "loss", "") == "modified_huber":
        raise ExportError(
            f"{kind.__name__} for each of several classes can't be written as ONNX. Fit logreg, "
            "linear-svm, ridge, lda, sgd, mlp or softmax on the same features."
        )
    weights = np.zeros((len(clf.estimators_), fitted[0].n_features_in_))
    biases, certain = np.zeros(len(weights)), np.zeros(len(weights))
    for i, one in enumerate(clf.estimators_):
        if isinstance(one, _ConstantPredictor):
            # All training rows have the class, or none.
            biases[i] = float(one.y_[0])
            certain[i] = SURE * (2 * biases[i] - 1)
            continue
        weights[i] = np.ravel(one.coef_)
        biases[i] = np.ravel(one.intercept_)[0]
    values = _affine(graph, X, weights.T, biases)
    if not hasattr(clf, "predict_proba"):
        return Scores(values)
    return Scores(values, graph.add("Sigmoid", graph.add("Add", values, graph.constant(certain))))


def _ridge(graph: Graph, X: str, clf: Ridge) -> Scores:
    value = _affine(graph, X, np.reshape(clf.coef_, (1, -1)).T, np.ravel(clf.intercept_))
    return Scores(value=graph.add("Squeeze", value, graph.constant([1], np.int64)))


_LINEAR = (
    LogisticRegression,
    LinearSVC,
    RidgeClassifier,
    LinearDiscriminantAnalysis,
    SGDClassifier,
)


_CONVERTERS: dict[type, Callable[[Graph, str, Any], Scores]] = {
    LogisticRegression: _softmax,
    LinearDiscriminantAnalysis: _softmax,
    LinearSVC: _linear,
    RidgeClassifier: _linear,
    SGDClassifier: _sgd,
    # The deep belief network is one, too.
    MLPClassifier: _mlp,
    MLPRegressor: _mlp,
    TripletClassifier: _triplet,
    KNeighborsClassifier: _knn,
    OneVsRestClassifier: _one_vs_rest,
    Ridge: _ridge,
}
