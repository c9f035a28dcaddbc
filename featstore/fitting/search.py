"""Searches: which parameters to try, on how many rows, and which of them are best.

Every choice is made by cross-validation on training rows; the test rows have no part in it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import loguniform
from sklearn.base import clone
from sklearn.model_selection import ParameterGrid, ParameterSampler, train_test_split
from sklearn.pipeline import Pipeline

from featstore.config import FitConfig
from featstore.errors import FitError
from featstore.fitting.classifiers import Classifier, find_classifier
from featstore.fitting.evaluate import check_features, predict_blocks
from featstore.fitting.solvers import linear, ridge_lda
from featstore.fitting.solvers.blocks import Samples
from featstore.fitting.solvers.scaling import own_scratch, standardised
from featstore.fitting.solvers.train import explained, map_kernel, train
from featstore.fitting.splits import draw_folds, row_numbers, split_rows
from featstore.store.feature_store import open_store
from featstore.store.selection import Selection

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


@dataclass(frozen=True)
class CrossValidation:
    """Settings to try on some folds, by names only, so that a worker can be sent it.

    Parameters
    ----------
    store : str
        The store's folder.
    parts : tuple of (str, str)
        The selection's.
    config : FitConfig
        The classifier.
    candidates : tuple of dict
        What each setting changes of the config's parameters.
    folds : tuple of int
        Folds to hold out in turn.
    n_rows : int
        Training rows that the folds are of.
    scratch : str
        Folder for the standardised rows that trials share.
    """

    store: str
    parts: tuple[tuple[str, str], ...]
    config: FitConfig
    candidates: tuple[dict[str, Any], ...]
    folds: tuple[int, ...]
    n_rows: int
    scratch: str


def split(trial: CrossValidation) -> list[CrossValidation]:
    """Return the trials that one of all settings and folds falls into, to be run side by side.

    Settings that share their work stay together.
    """
    base = _pipeline(trial.config, trial.candidates[0]).named_steps
    values = _values(base["clf"], trial.candidates)
    if "map" not in base and values is not None and "scale" in base:
        return [trial]
    groups: list[list[dict[str, Any]]] = []
    if "map" in base and values is not None:
        by_map: dict[str, list[dict[str, Any]]] = {}
        for candidate in trial.candidates:
            rest = {k: v for k, v in candidate.items() if k != "C"}
            by_map.setdefault(repr(sorted(rest.items())), []).append(candidate)
        groups = list(by_map.values())
    else:
        groups = [[candidate] for candidate in trial.candidates]
    return [
        replace(trial, candidates=tuple(group), folds=(fold,))
        for fold in trial.folds
        for group in groups
    ]


def _pipeline(config: FitConfig, candidate: dict[str, Any], n_train: int = 0) -> Any:
    classifier = find_classifier(config.clf)
    params = classifier.params({**dict(config.params), **candidate}, n_train)
    return classifier.pipeline(params, config.seed)


def _values(estimator: Any, candidates: Sequence[dict[str, Any]]) -> list[float] | None:
    """Return the penalties of settings that differ in nothing else, and None of others."""
    if linear.handles(estimator):
        name = "C"
    elif ridge_lda.handles(estimator):
        name = ridge_lda.penalty_name(estimator)
    else:
        return None
    if {k for candidate in candidates for k in candidate} - {name, "gamma", "n_components"}:
        return None
    values = [candidate[name] for candidate in candidates if name in candidate]
    # Of some penalties, as alpha=0 or shrinkage="auto", another solver is wanted.
    alike = (clone(estimator).set_params(**{name: value}) for value in values)
    return values if all(linear.handles(one) or ridge_lda.handles(one) for one in alike) else None


def cross_validate_task(trial: CrossValidation) -> tuple[np.ndarray, list[str]]:
    """Fit and judge the settings; workers call this.

    Returns
    -------
    scores : ndarray of shape (n_candidates, n_folds), float64
        Accuracies on the trial's folds; NaN where a fit failed.
    errors : list of str
        Why fits failed.
    """
    config = trial.config
    selection, rows, folds = _training_rows(
        trial.store,
        trial.parts,
        trial.n_rows,
        config.cv,
        config.seed,
        config.split_seed,
        config.drop_leaks,
        trial.scratch,
    )
    y = selection.y[rows]
    model = _pipeline(config, trial.candidates[0], len(rows))
    values = _values(model.named_steps["clf"], trial.candidates)
    shared = "scale" in model.named_steps and "map" not in model.named_steps
    if values and shared and len(trial.folds) == config.cv:
        samples = Samples(selection.memmap(), rows)
        name = selection.describe().digest
        X = standardised(
            samples, len(rows), name, own_scratch(trial.scratch, selection.backend.cache_dir)
        )
        room = linear if linear.handles(model.named_steps["clf"]) else ridge_lda
        try:
            with explained(config.clf, *X.shape):
                scores = room.cross_validate(model.named_steps["clf"], X, y, folds, values)
        except FitError as error:
            return np.full((len(values), config.cv), np.nan), [str(error)]
        return scores, []
    scores = np.full((len(trial.candidates), len(trial.folds)), np.nan)
    errors: list[str] = []
    for j, fold in enumerate(trial.folds):
        scores[:, j] = _one_fold(trial, selection, rows, folds == fold, errors)
    return scores, errors


@functools.lru_cache(maxsize=2)
def _training_rows(
    store: str,
    parts: tuple[tuple[str, str], ...],
    n_rows: int,
    cv: int,
    seed: int,
    split_seed: int | None,
    drop_leaks: bool,
    scratch: str,  # noqa: ARG001 - of another fit, the store may hold something else by now
) -> tuple[Selection, np.ndarray, np.ndarray]:
    """Return the selection, the training rows, and in which fold each is held out."""
    selection = open_store(store).reopen(parts)
    split = split_rows(selection, split_seed, drop_leaks=drop_leaks)
    # Before anything is trained on them.
    X = selection.memmap()
    check_features(selection, split, {u: Samples(X, r) for u, r in split.uses().items()}, [])
    rows = row_numbers(split.train)
    if n_rows < len(rows):
        rows, _ = train_test_split(
            rows, train_size=n_rows, stratify=selection.y[rows], random_state=seed
        )
        rows.sort()
    return selection, rows, draw_folds(selection.y[rows], cv, seed, selection.class_names)


def _one_fold(
    trial: CrossValidation,
    selection: Selection,
    rows: np.ndarray,
    held: np.ndarray,
    errors: list[str],
) -> list[float]:
    """Return the accuracy on the held-out rows of each setting fitted on the others."""
    config, n_fit = trial.config, int(np.sum(~held))
    # Rows to fit on first, so that both are slices.
    order = np.concatenate([rows[~held], rows[held]])
    y = selection.y[order]
    samples = Samples(selection.memmap(), order)
    scores = []
    model = _pipeline(config, trial.candidates[0], n_fit)
    if "scale" in model.named_steps:
        name = selection.describe().digest
        X = standardised(
            samples, n_fit, name, own_scratch(trial.scratch, selection.backend.cache_dir)
        )
        samples = Samples(X, slice(0, len(order)))
    if "map" in model.named_steps and _values(model.named_steps["clf"], trial.candidates):
        return _mapped(trial, model, samples, y, n_fit, errors)
    X = samples.take(slice(0, n_fit))
    held_out = Samples(samples.take(slice(n_fit, len(y))), slice(0, len(y) - n_fit))
    for candidate in trial.candidates:
        model = _pipeline(config, candidate, n_fit)
        last = Pipeline([step for step in model.steps if step[0] != "scale"])
        try:
            with explained(config.clf, *X.shape):
                if "map" in last.named_steps:
                    rows = map_kernel(last.named_steps["map"], samples, n_fit)[:n_fit]
                    train(last, rows, y[:n_fit], config, records=False)
                else:
                    train(last, X, y[:n_fit], config, records=False)
                labels = predict_blocks(last, held_out).labels
            scores.append(float(np.mean(labels == y[n_fit:])))
        except FitError as error:
            errors.append(str(error))
            scores.append(np.nan)
    return scores


def _mapped(
    trial: CrossValidation,
    model: Pipeline,
    samples: Samples,
    y: np.ndarray,
    n_fit: int,
    errors: list[str],
) -> list[float]:
    """Return the accuracies of settings that share a kernel's map and differ in C."""
    clf = model.named_steps["clf"]
    try:
        with explained(trial.config.clf, n_fit, samples.n_features):
            X = map_kernel(model.named_steps["map"], samples, n_fit)
            values = [candidate["C"] for candidate in trial.candidates]
            fitted = linear.fit_path(clf, X[:n_fit], y[:n_fit], values)
    except FitError as error:
        errors.append(str(error))
        return [np.nan] * len(trial.candidates)
    return [float(np.mean(one.predict(X[n_fit:]) == y[n_fit:])) for one in fitted]
