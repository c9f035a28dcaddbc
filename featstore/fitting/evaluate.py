"""What a fitted pipeline says of rows: labels, and how sure it is of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import cohen_kappa_score, confusion_matrix, precision_recall_fscore_support
from sklearn.pipeline import Pipeline

from featstore.errors import FitError
from featstore.fitting.solvers.blocks import Samples, one_thread
from featstore.fitting.splits import Split, row_numbers
from featstore.store.selection import Selection
from featstore.text import join_some


@dataclass(frozen=True)
class Predictions:
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


def predict_blocks(model: Pipeline, samples: Samples) -> Predictions:
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
    return Predictions(labels, scores, kind)


def check_features(
    selection: Selection, split: Split, features: Mapping[str, Samples], notes: list[str]
) -> int:
    """Refuse features that are no numbers, note those that are constant, and count these.

    Parameters
    ----------
    selection : Selection
    split : Split
    features : mapping of str to Samples
        The rows of each use.
    notes : list of str
        Added to.

    Raises
    ------
    FitError
        When a feature is not finite, or all are constant.
    """
    n_features = selection.n_features
    lowest = np.full(n_features, np.inf, dtype=np.float32)
    highest = -lowest
    for use, rows in split.uses().items():
        for block in features[use].blocks():
            values = features[use].take(block)
            low, high = values.min(axis=0), values.max(axis=0)
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                _refuse_non_finite(selection, row_numbers(rows)[block], values)
            if use == "train":
                np.minimum(lowest, low, out=lowest)
                np.maximum(highest, high, out=highest)
    constant = np.flatnonzero(lowest == highest)
    if constant.size == n_features:
        raise FitError(
            f"All {n_features} features are the same in every training row, so nothing can be "
            "learned from them. Extract with other weights or another layer."
        )
    if constant.size:
        notes.append(
            f"{constant.size} of {n_features:,} features are the same in every training row "
            f"(columns {join_some(constant.tolist())}); they tell nothing."
        )
    return int(constant.size)


def _refuse_non_finite(selection: Selection, rows: np.ndarray, values: np.ndarray) -> None:
    bad = ~np.isfinite(values)
    row = rows[bad.any(axis=1)][0]
    columns = join_some(np.flatnonzero(bad.any(axis=0)).tolist())
    raise FitError(
        f"{int(bad.any(axis=1).sum())} rows have features that are not finite numbers, the first "
        f"being row {row} ({selection.sample_ids[row]}), columns "
        f"{columns}. Look for damage with featstore store "
        "verify; if there is none, extract again with --precision fp32."
    )


def score(y_true: np.ndarray, y_pred: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """Compare predicted with true labels.

    Parameters
    ----------
    y_true, y_pred : ndarray of shape (n_samples,), int
        Labels, positions in `class_names`.
    class_names : sequence of str
        Names of the classes.

    Returns
    -------
    dict
        ``accuracy`` (overall, a fraction), ``average_accuracy`` (mean recall of the classes
        that have rows), ``kappa`` (Cohen's; None where it is undefined because true and
        predicted labels are all of one class), ``majority_accuracy`` (what naming the most
        frequent class for every row would score), ``n_samples``, ``per_class`` (a list of
        ``name, precision, recall, f1, support``; precision and F1 of a class never predicted
        are 0, recall of a class without rows is None) and ``confusion`` (rows true, columns
        predicted, counts).
    """
    labels = np.arange(len(class_names))
    precision, recall, f1, support = precision_recall_fscore_support(
        y_true, y_pred, labels=labels, zero_division=0.0
    )
    present = support > 0
    kappa = None
    if np.unique(np.concatenate([y_true, y_pred])).size > 1:
        kappa = float(cohen_kappa_score(y_true, y_pred))
    return {
        "n_samples": int(y_true.size),
        "accuracy": float(np.mean(y_true == y_pred)),
        "average_accuracy": float(recall[present].mean()),
        "kappa": kappa,
        "majority_accuracy": float(support.max() / y_true.size),
        "per_class": [
            {
                "name": name,
                "precision": float(precision[c]),
                "recall": float(recall[c]) if present[c] else None,
                "f1": float(f1[c]),
                "support": int(support[c]),
            }
            for c, name in enumerate(class_names)
        ],
        "confusion": confusion_matrix(y_true, y_pred, labels=labels).tolist(),
    }
