"""Score runs that predict several classes of each image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from featstore.runs.scoring.base import (
    ECE,
    ClassTable,
    Column,
    Line,
    Scoring,
    Wrong,
    ece_of,
    interval_column,
    split_text,
)
from featstore.runs.scoring.classification import with_counts
from featstore.runs.scoring.influence import Estimate, mean_average_precision
from featstore.store.format.run_schema import RunRecord
from featstore.store.format.run_scores import MultilabelMetrics
from featstore.text import percent

if TYPE_CHECKING:
    from featstore.runs.run import Run

TRUE, SCORE = "true:", "score:"
"""Beginnings of the names of columns of ``predictions.csv``, before the name of a class."""


class Multilabel(Scoring):
    """Mean average precision, by which runs are ranked, and F1."""

    task = "multilabel"
    name = "mAP"
    plural = "mAP in %"
    baseline = "chance_map"
    table_title = "mean average precision (mAP) of the test images in %"
    worst_are = "with a wrong class that run {} was surest of"
    score_axis = "test mAP (%); orange: scores drawn at random"
    columns = (
        Column("map", "mAP", "mAP"),
        interval_column("map", percent),
        Column(
            "cv_map",
            "cv",
            "CV",
            "CV: mAP of the cross-validation that chose the parameters.",
            is_optional=True,
        ),
        Column("micro_f1", "micro F1", "micro F1", "Micro F1: of all pairs of image and class."),
        Column("macro_f1", "macro F1", "macro F1", "Macro F1: mean of the classes' F1."),
        Column(
            "subset_accuracy",
            "all right",
            "all right",
            "All right: images whose classes are all right and complete.",
        ),
        Column("train_map", "train", "training", "Training: mAP of the training images."),
        Column("chance_map", "chance", "chance", "Chance: mAP of scores drawn at random."),
        ECE,
    )
    terminal = (
        "map",
        "map_interval",
        "micro_f1",
        "macro_f1",
        "subset_accuracy",
        "train_map",
        "cv_map",
    )
    means = ("map", "micro_f1", "macro_f1", "subset_accuracy", "train_map", "cv_map", "ece")
    deviations = ("map",)

    def summary(self, record: RunRecord) -> dict[str, Any]:
        """Return the scores of a record as :meth:`.Run.summary` has them."""
        metrics = cast(MultilabelMetrics, record.metrics)
        names = ("map", "chance_map", "micro_f1", "macro_f1", "subset_accuracy", "n_unscored")
        own = {name: getattr(metrics.test, name) for name in names}
        interval = list(metrics.test.map_interval)
        own |= {"map_interval": interval, "train_map": metrics.train.map}
        return own | {"ece": ece_of(metrics.test)}

    def rows_text(self, line: Line) -> str:
        """Return what a table's title says of the rows and the scores' units."""
        counts = line["n_train_of_class"]
        return (
            f"{line['n_train']:,} rows to train ({len(counts)} classes, {min(counts):,} to "
            f"{max(counts):,} rows have one), {line['n_test']:,} to test{split_text(line)}; in % "
            f"(mAP by chance: {percent(line['chance_map'])})"
        )

    def about(self, line: Line) -> str:
        """Return the number of classes."""
        return f"{len(line['n_train_of_class'])} classes, any number of them on an image"

    def val_text(self, record: RunRecord) -> str:
        """Return the scores of the validation rows as a sentence; empty without such rows."""
        if (val := cast(MultilabelMetrics, record.metrics).val) is None:
            return ""
        return (
            f"Validation mAP {percent(val.map)} % of {val.n_samples:,} rows, micro F1 "
            f"{percent(val.micro_f1)} %."
        )

    def facts(self, record: RunRecord) -> dict[str, str]:
        """Return what `runs show` says of the test and training rows, by heading."""
        metrics = cast(MultilabelMetrics, record.metrics)
        test, (low, high) = metrics.test, metrics.test.map_interval
        n = test.n_unscored
        unscored = f"; {n} class{'es have' if n > 1 else ' has'} no test image" if n else ""
        return {
            "mAP": f"{percent(test.map)} % of {test.n_samples:,} test images (95 % interval "
            f"{percent(low)} to {percent(high)}{self.units_text(record)}), "
            f"{percent(metrics.train.map)} % of the training images{unscored}",
            "F1": f"micro {percent(test.micro_f1)} %, macro {percent(test.macro_f1)} %, at a "
            f"{record.score_kind} of {test.threshold:g}",
            "all right": f"{percent(test.subset_accuracy)} % of the images",
        }

    def class_table(self, record: RunRecord) -> ClassTable:
        """Return average precision, precision, recall and F1 of each class."""
        test = cast(MultilabelMetrics, record.metrics).test
        columns = (
            ("AP", "average_precision"),
            ("precision", "precision"),
            ("recall", "recall"),
            ("F1", "f1"),
        )
        return ClassTable(columns, with_counts(test.per_class, record))

    def worst(self, run: Run, test: np.ndarray) -> list[Wrong]:
        """Return the images with a wrong class, the surest first; the score is that class's."""
        rows = {name: column[test] for name, column in run.predictions.items()}
        scores, true = _columns(rows, SCORE), self.truth(rows) > 0
        threshold = cast(MultilabelMetrics, run.metrics).test.threshold
        predicted = scores > threshold
        sureness = np.where(predicted != true, np.abs(scores - threshold), -1.0)
        surest = sureness.argmax(axis=1)
        order = np.argsort(-sureness.max(axis=1), kind="stable")
        names = np.array(run.class_names, object)
        return [
            Wrong(
                int(test[i]),
                "; ".join(names[predicted[i]]) or "none",
                float(scores[i, surest[i]]),
            )
            for i in order
            if sureness[i, surest[i]] >= 0
        ]

    def is_number(self, column: str) -> bool:
        """Return whether a column of ``predictions.csv`` holds numbers."""
        return column.startswith((TRUE, SCORE))

    def truth(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the true classes of rows, (n_rows, n_classes), 0 or 1."""
        return _columns(rows, TRUE)

    def estimate(self, rows: Mapping[str, np.ndarray]) -> Estimate:
        """Return the mean average precision of rows of ``predictions.csv``."""
        found = mean_average_precision(self.truth(rows), _columns(rows, SCORE))
        return found.by_group(rows.get("group"))


def _columns(rows: Mapping[str, np.ndarray], beginning: str) -> np.ndarray:
    own = [column for name, column in rows.items() if name.startswith(beginning)]
    return np.stack(own, axis=1)
