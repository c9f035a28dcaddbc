"""Train networks by Adam, and linear models on many rows, in batches that all cores share.

scikit-learn's MLPClassifier takes 200 rows a step on one core, and most of a small step's time goes
into checks of its input. SGDClassifier takes a single row a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from scipy.special import expit
from sklearn.linear_model import SGDClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.neural_network._base import ACTIVATIONS, DERIVATIVES

from featstore.fitting.estimators import MANY_ROWS
from featstore.fitting.solvers.blocks import N_PARTS, Threads

Estimator: TypeAlias = MLPClassifier | MLPRegressor | SGDClassifier

SMALL_BATCH, LARGE_BATCH = 200, 1000
"""Rows of scikit-learn's batches, and most rows of one here."""


PART_ROWS = 250
"""Rows of a batch whose gradient one thread computes; the parts' gradients are added in order."""


PIECE_VALUES = 2**15
"""Weights that one thread changes at a time, in the processor's cache."""


LINEAR_RATE = 0.1
"""Adam's learning rate of linear models in the first epoch, times the root of the features."""


MARGIN_LOSSES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "log_loss": lambda z: np.logaddexp(0.0, -z),
    "hinge": lambda z: np.maximum(0.0, 1.0 - z),
    "squared_hinge": lambda z: np.maximum(0.0, 1.0 - z) ** 2,
    "modified_huber": lambda z: np.where(z >= -1.0, np.maximum(0.0, 1.0 - z) ** 2, -4.0 * z),
    "perceptron": lambda z: np.maximum(0.0, -z),
}
"""SGDClassifier's classification losses, as functions of the margin."""


SLOPES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "log_loss": lambda z: -expit(-z),
    "hinge": lambda z: np.where(z < 1.0, -1.0, 0.0),
    "squared_hinge": lambda z: -2.0 * np.maximum(0.0, 1.0 - z),
    "modified_huber": lambda z: np.where(z >= -1.0, -2.0 * np.maximum(0.0, 1.0 - z), -4.0),
    "perceptron": lambda z: np.where(z <= 0.0, -1.0, 0.0),
}
"""Their derivatives by the margin."""


def handles(estimator: Any, n_rows: int) -> bool:
    """Return whether :class:`Batches` can train `estimator` on so many rows.

    Learning rates and penalties that a user chooses for SGDClassifier are for steps of one row.
    """
    if not estimator.shuffle:
        return False
    if isinstance(estimator, SGDClassifier):
        own = estimator.learning_rate, estimator.penalty
        is_plain = own == ("optimal", "l2") and not estimator.average and estimator.fit_intercept
        return is_plain and n_rows > MANY_ROWS
    if type(estimator) is MLPRegressor and estimator.loss != "squared_error":
        return False
    return type(estimator) in (MLPClassifier, MLPRegressor) and estimator.solver == "adam"


class Batches:
    """The weights of an estimator while Adam trains them (Kingma and Ba 2014, arXiv:1412.6980).

    Up to :data:`.MANY_ROWS` rows, a network's batches and steps are scikit-learn's. Of more rows,
    batches are larger; the objective is that of scikit-learn's batches, and so is the learning
    rate. The last bits do not depend on the number of threads.

    `estimator` has seen some rows by ``partial_fit``. `y` is (n_samples,) of positions of classes
    or of numbers, or (n_samples, n_classes) of 0 and 1.
    """

    def __init__(self, estimator: Estimator, n_rows: int, threads: Threads) -> None:
        self._estimator, self._threads = estimator, threads
        self._is_linear = isinstance(estimator, SGDClassifier)
        given = estimator.get_params(deep=False).get("batch_size", "auto")
        self.n_in_batch = min(LARGE_BATCH, max(SMALL_BATCH, n_rows // 200), n_rows)
        if given != "auto":
            self.n_in_batch = min(int(given), n_rows)
        # scikit-learn divides a network's penalty by the rows of a batch.
        self._n_penalty: int | None = None
        if self._is_linear:
            weights = [np.zeros_like(estimator.coef_.T, np.float32)]
            biases = [np.zeros_like(estimator.intercept_, np.float32)]
            self._rate = LINEAR_RATE / math.sqrt(len(weights[0]))
            self._beta_1, self._beta_2 = 0.9, 0.999
            self._epsilon, self._alpha, self._n_penalty = 1e-8, estimator.alpha, 1
            slope, loss = SLOPES[estimator.loss], MARGIN_LOSSES[estimator.loss]
            self._output: Output = partial(_margins, slope, loss, _row_weights(estimator))
        else:
            weights, biases = estimator.coefs_, estimator.intercepts_
            self._rate = estimator.learning_rate_init
            self._beta_1, self._beta_2 = estimator.beta_1, estimator.beta_2
            self._epsilon, self._alpha = estimator.epsilon, estimator.alpha
            if n_rows > MANY_ROWS:
                self._n_penalty = SMALL_BATCH if given == "auto" else self.n_in_batch
            self._output = OUTPUTS[estimator.out_activation_]
        self._shapes = [w.shape for w in (*weights, *biases)]
        self._n_weights = sum(w.size for w in weights)
        self._values = np.concatenate([w.ravel() for w in (*weights, *biases)], dtype=np.float32)
        self._weights, self._biases = self._views(self._values)
        self._n_in_part = max(PART_ROWS, -(-self.n_in_batch // N_PARTS))
        n_parts = -(-self.n_in_batch // self._n_in_part)
        self._gradients = [np.empty_like(self._values) for _ in range(n_parts)]
        self._gradient_views = [self._views(gradient) for gradient in self._gradients]
        self._first, self._second = np.zeros_like(self._values), np.zeros_like(self._values)
        self._n_steps = self._n_epochs = 0
        self._show()

    def _views(self, values: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return all weights, and all biases, as views of one vector."""
        ends = np.cumsum([math.prod(shape) for shape in self._shapes])[:-1]
        parts = [
            part.reshape(shape)
            for part, shape in zip(np.split(values, ends), self._shapes, strict=True)
        ]
        return parts[: len(parts) // 2], parts[len(parts) // 2 :]

    def _show(self) -> None:
        """Let the estimator predict with the current weights."""
        if self._is_linear:
            self._estimator.coef_ = np.ascontiguousarray(self._weights[0].T)
            self._estimator.intercept_ = self._biases[0].copy()
        else:
            self._estimator.coefs_, self._estimator.intercepts_ = self._weights, self._biases

    def epoch(self, X: np.ndarray, y: np.ndarray, order: np.ndarray) -> float:
        """Train on the rows of an order once; return their mean loss, with a network's penalty."""
        total = 0.0
        rate = self._rate
        if self._is_linear:
            # Steps that shrink let a linear model settle at the optimum.
            rate /= math.sqrt(1 + self._n_epochs)
        for start in range(0, len(order), self.n_in_batch):
            rows = order[start : start + self.n_in_batch]
            parts = [rows[at : at + self._n_in_part] for at in range(0, len(rows), self._n_in_part)]
            found = self._threads.map(partial(self._descend, X, y), enumerate(parts))
            total += sum(found)
            penalty = self._alpha / (self._n_penalty or len(rows))
            if not self._is_linear:
                own = self._values[: self._n_weights]
                total += len(rows) * 0.5 * penalty * float(own @ own)
            self._n_steps += 1
            step = partial(self._step, len(parts), len(rows), rate, penalty)
            self._threads.map(step, range(0, len(self._values), PIECE_VALUES))
        self._n_epochs += 1
        self._show()
        return total / len(order)

    def _descend(self, X: np.ndarray, y: np.ndarray, part: tuple[int, np.ndarray]) -> float:
        """Put the gradient of a part's summed loss in its place, and return the loss."""
        number, rows = part
        weights, biases = self._gradient_views[number]
        activation = "identity" if self._is_linear else self._estimator.activation
        values = [X[rows]]
        for weight, bias in zip(self._weights, self._biases, strict=True):
            z = values[-1] @ weight
            z += bias
            if len(values) < len(self._weights):
                ACTIVATIONS[activation](z)
            values.append(z)
        loss, delta = self._output(values.pop(), y[rows])
        for layer in reversed(range(len(self._weights))):
            np.matmul(values[layer].T, delta, out=weights[layer])
            delta.sum(axis=0, out=biases[layer])
            if layer:
                delta = delta @ self._weights[layer].T
                DERIVATIVES[activation](values[layer], delta)
        return loss

    def _step(self, n_parts: int, n_rows: int, rate: float, penalty: float, start: int) -> None:
        """Change the weights, and biases, from a position on as scikit-learn's Adam does."""
        at = slice(start, start + PIECE_VALUES)
        gradient = self._gradients[0][at]
        for other in self._gradients[1:n_parts]:
            gradient += other[at]
        gradient /= n_rows
        values, first, second = self._values[at], self._first[at], self._second[at]
        n_shrunk = max(0, self._n_weights - start)
        gradient[:n_shrunk] += penalty * values[:n_shrunk]
        first *= self._beta_1
        first += (1 - self._beta_1) * gradient
        second *= self._beta_2
        np.square(gradient, out=gradient)
        gradient *= 1 - self._beta_2
        second += gradient
        bias_1, bias_2 = 1 - self._beta_1**self._n_steps, 1 - self._beta_2**self._n_steps
        np.sqrt(second, out=gradient)
        gradient += self._epsilon
        np.divide(first, gradient, out=gradient)
        gradient *= rate * math.sqrt(bias_2) / bias_1
        values -= gradient


Output: TypeAlias = Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray]]


def _softmax(z: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    ACTIVATIONS["softmax"](z)
    at = np.arange(len(z)), y
    loss = -float(np.log(np.maximum(z[at], np.finfo(z.dtype).eps)).sum(dtype=np.float64))
    z[at] -= 1
    return loss, z


def _logistic(z: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    y = y.reshape(z.shape)
    loss = float(np.logaddexp(0.0, np.where(y, -z, z)).sum(dtype=np.float64))
    expit(z, out=z)
    z -= y
    return loss, z


def _number(z: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    z -= y.reshape(z.shape)
    return 0.5 * float(np.square(z).sum(dtype=np.float64)), z


OUTPUTS: Mapping[str, Output] = {"softmax": _softmax, "logistic": _logistic, "identity": _number}
"""By a network's last activation: the summed loss of rows, and its derivatives by the outputs."""


def _margins(
    slope: Callable[[np.ndarray], np.ndarray],
    loss: Callable[[np.ndarray], np.ndarray],
    row_weights: Callable[[np.ndarray], np.ndarray | float],
    z: np.ndarray,
    y: np.ndarray,
) -> tuple[float, np.ndarray]:
    """Return the summed loss of one-vs-rest problems, their mean a row, and its derivatives."""
    is_own = y[:, None] == (np.arange(z.shape[1]) if z.shape[1] > 1 else 1)
    signs = np.where(is_own, np.float32(1), np.float32(-1))
    z *= signs
    total = float(loss(z).sum(dtype=np.float64)) / z.shape[1]
    return total, (slope(z) * signs * row_weights(is_own)).astype(np.float32, copy=False)


def _row_weights(estimator: SGDClassifier) -> Callable[[np.ndarray], np.ndarray | float]:
    """Return the weights of rows in each problem, by whether a row has the problem's class."""
    if not estimator.class_weight:
        return lambda is_own: 1.0
    own = np.array([estimator.class_weight.get(c, 1.0) for c in estimator.classes_], np.float32)
    # Of two classes there is one problem, whose rest is a class with a weight of its own.
    rest = own[0] if len(own) == 2 else np.float32(1)
    return lambda is_own: np.where(is_own, own[-1] if len(own) == 2 else own, rest)
