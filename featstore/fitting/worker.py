"""One fit, from stored features to a run: what a worker does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from sklearn.pipeline import Pipeline

from featstore import plotting
from featstore.config import FitConfig
from featstore.environment import machine, now, versions
from featstore.errors import RunError
from featstore.fitting.classifiers import find_classifier
from featstore.fitting.evaluate import check_features, predict_blocks, score
from featstore.fitting.solvers import accelerators
from featstore.fitting.solvers.blocks import Samples
from featstore.fitting.solvers.scaling import fit_scaler, own_scratch, standardised
from featstore.fitting.solvers.train import explained, map_kernel, train
from featstore.fitting.splits import Split, n_rows, row_numbers, split_rows
from featstore.io.files import with_resume_hint
from featstore.progress import SILENT, Progress
from featstore.runs.charts import draw_confusion, draw_curves
from featstore.runs.run import Run, open_run
from featstore.runs.writer import write_run
from featstore.store.feature_store import FeatureStore, open_store
from featstore.store.selection import Selection

TRAIN_ROWS_JUDGED = 10_000
"""Training rows, evenly spread, that classifiers which predict slowly are judged on."""


SAMPLING_S = 0.02


@dataclass(frozen=True)
class FitTask:
    """One classifier on one selection, by names only, so that a worker can be sent it.

    Parameters
    ----------
    store : str
        The store's folder, or its URL.
    parts : tuple of (str, str)
        The selection's.
    config : FitConfig
        The classifier, with the parameters that the user gave.
    key : str
        Content key of the run: the same whenever its result would be.
    run_id : str
    command : str
        What to type to do just this fit.
    scratch : str
        Folder for the standardised rows that fits share.
    refit : bool
        Whether to replace a run that is there.
    search : dict or None
        What the search found, as :meth:`featstore.fitting.search.Search.record` says it.
    """

    store: str
    parts: tuple[tuple[str, str], ...]
    config: FitConfig
    key: str
    run_id: str
    command: str
    scratch: str = ""
    refit: bool = False
    search: dict[str, Any] | None = None


def find_run(store: FeatureStore, task: FitTask, progress: Progress = SILENT) -> Run | None:
    """Return the run that `task` would make, if it is there."""
    path = store.run_path(task.run_id)
    if not path.exists():
        return None
    try:
        run = open_run(path, store)
    except RunError as error:
        progress.say(f"Fitting again: {error}")
        return None
    if run.record.key != task.key:
        return None
    store.push_run(task.run_id, progress)
    return run


def fit_task(task: FitTask) -> tuple[str, bool]:
    """Fit, judge and write one run; return its folder, and whether it is the one made here.

    Another process, or another machine, may have finished the same meanwhile. Workers call this.
    """
    with with_resume_hint(Path(task.store), task.command):
        return _fit(task)


def _fit(task: FitTask) -> tuple[str, bool]:
    clock = _Clock()
    store = open_store(task.store)
    selection = store.reopen(task.parts)
    config = task.config
    classifier = find_classifier(config.clf)
    split = split_rows(selection, config.split_seed, drop_leaks=config.drop_leaks)
    n_train = n_rows(split.train)
    chosen = task.search["best"] if task.search else {}
    params = classifier.params({**dict(config.params), **chosen}, n_train)
    X, y = selection.memmap(), selection.y
    features = {use: Samples(X, rows) for use, rows in split.uses().items()}
    notes: list[str] = []
    n_constant = check_features(selection, split, features, notes)
    model = classifier.pipeline(params, config.seed)
    rows = _prepare(model, selection, features["train"], own_scratch(task.scratch, store.cache_dir))
    clock.lap("load")

    with _peak_memory() as peak, explained(config.clf, n_train, selection.n_features):
        if "map" in model.named_steps:
            rows = map_kernel(model.named_steps["map"], Samples(rows, slice(0, n_train)), n_train)

        def validate(clf: Any) -> float:
            trained = Pipeline([*model.steps[:-1], ("clf", clf)])
            labels = predict_blocks(trained, features["val"]).labels
            return float(np.mean(labels == y[split.val]))

        trained = train(
            model, rows, y[split.train], config, validate if split.val is not None else None
        )
        notes += trained.notes
        curves = trained.curves
        clock.lap("fit")
        metrics, predictions, score_kind = _evaluate(
            model, selection, split, features, classifier.predicts_slowly
        )
        clock.lap("evaluate")

    drawn = draw_confusion(metrics["test"]["confusion"], selection.class_names)
    pictures = {"confusion.png": plotting.to_png(drawn)}
    if curves:
        drawn = draw_curves({config.clf: curves.to_dict()})
        pictures["curves.png"] = plotting.to_png(drawn)
    record = {
        "key": task.key,
        "created": now(),
        "command": task.command,
        "fit": config.to_dict(),
        "params": params,
        "search": task.search,
        "selection": selection.describe(),
        "class_names": list(selection.class_names),
        "rows": {
            "n_train": n_train,
            "n_test": n_rows(split.test),
            "n_val": n_rows(split.val) if split.val is not None else 0,
            "test_split": split.test_split,
            "n_masked": split.n_masked,
            "n_unlabelled": split.n_unlabelled,
            "n_leaked": split.n_leaked,
            "n_dropped": split.n_dropped,
            "n_train_of_class": np.bincount(
                y[split.train], minlength=len(selection.class_names)
            ).tolist(),
        },
        "n_constant_features": n_constant,
        "metrics": metrics,
        "score_kind": score_kind,
        "source": classifier.identity().get("source"),
        "converged": trained.converged,
        "solver": trained.solver,
        "notes": notes,
        "duration_s": clock.times,
        "peak_rss_nbytes": peak[0],
        "provenance": {
            "versions": versions() | accelerators.versions(config),
            "machine": machine(),
        },
    }
    run = write_run(
        store,
        task.run_id,
        record,
        model,
        predictions,
        curves.to_dict() if curves else None,
        pictures,
        replace=task.refit,
    )
    return str(run.path), run.record.duration_s == clock.times


def _prepare(model: Pipeline, selection: Selection, samples: Samples, scratch: Path) -> np.ndarray:
    """Fit the scaler, and return the training rows as it leaves them."""
    if "scale" not in model.named_steps:
        return samples.take(slice(0, len(samples)))
    model.steps[0] = ("scale", fit_scaler(samples))
    return standardised(samples, len(samples), selection.describe().digest, scratch)


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


def _evaluate(
    model: Pipeline,
    selection: Selection,
    split: Split,
    features: Mapping[str, Samples],
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
        judged = predict_blocks(model, features[use])
        kind = judged.score_kind
        metrics[use] = score(y[rows], judged.labels, selection.class_names)
        for name, column in (
            ("sample_id", selection.sample_ids[rows]),
            ("split", np.full(n_rows(rows), split.test_split if use == "test" else use)),
            ("true", names[y[rows]]),
            ("predicted", names[judged.labels]),
            ("score", judged.scores),
        ):
            columns.setdefault(name, []).append(column)
    train, labels = features["train"], y[split.train]
    if slowly and len(train) > TRAIN_ROWS_JUDGED:
        at = np.linspace(0, len(train) - 1, TRAIN_ROWS_JUDGED).astype(int)
        train, labels = Samples(train.X, row_numbers(train.rows)[at]), labels[at]
    right = predict_blocks(model, train).labels == labels
    metrics["train"] = {"accuracy": float(right.mean()), "n_samples": int(right.size)}
    return metrics, {name: np.concatenate(parts) for name, parts in columns.items()}, kind
