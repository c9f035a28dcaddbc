"""Learn a linear projection of features by triplets, in which each class lies close together."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, Self

import numpy as np
from scipy.linalg import eigh
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.svm import LinearSVC
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted, validate_data

from featstore.fitting.solvers import linear
from featstore.fitting.solvers.blocks import row_blocks

N_CLASSES, N_OF_CLASS, N_ROWS = 16, 8, 96
"""Most classes of a batch, fewest rows of each, and fewest rows of all."""


N_INPUTS = 256
"""Principal components of the features that the projection is learned of."""


MAX_ROWS = 10_000
"""Most training rows that the principal components are computed of."""


DECAYS = (0.9, 0.999)
"""Decay of Adam's two moments (Kingma and Ba 2015, arXiv:1412.6980)."""


class TripletClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """The nearest class mean, or a linear SVM, in a space that is learned by triplets.

    A linear projection brings rows to points of length 1. It begins with the principal components,
    and is trained by Adam in batches of some rows of each class: for every row, its farthest row of
    the same class shall be nearer than its nearest row of another class (batch-hard triplets with
    soft margin: Hermans et al. 2017, arXiv:1703.07737).

    Parameters
    ----------
    n_components : int
        Numbers of a point.
    n_iter : int
        Batches to train on.
    learning_rate : float
        Adam's at the beginning; it falls to 0 linearly.
    head : str
        What classifies points: ``mean``, the nearest class mean, or ``svm``, LinearSVC.
    C : float
        LinearSVC's.
    random_state : int
        Draws the batches.

    Attributes
    ----------
    components_ : ndarray of shape (n_features, n_components)
        The projection, float32.
    means_ : ndarray of shape (n_classes, n_components)
        Of ``mean``: the directions of the classes' means.
    """

    _parameter_constraints = {
        "n_components": [Interval(Integral, 1, None, closed="left")],
        "n_iter": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "head": [StrOptions({"mean", "svm"})],
        "C": [Interval(Real, 0, None, closed="neither")],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        n_components: int = 128,
        *,
        n_iter: int = 500,
        learning_rate: float = 1e-3,
        head: str = "mean",
        C: float = 1.0,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.n_iter = n_iter
        self.learning_rate = learning_rate
        self.head = head
        self.C = C
        self.random_state = random_state

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """Learn the projection of standardised rows, float32, and what classifies its points."""
        self._validate_params()
        X, y = validate_data(self, X, y, dtype=np.float32, copy=False)
        self.classes_, labels = np.unique(y, return_inverse=True)
        rng = check_random_state(self.random_state)
        basis = _principal_components(X, rng)
        batches = _draw_batches(labels, self.n_iter, rng)
        rows, positions = np.unique(batches, return_inverse=True)
        inputs = np.concatenate(
            [X[rows[block]] @ basis for block in row_blocks(len(rows), len(basis))]
        )
        positions = positions.reshape(batches.shape)
        learned = _learn(inputs, labels[rows], positions, self.n_components, self.learning_rate)
        self.components_ = basis @ learned
        self._fit_head(X, y, labels)
        return self

    def _fit_head(self, X: np.ndarray, y: np.ndarray, labels: np.ndarray) -> None:
        points = self.transform(X)
        if self.head == "svm":
            self.svm_ = LinearSVC(C=self.C, random_state=0)
            linear.fit(self.svm_, points, y)
            return
        sums = np.zeros((len(self.classes_), points.shape[1]))
        np.add.at(sums, labels, points)
        self.means_ = _directions(sums)[0].astype(np.float32)

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Return the points of rows, (n_samples, n_components) float32, each of length 1."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float32, reset=False, copy=False)
        points = np.empty((len(X), self.components_.shape[1]), np.float32)
        for block in row_blocks(*X.shape):
            points[block] = _directions(X[block] @ self.components_)[0]
        return points

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Return each class's cosine or SVM's value; of two classes, the second's less the first's.

        The result is (n_samples, n_classes), or (n_samples,) of two classes.
        """
        points = self.transform(X)
        if self.head == "svm":
            values: np.ndarray = self.svm_.decision_function(points)
            return values
        values = points @ self.means_.T
        return values if len(self.classes_) > 2 else values[:, 1] - values[:, 0]

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the class of each row."""
        values = self.decision_function(X)
        codes = values.argmax(axis=1) if values.ndim == 2 else (values > 0).astype(int)
        predicted: np.ndarray = self.classes_[codes]
        return predicted


def _principal_components(X: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Return the first principal components, (n_features, n) float32.

    They are scaled together, so that the mean square of a row's length becomes 1.
    """
    if len(X) > MAX_ROWS:
        X = X[np.sort(rng.choice(len(X), MAX_ROWS, replace=False))]
    n, n_features = X.shape
    side = min(n, n_features)
    products = (X @ X.T if n < n_features else X.T @ X).astype(np.float64)
    first = max(0, side - N_INPUTS)
    values, vectors = eigh(products, subset_by_index=[first, side - 1])
    # Rows that are fewer than the components, or alike, have no others.
    kept = values > 1e-6 * values[-1]
    values, vectors = values[kept][::-1], vectors[:, kept][:, ::-1]
    if n < n_features:
        vectors = X.T @ (vectors / np.sqrt(values))
    scaled: np.ndarray = vectors / np.sqrt(values.sum() / n)
    return scaled.astype(np.float32)


def _draw_batches(labels: np.ndarray, n: int, rng: np.random.RandomState) -> np.ndarray:
    """Return the rows of each batch, (n, n_rows): as many of each of its classes."""
    rows_of = np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels))[:-1])
    n_classes = min(len(rows_of), N_CLASSES)
    n_of_class = max(N_OF_CLASS, N_ROWS // n_classes)
    batches = [
        np.concatenate(
            [
                rng.choice(rows_of[c], n_of_class, replace=len(rows_of[c]) < n_of_class)
                for c in rng.permutation(len(rows_of))[:n_classes]
            ]
        )
        for _ in range(n)
    ]
    return np.stack(batches)


def _learn(
    X: np.ndarray, labels: np.ndarray, batches: np.ndarray, n_components: int, learning_rate: float
) -> np.ndarray:
    """Return the projection, (n_inputs, n_components) float32, that batches of rows teach."""
    projection = np.eye(X.shape[1], min(n_components, X.shape[1]), dtype=np.float32)
    first, second = np.zeros_like(projection), np.zeros_like(projection)
    for step, rows in enumerate(batches):
        _, gradient = triplet_loss(projection, X[rows], labels[rows])
        first += (1 - DECAYS[0]) * (gradient - first)
        second += (1 - DECAYS[1]) * (gradient**2 - second)
        mean, square = (
            moment / (1 - decay ** (step + 1))
            for moment, decay in zip((first, second), DECAYS, strict=True)
        )
        rate = learning_rate * (1 - step / len(batches))
        projection -= np.float32(rate) * mean / (np.sqrt(square) + np.float32(1e-8))
    return projection


def triplet_loss(
    projection: np.ndarray, X: np.ndarray, labels: np.ndarray
) -> tuple[float, np.ndarray]:
    """Return the mean soft-margin loss of a batch's hardest triplets, and its gradient."""
    points, lengths = _directions(X @ projection)
    cosines = points @ points.T
    same = labels[:, None] == labels
    farthest = np.where(same, cosines, 2).argmin(axis=1)
    nearest = np.where(same, -2, cosines).argmax(axis=1)
    to_same, far = _differences(points, farthest)
    to_other, near = _differences(points, nearest)
    gap = far - near
    loss = float(np.logaddexp(0, gap).mean())
    weights = (1 / (1 + np.exp(-gap)) / len(X))[:, None]
    pull, push = weights * to_same, weights * to_other
    slope = pull - push
    np.add.at(slope, farthest, -pull)
    np.add.at(slope, nearest, push)
    slope -= points * (slope * points).sum(axis=1, keepdims=True)
    return loss, X.T @ (slope / lengths)


def _differences(points: np.ndarray, to: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the unit vectors from other points to each, and the distances."""
    differences = points - points[to]
    lengths = np.sqrt(np.square(differences).sum(axis=1))
    return differences / np.maximum(lengths, 1e-6)[:, None], lengths


def _directions(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of length 1, and their lengths before, (n, 1); rows of zeros stay zeros."""
    lengths = np.sqrt(np.square(X).sum(axis=1, keepdims=True))
    lengths = np.where(lengths > 0, lengths, 1)
    return X / lengths, lengths
