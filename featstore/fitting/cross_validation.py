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
from featstore.fitting.evaluate import Predictions, check_features
from featstore.fitting.solvers import linear, ridge_lda, ridge_targets
from featstore.fitting.solvers.blocks import Samples
from featstore.fitting.solvers.one_vs_rest import base_of
from featstore.fitting.solvers.scaling import own_scratch, standardised
from featstore.fitting.solvers.train import explained, map_kernel, train
from featstore.fitting.splits import Split, row_numbers
from featstore.fitting.tasks import Task, find_task
from featstore.store.feature_store import open_store
from featstore.store.selection import Selection

HELD_OUT_SHARE = 0.1
"""Share of the training rows that stand in for validation rows, as in DINOv3's evaluation."""


@dataclass(frozen=True)
class CrossValidation:
    """Settings to try on some folds: a task for a worker, which holds names only.

    `kind` is what a label is, one of :data:`featstore.config.TASKS`; `candidates` are what each
    setting adds to the config's parameters; `folds` are held out in turn; `n_rows` training rows
    are divided into folds; `scratch` is the folder of the standardised rows that tasks share.
    """

    store: str
    parts: tuple[tuple[str, str], ...]
    kind: str
    config: FitConfig
    candidates: tuple[dict[str, Any], ...]
    folds: tuple[int, ...]
    n_rows: int
    scratch: str

    def split(self) -> list[CrossValidation]:
        """Return tasks that can run side by side; settings that share work stay together."""
        steps = self._steps()
        penalties = _penalties(steps["clf"], self.candidates)
        in_one_pass = "scale" in steps or linear.handles(steps["clf"])
        if "map" not in steps and penalties is not None and in_one_pass:
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
        classifier = find_task(self.kind).classifier_of(self.config)
        params = classifier.params({**dict(self.config.params), **self.candidates[0]})
        return dict(classifier.pipeline(params, self.config.seed).named_steps)


def cross_validate_task(task: CrossValidation) -> tuple[np.ndarray, list[str]]:
    """Return the settings' scores on the folds, and why fits failed; workers call this.

    The scores are (n_candidates, n_folds) float64, NaN where a fit failed.
    """
    config = task.config
    selection, rows, folds = _training_rows(
        task.store,
        task.parts,
        task.kind,
        task.n_rows,
        config.search == "validation",
        config.cv,
        config.seed,
        config.split_seed,
        config.drop_leaks,
        task.scratch,
    )
    y = find_task(task.kind).y(selection)[rows]
    steps = _pipeline(task, selection, task.candidates[0], len(rows)).named_steps
    penalties = _penalties(steps["clf"], task.candidates)
    in_one_pass = "scale" in steps and "map" not in steps and len(task.folds) == config.cv
    in_one_pass &= config.search != "validation"
    if penalties and in_one_pass and find_task(task.kind).trains_all(y, folds):
        return _all_folds(task, selection, rows, folds, steps["clf"], penalties)
    scores = np.full((len(task.candidates), len(task.folds)), np.nan)
    errors: list[str] = []
    for j, fold in enumerate(task.folds):
        scores[:, j] = _one_fold(task, selection, rows, folds == fold, errors)
    return scores, errors


def _pipeline(
    task: CrossValidation, selection: Selection, candidate: dict[str, Any], n_train: int
) -> Pipeline:
    kind = find_task(task.kind)
    classifier = kind.classifier_of(task.config)
    own = {**dict(task.config.params), **candidate}
    params = classifier.params(own, n_train, selection.n_features)
    return classifier.pipeline(kind.with_class_weights(params, selection), task.config.seed)


def _penalties(estimator: Any, candidates: Sequence[dict[str, Any]]) -> list[float] | None:
    """Return the penalties of settings that differ in nothing else; None for other settings."""
    if (name := _penalty_name(estimator)) is None:
        return None
    if {k for candidate in candidates for k in candidate} - {name, "gamma", "n_components"}:
        return None
    values = [candidate[name] for candidate in candidates if name in candidate]
    # Some penalties, such as alpha=0 or shrinkage="auto", need another solver.
    alike = [clone(estimator) for _ in values]
    for one, value in zip(alike, values, strict=True):
        base_of(one).set_params(**{name: value})
    return values if all(_penalty_name(one) for one in alike) else None


def _penalty_name(estimator: Any) -> str | None:
    """Return the parameter whose further values cost little; None if there is none."""
    if linear.handles(estimator):
        return "C"
    if ridge_lda.handles(estimator):
        return ridge_lda.penalty_name(estimator)
    return "alpha" if ridge_targets.handles(estimator) else None


@functools.lru_cache(maxsize=2)
def _training_rows(
    store: str,
    parts: tuple[tuple[str, str], ...],
    kind: str,
    n_rows: int,
    validates: bool,
    cv: int,
    seed: int,
    split_seed: int | None,
    drop_leaks: bool,
    scratch: str,  # noqa: ARG001 - the store may hold other features when another fit begins
) -> tuple[Selection, np.ndarray, np.ndarray]:
    """Return the selection, its training rows, and the fold that holds out each of them.

    With `validates`, the validation rows follow the training rows and are the only fold; without
    validation rows, a tenth of the training rows is. The others have fold -1.
    """
    selection, task = open_store(store).reopen(parts), find_task(kind)
    split = task.split(selection, split_seed, drop_leaks=drop_leaks)
    # Before anything is trained on them.
    check_features(Samples(selection.memmap(), split.train), [])
    rows = row_numbers(split.train)
    if validates:
        return selection, *_validation_rows(task, selection, split, seed)
    if n_rows < len(rows):
        rows = task.draw_part(selection, rows, n_rows, seed, whole_groups=False)
    return selection, rows, task.draw_folds(selection, rows, cv, seed)


def _validation_rows(
    task: Task, selection: Selection, split: Split, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to fit on and to choose by, and their folds: -1, and 0 to choose by."""
    rows = row_numbers(split.train)
    if split.val is not None:
        val = row_numbers(split.val)
        folds = np.repeat(np.array([-1, 0], np.int8), [len(rows), len(val)])
        return np.concatenate([rows, val]), folds
    n_fit = len(rows) - max(1, round(len(rows) * HELD_OUT_SHARE))
    fitted = task.draw_part(selection, rows, n_fit, seed, whole_groups=True)
    return rows, np.where(np.isin(rows, fitted), -1, 0).astype(np.int8)


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
    kind = find_task(task.kind)
    y = kind.y(selection)[rows]
    try:
        with explained(task.config.clf, *X.shape):
            if ridge_targets.handles(estimator):
                score = functools.partial(_score, kind)
                return ridge_targets.cross_validate(estimator, X, y, folds, penalties, score), []
            solver = linear if linear.handles(estimator) else ridge_lda
            return solver.cross_validate(estimator, X, y, folds, penalties), []
    except FitError as error:
        return np.full((len(penalties), task.config.cv), np.nan), [str(error)]


def _score(kind: Task, y: np.ndarray, predicted: np.ndarray) -> float:
    """Return the score of numbers that are both labels and scores."""
    return kind.score(y, Predictions(predicted, predicted, ""))


def _one_fold(
    task: CrossValidation,
    selection: Selection,
    rows: np.ndarray,
    held_out: np.ndarray,
    errors: list[str],
) -> list[float]:
    """Return each setting's score on the held-out rows, fitted on the others."""
    config, n_fit, kind = task.config, int(np.sum(~held_out)), find_task(task.kind)
    model = _pipeline(task, selection, task.candidates[0], n_fit)
    samples, y = _ordered(kind, selection, rows, held_out, model, task.scratch)
    if "map" in model.named_steps and _penalties(model.named_steps["clf"], task.candidates):
        return _mapped(task, model, samples, y, n_fit, errors)
    X, tested = _divided(samples, n_fit)
    penalties = _penalties(model.named_steps["clf"], task.candidates)
    if penalties and linear.handles(model.named_steps["clf"]):
        return _path(task, model, X, y, tested, penalties, errors)
    scores = []
    for candidate in task.candidates:
        scaled = _pipeline(task, selection, candidate, n_fit)
        model = Pipeline([step for step in scaled.steps if step[0] != "scale"])
        try:
            with explained(config.clf, *X.shape):
                train(model, X, y[:n_fit], config, records=False)
                scores.append(kind.score(y[n_fit:], kind.predict(model, tested)))
        except FitError as error:
            errors.append(str(error))
            scores.append(np.nan)
    return scores


def _path(
    task: CrossValidation,
    model: Pipeline,
    X: np.ndarray,
    y: np.ndarray,
    tested: Samples,
    penalties: list[float],
    errors: list[str],
) -> list[float]:
    """Return the scores of settings that differ in C: each begins where the last one ended."""
    kind = find_task(task.kind)
    try:
        with explained(task.config.clf, *X.shape):
            fitted = linear.fit_path(model.named_steps["clf"], X, y[: len(X)], penalties)
    except FitError as error:
        errors.append(str(error))
        return [np.nan] * len(penalties)
    models = [Pipeline([("clf", one)]) for one in fitted]
    return [kind.score(y[len(X) :], kind.predict(one, tested)) for one in models]


def hold_out(
    kind: Task,
    selection: Selection,
    rows: np.ndarray,
    held_out: np.ndarray,
    model: Pipeline,
    scratch: str,
) -> tuple[np.ndarray, Samples, np.ndarray]:
    """Return the rows to fit on, as the model's scaler leaves them, the held-out ones, and labels.

    The labels are of the rows to fit on, and then of the others.
    """
    samples, y = _ordered(kind, selection, rows, held_out, model, scratch)
    return *_divided(samples, int(np.sum(~held_out))), y


def _ordered(
    kind: Task,
    selection: Selection,
    rows: np.ndarray,
    held_out: np.ndarray,
    model: Pipeline,
    scratch: str,
) -> tuple[Samples, np.ndarray]:
    """Return the rows, standardised if the model does that, with those to fit on first."""
    order = np.concatenate([rows[~held_out], rows[held_out]])
    samples = Samples(selection.memmap(), order)
    if "scale" in model.named_steps:
        digest = selection.describe().digest
        place = own_scratch(scratch, selection.backend.cache_dir)
        X = standardised(samples, int(np.sum(~held_out)), digest, place)
        samples = Samples(X, slice(0, len(order)))
    return samples, kind.y(selection)[order]


def _divided(samples: Samples, n_fit: int) -> tuple[np.ndarray, Samples]:
    n_tested = len(samples) - n_fit
    tested = samples.take(slice(n_fit, len(samples)))
    return samples.take(slice(0, n_fit)), Samples(tested, slice(0, n_tested))


def _mapped(
    task: CrossValidation,
    model: Pipeline,
    samples: Samples,
    y: np.ndarray,
    n_fit: int,
    errors: list[str],
) -> list[float]:
    """Return the scores of settings that share a kernel's map and differ in C."""
    kind = find_task(task.kind)
    try:
        with explained(task.config.clf, n_fit, samples.n_features):
            X = map_kernel(model.named_steps["map"], samples, n_fit)
            values = [candidate["C"] for candidate in task.candidates]
            fitted = linear.fit_path(model.named_steps["clf"], X[:n_fit], y[:n_fit], values)
    except FitError as error:
        errors.append(str(error))
        return [np.nan] * len(task.candidates)
    tested = Samples(X[n_fit:], slice(0, len(X) - n_fit))
    models = [Pipeline([("clf", one)]) for one in fitted]
    return [kind.score(y[n_fit:], kind.predict(one, tested)) for one in models]
