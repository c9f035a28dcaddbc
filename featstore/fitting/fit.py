"""Stage two: classifiers trained and judged on stored features."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from featstore.config import FitConfig
from featstore.environment import command
from featstore.errors import ConfigError, FeatstoreError, FitError
from featstore.fitting import cost
from featstore.fitting.classifiers import CLASSIFIERS, assign_params
from featstore.fitting.plan import PlannedFit, plan, repeated
from featstore.fitting.search import CrossValidation, cross_validate_task, split
from featstore.fitting.solvers.scaling import scratch_folder
from featstore.fitting.worker import find_run, fit_task
from featstore.io.files import with_resume_hint
from featstore.io.locks import remove_shared
from featstore.parallel.cluster import TaskPool
from featstore.parallel.worker_pool import TaskResult
from featstore.progress import SILENT, Progress
from featstore.runs.run import Run, open_run
from featstore.store.feature_store import FeatureStore, open_store
from featstore.text import as_list

GPU_ENVIRONMENT = {"SCIPY_ARRAY_API": "1"}
"""What SciPy must find when it is loaded for scikit-learn to compute on a GPU."""


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
    **options: Any,
) -> list[Run]:
    """Train and judge classifiers on stored features.

    Every classifier is fitted on every selection; see :func:`fit_each`, which takes the same
    options and returns failures beside the runs instead of raising them.

    Returns
    -------
    list of Run
        One for each selection, classifier and repeat, in that order.

    Raises
    ------
    SelectionError
        When a selection fits no feature set, or several.
    ConfigError
        When a setting is out of its range.
    FitError
        When a classifier or parameter is not known, or, once all else is done, when some fits
        failed.

    Examples
    --------
    >>> import featstore
    >>> (run,) = featstore.fit("feature-store", "logreg", search="grid")  # doctest: +SKIP
    """
    fits = fit_each(store, clf, **options)
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
    grid: Mapping[str, Sequence[Any]] | None = None,
    repeats: int = 1,
    n_jobs: int | None = None,
    scheduler: str | None = None,
    memory_nbytes: int | None = None,
    refit: bool = False,
    force: bool = False,
    progress: Progress = SILENT,
    **options: Any,
) -> list[Fit]:
    """Train and judge classifiers on stored features, and outlive those that fail.

    What was fitted before, with nothing changed, is answered from its run. The rest runs side
    by side in worker processes, which read the features from the store themselves; what takes
    less time than they take to start runs in this one.

    Parameters
    ----------
    store : str, Path or FeatureStore
        Where the features are, and the runs go.
    clf : str or sequence of str
        Names of :data:`featstore.fitting.classifiers.CLASSIFIERS`, ``package.module:function``, or
        ``all``.
    dataset : str, optional
        ``sat4``, ..., or the name of the folder that was extracted.
    model, layers : str or sequence of str, optional
        One selection each; with commas inside, they are put side by side in one selection.
    params : mapping, optional
        Parameters by ``name``, or ``clf:name`` for one of several classifiers.
    grid : mapping, optional
        Values that a search tries, by ``name`` or ``clf:name``, in place of its own.
    repeats : int
        Fits of each, with seeds that count up from `seed`; each with a new random split, unless
        the dataset has an official one and no ``split_seed`` is given.
    n_jobs : int, optional
        Fits at a time; by default as many as there are cores. With 1, in this process.
    scheduler : str, optional
        Address of a Dask scheduler whose workers, which must see the store by the same path or
        URL, do the work.
    memory_nbytes : int, optional
        Memory that fits may take beside the features; by default what is free.
    refit : bool
        Whether to fit again what was fitted before.
    force : bool
        Whether to begin a fit that can't be expected to end, or to find the memory.
    progress : Progress
        Told of each fit as it ends.
    **options
        Settings of :class:`featstore.config.FitConfig` (``seed``, ``search``, ``cv``,
        ``n_candidates``, ``n_epochs``, ``split_seed``, ``drop_leaks``, ``device``, ``intelex``),
        and ``weights``, ``bands``, ``image_size``, ``precision``, ``dtype`` or ``set_id``, to
        tell sets apart.

    Raises
    ------
    SelectionError
        When a selection fits no feature set, or several.
    ConfigError
        When a setting is out of its range.
    FitError
        When a classifier or parameter is not known.
    """
    store = open_store(store, progress)
    settings = {f.name: options.pop(f.name) for f in fields(FitConfig) if f.name in options}
    facets = {key: value for key, value in options.items() if value is not None}
    if not isinstance(repeats, int) or repeats < 1:
        raise ConfigError(f"repeats is {repeats!r}; it must be a whole number from 1.")
    asked = [name for one in as_list(clf) for name in (CLASSIFIERS if one == "all" else [one])]
    names = list(dict.fromkeys(asked))
    aimed = assign_params(params or {}, names)
    grids = assign_params(grid or {}, names, check=False)
    configs = [
        FitConfig(
            name,
            tuple(aimed[name].items()),
            grid=tuple((k, tuple(v)) for k, v in grids[name].items()),
            **settings,
        )
        for name in names
    ]
    jobs: list[PlannedFit] = []
    seen: set[tuple[tuple[str, str], ...]] = set()
    with (
        with_resume_hint(store.path, command()),
        scratch_folder(store.cache_dir / "scratch") as scratch,
    ):
        for one_model, one_layers in itertools.product(as_list(model), as_list(layers)):
            selection = store.select(dataset, one_model, one_layers, **facets)
            if selection.parts in seen:
                continue
            seen.add(selection.parts)
            if repeats > 1 and selection.has_official_split and settings.get("split_seed") is None:
                progress.say(
                    f"{selection.title} has an official split, which the repeats keep: they differ "
                    "in their seeds alone. --split-seed 1 draws new splits."
                )
            for config, repeat in itertools.product(configs, range(repeats)):
                own = repeated(config, repeat, selection) if repeats > 1 else config
                jobs.append(plan(selection, own, facets, str(scratch), refit, force, memory_nbytes))
        for job in jobs:
            if job.error is None and not refit:
                job.run = find_run(store, job.task, progress)
            if job.run or job.error:
                progress.say(_line(_outcome(job)))
        environment = GPU_ENVIRONMENT if settings.get("device", "cpu") != "cpu" else {}
        open_jobs = [job for job in jobs if not job.run and not job.error]
        n_at_a_time = cost.fits_at_a_time(
            [job.cost.nbytes for job in open_jobs for _ in range(max(1, len(_trials(job))))],
            n_jobs,
            scheduler,
            memory_nbytes,
            force=force,
            progress=progress,
        )
        leave = partial(remove_shared, scratch.name)
        with TaskPool(n_at_a_time, scheduler, environment, progress, leave) as pool:
            _work(open_jobs, pool, store, progress)
    return [_outcome(job) for job in jobs]


def _work(jobs: list[PlannedFit], pool: TaskPool, store: FeatureStore, progress: Progress) -> None:
    # The longest first, so that no worker is left with a long one in the end.
    jobs = sorted(jobs, key=lambda job: -job.cost.duration_s)
    for notice in filter(None, (job.notice for job in jobs)):
        progress.say(notice)
    is_quick = sum(job.cost.duration_s for job in jobs) < cost.QUICK_S
    while searching := [j for j in jobs if j.search and not j.search.is_done and not j.error]:
        _one_round(searching, pool, is_quick, progress)
    ready = [job for job in jobs if not job.error]
    for job in ready:
        if job.search:
            job.task = replace(job.task, search=job.search.record())

    def done(position: int, outcome: TaskResult) -> None:
        job = ready[position]
        # The worker's path is absolute; the caller's way to the store is kept.
        if outcome.value:
            folder, job.is_new = outcome.value
            path = store.run_path(Path(folder).name, now=True)
            job.run = open_run(path, store)
        job.error = outcome.error
        progress.advance(1)
        progress.say(_line(_outcome(job)))

    if ready:
        progress.start("Fitting", len(ready), "fits")
        try:
            pool.run(fit_task, [(job.task,) for job in ready], done, is_quick=is_quick)
        finally:
            progress.stop()


def _trials(job: PlannedFit) -> list[CrossValidation]:
    """Return what a fit's search wants tried now, to be run side by side."""
    if job.search is None or job.search.is_done:
        return []
    whole = CrossValidation(
        job.task.store,
        job.task.parts,
        job.task.config,
        tuple(job.search.pending),
        tuple(range(job.task.config.cv)),
        job.search.n_rows,
        job.task.scratch,
    )
    return split(whole)


def _one_round(jobs: list[PlannedFit], pool: TaskPool, is_quick: bool, progress: Progress) -> None:
    """Try the settings that searches want tried now, and tell them the scores."""
    trials = [(job, trial) for job in jobs for trial in _trials(job)]
    progress.start("Searching", len(trials), "trials")
    try:
        outcomes = pool.run(
            cross_validate_task,
            [(trial,) for _, trial in trials],
            lambda position, outcome: progress.advance(1),
            is_quick=is_quick,
        )
    finally:
        progress.stop()
    for job in jobs:
        assert job.search is not None
        pending = job.search.pending
        # By identity, for a value may be given twice.
        places = {id(candidate): place for place, candidate in enumerate(pending)}
        scores = np.full((len(pending), job.task.config.cv), np.nan)
        errors: list[str] = []
        for (owner, trial), outcome in zip(trials, outcomes, strict=True):
            if owner is not job:
                continue
            if outcome.error:
                errors.append(str(outcome.error))
                continue
            rows = [places[id(candidate)] for candidate in trial.candidates]
            scores[np.ix_(rows, trial.folds)] = outcome.value[0]
            errors += outcome.value[1]
        try:
            job.search.tell(scores, errors)
        except FitError as error:
            job.error = error
            progress.say(_line(_outcome(job)))


def _outcome(job: PlannedFit) -> Fit:
    return Fit(job.name, job.run, job.run is not None and not job.is_new, job.error)


def _line(one: Fit) -> str:
    if one.run is None:
        return f"{one.name}: failed: {one.error}"
    test = one.run.metrics.test
    how = "as fitted before" if one.reused else f"{one.run.record.duration_s['total']:.1f} s"
    return f"{one.name}: {100 * test.accuracy:.1f} % of {test.n_samples:,} rows, {how}"
