"""What a run says of single images: a class, several classes, or a number."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO, TypeAlias

import numpy as np

from featstore.errors import ConfigError
from featstore.fitting.evaluate import Predictions
from featstore.io.files import atomic_write, resolve_link
from featstore.runs.calibration import DECISION
from featstore.runs.run import Run
from featstore.text import no_formula, number_text


@dataclass(frozen=True)
class Prediction:
    """A run's label for one image.

    Parameters
    ----------
    path : str
        The image; of arrays and files without a name ``image 0``, ``image 1``, ...
    label : str or None
        Name of the class; None if the image can't be read.
    score : float or None
        The class's probability or decision value; None if the classifier gives neither.
    score_kind : str
        ``probability``, calibrated; ``uncalibrated probability``; or ``decision value``.
    error : str or None
        Why the image can't be read.
    familiarity : float or None
        Share of the training images that are at least as far from their nearest neighbor; see
        :func:`featstore.predict`. None where it was not asked for.
    """

    path: str
    label: str | None
    score: float | None
    score_kind: str
    error: str | None = None
    familiarity: float | None = None

    @property
    def cells(self) -> list[str]:
        """The texts of a table's row: the class and its score."""
        return [self.label or "-", "-" if self.score is None else f"{self.score:.3f}"]

    def csv_row(self, scored: Sequence[str]) -> list[str]:
        """Return path, class, score, kind of the score, familiarity, and error."""
        score = "" if self.score is None else f"{self.score:.6g}"
        familiar = _share_text(self.familiarity)
        return [self.path, self.label or "", score, self.score_kind, familiar, self.error or ""]

    def unlabelled(self) -> Prediction:
        """Return the prediction without its label."""
        return replace(self, label=None, score=None)


@dataclass(frozen=True)
class LabelsPrediction:
    """A run's labels for one image that may have several classes.

    Parameters
    ----------
    path : str
        The image; of arrays and files without a name ``image 0``, ``image 1``, ...
    labels : tuple of str or None
        Names of the classes whose score is above `threshold`, the surest first; None if the image
        can't be read.
    scores : dict of str to float or None
        Probability or decision value of every class.
    score_kind : str
        ``probability``, calibrated; ``uncalibrated probability``; or ``decision value``.
    threshold : float
    error : str or None
        Why the image can't be read.
    familiarity : float or None
        Share of the training images that are at least as far from their nearest neighbor; see
        :func:`featstore.predict`. None where it was not asked for.
    """

    path: str
    labels: tuple[str, ...] | None
    scores: dict[str, float] | None
    score_kind: str
    threshold: float
    error: str | None = None
    familiarity: float | None = None

    @property
    def cells(self) -> list[str]:
        """The texts of a table's row: the classes with their scores."""
        if self.labels is None or self.scores is None:
            return ["-"]
        return [", ".join(f"{name} {self.scores[name]:.3f}" for name in self.labels) or "none"]

    def csv_row(self, scored: Sequence[str]) -> list[str]:
        """Return path, classes, kind of the scores, familiarity, error, and each class's score."""
        scores = ["" if self.scores is None else f"{self.scores[name]:.6g}" for name in scored]
        labels, familiar = "; ".join(self.labels or ()), _share_text(self.familiarity)
        return [self.path, labels, self.score_kind, familiar, self.error or "", *scores]

    def unlabelled(self) -> LabelsPrediction:
        """Return the prediction without its labels."""
        return replace(self, labels=None, scores=None)


@dataclass(frozen=True)
class NumberPrediction:
    """A run's number for one image.

    Parameters
    ----------
    path : str
        The image; of arrays and files without a name ``image 0``, ``image 1``, ...
    value : float or None
        The number, in the unit of the labels; None if the image can't be read.
    error : str or None
        Why the image can't be read.
    familiarity : float or None
        Share of the training images that are at least as far from their nearest neighbor; see
        :func:`featstore.predict`. None where it was not asked for.
    """

    path: str
    value: float | None
    error: str | None = None
    familiarity: float | None = None

    @property
    def cells(self) -> list[str]:
        """The text of a table's row: the number."""
        return ["-" if self.value is None else number_text(self.value)]

    def csv_row(self, scored: Sequence[str]) -> list[str]:
        """Return path, number, familiarity and error."""
        value = "" if self.value is None else f"{self.value:.7g}"
        return [self.path, value, _share_text(self.familiarity), self.error or ""]

    def unlabelled(self) -> NumberPrediction:
        """Return the prediction without its number."""
        return replace(self, value=None)


def _share_text(share: float | None) -> str:
    return "" if share is None else f"{share:.4g}"


AnyPrediction: TypeAlias = Prediction | LabelsPrediction | NumberPrediction


HEADINGS: dict[type, tuple[str, ...]] = {
    Prediction: ("path", "class", "score", "score_kind", "familiarity", "error"),
    LabelsPrediction: ("path", "classes", "score_kind", "familiarity", "error"),
    NumberPrediction: ("path", "value", "familiarity", "error"),
}
"""Columns of CSV files; ``score:CLASS`` of each class follow those of several classes."""


NUMBERS = ("score", "value", "familiarity")
"""Columns whose texts are numbers, which spreadsheets may take as such."""


def _table(found: Sequence[AnyPrediction]) -> tuple[list[str], list[list[str]]]:
    """Return the columns and rows of predictions, as texts."""
    several = [one.scores for one in found if isinstance(one, LabelsPrediction)]
    # Those of the first image that can be read.
    scored = list(next(filter(None, several), {}))
    columns = [*HEADINGS[type(found[0])], *(f"score:{name}" for name in scored)]
    return columns, [one.csv_row(scored) for one in found]


def _is_number(column: str) -> bool:
    return column in NUMBERS or column.startswith("score:")


def write_csv(predictions: Iterable[AnyPrediction], stream: TextIO) -> None:
    """Write predictions as CSV; no text in it is a formula to a spreadsheet."""
    columns, rows = _table(list(predictions))
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        cells = zip(columns, row, strict=True)
        writer.writerow([text if _is_number(name) else no_formula(text) for name, text in cells])


TABLE_FILES = (".csv", ".parquet")
"""Endings of the files that :func:`write_table` writes."""


def check_table(path: Path) -> None:
    """Refuse a file of another kind, and Parquet without pyarrow, before anything is predicted."""
    if path.suffix not in TABLE_FILES:
        raise ConfigError(
            f"{path.name} ends in {path.suffix or 'nothing'}; predictions are written to "
            f"{' or '.join(TABLE_FILES)}."
        )
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise ConfigError("Parquet needs pyarrow: pip install pyarrow. Or write .csv.")


def write_table(predictions: Iterable[AnyPrediction], path: Path) -> None:
    """Write predictions to a .csv or .parquet file, whole or not at all; columns are those of CSV.

    In Parquet numbers are numbers, missing ones null, and texts are as they are.
    """
    check_table(path)
    found = list(predictions)
    with atomic_write(resolve_link(path)) as temporary:
        if path.suffix == ".csv":
            with temporary.open(
                "w", encoding="utf-8", errors="surrogateescape", newline=""
            ) as file:
                write_csv(found, file)
            return
        import pandas as pd

        columns, rows = _table(found)
        # A name's bytes that are not UTF-8 have no place in Parquet.
        valid = [
            [t.encode(errors="surrogateescape").decode(errors="replace") for t in r] for r in rows
        ]
        frame = pd.DataFrame(valid, columns=columns).replace("", None)
        for name in filter(_is_number, columns):
            frame[name] = pd.to_numeric(frame[name])
        frame.to_parquet(temporary, index=False)


Maker: TypeAlias = Callable[[str, Predictions, int | None, str | None], AnyPrediction]
"""Makes a prediction of a name, what was predicted, its position there or None, and an error."""


def maker(run: Run, threshold: float | None = None) -> Maker:
    """Return what makes the predictions of a run's task; `threshold` is of several classes."""
    if run.task == "multilabel":
        is_share = threshold is None or 0 <= threshold < 1
        if run.score_kind != DECISION and not is_share:
            raise ConfigError(
                f"threshold is {threshold:g}; the scores of {run.run_id} are probabilities: give a "
                "number from 0 to 1, such as 0.3."
            )
        given = run.record.metrics.test.threshold if threshold is None else threshold  # type: ignore[union-attr]
        return lambda *args: _labels(run.class_names, given, *args)
    if threshold is not None:
        raise ConfigError(
            f"A threshold is for runs with several classes; {run.run_id} is of {run.task}. Leave "
            "--threshold out."
        )
    return _number if run.task == "regression" else lambda *args: _label(run.class_names, *args)


def _label(
    names: Sequence[str], path: str, found: Predictions, at: int | None, error: str | None
) -> AnyPrediction:
    if at is None:
        return Prediction(path, None, None, found.score_kind, error)
    score = float(found.scores[at])
    # Your own classifier may give no score.
    given = None if np.isnan(score) else score
    return Prediction(path, names[found.labels[at]], given, found.score_kind, error)


def _labels(
    names: Sequence[str],
    threshold: float,
    path: str,
    found: Predictions,
    at: int | None,
    error: str | None,
) -> AnyPrediction:
    labels, scores = None, None
    if at is not None:
        values: Any = found.scores[at].tolist()
        scores = dict(zip(names, values, strict=True))
        own = [name for name in names if scores[name] > threshold]
        labels = tuple(sorted(own, key=lambda name: -scores[name]))
    return LabelsPrediction(path, labels, scores, found.score_kind, threshold, error)


def _number(path: str, found: Predictions, at: int | None, error: str | None) -> AnyPrediction:
    return NumberPrediction(path, None if at is None else float(found.labels[at]), error)
