"""What a fitted pipeline says of rows: labels, and how sure it is of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.pipeline import Pipeline

from featstore.blocks import Samples, one_thread


@dataclass(frozen=True)
class Judgement:
    """What a fitted pipeline says of some rows.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,), int32
        Predicted classes, positions in the run's class names.
    scores : ndarray of shape (n_samples,), float32
        How sure it is of them.
    score_kind : str
        ``probability``, or ``decision value`` for a signed distance from the boundary.
    """

    labels: np.ndarray
    scores: np.ndarray
    score_kind: str


def judge(model: Pipeline, samples: Samples) -> Judgement:
    """Predict in blocks of rows, so that no copy of them is large.

    Parameters
    ----------
    model : Pipeline
        Fitted.
    samples : Samples
        What to predict.
    """
    kind = "probability" if hasattr(model, "predict_proba") else "decision value"
    # Where there is no decision function, predict is the largest probability. Elsewhere ties
    # (SVC's votes, SGD's clipped probabilities) make that differ.
    by_score = not hasattr(model, "decision_function")
    labels = np.empty(len(samples), dtype=np.int32)
    scores = np.empty(len(samples), dtype=np.float32)
    rate = getattr(model, "predict_proba" if kind == "probability" else "decision_function", None)
    if (
        kind != "probability"
        and getattr(model.steps[-1][1], "decision_function_shape", "") == "ovo"
    ):
        # These are of pairs of classes.
        rate = None
    with one_thread():
        for block in samples.blocks():
            X = samples.take(block)
            if rate is None:
                # A user's own classifier may do no more than predict.
                labels[block], scores[block] = model.predict(X), np.nan
                continue
            values = rate(X)
            if values.ndim == 1:
                # Two classes have one decision value: positive for the second.
                values = np.stack([-values, values], axis=1)
            if by_score:
                columns = values.argmax(axis=1)
            else:
                columns = np.searchsorted(model.classes_, model.predict(X))
            labels[block] = model.classes_[columns]
            scores[block] = values[np.arange(len(columns)), columns]
    return Judgement(labels, scores, kind)
