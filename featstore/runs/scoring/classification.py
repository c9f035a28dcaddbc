"""Score runs that predict one class of each image."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from featstore.runs.scoring.base import (
    ECE,
    ClassTable,
    Column,
    Line,
    Scoring,
    Wrong,
    drawn_by,
    ece_of,
    interval_column,
    split_text,
)
from featstore.runs.significance import accuracy_interval
from featstore.store.format.run_schema import RunRecord
from featstore.store.format.run_scores import Metrics, Scores
from featstore.text import NONE, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from featstore.runs.run import Run


def _kappa_text(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"


def _each_text(counts: list[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


class Classification(Scoring):
    """Accuracy, by which runs are ranked, and Cohen's kappa."""

    task = "classification"
    name = "accuracy"
    plural = "accuracies in %"
    baseline = "majority_accuracy"
    table_title = "accuracy of the test images in %"
    score_axis = "test accuracy (%); orange: always the most frequent class"
    columns = (
        Column("accuracy", "accuracy", "accuracy"),
        interval_column("accuracy", percent),
        Column(
            "average_accuracy",
            "average",
            "average",
            "Average: mean of the classes' accuracies.",
            same_as="accuracy",
        ),
        Column(
            "cv_accuracy",
            "cv",
            "CV",
            "CV: accuracy of the cross-validation that chose the parameters.",
            is_optional=True,
        ),
        Column("kappa", "kappa", "kappa", text=_kappa_text),
        Column("train_accuracy", "train", "training", "Training: accuracy of the training images."),
        Column(
            "majority_accuracy",
            "majority",
            "majority",
            "Majority: accuracy of always naming the most frequent class.",
        ),
        ECE,
    )
    terminal = (
        "accuracy",
        "accuracy_interval",
        "average_accuracy",
        "kappa",
        "train_accuracy",
        "cv_accuracy",
    )
    means = ("accuracy", "average_accuracy", "train_accuracy", "kappa", "cv_accuracy", "ece")
    deviations = ("accuracy", "average_accuracy")

    def score_text(self, line: Line) -> str:
        """Return the accuracy with the deviation of repeats."""
        return f"{self.column(self.score).cell(line)} %"

    def outcome(self, line: Line, rows: str = "rows") -> str:
        """Return the accuracy, and of how many rows, in words."""
        return f"{self.text(line['accuracy'])} % of {line['n_test']:,} {rows}"

    def summary(self, record: RunRecord) -> dict[str, Any]:
        """Return the scores of a record as :meth:`.Run.summary` has them."""
        metrics = cast(Metrics, record.metrics)
        test = metrics.test
        return {
            "accuracy": test.accuracy,
            "average_accuracy": test.average_accuracy,
            "kappa": test.kappa,
            "majority_accuracy": test.majority_accuracy,
            "train_accuracy": metrics.train.accuracy,
            "ece": ece_of(test),
            **self._intervals(test),
        }

    def _intervals(self, test: Scores) -> dict[str, Any]:
        """Return the intervals of test scores, and how many draws they are of."""
        if (drawn := test.bootstrap) is None:
            # Of an older run.
            n_test = test.n_samples
            wilson = [*accuracy_interval(test.accuracy, n_test)] if n_test else None
            found: dict[str, Any] = {"accuracy_interval": wilson}
            names = ("average_accuracy_interval", "kappa_interval", "n_draws")
            return found | dict.fromkeys(names)
        intervals = {
            f"{name}_interval": None if own is None else list(own)
            for name, own in drawn.intervals.items()
        }
        return intervals | {"n_draws": drawn.n_draws}

    def rows_text(self, line: Line) -> str:
        """Return what a table's title says of the rows and the scores' units."""
        counts = line["n_train_of_class"]
        return (
            f"{line['n_train']:,} rows to train ({len(counts)} classes of {_each_text(counts)}), "
            f"{line['n_test']:,} to test{split_text(line)}; accuracies in % (majority class: "
            f"{percent(line['majority_accuracy'])})"
        )

    def variance(self, line: Line) -> float:
        """Return the variance of one run's accuracy over other test images."""
        if line["n_test_groups"]:
            return super().variance(line)
        # Two rows right and two wrong are added: Agresti and Coull 1998, doi:10.2307/2685469.
        n = line["n_test"] + 4
        p = (line["accuracy"] * line["n_test"] + 2) / n
        return float(p * (1 - p) / n)

    def about(self, line: Line) -> str:
        """Return the number of classes."""
        return f"{len(line['n_train_of_class'])} classes"

    def val_text(self, record: RunRecord) -> str:
        """Return the accuracy of the validation rows as a sentence; empty without such rows."""
        if (val := cast(Metrics, record.metrics).val) is None:
            return ""
        return (
            f"Validation accuracy {percent(val.accuracy)} % of {val.n_samples:,} rows, kappa "
            f"{_kappa_text(val.kappa)}."
        )

    def facts(self, record: RunRecord) -> dict[str, str]:
        """Return what `runs show` says of the test and training rows, by heading."""
        metrics = cast(Metrics, record.metrics)
        test, train = metrics.test, metrics.train
        own = self._intervals(test)
        intervals = {
            name: f" (95 % interval {percent(low)} to {percent(high)})"
            for name in ("accuracy", "average_accuracy")
            if (found := own[f"{name}_interval"]) is not None
            for low, high in [found]
        }
        facts = {
            "accuracy": f"{percent(test.accuracy)} % of {test.n_samples:,} test images"
            f"{intervals.get('accuracy', '')}, {percent(train.accuracy)} % of the training images",
            "average": f"{percent(test.average_accuracy)} % over the classes"
            f"{intervals.get('average_accuracy', '')}",
        }
        if test.bootstrap is not None:
            units = f"{test.bootstrap.n_units:,} {test.bootstrap.unit}s"
            facts["intervals"] = f"of {test.bootstrap.n_draws:,} bootstrap draws of {units}"
        return facts

    def class_table(self, record: RunRecord) -> ClassTable:
        """Return precision, recall and F1 of each class."""
        test = cast(Metrics, record.metrics).test
        columns = (("precision", "precision"), ("recall", "recall"), ("F1", "f1"))
        return ClassTable(columns, with_counts(test.per_class, record))

    def worst(self, run: Run, test: np.ndarray) -> list[Wrong]:
        """Return the wrong classes, the surest first."""
        found = run.predictions
        wrong = test[found["true"][test] != found["predicted"][test]]
        scores = found["score"][wrong]
        # A classifier of the user's may not say how sure it is: then in the images' order.
        order = np.argsort(-np.nan_to_num(scores, nan=0.0), kind="stable")
        return [
            Wrong(int(wrong[i]), str(found["predicted"][wrong[i]]), float(scores[i])) for i in order
        ]

    def drawings(self, run: Run) -> dict[str, Callable[[], Figure]]:
        """Return what draws the confusion matrix, and how well probabilities hold."""
        confusion = cast(Metrics, run.metrics).test.confusion
        matrix = {"confusion.png": drawn_by("draw_confusion", confusion, run.class_names)}
        return matrix | super().drawings(run)


def with_counts(per_class: Any, record: RunRecord) -> list[dict[str, Any]]:
    """Return each class's scores with its number of training rows, ``n_train``."""
    counts = record.rows.n_train_of_class
    return [{**one.to_dict(), "n_train": n} for one, n in zip(per_class, counts, strict=True)]
