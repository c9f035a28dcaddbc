"""How well labels were predicted, as plain JSON-able numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import cohen_kappa_score, confusion_matrix, precision_recall_fscore_support


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
