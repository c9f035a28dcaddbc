"""Trials: parameter settings fitted on some folds and judged on the held-out rest."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.model_selection import train_test_split
from sklearn.pipeline import Pipeline

from featstore import grams, linear
from featstore.blocks import Samples
from featstore.classifiers import find_classifier
from featstore.config import FitConfig
from featstore.errors import FitError
from featstore.inspection import check_features
from featstore.judgement import judge
from featstore.scaling import own_scratch, standardised
from featstore.selection import Selection
from featstore.splits import draw_folds, row_numbers, split_rows
from featstore.store import open_store
from featstore.training import explained, map_kernel, train


@dataclass(frozen=True)
class Trial:
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


def divide(trial: Trial) -> list[Trial]:
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
    elif grams.handles(estimator):
        name = grams.penalty_name(estimator)
    else:
        return None
    if {k for candidate in candidates for k in candidate} - {name, "gamma", "n_components"}:
        return None
    values = [candidate[name] for candidate in candidates if name in candidate]
    # Of some penalties, as alpha=0 or shrinkage="auto", another solver is wanted.
    alike = (clone(estimator).set_params(**{name: value}) for value in values)
    return values if all(linear.handles(one) or grams.handles(one) for one in alike) else None


def run_trial(trial: Trial) -> tuple[np.ndarray, list[str]]:
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
        name = selection.describe()["digest"]
        X = standardised(samples, len(rows), name, own_scratch(trial.scratch, selection.store))
        room = linear if linear.handles(model.named_steps["clf"]) else grams
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
    trial: Trial, selection: Selection, rows: np.ndarray, held: np.ndarray, errors: list[str]
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
        name = selection.describe()["digest"]
        X = standardised(samples, n_fit, name, own_scratch(trial.scratch, selection.store))
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
                labels = judge(last, held_out).labels
            scores.append(float(np.mean(labels == y[n_fit:])))
        except FitError as error:
            errors.append(str(error))
            scores.append(np.nan)
    return scores


def _mapped(
    trial: Trial, model: Pipeline, samples: Samples, y: np.ndarray, n_fit: int, errors: list[str]
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
