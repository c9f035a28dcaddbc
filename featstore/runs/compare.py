"""Compare two runs on the same test rows: a test, and a confidence interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from featstore.config import LEVEL, TASKS
from featstore.runs.bootstrap import difference_by_group
from featstore.runs.paired_rows import PairedTest, Rows, describe_both, paired_rows
from featstore.runs.run import Run
from featstore.runs.score_comparison import ScoreComparison, compare_scores, score_p_value
from featstore.runs.significance import SIGN_FLIP, difference_interval, mcnemar, sign_flip


@dataclass(frozen=True)
class ClassDifference:
    """One class in both runs.

    Parameters
    ----------
    name : str
    support : int
        Number of its test rows.
    recall_a, recall_b : float
        Fraction of these that each run gets right.
    difference : float
        The first run's recall less the second's.
    """

    name: str
    support: int
    recall_a: float
    recall_b: float
    difference: float


@dataclass(frozen=True)
class Comparison(PairedTest):
    """The comparison of two runs, ``a`` and ``b``, by :func:`compare`.

    Parameters
    ----------
    run_a, run_b : str
        Their names.
    name_a, name_b : str
        Network, layers and classifier; the runs' names if these are the same.
    n_test : int
        Number of test rows.
    n_both_right, n_only_a_right, n_only_b_right, n_both_wrong : int
        Numbers of test rows by which runs get them right.
    n_same : int
        Number of test rows for which both predict the same class.
    accuracy_a, accuracy_b : float
        Fractions.
    difference : float
        The first run's accuracy less the second's.
    interval : tuple of (float, float)
        Its 95 % confidence interval, see :func:`difference_interval`; of test images with groups,
        that of 1,000 bootstrap draws of whole groups.
    test : str
        The test that gave the p-value: :func:`mcnemar`, or of test images with groups
        :func:`featstore.runs.significance.sign_flip`.
    statistic : float or None
        The value of chi-squared; None for the exact tests.
    p_value : float
        Probability of a difference at least as large if both runs are equally good.
    per_class : tuple of ClassDifference
        The classes that have test rows, in the order of the first run.
    same_images : bool
        Whether both runs are of the same images, by their fingerprints. If not, rows of one name
        and class were taken for the same image.
    n_groups : int
        Groups of test images, the units of interval and test; 0 without groups.
    """

    run_a: str
    run_b: str
    name_a: str
    name_b: str
    n_test: int
    n_both_right: int
    n_only_a_right: int
    n_only_b_right: int
    n_both_wrong: int
    n_same: int
    accuracy_a: float
    accuracy_b: float
    difference: float
    interval: tuple[float, float]
    test: str
    statistic: float | None
    p_value: float
    per_class: tuple[ClassDifference, ...]
    same_images: bool
    n_groups: int = 0

    @property
    def sentence(self) -> str:
        """The outcome in one sentence."""
        n_more = self.n_only_a_right - self.n_only_b_right
        both = f"{self.name_a} and {self.name_b}"
        if n_more:
            names = (self.name_a, self.name_b)
            better, worse = names if n_more > 0 else names[::-1]
            return (
                f"{better} is right on {abs(n_more):,} more of {self.n_test:,} test images than "
                f"{worse}; the difference is {'' if self.significant else 'not '}significant at "
                f"5 %: {self.verdict}"
            )
        if self.n_same == self.n_test:
            return f"{both} predict the same for all {self.n_test:,} test images: {self.verdict}"
        n_right = self.n_both_right + self.n_only_a_right
        which = "though not the same" if self.n_only_a_right else "the same"
        return f"{both} are each right on {n_right:,} of {self.n_test:,} test images, {which}: " + (
            self.verdict
        )

    def most_different(self, n: int = 5) -> list[ClassDifference]:
        """Return the `n` classes whose recalls differ most; equal recalls are left out."""
        differing = [one for one in self.per_class if one.difference]
        return sorted(differing, key=lambda one: -abs(one.difference))[:n]

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, and ``significant``, as JSON-able values."""
        return asdict(self) | {
            "interval": list(self.interval),
            "significant": self.significant,
            "per_class": [asdict(one) for one in self.per_class],
        }


def compare(a: Run, b: Run) -> Comparison | ScoreComparison:
    """Compare two runs that have the same test rows.

    Parameters
    ----------
    a, b : Run
        Their test rows are matched by sample ids, in any order; see
        :attr:`Comparison.same_images`.

    Returns
    -------
    Comparison or ScoreComparison
        The second of runs that predict several classes or a number.

    Raises
    ------
    ConfigError
        When their tasks, their test rows, or the true labels of these rows, differ.
    RunError
        When a run's ``predictions.csv`` is not what fit wrote.
    """
    return compare_classes(a, b) if a.task == TASKS[0] else compare_scores(a, b)


def compare_classes(a: Run, b: Run) -> Comparison:
    """Compare two runs that predict one class of each image; see :func:`compare`."""
    rows_a, rows_b = paired_rows(a, b)
    true, predicted_a, predicted_b = rows_a["true"], rows_a["predicted"], rows_b["predicted"]
    right_a, right_b = predicted_a == true, predicted_b == true
    n_test, groups = true.size, _groups(rows_a, rows_b)
    n_only_a, n_only_b = _only_right(right_a, right_b)
    test, statistic, p_value = _test(right_a, right_b, groups)
    names = describe_both(a, b)
    return Comparison(
        run_a=a.run_id,
        run_b=b.run_id,
        name_a=names[0],
        name_b=names[1],
        n_test=n_test,
        n_both_right=int(np.sum(right_a & right_b)),
        n_only_a_right=n_only_a,
        n_only_b_right=n_only_b,
        n_both_wrong=int(np.sum(~right_a & ~right_b)),
        n_same=int(np.sum(predicted_a == predicted_b)),
        accuracy_a=float(right_a.mean()),
        accuracy_b=float(right_b.mean()),
        difference=(n_only_a - n_only_b) / n_test,
        interval=difference_interval(n_only_a, n_only_b, n_test)
        if groups is None
        else difference_by_group(right_a.astype(float) - right_b, groups),
        test=test,
        statistic=statistic,
        p_value=p_value,
        per_class=_per_class(a.class_names, true, right_a, right_b),
        same_images=a.selection.fingerprint == b.selection.fingerprint,
        n_groups=0 if groups is None else len(np.unique(groups)),
    )


def p_value_of(a: Run, b: Run) -> float:
    """Return the p-value of :func:`compare`, in less time."""
    if a.task != TASKS[0]:
        return score_p_value(a, b)
    rows_a, rows_b = paired_rows(a, b)
    right_a, right_b = (rows["predicted"] == rows_a["true"] for rows in (rows_a, rows_b))
    return _test(right_a, right_b, _groups(rows_a, rows_b))[2]


def no_test_differs(a: Run, b: Run) -> bool:
    """Return whether :func:`compare` finds no difference at 5 %; read predictions if need be."""
    if a.task == TASKS[0] and not any(run.outline.summary["n_test_groups"] for run in (a, b)):
        n_test = int(a.outline.summary["n_test"])
        n_right = [round(run.score * n_test) for run in (a, b)]
        gap = abs(n_right[0] - n_right[1])
        n_most = min(n_test, 2 * n_test - sum(n_right))
        # Too far apart, however many images only one of them gets right.
        if mcnemar((n_most + gap) // 2, (n_most - gap) // 2)[2] < LEVEL:
            return False
    return p_value_of(a, b) >= LEVEL


def _groups(rows_a: Rows, rows_b: Rows) -> np.ndarray | None:
    return rows_a.get("group", rows_b.get("group"))


def _test(
    right_a: np.ndarray, right_b: np.ndarray, groups: np.ndarray | None
) -> tuple[str, float | None, float]:
    """Return a test's name, its statistic if it has one, and the p-value."""
    if groups is None:
        return mcnemar(*_only_right(right_a, right_b))
    return SIGN_FLIP, None, sign_flip(right_a.astype(int) - right_b, groups)


def _only_right(right_a: np.ndarray, right_b: np.ndarray) -> tuple[int, int]:
    return int(np.sum(right_a & ~right_b)), int(np.sum(right_b & ~right_a))


def compare_all(
    reference: Run, others: Sequence[Run]
) -> list[tuple[Comparison | ScoreComparison, float]]:
    """Compare several runs with one, each with its p-value by Holm's correction.

    Of many comparisons at 5 % some are significant by chance alone. Holm 1979,
    https://www.jstor.org/stable/4615733: the k-th smallest of n p-values is multiplied by
    n - k + 1, and is at least as large as the one before it.
    """
    found = [compare(other, reference) for other in others]
    adjusted, largest = [0.0] * len(found), 0.0
    order = sorted(range(len(found)), key=lambda i: found[i].p_value)
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, found[i].p_value * (len(found) - place)))
        adjusted[i] = largest
    return list(zip(found, adjusted, strict=True))


def _per_class(
    class_names: tuple[str, ...], true: np.ndarray, right_a: np.ndarray, right_b: np.ndarray
) -> tuple[ClassDifference, ...]:
    names, codes = np.unique(true, return_inverse=True)
    counts = [np.bincount(codes, weights) for weights in (None, right_a, right_b)]
    by_name = {name: [int(c[i]) for c in counts] for i, name in enumerate(names.tolist())}
    return tuple(
        ClassDifference(name, n, n_a / n, n_b / n, (n_a - n_b) / n)
        for name in class_names
        if name in by_name
        for n, n_a, n_b in [by_name[name]]
    )
