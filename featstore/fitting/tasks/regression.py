"""Learn a number of each image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.errors import FitError
from featstore.fitting.evaluate import Predictions
from featstore.fitting.regressors import REGRESSORS
from featstore.fitting.solvers.blocks import Samples, one_thread
from featstore.fitting.tasks.base import map_blocks
from featstore.fitting.tasks.targets import TargetTask, targets_of
from featstore.runs.calibration import Calibrator
from featstore.runs.scoring.influence import mae, r2, rmse
from featstore.store.selection import Selection
from featstore.text import number_text

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline


class Regression(TargetTask):
    """A number of each image."""

    name = "regression"
    classifiers = REGRESSORS
    own_kind = "regressor"
    labels_are = "The labels are numbers"

    @staticmethod
    def is_own(estimator: Any) -> bool:
        """Return whether a user's estimator is a regressor."""
        from sklearn.base import is_regressor

        return bool(is_regressor(estimator))

    def check_targets(self, targets: np.ndarray, uses: Mapping[str, np.ndarray]) -> None:
        """Refuse numbers that are all the same, or infinite."""
        for what, rows in uses.items():
            numbers = targets[rows]
            if np.isinf(numbers).any():
                row = int(rows[np.isinf(numbers).any(axis=1)][0])
                raise FitError(
                    f"The number of row {row} is infinite. Correct it in the dataset, and extract "
                    "again."
                )
            if what != "validation" and (numbers == numbers[0]).all():
                raise FitError(
                    f"All {len(rows):,} {what} images have the number "
                    f"{number_text(float(numbers[0, 0]))}; two or more different ones are needed."
                )

    def why_unscored(self, targets: np.ndarray) -> str:
        """Return that all rows have one number; empty if they differ."""
        return "all of them have one number" if (targets == targets[0]).all() else ""

    def y(self, selection: Selection) -> np.ndarray:
        """Return the numbers, (n_samples,) float32; NaN for none."""
        return targets_of(selection)[:, 0]

    def class_names(self, selection: Selection) -> tuple[str, ...]:
        """Return no names: there are no classes."""
        return ()

    def target_name(self, selection: Selection) -> str:
        """Return the name of the number."""
        return selection.target_names[0]

    def n_of_class(self, y: np.ndarray, n_classes: int) -> list[int]:
        """Return no counts: there are no classes."""
        return []

    def predict(
        self, model: Pipeline, samples: Samples, calibrator: Calibrator | None = None
    ) -> Predictions:
        """Predict numbers with a fitted pipeline in blocks of rows."""
        clf = model.steps[-1][1]
        # kernel-ridge compares each row with all training rows.
        n_outputs = len(getattr(getattr(clf, "regressor_", clf), "dual_coef_", (0,)))
        with one_thread():
            found = map_blocks(samples, n_outputs, lambda X: np.ravel(model.predict(X)))
        return Predictions(found, found, "number")

    def score(self, y: np.ndarray, predicted: Predictions) -> float:
        """Return R², the coefficient of determination."""
        found = r2(y, predicted.labels)
        return math.nan if found is None else found.value

    def test_scores(
        self,
        y: np.ndarray,
        predicted: Predictions,
        selection: Selection,
        groups: np.ndarray | None,
    ) -> dict[str, Any]:
        """Return R² and the errors, with their intervals."""
        return score_numbers(y, predicted.labels, groups)

    def columns(
        self, y: np.ndarray, predicted: Predictions, selection: Selection
    ) -> dict[str, np.ndarray]:
        """Return the true and the predicted numbers."""
        return {"true": y, "predicted": predicted.labels}

    def predicted_columns(
        self, predicted: Predictions, class_names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Return the numbers."""
        return {"predicted": predicted.labels}

    def label_text(self, selection: Selection, row: int) -> str | None:
        """Return the number of a stored row; None without one."""
        value = float(targets_of(selection)[row, 0])
        return None if math.isnan(value) else number_text(value)

    def labels_of(self, selection: Selection, row: int) -> tuple[str, ...]:
        """Return no classes."""
        return ()


def score_numbers(
    y: np.ndarray, predicted: np.ndarray, groups: np.ndarray | None = None
) -> dict[str, Any]:
    """Score a predicted number of each image.

    Parameters
    ----------
    y, predicted : ndarray of shape (n_samples,), float
        True and predicted numbers.
    groups : ndarray of shape (n_samples,), optional
        Groups of rows, which the intervals take as their units.

    Returns
    -------
    dict
        ``r2`` (coefficient of determination: 1 is perfect, 0 is as good as always predicting the
        mean; None if all true numbers are equal), ``mae`` (mean absolute error), ``rmse`` (root of
        the mean squared error), each with its 95 % interval, as in ``r2_interval``, by the
        infinitesimal jackknife (Efron 1982); and ``n_samples``.
    """
    found = r2(y, predicted)
    found = None if found is None else found.by_group(groups)
    errors = {
        name: of(y, predicted).by_group(groups) for name, of in (("mae", mae), ("rmse", rmse))
    }
    scores: dict[str, Any] = {
        "n_samples": len(y),
        "r2": None if found is None else found.value,
        "r2_interval": None if found is None else found.interval(-math.inf, 1.0),
    }
    for name, one in errors.items():
        scores |= {name: one.value, f"{name}_interval": one.interval(0.0, math.inf)}
    return scores
