"""Score an estimator after an epoch: sgd's loss, and the share of right rows, mAP or R²."""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import SGDClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor

from featstore.fitting.solvers.batches import MARGIN_LOSSES, Estimator
from featstore.fitting.solvers.blocks import CACHED_NBYTES, Threads, row_blocks
from featstore.runs.scoring.influence import mean_average_precision, r2


def score(
    estimator: Estimator, X: np.ndarray, y: np.ndarray, rows: np.ndarray, threads: Threads
) -> tuple[float, float]:
    """Return sgd's mean loss and the score of some rows after an epoch."""
    if isinstance(estimator, MLPRegressor) or y.ndim == 2:
        return np.nan, _score_outputs(estimator, X, y, rows)
    # Without a copy if the rows are all.
    blocks = row_blocks(len(rows), X.shape[1], CACHED_NBYTES, n_outputs=len(estimator.classes_))
    at = [block if len(rows) == len(X) else rows[block] for block in blocks]
    found = threads.map(lambda own: _score_rows(estimator, X[own], y[own]), at)
    total, n_right = (sum(column) for column in zip(*found, strict=True))
    return total / len(rows), n_right / len(rows)


def _score_rows(
    estimator: MLPClassifier | SGDClassifier, X: np.ndarray, y: np.ndarray
) -> tuple[float, int]:
    """Return sgd's summed loss and the number of right rows."""
    if isinstance(estimator, MLPClassifier):
        return np.nan, int(np.sum(estimator.predict(X) == y))
    values = estimator.decision_function(X)
    if values.ndim == 1:
        signs = np.where(y == estimator.classes_[1], 1.0, -1.0)
        found = (values > 0).astype(int)
    else:
        signs = np.where(y[:, None] == estimator.classes_, 1.0, -1.0)
        found = values.argmax(axis=1)
    losses = MARGIN_LOSSES[estimator.loss](signs * values)
    total = float(losses.sum(dtype=np.float64)) / (losses.size / len(losses))
    return total, int(np.sum(estimator.classes_[found] == y))


def _score_outputs(
    estimator: MLPClassifier | MLPRegressor, X: np.ndarray, y: np.ndarray, rows: np.ndarray
) -> float:
    """Return R² of a number, or the mean average precision of several classes."""
    is_number = isinstance(estimator, MLPRegressor)
    predict = estimator.predict if is_number else estimator.predict_proba
    n_outputs = estimator.n_outputs_
    blocks = row_blocks(len(rows), X.shape[1], n_outputs=n_outputs)
    at = [block if len(rows) == len(X) else rows[block] for block in blocks]
    predicted = np.concatenate([predict(X[own]) for own in at])
    true = y if len(rows) == len(X) else y[rows]
    if is_number:
        found = r2(true, predicted)
        return found.value if found else 0.0
    return mean_average_precision(true, predicted).value
