"""Do one fit: from stored features to a run's folder. Workers call :func:`fit_task`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from featstore.environment import machine, now, versions
from featstore.fitting.calibration import WholeFit, calibrate
from featstore.fitting.evaluate import check_features
from featstore.fitting.fit_task import FitTask, FittedRun, find_run
from featstore.fitting.measure import Clock, peak_memory
from featstore.fitting.run_features import model_split
from featstore.fitting.solvers import accelerators
from featstore.fitting.solvers.blocks import Samples
from featstore.fitting.solvers.scaling import own_scratch, scale_rows
from featstore.fitting.solvers.train import Trained, explained, train
from featstore.fitting.splits import Split, n_rows
from featstore.fitting.tasks import Evaluation, Task, find_task
from featstore.io.files import with_resume_hint
from featstore.runs.writer import write_run
from featstore.store.feature_store import FeatureStore, open_store
from featstore.store.selection import Selection


def fit_task(task: FitTask) -> FittedRun:
    """Fit, evaluate and keep one run, unless another process has kept the same meanwhile.

    That process may be a worker that died after it had kept the run.
    """
    with with_resume_hint(Path(task.store), task.command):
        store = open_store(task.store)
        if not task.refit and (run := find_run(store, task)):
            return FittedRun(str(run.path), is_new=False)
        return _fit(store, task)


def _fit(store: FeatureStore, task: FitTask) -> FittedRun:
    clock, config, kind = Clock(), task.config, find_task(task.kind)
    selection = store.reopen(task.parts)
    split = model_split(kind, selection, config)
    X, y, n_train = selection.memmap(), kind.y(selection), n_rows(split.train)
    features = {use: Samples(X, rows) for use, rows in split.uses().items()}
    notes: list[str] = []
    n_constant = check_features(features["train"], notes)

    classifier = kind.classifier_of(config)
    chosen = task.search["best"] if task.search else {}
    own = {**dict(config.params), **chosen}
    params = classifier.params(own, n_train, selection.n_features)
    model = classifier.pipeline(kind.with_class_weights(params, selection), config.seed)
    clock.lap("load")
    digest, scratch = selection.describe().digest, own_scratch(task.scratch, store.cache_dir)
    X_train = scale_rows(model, features["train"], digest, scratch)
    clock.lap("scale")

    def validate(clf: Any) -> float:
        trained = Pipeline([*model.steps[:-1], ("clf", clf)])
        return kind.score(y[split.val], kind.predict(trained, features["val"]))

    with peak_memory() as peak, explained(config.clf, n_train, selection.n_features):
        trained = train(
            model, X_train, y[split.train], config, validate if split.val is not None else None
        )
        # A copy in memory is in the way of those that calibration makes.
        scaled = X_train if isinstance(X_train, np.memmap) else None
        del X_train
        clock.lap("fit")
        whole = WholeFit(
            kind,
            selection,
            features,
            scaled,
            model,
            trained,
            classifier,
            config,
            params,
            task.scratch,
        )
        calibrator, note = calibrate(whole)
        notes += [note] if note else []
        clock.lap("calibrate")
        evaluation = kind.evaluate(
            model,
            selection,
            split,
            features,
            calibrator,
            predicts_slowly=classifier.predicts_slowly,
        )
        clock.lap("evaluate")

    record = {
        **_record(task, kind, selection, split, trained, evaluation, notes),
        "params": params,
        "calibration": None if calibrator is None else calibrator.to_dict(),
        "n_constant_features": n_constant,
        "source": classifier.identity().get("source"),
        "duration_s": clock.times,
        "peak_rss_nbytes": peak[0],
    }
    curves = trained.curves.to_dict() if trained.curves else None
    run = write_run(
        store, task.run_id, record, model, evaluation.predictions, curves, replace=task.refit
    )
    return FittedRun(str(run.path), run.record.duration_s == clock.times)


def _n_groups(selection: Selection, split: Split) -> int:
    """Return the number of groups of the test rows; 0 without groups."""
    return 0 if selection.groups is None else len(np.unique(selection.groups[split.test]))


def _record(
    task: FitTask,
    kind: Task,
    selection: Selection,
    split: Split,
    trained: Trained,
    evaluation: Evaluation,
    notes: list[str],
) -> dict[str, Any]:
    """Return what ``metrics.json`` says of a fit and its outcome."""
    class_names = list(kind.class_names(selection))
    return {
        "key": task.key,
        "created": now("milliseconds"),
        "command": task.command,
        "fit": task.config.to_dict(),
        "search": task.search,
        "selection": selection.describe(),
        "task": kind.name,
        "class_names": class_names,
        "target_name": kind.target_name(selection),
        "rows": {
            "n_train": n_rows(split.train),
            "n_test": n_rows(split.test),
            "n_val": n_rows(split.val) if split.val is not None else 0,
            "test_split": split.test_split,
            "n_masked": split.n_masked,
            "n_unlabelled": split.n_unlabelled,
            "n_leaked": split.n_leaked,
            "n_dropped": split.n_dropped,
            "n_train_of_class": kind.n_of_class(kind.y(selection)[split.train], len(class_names)),
            "split": selection.split_text(is_drawn=task.config.split_seed is not None),
            "n_cut_groups": split.n_cut_groups,
            "n_test_groups": _n_groups(selection, split),
        },
        "metrics": evaluation.metrics,
        "score_kind": evaluation.score_kind,
        "converged": trained.converged,
        "solver": trained.solver,
        "notes": [*notes, *trained.notes],
        "provenance": {
            "versions": versions() | accelerators.versions(task.config),
            "machine": machine(),
        },
    }
