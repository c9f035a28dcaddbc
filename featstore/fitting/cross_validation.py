"""Cross-validate settings of a classifier on training rows, in tasks that workers share."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.pipeline import Pipeline

from featstore.config import FitConfig
from featstore.errors import FitError
from featstore.fitting.classifiers import find_classifier
from featstore.fitting.evaluate import check_features, predict_blocks
from featstore.fitting.parameters import with_label_weights
from featstore.fitting.solvers import linear, ridge_lda
from featstore.fitting.solvers.blocks import Samples
from featstore.fitting.solvers.scaling import own_scratch, standardised
from featstore.fitting.solvers.train import explained, map_kernel, train
from featstore.fitting.splits import draw_folds, draw_training_rows, row_numbers, split_rows
from featstore.store.feature_store import open_store
from featstore.store.selection import Selection


@dataclass(frozen=True)
class CrossValidation:
    """Settings to try on some folds: a task for a worker, which holds names only.

    `candidates` are what each setting adds to the config's parameters; `folds` are held out in
    turn; `n_rows` training rows are divided into folds; `scratch` is the folder of the
    standardised rows that tasks share.
    """

    store: str
    parts: tuple[tuple[str, str], ...]
    config: FitConfig
    candidates: tuple[dict[str, Any], ...]
    folds: tuple[int, ...]
    n_rows: int
    scratch: str

    def split(self) -> list[CrossValidation]:
        """Return tasks that can run side by side; settings that share work stay together."""
        steps = self._steps()
        penalties = _penalties(steps["clf"], self.candidates)
        if "map" not in steps and penalties is not None and "scale" in steps:
            return [self]
        groups = [[candidate] for candidate in self.candidates]
        if "map" in steps and penalties is not None:
            by_map: dict[str, list[dict[str, Any]]] = {}
            for candidate in self.candidates:
                rest = {k: v for k, v in candidate.items() if k != "C"}
                by_map.setdefault(repr(sorted(rest.items())), []).append(candidate)
            groups = list(by_map.values())
        return [
            replace(self, candidates=tuple(group), folds=(fold,))
            for fold in self.folds
            for group in groups
        ]

    def _steps(self) -> dict[str, Any]:
        classifier = find_classifier(self.config.clf)
        params = classifier.params({**dict(self.config.params), **self.candidates[0]})
        return dict(classifier.pipeline(params, self.config.seed).named_steps)


def cross_validate_task(task: CrossValidation) -> tuple[np.ndarray, list[str]]:
    """Return the settings' accuracies on the folds, and why fits failed; workers call this.

    The accuracies are (n_candidates, n_folds) float64, NaN where a fit failed.
    """
    config = task.config
    selection, rows, folds = _training_rows(
        task.store,
        task.parts,
        task.n_rows,
        config.cv,
        config.seed,
        config.split_seed,
        config.drop_leaks,
        task.scratch,
    )
    y = selection.y[rows]
    steps = _pipeline(task, selection, task.candidates[0], len(rows)).named_steps
    penalties = _penalties(steps["clf"], task.candidates)
    in_one_pass = "scale" in steps and "map" not in steps and len(task.folds) == config.cv
    if penalties and in_one_pass and _train_all_classes(y, folds):
        return _all_folds(task, selection, rows, folds, steps["clf"], penalties)
    scores = np.full((len(task.candidates), len(task.folds)), np.nan)
    errors: list[str] = []
    for j, fold in enumerate(task.folds):
        scores[:, j] = _one_fold(task, selection, rows, folds == fold, errors)
    return scores, errors


def _train_all_classes(y: np.ndarray, folds: np.ndarray) -> bool:
    """Return whether no fold holds out all rows of a class: such a fold has fewer classes."""
    n_folds = int(folds.max()) + 1
    held_out = np.bincount(y * n_folds + folds, minlength=(int(y.max()) + 1) * n_folds)
    held_out = held_out.reshape(-1, n_folds)[np.unique(y)]
    return bool((held_out.max(axis=1) < held_out.sum(axis=1)).all())


def _pipeline(
    task: CrossValidation, selection: Selection, candidate: dict[str, Any], n_train: int
) -> Pipeline:
    classifier = find_classifier(task.config.clf)
    params = classifier.params({**dict(task.config.params), **candidate}, n_train)
    return classifier.pipeline(with_label_weights(params, selection.class_names), task.config.seed)


def _penalties(estimator: Any, candidates: Sequence[dict[str, Any]]) -> list[float] | None:
    """Return the penalties of settings that differ in nothing else; None for other settings."""
    if linear.handles(estimator):
        name = "C"
    elif ridge_lda.handles(estimator):
        name = ridge_lda.penalty_name(estimator)
    else:
        return None
    if {k for candidate in candidates for k in candidate} - {name, "gamma", "n_components"}:
        return None
    values = [candidate[name] for candidate in candidates if name in candidate]
    # Some penalties, such as alpha=0 or shrinkage="auto", need another solver.
    alike = (clone(estimator).set_params(**{name: value}) for value in values)
    return values if all(linear.handles(one) or ridge_lda.handles(one) for one in alike) else None


@functools.lru_cache(maxsize=2)
def _training_rows(
    store: str,
    parts: tuple[tuple[str, str], ...],
    n_rows: int,
    cv: int,
    seed: int,
    split_seed: int | None,
    drop_leaks: bool,
    scratch: str,  # noqa: ARG001 - the store may hold other features when another fit begins
) -> tuple[Selection, np.ndarray, np.ndarray]:
    """Return the selection, its training rows, and the fold that holds out each of them."""
    selection = open_store(store).reopen(parts)
    split = split_rows(selection, split_seed, drop_leaks=drop_leaks)
    # Before anything is trained on them.
    X = selection.memmap()
    check_features(selection, split, {u: Samples(X, r) for u, r in split.uses().items()}, [])
    rows = row_numbers(split.train)
    y, groups = selection.y, selection.groups
    if n_rows < len(rows):
        rows = draw_training_rows(y, rows, None, n_rows, seed)
    own_groups = None if groups is None else groups[rows]
    return selection, rows, draw_folds(y[rows], cv, seed, selection.class_names, own_groups)


def _all_folds(
    task: CrossValidation,
    selection: Selection,
    rows: np.ndarray,
    folds: np.ndarray,
    estimator: Any,
    penalties: list[float],
) -> tuple[np.ndarray, list[str]]:
    """Cross-validate settings that differ in their penalty: one pass serves all folds."""
    digest = selection.describe().digest
    scratch = own_scratch(task.scratch, selection.backend.cache_dir)
    X = standardised(Samples(selection.memmap(), rows), len(rows), digest, scratch)
    solver = linear if linear.handles(estimator) else ridge_lda
    try:
        with explained(task.config.clf, *X.shape):
            y = selection.y[rows]
            return solver.cross_validate(estimator, X, y, folds, penalties), []
    except FitError as error:
        return np.full((len(penalties), task.config.cv), np.nan), [str(error)]


def _one_fold(
    task: CrossValidation,
    selection: Selection,
    rows: np.ndarray,
    held_out: np.ndarray,
    errors: list[str],
) -> list[float]:
    """Return each setting's accuracy on the held-out rows, fitted on the others."""
    config, n_fit = task.config, int(np.sum(~held_out))
    # Rows to fit on first, so that both are slices.
    order = np.concatenate([rows[~held_out], rows[held_out]])
    y = selection.y[order]
    samples = Samples(selection.memmap(), order)
    model = _pipeline(task, selection, task.candidates[0], n_fit)
    if "scale" in model.named_steps:
        digest = selection.describe().digest
        X = standardised(
            samples, n_fit, digest, own_scratch(task.scratch, selection.backend.cache_dir)
        )
        samples = Samples(X, slice(0, len(order)))
    if "map" in model.named_steps and _penalties(model.named_steps["clf"], task.candidates):
        return _mapped(task, model, samples, y, n_fit, errors)
    X = samples.take(slice(0, n_fit))
    tested = Samples(samples.take(slice(n_fit, len(y))), slice(0, len(y) - n_fit))
    scores = []
    for candidate in task.candidates:
        scaled = _pipeline(task, selection, candidate, n_fit)
        model = Pipeline([step for step in scaled.steps if step[0] != "scale"])
        try:
            with explained(config.clf, *X.shape):
                train(model, X, y[:n_fit], config, records=False)
                labels = predict_blocks(model, tested).labels
            scores.append(float(np.mean(labels == y[n_fit:])))
        except FitError as error:
            errors.append(str(error))
            scores.append(np.nan)
    return scores


def _mapped(
    task: CrossValidation,
    model: Pipeline,
    samples: Samples,
    y: np.ndarray,
    n_fit: int,
    errors: list[str],
) -> list[float]:
    """Return the accuracies of settings that share a kernel's map and differ in C."""
    try:
        with explained(task.config.clf, n_fit, samples.n_features):
            X = map_kernel(model.named_steps["map"], samples, n_fit)
            values = [candidate["C"] for candidate in task.candidates]
            fitted = linear.fit_path(model.named_steps["clf"], X[:n_fit], y[:n_fit], values)
    except FitError as error:
        errors.append(str(error))
        return [np.nan] * len(task.candidates)
    return [float(np.mean(one.predict(X[n_fit:]) == y[n_fit:])) for one in fitted]
