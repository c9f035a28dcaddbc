"""Learn one class of each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.config import FitConfig
from featstore.errors import FitError
from featstore.fitting.classifiers import CLASSIFIERS
from featstore.fitting.evaluate import Predictions, predict_blocks, score
from featstore.fitting.folds import check_folds, draw_folds
from featstore.fitting.parameters import with_label_weights
from featstore.fitting.solvers.blocks import Samples
from featstore.fitting.splits import (
    ClassLabels,
    Labels,
    draw_training_rows,
)
from featstore.fitting.tasks.base import Task
from featstore.runs.bootstrap import class_intervals
from featstore.runs.calibration import DECISION, Calibrator, measure_reliability
from featstore.store.format.matrix import TEXT
from featstore.store.selection import Selection

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline


class Classification(Task):
    """One class of each image; all scikit-learn classifiers take it as it is."""

    name = "classification"
    classifiers = CLASSIFIERS
    labels_are = "The images have one class each"

    @staticmethod
    def is_own(estimator: Any) -> bool:
        """Return whether a user's estimator is a classifier."""
        from sklearn.base import is_classifier

        return bool(is_classifier(estimator))

    def check_config(self, config: FitConfig) -> None:
        """Refuse accelerators that are missing or have no effect."""
        if config.device != "cpu" or config.intelex:
            from featstore.fitting.solvers import accelerators

            accelerators.check(config)

    def labels(self, selection: Selection) -> Labels:
        """Return what decides the split of a selection."""
        return ClassLabels(selection.y, selection.class_names, selection.groups)

    def y(self, selection: Selection) -> np.ndarray:
        """Return the classes, (n_samples,) int32; -1 for none."""
        return selection.y

    def class_names(self, selection: Selection) -> tuple[str, ...]:
        """Return the names of the classes, by label."""
        return selection.class_names

    def check_folds(self, selection: Selection, rows: np.ndarray, n_folds: int) -> str:
        """Refuse folds that can't be drawn; say which classes are rare."""
        groups = None if selection.groups is None else selection.groups[rows]
        return check_folds(selection.y[rows], n_folds, selection.class_names, groups)

    def draw_folds(
        self, selection: Selection, rows: np.ndarray, n_folds: int, seed: int
    ) -> np.ndarray:
        """Return the fold that tests each row; every fold has about each class's share."""
        groups = None if selection.groups is None else selection.groups[rows]
        return draw_folds(selection.y[rows], n_folds, seed, selection.class_names, groups)

    def trains_all(self, y: np.ndarray, folds: np.ndarray) -> bool:
        """Return whether no fold holds out all rows of a class: such a fold has fewer classes."""
        n_folds = int(folds.max()) + 1
        held_out = np.bincount(y * n_folds + folds, minlength=(int(y.max()) + 1) * n_folds)
        held_out = held_out.reshape(-1, n_folds)[np.unique(y)]
        return bool((held_out.max(axis=1) < held_out.sum(axis=1)).all())

    def draw_part(
        self, selection: Selection, rows: np.ndarray, n: int, seed: int, *, whole_groups: bool
    ) -> np.ndarray:
        """Return `n` of some training rows, with about each class's share, in order."""
        groups = selection.groups if whole_groups else None
        try:
            return draw_training_rows(selection.y, rows, groups, n, seed)
        except ValueError as error:
            raise FitError(f"{n:,} training rows can't be drawn: {error}") from error

    def n_smallest(self, y: np.ndarray) -> int:
        """Return the number of rows of the smallest class that has any."""
        counts = np.bincount(y)
        return int(counts[counts > 0].min())

    def n_of_class(self, y: np.ndarray, n_classes: int) -> list[int]:
        """Return the number of rows of each class."""
        return [int(n) for n in np.bincount(y, minlength=n_classes)]

    def with_class_weights(self, params: Mapping[str, Any], selection: Selection) -> dict[str, Any]:
        """Return parameters with class weights by label, as scikit-learn takes them."""
        return with_label_weights(params, selection.class_names)

    def predict(
        self, model: Pipeline, samples: Samples, calibrator: Calibrator | None = None
    ) -> Predictions:
        """Predict classes with a fitted pipeline in blocks of rows."""
        return predict_blocks(model, samples, calibrator)

    def score(self, y: np.ndarray, predicted: Predictions) -> float:
        """Return the accuracy."""
        return float(np.mean(predicted.labels == y))

    def test_scores(
        self,
        y: np.ndarray,
        predicted: Predictions,
        selection: Selection,
        groups: np.ndarray | None,
    ) -> dict[str, Any]:
        """Return accuracies and kappa with intervals, the classes' scores and the confusion."""
        names = selection.class_names
        intervals = class_intervals(y, predicted.labels, len(names), groups)
        return score(y, predicted.labels, names) | {"bootstrap": intervals}

    def reliability(self, y: np.ndarray, predicted: Predictions) -> dict[str, Any] | None:
        """Return how well the probabilities of the predicted classes hold."""
        if predicted.score_kind == DECISION:
            return None
        return measure_reliability(predicted.scores, predicted.labels == y)

    def columns(
        self, y: np.ndarray, predicted: Predictions, selection: Selection
    ) -> dict[str, np.ndarray]:
        """Return names of true and predicted classes, and the scores."""
        names = np.array(selection.class_names, TEXT)
        return {
            "true": names[y],
            "predicted": names[predicted.labels],
            "score": predicted.scores,
        }

    def predicted_columns(
        self, predicted: Predictions, class_names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Return the names of the classes, and their scores."""
        kind = predicted.score_kind.replace(" ", "_")
        return {"predicted": np.array(class_names, TEXT)[predicted.labels], kind: predicted.scores}

    def label_text(self, selection: Selection, row: int) -> str | None:
        """Return the class of a stored row; None without one."""
        label = int(selection.y[row])
        return selection.class_names[label] if label >= 0 else None
