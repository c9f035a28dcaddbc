"""Predict rows in blocks, score classes, and check features beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.errors import FitError
from featstore.fitting.solvers.blocks import Samples, one_thread
from featstore.runs.calibration import DECISION, PROBABILITY, UNCALIBRATED, Calibrator
from featstore.runs.confusion import count_pairs, to_record
from featstore.text import join_some

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline


@dataclass(frozen=True)
class Predictions:
    """Predicted labels of some rows, (n_samples,) int32, and their scores, float32.

    `score_kind` is ``probability``, calibrated; ``uncalibrated probability``, the classifier's own;
    or ``decision value`` for a signed distance from the boundary.
    Of several classes, labels, bool, and scores are (n_samples, n_classes). Of a number, both are
    the number, float32, and `score_kind` is ``number``.
    """

    labels: np.ndarray
    scores: np.ndarray
    score_kind: str


def score_kind_of(model: Pipeline, calibrator: Calibrator | None) -> str:
    """Return what a model's scores are."""
    if calibrator is not None:
        return PROBABILITY
    return UNCALIBRATED if hasattr(model, "predict_proba") else DECISION


def model_values(model: Pipeline, X: np.ndarray, scores: str) -> np.ndarray:
    """Return decision values, or the probabilities of the classes, (n, n_classes)."""
    if scores == DECISION:
        return np.asarray(model.decision_function(X))
    values = model.predict_proba(X)
    if not isinstance(values, list):
        return np.asarray(values)
    # Of several classes, knn has a pair of columns for each: without it, and with it.
    pairs = zip(values, model.steps[-1][1].classes_, strict=True)
    return np.stack([own[:, -1] * (of[-1] == 1) for own, of in pairs], axis=1)


def class_scores(model: Pipeline, X: np.ndarray, calibrator: Calibrator | None) -> np.ndarray:
    """Return the scores of all classes that a model of one class each knows, (n, n_classes).

    They are calibrated probabilities with a calibrator, else the model's own scores.
    """
    if calibrator is not None:
        return calibrator.apply(model_values(model, X, calibrator.scores))
    values = model_values(model, X, score_kind_of(model, None))
    # Two classes have one decision value: positive for the second.
    return values if values.ndim > 1 else np.stack([-values, values], axis=1)


def predict_blocks(
    model: Pipeline, samples: Samples, calibrator: Calibrator | None = None
) -> Predictions:
    """Predict with a fitted pipeline in blocks of rows, so that no copy of them is large.

    A calibrator makes the scores probabilities; the classes are those of the pipeline itself.
    """
    kind = score_kind_of(model, calibrator)
    # Without a decision function, predict is the largest probability. With one, ties (SVC's votes,
    # SGD's clipped probabilities) make that differ.
    by_score = not hasattr(model, "decision_function")
    labels = np.empty(len(samples), dtype=np.int32)
    scores = np.empty(len(samples), dtype=np.float32)
    clf = model.steps[-1][1]
    has_scores = kind != DECISION or hasattr(model, "decision_function")
    if kind == DECISION and getattr(clf, "decision_function_shape", "") == "ovo":
        # These are of pairs of classes.
        has_scores = False
    with one_thread():
        for block in samples.blocks(n_outputs=_n_outputs(clf)):
            X = samples.take(block)
            if not has_scores:
                # A user's own classifier may do no more than predict.
                labels[block], scores[block] = model.predict(X), np.nan
                continue
            values = class_scores(model, X, calibrator)
            if by_score:
                columns = values.argmax(axis=1)
            else:
                columns = np.searchsorted(model.classes_, model.predict(X))
            labels[block] = model.classes_[columns]
            scores[block] = values[np.arange(len(columns)), columns]
    return Predictions(labels, scores, kind)


def _n_outputs(clf: Any) -> int:
    """Return how many numbers a classifier computes for each row."""
    from sklearn.svm import SVC

    n_classes = len(getattr(clf, "classes_", ()))
    # SVC compares all pairs of classes.
    return n_classes * (n_classes - 1) // 2 if isinstance(clf, SVC) else n_classes


def check_features(samples: Samples, notes: list[str]) -> int:
    """Return how many features are constant in training rows, and note them.

    Refuse features that are all constant. :meth:`.Selection.memmap` refuses those that are not
    finite.
    """
    first = samples.take(slice(0, 1))[0]
    constant = np.arange(samples.n_features)
    # The columns that are still alike decide how much of the next rows is looked at.
    for block in samples.blocks():
        alike = samples.take(block)[:, constant] == first[constant]
        constant = constant[alike.all(axis=0)]
        if not constant.size:
            return 0
    if constant.size == samples.n_features:
        raise FitError(
            f"All {constant.size} features are the same in every training row, so nothing can be "
            "learned from them. Extract with other weights or another layer."
        )
    notes.append(
        f"{constant.size} of {samples.n_features:,} features are the same in every training row "
        f"(columns {join_some(constant.tolist())}); they tell nothing."
    )
    return int(constant.size)


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
        are 0, recall of a class without rows is None) and ``confusion``: counts, rows true,
        columns predicted; for more than 100 classes, ``[true, predicted, count]`` of each pair
        of classes that occurs.
    """
    from sklearn.metrics import precision_recall_fscore_support

    n, n_classes = y_true.size, len(class_names)
    precision, recall, f1, support = precision_recall_fscore_support(
        y_true, y_pred, labels=np.arange(n_classes), zero_division=0.0
    )
    present = support > 0
    n_right = int(np.sum(y_true == y_pred))
    # Agreement expected by chance, in pairs of rows: Cohen 1960, doi:10.1177/001316446002000104.
    by_chance = int(support @ np.bincount(y_pred, minlength=n_classes))
    kappa = (n_right * n - by_chance) / (n * n - by_chance) if by_chance < n * n else None
    return {
        "n_samples": int(n),
        "accuracy": n_right / n,
        "average_accuracy": float(recall[present].mean()),
        "kappa": kappa,
        "majority_accuracy": float(support.max() / n),
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
        "confusion": to_record(count_pairs(y_true, y_pred, n_classes)),
    }
