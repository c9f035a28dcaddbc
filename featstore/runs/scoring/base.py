"""What each task's runs are scored by, and how tables and sentences show it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from featstore.config import CLASSIFIER_NAMES
from featstore.runs.scoring.influence import Estimate
from featstore.runs.significance import Z
from featstore.store.format.run_schema import RunRecord
from featstore.store.format.run_scores import SCORES, MultilabelScores, Scores
from featstore.text import NONE, percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from featstore.runs.run import Run

Line = Mapping[str, Any]
"""A run's summary, or a row of :class:`featstore.runs.ranking.Ranking`."""


@dataclass(frozen=True)
class Column:
    """One score in tables of runs.

    `key` is its name in a run's summary, `heading` that on the terminal, `title` that in a report,
    and `legend` explains it there. `is_optional` leaves the column out where no run has the score,
    `same_as` where all runs have the value of another key.
    """

    key: str
    heading: str
    title: str
    legend: str = ""
    text: Callable[[float | None], str] = percent
    is_optional: bool = False
    same_as: str = ""

    def is_shown(self, lines: Sequence[Line]) -> bool:
        """Return whether the column says something that the others do not."""
        if self.is_optional:
            return any(line[self.key] is not None for line in lines)
        if not self.same_as:
            return True
        return any(abs(line[self.key] - line[self.same_as]) >= 1e-9 for line in lines)

    def cell(self, line: Line) -> str:
        """Return the score's text, with the deviation of repeats."""
        deviation = line.get(f"{self.key}_deviation")
        spread = "" if deviation is None else f" ± {self.text(deviation)}"
        return f"{self.text(line[self.key])}{spread}"


def interval_column(score: str, text: Callable[[float], str]) -> Column:
    """Return the column of the 95 % interval of a score."""

    def both(interval: Any) -> str:
        return NONE if interval is None else f"{text(interval[0])} to {text(interval[1])}"

    legend = (
        "95 % interval: where the score lies on other test images of the same kind. It does not "
        "include the luck of the training images."
    )
    return Column(
        f"{score}_interval", "95 % interval", "95 % interval", legend, both, is_optional=True
    )


ECE = Column(
    "ece",
    "ECE",
    "ECE",
    "ECE: expected calibration error, the mean gap between probabilities and how often they are "
    "right.",
    is_optional=True,
)
"""How well a run's probabilities hold."""


@dataclass(frozen=True)
class ClassTable:
    """The scores of each class: headings, keys of the rows, and the rows, by class."""

    columns: tuple[tuple[str, str], ...]
    rows: list[dict[str, Any]]

    @property
    def headings(self) -> list[str]:
        """Headings of the scores and of the numbers of images."""
        return [*(heading for heading, _ in self.columns), "train", "test"]


@dataclass(frozen=True)
class Wrong:
    """A wrong prediction: its row of ``predictions.csv``, what was predicted, and how surely.

    `score` is NaN where the run gives none.
    """

    at: int
    predicted: str
    score: float


class Scoring(ABC):
    """How the runs of one task are scored, ranked and shown.

    `name` is the ranking score's name for people, and `unit` stands behind its text; `plural` is
    what a list of such scores is called. `columns` are the tables' scores, on the terminal in the
    order of `terminal`, which names their keys. Repeats are averaged in the scores of `means`, and
    have deviations in those of `deviations`. `worst_are` describes the test images of
    :meth:`worst`. `baseline` is the key of the score that a run has to
    beat; without one that is 0. Of equal runs, the first of `classifiers` is the simplest.
    """

    task: ClassVar[str]
    name: ClassVar[str]
    plural: ClassVar[str]
    unit: ClassVar[str] = " %"
    baseline: ClassVar[str] = ""
    table_title: ClassVar[str]
    classifiers: ClassVar[tuple[str, ...]] = CLASSIFIER_NAMES
    columns: ClassVar[tuple[Column, ...]]
    terminal: ClassVar[tuple[str, ...]]
    means: ClassVar[tuple[str, ...]]
    deviations: ClassVar[tuple[str, ...]]
    score_axis: ClassVar[str]
    worst_are: ClassVar[str] = "that run {} was surest of and wrong about"

    @property
    def score(self) -> str:
        """Key of the score that ranks runs; with ``cv_`` in front that of a search."""
        return SCORES[self.task]

    def column(self, key: str) -> Column:
        """Return the column of a score."""
        return next(column for column in self.columns if column.key == key)

    def terminal_columns(self, lines: Sequence[Line]) -> list[Column]:
        """Return the columns that a table on the terminal shows."""
        found = [self.column(key) for key in self.terminal]
        return [column for column in found if column.is_shown(lines)]

    def text(self, value: float | None) -> str:
        """Return the ranking score without its unit."""
        return self.column(self.score).text(value)

    def score_text(self, line: Line) -> str:
        """Return the ranking score with its name, its unit and the deviation of repeats."""
        return f"{self.name} {self.column(self.score).cell(line)}{self.unit}"

    def interval_text(self, line: Line) -> str:
        """Return the 95 % interval of the ranking score in words; empty without one."""
        if (interval := line[f"{self.score}_interval"]) is None:
            return ""
        low, high = map(self.text, interval)
        return f"(95 % interval {low} to {high})"

    def outcome(self, line: Line, rows: str = "rows") -> str:
        """Return the ranking score, and on how many rows, in words."""
        return f"{self.name} {self.text(line[self.score])}{self.unit} on {line['n_test']:,} {rows}"

    @abstractmethod
    def summary(self, record: RunRecord) -> dict[str, Any]:
        """Return the scores of a record as :meth:`.Run.summary` has them."""

    @abstractmethod
    def rows_text(self, line: Line) -> str:
        """Return what a table's title says of the rows and the scores' units."""

    def variance(self, line: Line) -> float:
        """Return the variance of one run's ranking score over other test images."""
        if (interval := line[f"{self.score}_interval"]) is None:
            return 0.0
        low, high = interval
        value = line[self.score]
        return float((max(high - value, value - low) / Z) ** 2)

    @abstractmethod
    def about(self, line: Line) -> str:
        """Return what the runs predict, in words."""

    @abstractmethod
    def val_text(self, record: RunRecord) -> str:
        """Return the scores of the validation rows as a sentence; empty without such rows."""

    @abstractmethod
    def facts(self, record: RunRecord) -> dict[str, str]:
        """Return what `runs show` says of the test and training rows, by heading."""

    def class_table(self, record: RunRecord) -> ClassTable | None:
        """Return the scores of each class, or None for a task without classes."""
        return None

    def is_number(self, column: str) -> bool:
        """Return whether a column of ``predictions.csv`` holds numbers."""
        return column == "score"

    @abstractmethod
    def worst(self, run: Run, test: np.ndarray) -> list[Wrong]:
        """Return what a run got wrong of some rows of its predictions, the worst first."""

    def drawings(self, run: Run) -> dict[str, Callable[[], Figure]]:
        """Return what draws the pictures of a run's folder, by file."""
        if (reliability := getattr(run.metrics.test, "reliability", None)) is None:
            return {}
        return {"reliability.png": drawn_by("draw_reliability", reliability, run.score_kind)}

    def units_text(self, record: RunRecord) -> str:
        """Return what the intervals take as the units: nothing, or groups of images."""
        n = record.rows.n_test_groups
        return f" by {n:,} groups" if n else ""

    def estimate(self, rows: Mapping[str, np.ndarray]) -> Estimate | None:
        """Return the ranking score of rows of ``predictions.csv``, with each row's influence.

        None where the score is not defined, or is compared in another way.
        """
        return None

    def truth(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return the true labels of rows of ``predictions.csv``, (n_rows,) or (n_rows, k)."""
        return rows["true"]


def split_text(line: Line) -> str:
    """Return how the rows are divided, for the title of a table; empty where that is unknown."""
    return f", {line['split']}" if line["split"] else ""


def ece_of(scores: Scores | MultilabelScores) -> float | None:
    """Return the expected calibration error of test rows; None without probabilities."""
    return None if scores.reliability is None else scores.reliability.ece


def drawn_by(chart: str, *arguments: Any) -> Callable[[], Figure]:
    """Return what draws a picture by a function of ``charts``; only then matplotlib is imported."""

    def draw() -> Figure:
        from featstore.runs import charts

        return cast("Figure", getattr(charts, chart)(*arguments))

    return draw
