"""Stage two: classifiers trained and judged on stored features."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from featstore.classifiers import aim_params, find_classifier
from featstore.config import FitConfig, json_digest
from featstore.errors import FeatstoreError, FitError
from featstore.parallel import Outcome, run_tasks
from featstore.progress import SILENT, Progress
from featstore.runs import Run, make_run_id, open_run
from featstore.selection import Selection
from featstore.store import FeatureStore, open_store
from featstore.tasks import Task, find_run, fit_task


@dataclass(frozen=True)
class Fit:
    """What became of one classifier on one selection.

    Parameters
    ----------
    name : str
        Dataset, model, layers and classifier, for people.
    run : Run or None
        The run; None when it failed.
    reused : bool
        Whether the run was there already.
    error : FeatstoreError or None
        Why it failed.
    """

    name: str
    run: Run | None = None
    reused: bool = False
    error: FeatstoreError | None = None


def fit(
    store: str | Path | FeatureStore = "feature-store",
    clf: str | Sequence[str] = "logreg",
    *,
    dataset: str | None = None,
    model: str | Sequence[str] | None = None,
    layers: str | Sequence[str] | None = None,
    params: Mapping[str, Any] | None = None,
    seed: int = 0,
    n_jobs: int | None = None,
    refit: bool = False,
    force: bool = False,
    progress: Progress = SILENT,
    **facets: Any,
) -> list[Run]:
    """Train and judge classifiers on stored features.

    Every classifier is fitted on every selection; see :func:`fit_each`, which does the same and
    returns failures beside the runs instead of raising them.

    Returns
    -------
    list of Run
        One for each selection and classifier, in that order.

    Raises
    ------
    SelectionError
        When a selection fits no feature set, or several.
    FitError
        When a classifier or parameter is not known, or, once all else is done, when some fits
        failed.
    """
    fits = fit_each(
        store,
        clf,
        dataset=dataset,
        model=model,
        layers=layers,
        params=params,
        seed=seed,
        n_jobs=n_jobs,
        refit=refit,
        force=force,
        progress=progress,
        **facets,
    )
    raise_failures(fits)
    return [one.run for one in fits if one.run]


def raise_failures(fits: Sequence[Fit]) -> None:
    """Raise a FitError that lists the fits that failed, if any did."""
    failed = [one for one in fits if one.error]
    if len(fits) == 1 and failed:
        raise FitError(str(failed[0].error)) from failed[0].error
    if failed:
        kept = "; the runs of the others are kept" if len(failed) < len(fits) else ""
        reasons = "".join(f"\n  {one.name}: {one.error}" for one in failed)
        raise FitError(f"{len(failed)} of {len(fits)} fits failed{kept}.{reasons}")


def fit_each(
    store: str | Path | FeatureStore = "feature-store",
    clf: str | Sequence[str] = "logreg",
    *,
    dataset: str | None = None,
    model: str | Sequence[str] | None = None,
    layers: str | Sequence[str] | None = None,
    params: Mapping[str, Any] | None = None,
    seed: int = 0,
    n_jobs: int | None = None,
    refit: bool = False,
    force: bool = False,
    progress: Progress = SILENT,
    **facets: Any,
) -> list[Fit]:
    """Train and judge classifiers on stored features, and outlive those that fail.

    What was fitted before, with nothing changed, is answered from its run. The rest runs side
    by side in worker processes, which read the features from the store themselves.

    Parameters
    ----------
    store : str, Path or FeatureStore
        Where the features are, and the runs go.
    clf : str or sequence of str
        Names of :data:`featstore.classifiers.CLASSIFIERS`.
    dataset : str, optional
        ``sat4``, ..., or the name of the folder that was extracted.
    model, layers : str or sequence of str, optional
        One selection each; with commas inside, they are put side by side in one selection.
    params : mapping, optional
        Parameters by ``name``, or ``clf:name`` for one of several classifiers.
    seed : int
        ``random_state`` of the classifiers.
    n_jobs : int, optional
        Fits at a time; by default as many as there are cores. With 1, in this process.
    refit : bool
        Whether to fit again what was fitted before.
    force : bool
        Whether to begin a fit that can't be expected to end, or to find the memory.
    progress : Progress
        Told of each fit as it ends.
    **facets
        ``weights``, ``bands``, ``image_size``, ``precision``, ``dtype`` or ``set_id``, to tell
        sets apart.

    Raises
    ------
    SelectionError
        When a selection fits no feature set, or several.
    FitError
        When a classifier or parameter is not known.
    """
    store = store if isinstance(store, FeatureStore) else open_store(store)
    names = list(dict.fromkeys(_several(clf)))
    aimed = aim_params(params or {}, [find_classifier(name).name for name in names])
    facets = {key: value for key, value in facets.items() if value is not None}
    fits: dict[int, Fit] = {}
    tasks: dict[int, Task] = {}
    labels: list[str] = []
    seen: set[tuple[tuple[str, str], ...]] = set()
    for one_model in _several(model):
        for one_layers in _several(layers):
            selection = store.select(dataset, one_model, one_layers, **facets)
            if selection.parts in seen:
                continue
            seen.add(selection.parts)
            options = {
                "dataset": selection.title,
                "model": selection.model.replace("+", ","),
                "layers": ",".join(selection.layers),
            }
            base = f"{selection.title} {selection.model} {','.join(selection.layers)}"
            for name in names:
                index = len(labels)
                labels.append(f"{base} {name}")
                config = FitConfig(name, tuple(aimed[name].items()), seed)
                command = _command(store, {**options, **facets}, config)
                task = _task(selection, config, command, refit, force)
                run = None if refit else find_run(store, task, progress)
                if run:
                    fits[index] = Fit(labels[index], run, reused=True)
                else:
                    tasks[index] = task

    def done(position: int, outcome: Outcome) -> None:
        index = waiting[position]
        # The worker's path is absolute; the caller's way to the store is kept.
        run = open_run(store.runs_dir / Path(outcome.value).name) if outcome.value else None
        fits[index] = Fit(labels[index], run, error=outcome.error)
        progress.advance(1)
        progress.say(_line(fits[index]))

    for one in fits.values():
        progress.say(_line(one))
    if tasks:
        waiting = list(tasks)
        progress.start("Fitting", len(tasks), "fits")
        try:
            run_tasks(fit_task, [(task,) for task in tasks.values()], n_jobs, done)
        finally:
            progress.stop()
    return [fits[index] for index in range(len(labels))]


def _several(value: str | Sequence[str] | None) -> Sequence[Any]:
    if value is None or isinstance(value, str):
        return [value]
    return list(value) or [None]


def _line(one: Fit) -> str:
    if one.run is None:
        return f"{one.name}: failed: {one.error}"
    test = one.run.metrics["test"]
    how = "as fitted before" if one.reused else f"{one.run.record['duration_s']['total']:.1f} s"
    return f"{one.name}: {100 * test['accuracy']:.1f} % of {test['n_samples']:,} rows, {how}"


def _command(store: FeatureStore, options: Mapping[str, Any], config: FitConfig) -> str:
    words = ["featstore", "fit", "--store", str(store.path)]
    for name, value in options.items():
        option = "set" if name == "set_id" else name.replace("_", "-")
        words += [f"--{option}", str(value)]
    words += ["--clf", config.clf]
    for name, value in config.params:
        words += ["--param", f"{name}={value}"]
    return shlex.join([*words, "--seed", str(config.seed)])


def _task(selection: Selection, config: FitConfig, command: str, refit: bool, force: bool) -> Task:
    described = selection.describe()
    rows = hashlib.sha256()
    for vector in (selection.y, selection.splits, selection.valid):
        rows.update(np.ascontiguousarray(vector).tobytes())
    key = json_digest(
        {
            "features": described["digest"],
            "rows": rows.hexdigest(),
            "class_names": list(selection.class_names),
            "clf": config.clf,
            "params": find_classifier(config.clf).params(dict(config.params)),
            "seed": config.seed,
            "scikit-learn": metadata.version("scikit-learn"),
        }
    )
    run_id = make_run_id(described, config.clf, key)
    place = str(selection.store.path.absolute())
    return Task(place, selection.parts, config, key, run_id, command, refit, force)
