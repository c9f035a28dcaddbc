"""Score runs that predict a number of each image."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from featstore.config import REGRESSOR_NAMES
from featstore.runs.scoring import influence
from featstore.runs.scoring.base import (
    Column,
    Line,
    Scoring,
    Wrong,
    drawn_by,
    interval_column,
    split_text,
)
from featstore.store.format.run_schema import RunRecord
from featstore.store.format.run_scores import RegressionMetrics
from featstore.text import NONE, number_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from featstore.runs.run import Run


def _r2_text(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"


def _number_text(value: float | None) -> str:
    if value is None:
        return NONE
    # With all four digits, numbers below each other can be compared.
    return number_text(value) if abs(value) >= 1000 else f"{value:#.4g}"


class Regression(Scoring):
    """R², by which runs are ranked, and the errors in the number's own unit."""

    task = "regression"
    name = "R²"
    plural = "R²"
    classifiers = REGRESSOR_NAMES
    unit = ""
    table_title = "R² of the test images"
    worst_are = "whose numbers by run {} are farthest from the true ones"
    score_axis = "test R²; 0: always the mean"
    columns = (
        Column("r2", "R²", "R²", text=_r2_text),
        interval_column("r2", _r2_text),
        Column(
            "cv_r2",
            "cv",
            "CV",
            "CV: R² of the cross-validation that chose the parameters.",
            text=_r2_text,
            is_optional=True,
        ),
        Column("mae", "MAE", "MAE", "MAE: mean absolute error.", text=_number_text),
        Column("rmse", "RMSE", "RMSE", "RMSE: root of the mean squared error.", text=_number_text),
        Column(
            "train_r2", "train R²", "training", "Training: R² of the training images.", _r2_text
        ),
    )
    terminal = ("r2", "r2_interval", "mae", "rmse", "train_r2", "cv_r2")
    means = ("r2", "mae", "rmse", "train_r2", "cv_r2")
    deviations = ("r2", "mae", "rmse")

    def summary(self, record: RunRecord) -> dict[str, Any]:
        """Return the scores of a record as :meth:`.Run.summary` has them."""
        metrics = cast(RegressionMetrics, record.metrics)
        test = metrics.test
        own: dict[str, Any] = {name: getattr(test, name) for name in ("r2", "mae", "rmse")}
        for name in ("r2_interval", "mae_interval", "rmse_interval"):
            interval = getattr(test, name)
            own[name] = None if interval is None else list(interval)
        return own | {"train_r2": metrics.train.r2, "target_name": record.target_name}

    def rows_text(self, line: Line) -> str:
        """Return what a table's title says of the rows and the scores' units."""
        return (
            f"{line['n_train']:,} rows to train, {line['n_test']:,} to test{split_text(line)}; "
            f"errors in the unit of {line['target_name']}"
        )

    def about(self, line: Line) -> str:
        """Return the name of the number."""
        return f"the number {line['target_name']}"

    def val_text(self, record: RunRecord) -> str:
        """Return the scores of the validation rows as a sentence; empty without such rows."""
        if (val := cast(RegressionMetrics, record.metrics).val) is None:
            return ""
        return (
            f"Validation R² {_r2_text(val.r2)} of {val.n_samples:,} rows, MAE "
            f"{_number_text(val.mae)}."
        )

    def facts(self, record: RunRecord) -> dict[str, str]:
        """Return what `runs show` says of the test and training rows, by heading."""
        metrics = cast(RegressionMetrics, record.metrics)
        test = metrics.test
        return {
            "R²": f"{_r2_text(test.r2)} of {test.n_samples:,} test images"
            f"{_interval_text(test.r2_interval, _r2_text)}{self.units_text(record)}, "
            f"{_r2_text(metrics.train.r2)} of the training images",
            "MAE": f"{_number_text(test.mae)}{_interval_text(test.mae_interval, _number_text)}",
            "RMSE": f"{_number_text(test.rmse)}{_interval_text(test.rmse_interval, _number_text)}",
        }

    def worst(self, run: Run, test: np.ndarray) -> list[Wrong]:
        """Return the numbers that are farthest from the true ones, the farthest first."""
        found = run.predictions
        errors = np.abs(found["predicted"][test] - found["true"][test])
        order = np.argsort(-errors, kind="stable")
        return [
            Wrong(int(test[i]), number_text(float(found["predicted"][test[i]])), float("nan"))
            for i in order
            if errors[i]
        ]

    def is_number(self, column: str) -> bool:
        """Return whether a column of ``predictions.csv`` holds numbers."""
        return column in ("true", "predicted")

    def estimate(self, rows: Mapping[str, np.ndarray]) -> influence.Estimate | None:
        """Return R² of rows of ``predictions.csv``; None if all true numbers are equal."""
        found = influence.r2(rows["true"], rows["predicted"])
        return None if found is None else found.by_group(rows.get("group"))

    def drawings(self, run: Run) -> dict[str, Callable[[], Figure]]:
        """Return what draws predicted against true numbers."""
        return {"predicted.png": drawn_by("draw_predicted", run)}


def _interval_text(interval: Any, text: Callable[[float], str]) -> str:
    if interval is None:
        return ""
    return f" (95 % interval {text(interval[0])} to {text(interval[1])})"
