"""One fit, from stored features to a run: what a worker does."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import Pipeline

from featstore import epochs, figures
from featstore.classifiers import blocks, find_classifier, fit_scaler, judge
from featstore.config import SPLITS, FitConfig
from featstore.errors import FitError, RunError
from featstore.metrics import score
from featstore.progress import SILENT, Progress
from featstore.provenance import machine, now, versions
from featstore.runs import Run, open_run, write_run
from featstore.selection import Selection
from featstore.splits import Rows, Split, n_rows, row_numbers, split_rows
from featstore.store import FeatureStore, open_store

SVC_S = 5e-10
"""Seconds that SVC takes per training row squared and feature, at the least: 10.2 s for 6,000 x
500, scikit-learn 1.9, one core of a 2-core AVX512 machine."""

TRAIN_ROWS_JUDGED = 10_000
"""Training rows, evenly spread, that classifiers which predict slowly are judged on."""

SAMPLING_S = 0.02


@dataclass(frozen=True)
class Task:
    """One classifier on one selection, by names only, so that a worker can be sent it.

    Parameters
    ----------
    store : str
        The store's folder.
    parts : tuple of (str, str)
        The selection's.
    config : FitConfig
        The classifier, with the parameters that the user gave.
    key : str
        Content key of the run: the same whenever its result would be.
    run_id : str
    command : str
        What to type to do just this fit.
    refit : bool
        Whether to replace a run that is there.
    force : bool
        Whether to begin what can't be expected to end.
    """

    store: str
    parts: tuple[tuple[str, str], ...]
    config: FitConfig
    key: str
    run_id: str
    command: str
    refit: bool = False
    force: bool = False


def find_run(store: FeatureStore, task: Task, progress: Progress = SILENT) -> Run | None:
    """Return the run that `task` would make, if it is there."""
    path = store.runs_dir / task.run_id
    if not path.exists():
        return None
    try:
        run = open_run(path)
    except RunError as error:
        progress.say(f"Fitting again: {error}")
        return None
    return run if run.record["key"] == task.key else None


def fit_task(task: Task) -> str:
    """Fit, judge and write one run; return its folder. Workers call this."""
    clock = _Clock()
    store = open_store(task.store)
    selection = store.reopen(task.parts)
    classifier = find_classifier(task.config.clf)
    params = classifier.params(dict(task.config.params))
    split = split_rows(selection)
    n_train = n_rows(split.train)
    notes = _check_cost(task, n_train, selection.n_features)
    X, y = selection.memmap(), selection.y
    features = {use: X[rows] for use, rows in split.uses().items()}
    n_constant = _check_features(selection, split, features, notes)
    clock.lap("load")

    model = classifier.pipeline(params, task.config.seed)
    with _peak_memory() as peak, _explained(task.config.clf, n_train, selection.n_features):
        curves, converged = _train(model, features["train"], y[split.train], task.config, notes)
        clock.lap("fit")
        metrics, predictions, score_kind = _evaluate(
            model, selection, split, features, classifier.predicts_slowly
        )
        clock.lap("evaluate")

    drawn = figures.draw_confusion(metrics["test"]["confusion"], selection.class_names)
    pictures = {"confusion.png": figures.to_png(drawn)}
    if curves:
        drawn = figures.draw_curves({task.config.clf: curves.to_dict()})
        pictures["curves.png"] = figures.to_png(drawn)
    record = {
        "key": task.key,
        "created": now(),
        "command": task.command,
        "fit": task.config.to_dict(),
        "params": params,
        "selection": selection.describe(),
        "class_names": list(selection.class_names),
        "rows": {
            "n_train": n_train,
            "n_test": n_rows(split.test),
            "n_val": n_rows(split.val) if split.val is not None else 0,
            "test_split": split.test_split,
            "n_masked": split.n_masked,
            "n_unlabelled": split.n_unlabelled,
        },
        "n_constant_features": n_constant,
        "metrics": metrics,
        "score_kind": score_kind,
        "converged": converged,
        "notes": notes,
        "duration_s": clock.times,
        "peak_rss_nbytes": peak[0],
        "provenance": {"versions": versions(), "machine": machine()},
    }
    run = write_run(
        store,
        task.run_id,
        record,
        model,
        predictions,
        curves.to_dict() if curves else None,
        pictures,
        replace=task.refit or find_run(store, task) is None,
    )
    return str(run.path)


class _Clock:
    """Seconds of each phase, and of all."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.times: dict[str, float] = {"total": 0.0}

    def lap(self, phase: str) -> None:
        duration_s = time.perf_counter() - self._last
        self._last += duration_s
        self.times[phase] = duration_s
        self.times["total"] += duration_s


@contextmanager
def _peak_memory() -> Iterator[list[int]]:
    """Yield a list whose one element becomes this process's largest resident set, in bytes.

    It counts the pages of the features' memory map that are in memory, too.
    """
    process = psutil.Process()
    peak = [process.memory_info().rss]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(SAMPLING_S):
            peak[0] = max(peak[0], process.memory_info().rss)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


@contextmanager
def _explained(clf: str, n_train: int, n_features: int) -> Iterator[None]:
    """Turn what scikit-learn raises at data or parameters that do not fit into a FitError."""
    try:
        yield
    except FitError:
        raise
    except (ValueError, TypeError, ArithmeticError, np.linalg.LinAlgError) as error:
        raise FitError(f"{clf} can't be fitted: {error}") from error
    except MemoryError as error:
        raise FitError(
            f"{clf} found too little memory for {n_train:,} x {n_features:,} training features. "
            "Try sgd, --n-jobs 1, or a smaller layer."
        ) from error


def _check_cost(task: Task, n_train: int, n_features: int) -> list[str]:
    """Refuse what would not end or fit, and return notes on what the solver takes."""
    classifier = find_classifier(task.config.clf)
    shape = f"{n_train:,} x {n_features:,}"
    if classifier.max_rows and n_train > classifier.max_rows and not task.force:
        hours = SVC_S * n_train**2 * n_features / 3600
        raise FitError(
            f"{classifier.name} on {shape} training features would take {hours:,.0f} hours at "
            "the least, for its time grows with the square of the rows (scikit-learn#13209). "
            "Use linear-svm or mlp, which are about as good on CNN features, or extract fewer "
            "images with --limit; --force begins it all the same."
        )
    if not classifier.float64_nbytes:
        return []
    nbytes = classifier.float64_nbytes * n_train * n_features
    available = psutil.virtual_memory().available
    if nbytes > available and not task.force:
        raise FitError(
            f"{classifier.name} computes in float64; its own copies of {shape} training features "
            f"take {nbytes / 1e9:.1f} GB, and {available / 1e9:.1f} GB of memory are free. Use "
            "logreg or sgd, which take float32 as it is, or --force."
        )
    return [
        f"{classifier.name} computes in float64: its own copies of the training features took "
        f"{nbytes / 1e6:,.1f} MB ({classifier.float64_nbytes} bytes a value) beside the float32."
    ]


def _check_features(
    selection: Selection, split: Split, features: Mapping[str, np.ndarray], notes: list[str]
) -> int:
    """Refuse features that are no numbers, note those that are constant, and count these."""
    n_features = selection.n_features
    lowest = np.full(n_features, np.inf, dtype=np.float32)
    highest = -lowest
    for use, rows in split.uses().items():
        for block in blocks(features[use]):
            values = features[use][block]
            low, high = values.min(axis=0), values.max(axis=0)
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                _refuse_non_finite(selection, row_numbers(rows)[block], values)
            if use == "train":
                np.minimum(lowest, low, out=lowest)
                np.maximum(highest, high, out=highest)
    constant = np.flatnonzero(lowest == highest)
    if constant.size == n_features:
        raise FitError(
            f"All {n_features} features are the same in every training row, so nothing can be "
            "learned from them. Extract with other weights or another layer."
        )
    if constant.size:
        notes.append(
            f"{constant.size} of {n_features:,} features are the same in every training row "
            f"(columns {_numbers(constant)}); they tell nothing."
        )
    return int(constant.size)


def _refuse_non_finite(selection: Selection, rows: np.ndarray, values: np.ndarray) -> None:
    bad = ~np.isfinite(values)
    row = rows[bad.any(axis=1)][0]
    raise FitError(
        f"{int(bad.any(axis=1).sum())} rows have features that are not finite numbers, the first "
        f"being row {row} ({selection.sample_ids[row]}), columns "
        f"{_numbers(np.flatnonzero(bad.any(axis=0)))}. Look for damage with featstore store "
        "verify; if there is none, extract again with --precision fp32."
    )


def _numbers(values: np.ndarray) -> str:
    shown = ", ".join(map(str, values[:5]))
    return shown if values.size <= 5 else f"{shown}, ..."


def _train(
    model: Pipeline, X: np.ndarray, y: np.ndarray, config: FitConfig, notes: list[str]
) -> tuple[epochs.Curves | None, bool]:
    """Fit the pipeline in place, step by step, so that no copy is made in float64."""
    clf = model.named_steps["clf"]
    curves = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if "scale" in model.named_steps:
            fit_scaler(model.named_steps["scale"], X)
            X = model.named_steps["scale"].transform(X)
        if epochs.trains_by_epochs(clf):
            curves = epochs.train(clf, X, y)
        else:
            clf.fit(X, y)
    stopped = [w for w in caught if issubclass(w.category, ConvergenceWarning)]
    converged = curves.converged if curves else not stopped
    if not converged:
        notes.append(
            f"{config.clf} had not converged after max_iter={clf.get_params()['max_iter']} "
            "iterations. Raise it with --param max_iter=N, or penalise more (a smaller C, a "
            "larger alpha)."
        )
    others = [str(w.message) for w in caught if w not in stopped]
    notes.extend(f"scikit-learn says: {text}" for text in dict.fromkeys(others))
    return curves, converged


def _evaluate(
    model: Pipeline,
    selection: Selection,
    split: Split,
    features: Mapping[str, np.ndarray],
    slowly: bool,
) -> tuple[dict[str, Any], dict[str, np.ndarray], str]:
    """Return the metrics, the columns of predictions.csv, and what its scores are."""
    names = np.array(selection.class_names)
    y = selection.y
    metrics: dict[str, Any] = {"val": None}
    columns: dict[str, list[np.ndarray]] = {}
    kind = ""
    for use, rows in split.uses().items():
        if use == "train":
            continue
        judged = judge(model, features[use])
        kind = judged.score_kind
        metrics[use] = score(y[rows], judged.labels, selection.class_names)
        for name, column in (
            ("sample_id", selection.sample_ids[rows]),
            ("split", np.array(SPLITS)[selection.splits[rows]]),
            ("true", names[y[rows]]),
            ("predicted", names[judged.labels]),
            ("score", judged.scores),
        ):
            columns.setdefault(name, []).append(column)
    rows = _rows_to_judge(len(features["train"]), slowly)
    right = judge(model, features["train"][rows]).labels == y[split.train][rows]
    metrics["train"] = {"accuracy": float(right.mean()), "n_samples": int(right.size)}
    return metrics, {name: np.concatenate(parts) for name, parts in columns.items()}, kind


def _rows_to_judge(n_train: int, slowly: bool) -> Rows:
    """Return which of the training rows to judge: all, unless that would take too long."""
    if slowly and n_train > TRAIN_ROWS_JUDGED:
        return np.linspace(0, n_train - 1, TRAIN_ROWS_JUDGED).astype(int)
    return slice(0, n_train)
