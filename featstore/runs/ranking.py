"""Rank fits without the luck of one test score: repeats as one row, and rows that are equal."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from featstore.config import LEVEL
from featstore.errors import ConfigError, RunError
from featstore.runs.compare import no_test_differs
from featstore.runs.names import name_fits
from featstore.runs.outline import split_text
from featstore.runs.run import Run
from featstore.runs.scoring import find_scoring
from featstore.runs.significance import Z
from featstore.text import join_some

Line = dict[str, Any]
"""One fit as a row of a table: :meth:`featstore.runs.run.Run.summary` and more, JSON-able."""


BY_CV, BY_REPEATS, BY_TEST = "cross-validation", "repeated splits", "test"
"""What a row is ranked by."""


GROUPS = {
    BY_CV: "ranked by cross-validation on the training images",
    BY_REPEATS: "ranked by the mean over repeated test splits",
    BY_TEST: "ranked by one test split",
}
"""For people, the groups of rows, in their order; scores of two groups are never ranked together.

Cross-validation scores models of fewer training images, on other images.
"""


@dataclass(frozen=True)
class Choice:
    """The best of `n_rows` fits, and the others that no test tells from it.

    The `n_left_out` last of them were not tested. `worse` are the groups whose best rows came
    first and are significantly worse on the test images.
    """

    best: Line
    equal: list[Line]
    n_rows: int
    n_left_out: int = 0
    worse: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """How the best was chosen, and which others are equal to it; empty for a single run."""
        best, texts, scoring = self.best, [], find_scoring(self.best["task"])
        n_shown = self.n_rows - self.n_left_out
        shown = f" of the {n_shown:,} shown" if self.n_left_out else ""
        if best["n_repeats"] > 1:
            own = best["scores"][best["run_ids"].index(best["run_id"])]
            mean = scoring.column(scoring.score).cell(best)
            texts.append(
                f"{mean}{scoring.unit} are the mean and standard deviation of {best['n_repeats']} "
                "repeats. Model, predictions and pictures are of the repeat nearest to the mean, "
                f"with {scoring.text(own)}{scoring.unit}."
            )
        if self.n_rows > 1:
            texts.append(
                {
                    BY_CV: "Chosen by cross-validation on the training images.",
                    BY_REPEATS: "Chosen by the mean over its repeated splits.",
                    BY_TEST: "Chosen as the simplest of equal runs: by the number of features, "
                    "then by the order of the classifiers.",
                }[best["ranked_by"]]
                if self.equal or best["ranked_by"] != BY_TEST
                else f"A test tells all others{shown} from it, at 5 %."
            )
        if self.worse:
            texts.append(
                f"On the test images it is significantly better than the best by "
                f"{join_some(self.worse)}."
            )
        if self.equal:
            names = join_some([line["name"] for line in self.equal])
            whole = "its group" if self.worse else "the table"
            texts.append(
                f"Equal{shown}, as no test tells them from the top of {whole} at 5 %: {names}."
            )
        return " ".join(texts)


class Ranking:
    """Fits as rows in the groups of :data:`GROUPS`, the best of each group first.

    The first group has the fits whose parameters were searched, by the score of the
    cross-validation; the second those with redrawn splits, by their mean test score; the third all
    others, by their test score: accuracy, mAP or R². A row's ``run_id`` is the repeat nearest to
    the mean.

    Parameters
    ----------
    runs : sequence of Run
        Runs on the same images, of one task. Of repeats with the same seeds the newest counts.
    top : int, optional
        Rows to show: the first ones, and the best if it comes after them.
    """

    def __init__(self, runs: Sequence[Run], top: int | None = None) -> None:
        names = name_fits(runs)
        fits: dict[str, dict[tuple[Any, Any], Run]] = {}
        for run in sorted(runs, key=lambda run: str(run.outline.summary["created"])):
            seeds = run.outline.summary["seed"], run.outline.summary["split_seed"]
            fits.setdefault(run.series, {})[seeds] = run
        self._repeats = fits
        lines = [_line(list(own.values()), *names[series]) for series, own in fits.items()]
        groups = list(GROUPS)
        self.all_lines = sorted(
            lines, key=lambda line: (groups.index(line["ranked_by"]), -_score(line), line["name"])
        )
        self._places = {line["series"]: place for place, line in enumerate(self.all_lines)}
        self._top = top
        self._equal: dict[tuple[str, str], bool] = {}
        self.runs = {run.run_id: run for run in runs}

    @cached_property
    def lines(self) -> list[Line]:
        """The rows to show, in order."""
        shown = self.all_lines[: self._top]
        is_beyond = len(shown) < len(self.all_lines) and self.best not in shown
        return [*shown, self.best] if is_beyond else shown

    @property
    def n_left_out(self) -> int:
        """Number of rows that are not shown."""
        return len(self.all_lines) - len(self.lines)

    @cached_property
    def shown_runs(self) -> list[Run]:
        """The runs of the rows to show, with their repeats."""
        return [self.runs[run_id] for line in self.lines for run_id in line["run_ids"]]

    @cached_property
    def best(self) -> Line:
        """The best of all rows."""
        return self._choose(self.all_lines)[1]

    @cached_property
    def choice(self) -> Choice:
        """The best of all rows, and those to show that are equal to it."""
        top, best, worse = self._choose(self.all_lines)
        equal = self._equals(top, best, self.lines)
        return Choice(best, equal, len(self.all_lines), self.n_left_out, worse)

    def run(self, line: Line) -> Run:
        """Return the run that stands for a row."""
        return self.runs[line["run_id"]]

    def choose(self, lines: Sequence[Line]) -> Choice:
        """Return the best of some rows, and those that are equal to it."""
        lines = sorted(lines, key=lambda line: self._places[line["series"]])
        top, best, worse = self._choose(lines)
        return Choice(best, self._equals(top, best, lines), len(lines), worse=worse)

    def _choose(self, lines: Sequence[Line]) -> tuple[Line, Line, tuple[str, ...]]:
        """Return the top of the best row's group, the best row, and the groups that it beats.

        It is the best of the first group that has rows, unless a test tells that the best of a
        later group has a higher test score.
        """
        score = find_scoring(lines[0]["task"]).score
        found: list[tuple[Line, Line]] = []
        for group in GROUPS:
            own = [line for line in lines if line["ranked_by"] == group]
            if not own:
                continue
            if not found or own[0][score] > found[-1][1][score]:
                pair = own[0], self._best(own[0], own)
                if not found or not self._is_equal(found[-1][1], own[0]):
                    found.append(pair)
        top, best = found[-1]
        return top, best, tuple(one["ranked_by"] for _, one in found[:-1])

    def _best(self, top: Line, lines: Sequence[Line]) -> Line:
        """Return the best row of a group; `top` is its first row.

        A row with neither cross-validation nor redrawn splits is never best by its test score
        alone: of all equal to the highest, it is the simplest that converged, with the fewest
        features and the first classifier of the list.
        """
        if top["ranked_by"] != BY_TEST:
            return top
        # In this order most rows need no test: the first that is equal is the best.
        return next(line for line in sorted(lines, key=_simplicity) if self._is_equal(top, line))

    def _equals(self, top: Line, best: Line, lines: Sequence[Line]) -> list[Line]:
        return [line for line in lines if line is not best and self._is_equal(top, line)]

    def _is_equal(self, top: Line, line: Line) -> bool:
        """Return whether no test at 5 % tells two rows apart; each two are tested once."""
        pair = top["series"], line["series"]
        if pair not in self._equal:
            self._equal[pair] = top is line or self._test_is_equal(top, line)
        return self._equal[pair]

    def _test_is_equal(self, a: Line, b: Line) -> bool:
        own, other = (self._repeats[line["series"]] for line in (a, b))
        shared = [seeds for seeds in own if seeds in other and seeds[1] is not None]
        if len(shared) > 1:
            pairs = [(own[seeds].score, other[seeds].score) for seeds in shared]
            p_value = resampled_p_value(
                [one - two for one, two in pairs], a["n_test"] / a["n_train"]
            )
            return p_value >= LEVEL
        try:
            return no_test_differs(self.run(a), self.run(b))
        except (ConfigError, RunError):
            # Other test images, or damaged predictions.
            score = find_scoring(a["task"]).score
            sigma = math.sqrt(_variance(a) + _variance(b))
            return bool(abs(a[score] - b[score]) <= Z * sigma)


def by_group(lines: Sequence[Line], about: Callable[[Line], str]) -> list[tuple[str, list[Line]]]:
    """Return rows by images, by what `about` says of a row, and by group, each with its title."""
    groups = defaultdict(set)
    for line in lines:
        groups[line["title"]].add(line["ranked_by"])
    found: dict[str, list[Line]] = {}
    for line in lines:
        title = f"{line['title']}: {about(line)}"
        if len(groups[line["title"]]) > 1:
            title += f"; {GROUPS[line['ranked_by']]}"
        found.setdefault(title, []).append(line)
    return list(found.items())


def resampled_p_value(differences: Sequence[float], test_share: float) -> float:
    """Return the p-value of equal means over repeats that draw new splits.

    The corrected resampled t-test: repeats share most of their rows, so that their plain variance
    is too small. Nadeau and Bengio 2003, doi:10.1023/A:1024068626366. `test_share` is the number
    of test rows over that of training rows.
    """
    # scipy.stats would take longer to load than ten thousand runs to list.
    from scipy.special import stdtr

    mean, n = statistics.fmean(differences), len(differences)
    variance = statistics.variance(differences) * (1 / n + test_share)
    if not variance:
        return 0.0 if mean else 1.0
    return float(2 * stdtr(n - 1, -abs(mean) / math.sqrt(variance)))


def _line(repeats: Sequence[Run], name: str, settings: str) -> Line:
    scoring = find_scoring(repeats[0].task)
    score = scoring.score
    lines = [run.summary() for run in repeats]
    scores = [line[score] for line in lines]
    mean = statistics.fmean(scores)
    nearest = min(lines, key=lambda line: (abs(line[score] - mean), line["run_id"]))
    line = dict(nearest) if len(lines) > 1 else nearest
    line |= {
        "name": name,
        "settings": settings,
        "n_repeats": len(lines),
        "ranked_by": BY_TEST,
        "run_ids": [one["run_id"] for one in lines],
        "scores": scores,
        "split_text": split_text(lines),
    }
    if len(lines) > 1:
        # Seeds of the classifier alone leave the luck of one split.
        line["ranked_by"] = BY_TEST if line["split_seed"] is None else BY_REPEATS
        for name in scoring.means:
            values = [one[name] for one in lines if one[name] is not None]
            line[name] = statistics.fmean(values) if values else None
        for name in scoring.deviations:
            line[f"{name}_deviation"] = statistics.stdev(one[name] for one in lines)
        line["duration_s"] = sum(one["duration_s"] for one in lines)
        line["converged"] = all(one["converged"] for one in lines)
        # The deviation over the repeats says more.
        line |= {name: None for name in line if name.endswith("_interval")}
    if line[f"cv_{score}"] is not None:
        line["ranked_by"] = BY_CV
    return line


def _simplicity(line: Line) -> tuple[Any, ...]:
    """Return a key that sorts rows which are equal by their tests, the simplest first."""
    names = find_scoring(line["task"]).classifiers
    rank = names.index(line["clf"]) if line["clf"] in names else len(names)
    return not line["converged"], line["n_features"], rank, line["name"]


def _score(line: Line) -> float:
    score = find_scoring(line["task"]).score
    by_cv = line[f"cv_{score}"]
    return float(line[score] if by_cv is None else by_cv)


def _variance(line: Line) -> float:
    """Return the variance of a row's score as an estimate for other images."""
    scoring = find_scoring(line["task"])
    if line["n_repeats"] > 1:
        ratio = 1 / line["n_repeats"] + line["n_test"] / line["n_train"]
        return float(line[f"{scoring.score}_deviation"] ** 2 * ratio)
    return scoring.variance(line)
