"""Deal out planned fits, and the rounds of their searches, to a pool of workers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from featstore.errors import FitError
from featstore.fitting import cost
from featstore.fitting.cross_validation import CrossValidation, cross_validate_task
from featstore.fitting.plan import PlannedFit, PlanOptions, estimate_cost
from featstore.fitting.solvers.accelerators import worker_environment
from featstore.fitting.solvers.scaling import scratch_folder
from featstore.fitting.worker import fit_task
from featstore.io.locks import remove_shared
from featstore.parallel.task_pool import TaskPool
from featstore.parallel.worker_pool import TaskResult
from featstore.progress import Progress
from featstore.runs.opening import open_run
from featstore.store.feature_store import FeatureStore


def do_fits(
    planned: Sequence[PlannedFit],
    store: FeatureStore,
    options: PlanOptions,
    n_jobs: int | None,
    scheduler: str | None,
    device: str,
    progress: Progress,
) -> None:
    """Do the fits that no earlier run answers, side by side."""
    for fit in planned:
        estimate_cost(fit, options)
        if not fit.is_open:
            progress.say(fit.result().line)
    # The longest first, so that no worker ends with a long one.
    to_do = sorted((fit for fit in planned if fit.is_open), key=lambda fit: -fit.cost.duration_s)
    if not to_do:
        return
    for notice in filter(None, (fit.notice for fit in to_do)):
        progress.say(notice)
    n_at_a_time = cost.fits_at_a_time(
        _memory_nbytes(to_do),
        n_jobs,
        scheduler,
        options.budget,
        force=options.force,
        progress=progress,
    )
    scratch = Path(options.scratch)
    leave = partial(remove_shared, scratch.name)
    with (
        scratch_folder(scratch),
        TaskPool(n_at_a_time, scheduler, worker_environment(device), progress, leave) as pool,
    ):
        run_searches(to_do, pool, progress)
        run_fits(to_do, pool, store, progress)


def _memory_nbytes(planned: Sequence[PlannedFit]) -> list[int]:
    """Return the memory of each fit, or of each task of the first round of its search."""
    return [fit.cost.nbytes for fit in planned for _ in range(max(1, len(_search_tasks(fit))))]


def run_searches(planned: Sequence[PlannedFit], pool: TaskPool, progress: Progress) -> None:
    """Search for parameters, round by round, all fits side by side."""
    while searching := [f for f in planned if f.search and not f.search.is_done and f.is_open]:
        _run_round(searching, pool, progress, is_quick=_is_quick(planned))
    for fit in planned:
        if fit.search and fit.is_open:
            fit.task = replace(fit.task, search=fit.search.to_dict())


def _run_round(
    planned: Sequence[PlannedFit], pool: TaskPool, progress: Progress, *, is_quick: bool
) -> None:
    tasks = [(fit, task) for fit in planned for task in _search_tasks(fit)]
    progress.start("Searching", len(tasks), "tasks")
    try:
        results = pool.run(
            cross_validate_task,
            [(task,) for _, task in tasks],
            lambda index, result: progress.advance(1),
            is_quick=is_quick,
        )
    finally:
        progress.stop()
    for fit in planned:
        own = [(t, r) for (owner, t), r in zip(tasks, results, strict=True) if owner is fit]
        try:
            _add_scores(fit, own)
        except FitError as error:
            fit.error = error
            progress.say(fit.result().line)


def _search_tasks(fit: PlannedFit) -> list[CrossValidation]:
    """Return the tasks of the next round of a fit's search."""
    if fit.search is None or fit.search.is_done:
        return []
    config = fit.task.config
    return CrossValidation(
        fit.task.store,
        fit.task.parts,
        fit.task.kind,
        config,
        tuple(fit.search.pending),
        tuple(range(config.n_folds)),
        fit.search.n_rows,
        fit.task.scratch,
    ).split()


def _add_scores(fit: PlannedFit, results: Sequence[tuple[CrossValidation, TaskResult]]) -> None:
    """Put the scores of a round's tasks together, and give them to the search."""
    assert fit.search is not None
    # By identity: a value may be given twice.
    positions = {id(candidate): i for i, candidate in enumerate(fit.search.pending)}
    scores = np.full((len(positions), fit.task.config.n_folds), np.nan)
    errors: list[str] = []
    for task, result in results:
        if result.error:
            errors.append(str(result.error))
            continue
        task_scores, task_errors = result.value
        rows = [positions[id(candidate)] for candidate in task.candidates]
        scores[np.ix_(rows, task.folds)] = task_scores
        errors += task_errors
    fit.search.add_scores(scores, errors)


def run_fits(
    planned: Sequence[PlannedFit], pool: TaskPool, store: FeatureStore, progress: Progress
) -> None:
    """Do the fits that are open, in order."""
    ready = [fit for fit in planned if fit.is_open]
    if not ready:
        return

    def done(index: int, result: TaskResult) -> None:
        fit = ready[index]
        fit.error = result.error
        if result.value:
            # The worker's path is absolute; keep the caller's way to the store.
            path = store.run_path(Path(result.value.folder).name, now=True)
            fit.run, fit.is_new = open_run(path, store), result.value.is_new
        progress.advance(1)
        progress.say(fit.result().line)

    progress.start("Fitting", len(ready), "fits")
    try:
        tasks = [(fit.task,) for fit in ready]
        pool.run(fit_task, tasks, done, is_quick=_is_quick(planned))
    finally:
        progress.stop()


def _is_quick(planned: Sequence[PlannedFit]) -> bool:
    """Return whether all fits together take less time than workers take to start."""
    return sum(fit.cost.duration_s for fit in planned) < cost.QUICK_S
