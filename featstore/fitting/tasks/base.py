"""What a fit does by what a label is: one class, several classes, or a number."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from featstore.config import FitConfig, check_classifier
from featstore.errors import FitError
from featstore.fitting.estimators import Classifier, import_estimator
from featstore.fitting.evaluate import Predictions
from featstore.fitting.solvers.blocks import Samples
from featstore.fitting.splits import Labels, Rows, Split, n_rows, row_numbers, split_rows
from featstore.runs.calibration import Calibrator
from featstore.runs.scoring import Scoring, find_scoring
from featstore.store.selection import Selection

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

MAX_SLOW_ROWS = 2_000
"""Training rows, evenly spread, that classifiers which predict slowly are scored on: more
take longer than all else, for a score that decides nothing and has an error of a point."""


@dataclass(frozen=True)
class Evaluation:
    """Metrics by use of the rows, the columns of ``predictions.csv``, and what its scores are."""

    metrics: dict[str, Any]
    predictions: dict[str, np.ndarray]
    score_kind: str


class Task(ABC):
    """How rows of one kind of label are split, learned, predicted and scored.

    `y`, as :meth:`y` returns it, is (n_samples,) int32 of classes, (n_samples, n_classes) int8 of
    several classes, or (n_samples,) float32 of numbers.
    """

    name: ClassVar[str]
    classifiers: ClassVar[Mapping[str, Classifier]]
    own_kind: ClassVar[str] = "classifier"
    labels_are: ClassVar[str]

    @property
    def scoring(self) -> Scoring:
        """How its runs are scored and shown."""
        return find_scoring(self.name)

    def find_classifier(self, name: str) -> Classifier:
        """Return one of :attr:`classifiers`, or the user's own as ``package.module:function``."""
        check_classifier(name)
        if ":" in name:
            return self.wrap_own(import_estimator(name, self.is_own, self.own_kind))
        if name not in self.classifiers:
            raise FitError(
                f"{self.labels_are}, which {name} can't predict. Choose "
                f"{', '.join(self.classifiers)}, or package.module:function for a {self.own_kind} "
                "of your own."
            )
        return self.classifiers[name]

    def classifier_of(self, config: FitConfig) -> Classifier:
        """Return the classifier of a configuration, with the scaling that it asks for."""
        classifier = self.find_classifier(config.clf)
        if config.scale is None:
            return classifier
        return replace(classifier, scaled=config.scale == "standard", ranged=False)

    @staticmethod
    @abstractmethod
    def is_own(estimator: Any) -> bool:
        """Return whether the task can take a user's estimator."""

    def wrap_own(self, classifier: Classifier) -> Classifier:
        """Return a user's classifier as the task takes it."""
        return classifier

    def check_config(self, config: FitConfig) -> None:
        """Refuse settings that the task does not have."""
        if config.device != "cpu" or config.intelex:
            option = "--intelex" if config.intelex else "--clf-device"
            raise FitError(f"{option} is for images of one class each. Leave it out.")

    @abstractmethod
    def labels(self, selection: Selection) -> Labels:
        """Return what decides the split of a selection."""

    @abstractmethod
    def y(self, selection: Selection) -> np.ndarray:
        """Return the labels of a selection's rows."""

    @abstractmethod
    def class_names(self, selection: Selection) -> tuple[str, ...]:
        """Return the names of the classes; none for numbers."""

    def target_name(self, selection: Selection) -> str:
        """Return the name of the number; empty for classes."""
        return ""

    def n_outputs(self, selection: Selection) -> int:
        """Return how many numbers a model computes of each row."""
        return max(1, len(self.class_names(selection)))

    def split(
        self,
        selection: Selection,
        split_seed: int | None = None,
        *,
        drop_leaks: bool = False,
        val_trains: bool = False,
    ) -> Split:
        """Split a selection's rows; see :func:`featstore.fitting.splits.split_rows`."""
        return split_rows(
            selection,
            self.labels(selection),
            split_seed,
            drop_leaks=drop_leaks,
            val_trains=val_trains,
        )

    @abstractmethod
    def check_folds(self, selection: Selection, rows: np.ndarray, n_folds: int) -> str:
        """Refuse a search whose folds can't be drawn; return what is worth saying of them."""

    @abstractmethod
    def draw_folds(
        self, selection: Selection, rows: np.ndarray, n_folds: int, seed: int
    ) -> np.ndarray:
        """Return the fold that tests each row, (n_rows,) int8."""

    def trains_all(self, y: np.ndarray, folds: np.ndarray) -> bool:
        """Return whether the problems of all folds have the same classes."""
        return True

    @abstractmethod
    def draw_part(
        self, selection: Selection, rows: np.ndarray, n: int, seed: int, *, whole_groups: bool
    ) -> np.ndarray:
        """Return `n` of some training rows, in order; of few groups if these are to be whole."""

    def n_smallest(self, y: np.ndarray) -> int | None:
        """Return the number of rows of the smallest class, if a part needs rows of each class."""
        return None

    @abstractmethod
    def n_of_class(self, y: np.ndarray, n_classes: int) -> list[int]:
        """Return the number of rows of each class."""

    def with_class_weights(self, params: Mapping[str, Any], selection: Selection) -> dict[str, Any]:
        """Return parameters as scikit-learn takes them."""
        if isinstance(params.get("class_weight"), Mapping):
            raise FitError(
                "class_weight by class name is for images of one class each. Give "
                "--param class_weight=balanced, or leave it out."
            )
        return dict(params)

    @abstractmethod
    def predict(
        self, model: Pipeline, samples: Samples, calibrator: Calibrator | None = None
    ) -> Predictions:
        """Predict with a fitted pipeline in blocks of rows, so that no copy of them is large.

        A calibrator makes the scores probabilities.
        """

    @abstractmethod
    def score(self, y: np.ndarray, predicted: Predictions) -> float:
        """Return the score that ranks settings and runs; NaN where it is not defined."""

    @abstractmethod
    def test_scores(
        self,
        y: np.ndarray,
        predicted: Predictions,
        selection: Selection,
        groups: np.ndarray | None,
    ) -> dict[str, Any]:
        """Return all scores of rows that were not trained on; intervals take groups as units."""

    def reliability(self, y: np.ndarray, predicted: Predictions) -> dict[str, Any] | None:
        """Return how well probabilities hold, see :func:`.measure_reliability`; None of others."""
        return None

    @abstractmethod
    def columns(
        self, y: np.ndarray, predicted: Predictions, selection: Selection
    ) -> dict[str, np.ndarray]:
        """Return the columns of ``predictions.csv`` after ``sample_id`` and ``split``."""

    @abstractmethod
    def predicted_columns(
        self, predicted: Predictions, class_names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Return what was predicted as columns of a table of rows."""

    @abstractmethod
    def label_text(self, selection: Selection, row: int) -> str | None:
        """Return a stored row's label for people; None without one."""

    def labels_of(self, selection: Selection, row: int) -> tuple[str, ...] | None:
        """Return the classes of a stored row that may have several; None if it has one class."""
        return None

    def evaluate(
        self,
        model: Pipeline,
        selection: Selection,
        split: Split,
        features: Mapping[str, Samples],
        calibrator: Calibrator | None,
        *,
        predicts_slowly: bool,
    ) -> Evaluation:
        """Score a fitted pipeline on test, validation and training rows."""
        y = self.y(selection)
        metrics: dict[str, Any] = {"val": None}
        columns: dict[str, list[np.ndarray]] = {}
        score_kind = ""
        for use, rows in split.uses().items():
            if use == "train":
                continue
            predicted = self.predict(model, features[use], calibrator)
            score_kind = predicted.score_kind
            groups = None if selection.groups is None else selection.groups[rows]
            metrics[use] = self.test_scores(y[rows], predicted, selection, groups)
            if use == "test" and (found := self.reliability(y[rows], predicted)) is not None:
                metrics[use]["reliability"] = found
            own = {
                "sample_id": selection.sample_ids[rows],
                "split": np.full(n_rows(rows), split.test_split if use == "test" else use),
                **self.columns(y[rows], predicted, selection),
                **({} if groups is None else {"group": groups.astype(str)}),
            }
            for name, column in own.items():
                columns.setdefault(name, []).append(column)
        train, y_train = features["train"], y[split.train]
        if predicts_slowly:
            train, y_train = spread(train, y_train, MAX_SLOW_ROWS)
        score = self.score(y_train, self.predict(model, train))
        metrics["train"] = {self.scoring.score: score, "n_samples": len(y_train)}
        predictions = {name: np.concatenate(parts) for name, parts in columns.items()}
        return Evaluation(metrics, predictions, score_kind)


def spread(samples: Samples, y: np.ndarray, n_most: int) -> tuple[Samples, np.ndarray]:
    """Return `n_most` of the samples, evenly spread, with their labels; all if they are fewer."""
    if len(samples) <= n_most:
        return samples, y
    at = np.linspace(0, len(samples) - 1, n_most).astype(int)
    return Samples(samples.X, row_numbers(samples.rows)[at]), y[at]


def map_blocks(
    samples: Samples, n_outputs: int, function: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Return a function of the samples, block by block, float32; the first axis is of samples."""
    parts = [
        np.asarray(function(samples.take(block)), np.float32)
        for block in samples.blocks(n_outputs=n_outputs)
    ]
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


__all__ = ["Evaluation", "Rows", "Task", "map_blocks", "spread"]
