"""Search for parameters: which settings to try, on how many rows, and which of them is best.

Cross-validation on training rows decides; see :mod:`featstore.fitting.cross_validation`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from featstore.config import FitConfig
from featstore.errors import FitError
from featstore.fitting.estimators import Classifier
from featstore.store.format.run_schema import RunRecord

FACTOR = 3
"""Each round of halving keeps one candidate of so many, as scikit-learn's does."""


MIN_ROWS = 200
"""Smallest number of training rows in halving's first round."""


UNSURE = ("logreg", "linear-svm")
"""Classifiers whose best penalty for :data:`UNSURE_FEATURES` the defaults miss most."""


UNSURE_FEATURES = range(64, 1_000)
"""Numbers of features for which `fit` advises a search: of sets with so many features, some need a
much stronger penalty than others (docs/searching.md)."""


ENOUGH_IMAGES = 20
"""Training images of each class, on average, below which a search chooses by luck."""


def would_pay(record: RunRecord) -> bool:
    """Return whether a search would likely give a better model than a run's own parameters."""
    own = record.fit
    return (
        record.task == "classification"
        and own.clf in UNSURE
        and own.search is None
        and own.protocol is None
        and not own.params
        and record.selection.n_features in UNSURE_FEATURES
        and record.rows.n_train >= ENOUGH_IMAGES * len(record.class_names)
    )


def candidates(
    classifier: Classifier, config: FitConfig, n_features: int, n_train: int
) -> list[dict[str, Any]]:
    """Return the settings that a search tries, each as what it adds to the fixed parameters."""
    from sklearn.model_selection import ParameterGrid, ParameterSampler

    space = classifier.space(n_features) | {name: list(values) for name, values in config.grid}
    fixed = dict(config.params)
    if both := sorted(set(fixed) & {name for name, _ in config.grid}):
        raise FitError(f"{', '.join(both)} of {config.clf} is both fixed and in the grid.")
    space = {name: values for name, values in space.items() if name not in fixed}
    if not space:
        why = "all its parameters are fixed" if fixed else "featstore knows no values to try"
        raise FitError(
            f"There is nothing to search for {config.clf}: {why}. Give values with "
            "--grid NAME=V1,V2, or leave out --search."
        )
    if config.search in ("grid", "validation"):
        found = [dict(setting) for setting in ParameterGrid(space)]
    else:
        given = {name for name, _ in config.grid}
        drawn = {k: v if k in given else _distribution(v) for k, v in space.items()}
        n = config.n_candidates
        if all(isinstance(values, list) for values in drawn.values()):
            n = min(n, math.prod(map(len, drawn.values())))
        found = [dict(setting) for setting in ParameterSampler(drawn, n, random_state=config.seed)]
    found = [{name: _plain(value) for name, value in setting.items()} for setting in found]
    for setting in found:
        classifier.params({**fixed, **setting}, n_train)
    return found


def _distribution(values: list[Any]) -> Any:
    """Return what to draw from: positive numbers on a logarithmic scale, or the values."""
    from scipy.stats import loguniform

    numbers = all(isinstance(v, float) and v > 0 for v in values)
    return loguniform(min(values), max(values)) if numbers and len(values) > 1 else values


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return float(f"{value:.4g}") if isinstance(value, float) else value


class Search:
    """One search, round by round: ask for :attr:`pending`, give :meth:`add_scores` their scores.

    `n_smallest` is the number of training rows of the smallest class: each of halving's rounds
    has at least one of them per fold. `score` is the name of the scores.
    """

    def __init__(
        self,
        config: FitConfig,
        found: Sequence[dict[str, Any]],
        n_train: int,
        n_classes: int,
        n_smallest: int | None = None,
        score: str = "accuracy",
    ) -> None:
        self.config, self._score = config, score
        self._entries: list[dict[str, Any]] = [
            {"params": params, "scores": [], "n_rows": 0} for params in found
        ]
        self._alive = list(range(len(found)))
        self._rounds = [n_train]
        if config.search == "halving":
            least = max(MIN_ROWS, 5 * config.cv * n_classes)
            if n_smallest:
                # Rounding may cost a class one row of its share.
                least = max(least, math.ceil((config.cv + 1) * n_train / n_smallest))
            while len(self._rounds) < 1 + round(math.log(len(found), FACTOR)):
                n_rows = self._rounds[0] // FACTOR
                if n_rows < least:
                    break
                self._rounds.insert(0, n_rows)

    @property
    def is_done(self) -> bool:
        """Whether the best is known."""
        return not self._rounds

    @property
    def pending(self) -> list[dict[str, Any]]:
        """The candidates of this round."""
        return [self._entries[i]["params"] for i in self._alive]

    @property
    def n_rows(self) -> int:
        """Training rows of this round, with each class's share."""
        return self._rounds[0]

    def add_scores(self, scores: np.ndarray, errors: Sequence[str]) -> None:
        """Take this round's scores, and begin the next round.

        `scores` are (n_pending, n_folds), the higher the better, NaN where a fit failed for one of
        `errors`.
        """
        n_rows = self._rounds.pop(0)
        for i, row in zip(self._alive, scores, strict=True):
            self._entries[i] |= {"scores": [float(v) for v in row], "n_rows": n_rows}
        means = scores.mean(axis=1)
        if np.isnan(means).all():
            raise FitError(
                f"None of the {len(self._alive)} settings of {self.config.clf} could be fitted on "
                f"all folds. The first error: {errors[0] if errors else 'no score'}"
            )
        # The first of equals; NaN comes last.
        order = np.argsort(-np.nan_to_num(means, nan=-np.inf), kind="stable")
        n_kept = max(1, math.ceil(len(order) / FACTOR)) if self._rounds else 1
        self._alive = [self._alive[i] for i in order[:n_kept]]

    @property
    def best(self) -> dict[str, Any]:
        """The chosen candidate."""
        return dict(self._entries[self._alive[0]]["params"])

    def to_dict(self) -> dict[str, Any]:
        """Return all settings with their scores, and the best, as JSON-able values."""
        entries = [
            {
                "params": entry["params"],
                "n_rows": entry["n_rows"],
                "scores": [_number(v) for v in entry["scores"]],
                "mean": _number(np.mean(entry["scores"])),
                "deviation": _number(np.std(entry["scores"], ddof=1))
                if len(entry["scores"]) > 1
                else None,
            }
            for entry in self._entries
        ]
        best = entries[self._alive[0]]
        return {
            "kind": self.config.search,
            "cv": self.config.n_folds,
            "seed": self.config.seed,
            "best": best["params"],
            self._score: best["mean"],
            "deviation": best["deviation"],
            "candidates": entries,
        }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
