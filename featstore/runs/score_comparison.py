"""Compare two runs that predict several classes, or a number, by their mAP or R²."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from featstore.errors import ConfigError
from featstore.runs.paired_rows import PairedTest, describe_both, paired_rows
from featstore.runs.run import Run
from featstore.runs.scoring.influence import Estimate

TEST = "infinitesimal jackknife over the test images"


@dataclass(frozen=True)
class ScoreComparison(PairedTest):
    """The comparison of two runs, ``a`` and ``b``, by :func:`featstore.compare`.

    Parameters
    ----------
    run_a, run_b : str
        Their names.
    name_a, name_b : str
        Network, layers and classifier; the runs' names if these are the same.
    score : str
        ``map``, mean average precision, or ``r2``, the coefficient of determination.
    n_test : int
        Number of test rows.
    score_a, score_b : float
    difference : float
        The first run's score less the second's.
    interval : tuple of (float, float)
        Its 95 % confidence interval, from each row's influence on the difference: the infinitesimal
        jackknife of Efron 1982, the bootstrap's standard error without draws.
    test : str
    p_value : float
        Probability of a difference at least as large if both runs are equally good.
    same_images : bool
        Whether both runs are of the same images, by their fingerprints. If not, rows of one name
        and label were taken for the same image.
    """

    run_a: str
    run_b: str
    name_a: str
    name_b: str
    score: str
    n_test: int
    score_a: float
    score_b: float
    difference: float
    interval: tuple[float, float]
    test: str
    p_value: float
    same_images: bool

    @property
    def sentence(self) -> str:
        """The outcome in one sentence."""
        if not self.difference:
            return f"{self.name_a} and {self.name_b} are equally good: {self.verdict}"
        names = (self.name_a, self.name_b)
        better, worse = names if self.difference > 0 else names[::-1]
        return (
            f"{better} is better than {worse} on {self.n_test:,} test images; the difference is "
            f"{'' if self.significant else 'not '}significant at 5 %: {self.verdict}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, and ``significant``, as JSON-able values."""
        return asdict(self) | {"interval": list(self.interval), "significant": self.significant}


def compare_scores(a: Run, b: Run) -> ScoreComparison:
    """Compare two runs that predict several classes, or a number, of each image."""
    own, other = _estimates(a, b)
    difference = own - other
    low, high = difference.interval(float("-inf"), float("inf"))
    names = describe_both(a, b)
    return ScoreComparison(
        run_a=a.run_id,
        run_b=b.run_id,
        name_a=names[0],
        name_b=names[1],
        score=a.scoring.score,
        n_test=len(own.influences),
        score_a=own.value,
        score_b=other.value,
        difference=difference.value,
        interval=(low, high),
        test=TEST,
        p_value=difference.p_value,
        same_images=a.selection.fingerprint == b.selection.fingerprint,
    )


def score_p_value(a: Run, b: Run) -> float:
    """Return the p-value of :func:`compare_scores`."""
    own, other = _estimates(a, b)
    return (own - other).p_value


def _estimates(a: Run, b: Run) -> tuple[Estimate, Estimate]:
    rows_a, rows_b = paired_rows(a, b)
    found = a.scoring.estimate(rows_a), b.scoring.estimate(rows_b)
    if found[0] is None or found[1] is None:
        raise ConfigError(
            f"{a.run_id} and {b.run_id} can't be compared: all {len(rows_a['sample_id']):,} test "
            "images have the same number."
        )
    return found[0], found[1]
