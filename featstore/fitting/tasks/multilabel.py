"""Learn several classes of each image: one against the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.errors import FitError
from featstore.fitting.classifiers import CLASSIFIERS
from featstore.fitting.estimators import Classifier, imported_on_call
from featstore.fitting.evaluate import Predictions, model_values, score_kind_of
from featstore.fitting.solvers.blocks import Samples, one_thread
from featstore.fitting.tasks.base import map_blocks
from featstore.fitting.tasks.targets import TargetTask, targets_of
from featstore.runs.calibration import (
    DECISION,
    PROBABILITY,
    UNCALIBRATED,
    Calibrator,
    measure_reliability,
)
from featstore.runs.scoring.influence import (
    Estimate,
    average_precisions,
    mean_average_precision,
)
from featstore.runs.scoring.multilabel import SCORE, TRUE
from featstore.runs.significance import accuracy_interval
from featstore.store.selection import Selection

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

OneVsRestClassifier = imported_on_call("sklearn.multiclass", "OneVsRestClassifier")


SEVERAL = ("mlp", "dbn", "softmax", "knn")
"""Classifiers that predict several classes by themselves; the others have one for each class."""


THRESHOLDS = {PROBABILITY: 0.5, UNCALIBRATED: 0.5, DECISION: 0.0}
"""Score above which an image has a class, by the kind of the score."""


def one_for_each_class(classifier: Classifier) -> Classifier:
    """Return a classifier that is fitted for each class against the rest."""
    return replace(classifier, wrap=OneVsRestClassifier)


class Multilabel(TargetTask):
    """Any number of classes of each image, each learned against the rest."""

    name = "multilabel"
    classifiers = {
        name: own if name in SEVERAL else one_for_each_class(own)
        for name, own in CLASSIFIERS.items()
    }
    own_kind = "classifier (with predict_proba or decision_function)"
    labels_are = "The images may have several classes each"

    @staticmethod
    def is_own(estimator: Any) -> bool:
        """Return whether a user's estimator is a classifier whose answers have scores."""
        from sklearn.base import is_classifier

        has_scores = hasattr(estimator, "decision_function") or hasattr(estimator, "predict_proba")
        return bool(is_classifier(estimator)) and has_scores

    def wrap_own(self, classifier: Classifier) -> Classifier:
        """Return a user's classifier, fitted for each class."""
        return one_for_each_class(classifier)

    def check_targets(self, targets: np.ndarray, uses: Mapping[str, np.ndarray]) -> None:
        """Refuse a dataset of one class, and rows that all have the same classes."""
        if targets.shape[1] < 2:
            raise FitError(
                "The images have one class between them, as a yes or no. Label those without it "
                "with a class of their own, and extract again as images of one class each."
            )
        for what, rows in uses.items():
            if len(rows) and not targets[rows].any():
                raise FitError(
                    f"None of the {len(rows):,} {what} images has a class. Label some, and extract "
                    "again."
                )
        train = uses["training"]
        if (targets[train] == targets[train[0]]).all():
            raise FitError(
                f"All {len(train):,} training images have the same classes, so that nothing can be "
                "learned from them. Add images with others."
            )

    def why_unscored(self, targets: np.ndarray) -> str:
        """Return that no row has a class; empty if one has."""
        return "" if targets.any() else "none of them has a class"

    def y(self, selection: Selection) -> np.ndarray:
        """Return which classes each row has, (n_samples, n_classes) int8."""
        found: np.ndarray = (targets_of(selection) > 0).astype(np.int8)
        return found

    def class_names(self, selection: Selection) -> tuple[str, ...]:
        """Return the names of the classes, by column."""
        return selection.target_names

    def n_of_class(self, y: np.ndarray, n_classes: int) -> list[int]:
        """Return the number of rows that have each class."""
        return [int(n) for n in y.sum(axis=0, dtype=np.int64)]

    def predict(
        self, model: Pipeline, samples: Samples, calibrator: Calibrator | None = None
    ) -> Predictions:
        """Score each class with a fitted pipeline in blocks of rows."""
        kind = score_kind_of(model, calibrator)
        n_classes = len(model.steps[-1][1].classes_)

        def of_block(X: np.ndarray) -> np.ndarray:
            if calibrator is None:
                return model_values(model, X, kind)
            return calibrator.apply(model_values(model, X, calibrator.scores))

        with one_thread():
            scores = map_blocks(samples, n_classes, of_block).reshape(-1, n_classes)
        return Predictions(scores > THRESHOLDS[kind], scores, kind)

    def score(self, y: np.ndarray, predicted: Predictions) -> float:
        """Return the mean average precision."""
        return mean_average_precision(y, predicted.scores).value

    def test_scores(
        self,
        y: np.ndarray,
        predicted: Predictions,
        selection: Selection,
        groups: np.ndarray | None,
    ) -> dict[str, Any]:
        """Return mAP, F1, subset accuracy and the classes' scores."""
        threshold = THRESHOLDS[predicted.score_kind]
        return score_labels(y, predicted.scores, self.class_names(selection), threshold, groups)

    def reliability(self, y: np.ndarray, predicted: Predictions) -> dict[str, Any] | None:
        """Return how well the probabilities of all pairs of an image and a class hold."""
        if predicted.score_kind == DECISION:
            return None
        return measure_reliability(predicted.scores.ravel(), y.ravel() > 0)

    def columns(
        self, y: np.ndarray, predicted: Predictions, selection: Selection
    ) -> dict[str, np.ndarray]:
        """Return for each class whether rows have it, and its scores."""
        names = self.class_names(selection)
        true = {f"{TRUE}{name}": y[:, c] for c, name in enumerate(names)}
        return true | {f"{SCORE}{name}": predicted.scores[:, c] for c, name in enumerate(names)}

    def predicted_columns(
        self, predicted: Predictions, class_names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Return the scores of each class."""
        kind = predicted.score_kind.replace(" ", "_")
        return {f"{kind}:{name}": predicted.scores[:, c] for c, name in enumerate(class_names)}

    def label_text(self, selection: Selection, row: int) -> str | None:
        """Return the classes of a stored row; None without a label."""
        if np.isnan(targets_of(selection)[row]).any():
            return None
        return "; ".join(self.labels_of(selection, row)) or "none"

    def labels_of(self, selection: Selection, row: int) -> tuple[str, ...]:
        """Return the names of a stored row's classes."""
        own = targets_of(selection)[row] > 0
        return tuple(name for name, has in zip(selection.target_names, own, strict=True) if has)


def _interval(estimate: Estimate) -> list[float]:
    """Return the interval of mAP; at 1 no row has an influence, and Wilson's takes its place."""
    if estimate.value == 1:
        return [*accuracy_interval(1.0, len(estimate.influences))]
    return estimate.interval(0.0, 1.0)


def score_labels(
    y: np.ndarray,
    scores: np.ndarray,
    class_names: Sequence[str],
    threshold: float,
    groups: np.ndarray | None = None,
) -> dict[str, Any]:
    """Score several classes of each image.

    Parameters
    ----------
    y : ndarray of shape (n_samples, n_classes), int
        1 where a row has the class, 0 elsewhere; some row has one.
    scores : ndarray of shape (n_samples, n_classes), float
        The higher, the surer that a row has the class.
    class_names : sequence of str
        Names of the columns.
    threshold : float
        Score above which a row has a class, for all but average precision.
    groups : ndarray of shape (n_samples,), optional
        Groups of rows, which the interval takes as its units.

    Returns
    -------
    dict
        ``map`` (mean average precision) and ``macro_f1``, means over the classes that have rows;
        ``map_interval`` (95 %, of the infinitesimal jackknife, Efron 1982); ``chance_map`` (what
        random scores would reach: the mean share of rows that have the class); ``micro_f1`` (of all
        pairs of row and class); ``subset_accuracy`` (share of rows whose classes are all right);
        ``threshold``, ``n_samples``, ``n_unscored`` (classes without rows) and ``per_class`` (a
        list of ``name, average_precision, precision, recall, f1, support``; precision and F1 of a
        class never predicted are 0; average precision and recall of one without rows are None).

    References
    ----------
    Zhang and Zhou 2014, A Review on Multi-Label Learning Algorithms, doi:10.1109/TKDE.2013.39.
    """
    from sklearn.metrics import f1_score, precision_recall_fscore_support

    predicted = (scores > threshold).astype(np.int8)
    precision, recall, f1, support = precision_recall_fscore_support(
        y, predicted, average=None, zero_division=0.0
    )
    values, _ = average_precisions(y, scores)
    estimate = mean_average_precision(y, scores).by_group(groups)
    present = support > 0
    return {
        "n_samples": len(y),
        "map": estimate.value,
        "map_interval": _interval(estimate),
        "chance_map": float(y.mean(axis=0)[present].mean()),
        "micro_f1": float(f1_score(y, predicted, average="micro", zero_division=0.0)),
        "macro_f1": float(f1[present].mean()),
        "subset_accuracy": float((predicted == y).all(axis=1).mean()),
        "threshold": threshold,
        "n_unscored": int(np.sum(~present)),
        "per_class": [
            {
                "name": name,
                "average_precision": float(values[c]) if present[c] else None,
                "precision": float(precision[c]),
                "recall": float(recall[c]) if present[c] else None,
                "f1": float(f1[c]),
                "support": int(support[c]),
            }
            for c, name in enumerate(class_names)
        ],
    }
