"""Searches: which parameters to try, on how many rows, and which of them are best.

Every choice is made by cross-validation on training rows; the test rows have no part in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import loguniform
from sklearn.model_selection import ParameterGrid, ParameterSampler

from featstore.classifiers import Classifier
from featstore.config import FitConfig
from featstore.errors import FitError

FACTOR = 3
"""Of how many candidates halving keeps one at each round, as in scikit-learn's."""

MIN_ROWS = 200
"""Training rows that halving's first round has at the least."""


def candidates(
    classifier: Classifier, config: FitConfig, n_features: int, n_train: int
) -> list[dict[str, Any]]:
    """Return the parameter settings that a search tries.

    Parameters
    ----------
    classifier : Classifier
    config : FitConfig
        Its search is not None; parameters that it fixes are not searched for.
    n_features, n_train : int
        Columns and training rows.

    Returns
    -------
    list of dict
        What each changes of the parameters that are fixed.

    Raises
    ------
    FitError
        When there is nothing to search among, or a value is no good.
    """
    space = classifier.space(n_features) | {name: list(values) for name, values in config.grid}
    fixed = dict(config.params)
    if both := sorted(set(fixed) & {name for name, _ in config.grid}):
        raise FitError(f"{', '.join(both)} of {config.clf} is both fixed and in the grid.")
    space = {name: values for name, values in space.items() if name not in fixed}
    if not space:
        why = "all its parameters are fixed" if fixed else "featstore knows no values to try"
        raise FitError(
            f"There is nothing to search for {config.clf}, for {why}. Give values with "
            "--grid NAME=V1,V2, or leave out --search."
        )
    if config.search == "grid":
        found = [dict(one) for one in ParameterGrid(space)]
    else:
        given = {name for name, _ in config.grid}
        drawn = {k: v if k in given else _distribution(v) for k, v in space.items()}
        n = config.n_candidates
        if all(isinstance(values, list) for values in drawn.values()):
            n = min(n, math.prod(map(len, drawn.values())))
        found = [dict(one) for one in ParameterSampler(drawn, n, random_state=config.seed)]
    found = [{name: _plain(value) for name, value in one.items()} for one in found]
    for one in found:
        classifier.params({**fixed, **one}, n_train)
    return found


def _distribution(values: list[Any]) -> Any:
    """Return what to draw from: between positive numbers logarithmically, else the values."""
    numbers = all(isinstance(v, float) and v > 0 for v in values)
    return loguniform(min(values), max(values)) if numbers and len(values) > 1 else values


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return float(f"{value:.4g}") if isinstance(value, float) else value


class Search:
    """One search: candidates that are told their scores, round by round.

    Parameters
    ----------
    config : FitConfig
    found : sequence of dict
        The candidates.
    n_train, n_classes : int
        Training rows and classes.
    n_least : int, optional
        Training rows of the smallest class, of which each of halving's rounds has one for each
        fold at the least.
    """

    def __init__(
        self,
        config: FitConfig,
        found: Sequence[dict[str, Any]],
        n_train: int,
        n_classes: int,
        n_least: int | None = None,
    ) -> None:
        self.config = config
        self._entries: list[dict[str, Any]] = [
            {"params": params, "scores": [], "n_rows": 0, "errors": []} for params in found
        ]
        self._alive = list(range(len(found)))
        self._rounds = [n_train]
        if config.search == "halving":
            least = max(MIN_ROWS, 5 * config.cv * n_classes)
            if n_least:
                # Of a class's share, rounding takes up to a row.
                least = max(least, math.ceil((config.cv + 1) * n_train / n_least))
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
        """The candidates whose scores this round wants."""
        return [self._entries[i]["params"] for i in self._alive]

    @property
    def n_rows(self) -> int:
        """Training rows, spread over classes, that this round is on."""
        return self._rounds[0]

    def tell(self, scores: np.ndarray, errors: Sequence[str]) -> None:
        """Take in this round's scores, and go on to the next.

        Parameters
        ----------
        scores : ndarray of shape (n_pending, n_folds)
            Accuracies on the held-out folds; NaN where a fit failed.
        errors : sequence of str
            Why fits failed.

        Raises
        ------
        FitError
            When no candidate could be fitted on all folds.
        """
        n_rows = self._rounds.pop(0)
        for i, row in zip(self._alive, scores, strict=True):
            self._entries[i] |= {"scores": [float(v) for v in row], "n_rows": n_rows}
        means = scores.mean(axis=1)
        if np.isnan(means).all():
            raise FitError(
                f"None of the {len(self._alive)} settings of {self.config.clf} that were tried "
                f"could be fitted; the first failed so: {errors[0] if errors else 'no score'}"
            )
        # The first of equals; NaN comes last.
        order = np.argsort(-np.nan_to_num(means, nan=-1.0), kind="stable")
        n_kept = max(1, math.ceil(len(order) / FACTOR)) if self._rounds else 1
        self._alive = [self._alive[i] for i in order[:n_kept]]

    @property
    def best(self) -> dict[str, Any]:
        """The chosen candidate."""
        return dict(self._entries[self._alive[0]]["params"])

    def record(self) -> dict[str, Any]:
        """Return what was tried and found, JSON-able; accuracies are fractions."""
        entries = [
            {
                "params": entry["params"],
                "n_rows": entry["n_rows"],
                "scores": [None if np.isnan(v) else v for v in entry["scores"]],
                "mean": _number(np.mean(entry["scores"])),
                "deviation": _number(np.std(entry["scores"], ddof=1)),
            }
            for entry in self._entries
        ]
        chosen = entries[self._alive[0]]
        return {
            "kind": self.config.search,
            "cv": self.config.cv,
            "seed": self.config.seed,
            "best": chosen["params"],
            "accuracy": chosen["mean"],
            "deviation": chosen["deviation"],
            "candidates": entries,
        }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
