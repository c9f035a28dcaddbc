"""How runs are scored, ranked and shown, by what a label is."""

from featstore.runs.scoring.base import ClassTable, Column, Line, Scoring, Wrong
from featstore.runs.scoring.classification import Classification
from featstore.runs.scoring.multilabel import Multilabel
from featstore.runs.scoring.regression import Regression

SCORINGS: dict[str, Scoring] = {
    scoring.task: scoring for scoring in (Classification(), Multilabel(), Regression())
}


def find_scoring(task: str) -> Scoring:
    """Return how the runs of a task are scored."""
    return SCORINGS[task]


__all__ = ["ClassTable", "Column", "Line", "Scoring", "Wrong", "find_scoring"]
