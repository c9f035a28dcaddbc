"""Run tasks side by side: in this process, or on Dask's workers once there is enough to do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import Any, Self

import threadpoolctl

from featstore.environment import available_cores
from featstore.errors import FeatstoreError, FitError
from featstore.parallel.worker_pool import TaskResult, WorkerPool
from featstore.progress import Progress


class TaskPool:
    """Runs small tasks in this process or on workers, which start when they are first needed.

    Parameters
    ----------
    n_jobs : int or None
        Tasks at a time; by default as many as there are cores, or workers of the scheduler.
    scheduler : str or None
        Address of a Dask scheduler whose workers to use.
    environment : mapping of str to str
        Variables of this machine's workers; if there are any, even a single task runs on a worker.
    progress : Progress
    leave : callable, optional
        Called in the end on the workers of a scheduler, which stay.
    """

    def __init__(
        self,
        n_jobs: int | None,
        scheduler: str | None,
        environment: Mapping[str, str],
        progress: Progress,
        leave: Callable[[], Any] | None = None,
    ) -> None:
        self.n_jobs = n_jobs or available_cores()
        self._n_at_a_time, self._leave = n_jobs, leave
        self._scheduler, self._environment, self._progress = scheduler, environment, progress
        self._stack = ExitStack()
        self._pool: WorkerPool | None = None

    def run(
        self,
        function: Callable[..., Any],
        tasks: Sequence[tuple[Any, ...]],
        done: Callable[[int, TaskResult], None] = lambda index, result: None,
        *,
        is_quick: bool = False,
    ) -> list[TaskResult]:
        """Call ``function(*task)`` for each task, side by side; a failure stops no other task.

        Arguments and results travel through the scheduler, so they must be small: the path of a
        store, not a matrix.

        Parameters
        ----------
        function : callable
            Imported from a module, or defined in the running script.
        tasks : sequence of tuple
            Arguments of each call.
        done : callable, optional
            Receives each task's position and result, in this process, as tasks end.
        is_quick : bool
            Whether the tasks take less time than workers take to start.

        Returns
        -------
        list of TaskResult
            In the order of `tasks`. The error of a task is the
            :class:`~featstore.errors.FeatstoreError` that it raised; or a FitError, when its worker
            died twice.

        Raises
        ------
        SchedulerError
            When the scheduler does not answer.
        Exception
            What a task raises that is not a FeatstoreError, after the other tasks have ended.
        """
        alone = min(len(tasks), self.n_jobs) <= 1 or is_quick
        if alone and self._scheduler is None and not self._environment and not self._pool:
            return _run_here(function, tasks, done)
        if self._pool is None:
            self._pool = self._stack.enter_context(self._start())
            if self._scheduler is not None:
                self._progress.say(f"Dask's dashboard: {self._pool.dashboard}")
        return self._pool.run(
            function, tasks, done, n_at_a_time=self._n_at_a_time, died=_worker_died
        )

    def _start(self) -> AbstractContextManager[WorkerPool]:
        # Dask takes half a second to import, which tasks in this process do without.
        from featstore.parallel.cluster import local_pool, scheduler_pool

        if self._scheduler is not None:
            return scheduler_pool(self._scheduler)
        return local_pool(self.n_jobs, environment=self._environment)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        with self._stack:
            if self._pool is not None and self._scheduler is not None and self._leave is not None:
                with suppress(Exception):
                    self._pool.everywhere(self._leave)


def _run_here(
    function: Callable[..., Any],
    tasks: Sequence[tuple[Any, ...]],
    done: Callable[[int, TaskResult], None],
) -> list[TaskResult]:
    results = []
    for index, task in enumerate(tasks):
        try:
            with threadpoolctl.threadpool_limits(available_cores()):
                result = TaskResult(function(*task))
        except FeatstoreError as error:
            result = TaskResult(error=error)
        results.append(result)
        done(index, result)
    return results


def _worker_died() -> FitError:
    return FitError(
        "The worker process died twice at this, most often because memory was short. Try --n-jobs "
        "1, a classifier that needs less (sgd, logreg), or fewer features."
    )
