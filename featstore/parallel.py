"""Tasks side by side on a Dask cluster: this machine's cores, or one that is running."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import Any

import dask
import threadpoolctl
from distributed import Client, LocalCluster, as_completed, get_worker
from distributed.scheduler import KilledWorker

from featstore.errors import FeatstoreError, FitError, SchedulerError
from featstore.provenance import available_cores

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
"""What the numerical libraries read, once, when they are loaded."""


CONNECT_S = 10
"""Longest wait for a scheduler to answer."""


@dataclass(frozen=True)
class Outcome:
    """What came of one task.

    Parameters
    ----------
    value : Any
        What it returned; None when it failed.
    error : FeatstoreError or None
        Why it failed.
    """

    value: Any = None
    error: FeatstoreError | None = None


def run_tasks(
    function: Callable[..., Any],
    tasks: Sequence[tuple[Any, ...]],
    n_jobs: int | None = None,
    done: Callable[[int, Outcome], None] = lambda index, outcome: None,
) -> list[Outcome]:
    """Call ``function(*task)`` for each task, side by side, and outlive those that fail.

    One task, or any number with ``n_jobs=1``, runs in this process with all cores; more run in
    worker processes that share the cores out, one task at a time each. What a task is given and
    returns goes through the scheduler, so it must be small: the path of a store, not a matrix.

    Parameters
    ----------
    function : callable
        Importable from a module, or defined in the script that is run.
    tasks : sequence of tuple
        Arguments of each call.
    n_jobs : int, optional
        Tasks at a time; by default as many as there are cores.
    done : callable, optional
        Told each task's position and outcome, in this process, as they end.

    Returns
    -------
    list of Outcome
        In the order of `tasks`. A task that raises a :class:`~featstore.errors.FeatstoreError`
        has it as its error; one whose worker died twice, a FitError.

    Raises
    ------
    Exception
        What a task raises that is not a FeatstoreError, after the other tasks have ended.
    """
    n_workers = min(len(tasks), n_jobs or available_cores())
    if n_workers <= 1:
        return _run_here(function, tasks, done)
    return _run_on_cluster(function, tasks, n_workers, done)


def _run_here(
    function: Callable[..., Any],
    tasks: Sequence[tuple[Any, ...]],
    done: Callable[[int, Outcome], None],
) -> list[Outcome]:
    outcomes = []
    for index, task in enumerate(tasks):
        try:
            with threadpoolctl.threadpool_limits(available_cores()):
                outcome = Outcome(function(*task))
        except FeatstoreError as error:
            outcome = Outcome(error=error)
        outcomes.append(outcome)
        done(index, outcome)
    return outcomes


def _run_on_cluster(
    function: Callable[..., Any],
    tasks: Sequence[tuple[Any, ...]],
    n_workers: int,
    done: Callable[[int, Outcome], None],
) -> list[Outcome]:
    with local_team(n_workers) as team:
        return team.run(function, tasks, done)


class Team:
    """Workers that take tasks, one at a time each.

    Parameters
    ----------
    client : distributed.Client
        Connected to their scheduler.
    n_threads : int or None
        Threads of each for numerical libraries; None to leave them alone.
    """

    def __init__(self, client: Client, n_threads: int | None) -> None:
        self._client = client
        self._n_threads = n_threads

    @property
    def n_workers(self) -> int:
        """How many workers there are now."""
        return len(self._client.nthreads())  # type: ignore[no-untyped-call]

    def run(
        self,
        function: Callable[..., Any],
        tasks: Sequence[tuple[Any, ...]],
        done: Callable[[int, Outcome], None] = lambda index, outcome: None,
        died: Callable[[], FeatstoreError] | None = None,
    ) -> list[Outcome]:
        """Call ``function(*task)`` for each task; see :func:`run_tasks`.

        Parameters
        ----------
        died : callable, optional
            Makes the error of a task whose workers died twice.
        """
        outcomes: dict[int, Outcome] = {}
        surprise: BaseException | None = None
        waiting = iter(enumerate(tasks))
        indices: dict[Any, int] = {}

        def submit_next() -> Any:
            for index, task in waiting:
                future = self._client.submit(_limited, self._n_threads, function, task, pure=False)
                indices[future.key] = index
                return future
            return None

        # No more tasks at a time than workers: a worker that dies takes no waiting task with it.
        first = [submit_next() for _ in range(min(len(tasks), max(1, self.n_workers)))]
        running = as_completed(first)  # type: ignore[no-untyped-call]
        for future in running:
            index = indices[future.key]
            try:
                outcomes[index] = Outcome(future.result())
            except FeatstoreError as error:
                outcomes[index] = Outcome(error=error)
            except (KilledWorker, CancelledError):
                outcomes[index] = Outcome(error=(died or _worker_died)())
            except Exception as error:  # noqa: BLE001 - raised below, once the others have ended
                surprise = surprise or error
            if index in outcomes:
                done(index, outcomes[index])
            if following := submit_next():
                running.add(following)  # type: ignore[no-untyped-call]
        if surprise:
            raise surprise
        return [outcomes[index] for index in range(len(tasks))]


@contextmanager
def local_team(n_workers: int) -> Iterator[Team]:
    """Start worker processes on this machine, which share its cores out; named 0, 1, ..."""
    n_threads = max(1, available_cores() // n_workers)
    with _cluster(n_workers, n_threads) as client:
        yield Team(client, n_threads)


@contextmanager
def remote_team(address: str) -> Iterator[Team]:
    """Connect to the workers of a scheduler, which go on when this ends.

    Raises
    ------
    SchedulerError
        When there is no scheduler at the address, or it has no workers.
    """
    with _quiet():
        try:
            with dask.config.set({"distributed.comm.timeouts.connect": f"{CONNECT_S} s"}):
                client = Client(address, timeout=CONNECT_S)  # type: ignore[no-untyped-call]
        except (OSError, ValueError, TypeError) as error:
            raise SchedulerError(
                f"No Dask scheduler answers at {address!r} ({error}). Start one with `dask "
                "scheduler`, and workers with `dask worker ADDRESS`; it prints an address such "
                "as tcp://10.0.0.1:8786."
            ) from error
        with client:
            if not client.nthreads():  # type: ignore[no-untyped-call]
                raise SchedulerError(
                    f"The scheduler at {address} has no workers. Start one on each GPU or host "
                    f"with: dask worker {address} --nthreads 1"
                )
            yield Team(client, None)


def worker_name() -> str:
    """Return the name of the worker that runs this; only to be asked within a task."""
    return str(get_worker().name)


def _limited(n_threads: int | None, function: Callable[..., Any], task: tuple[Any, ...]) -> Any:
    with threadpoolctl.threadpool_limits(n_threads):
        return function(*task)


def _worker_died() -> FitError:
    return FitError(
        "The worker process died twice at this; most often the system ended it for want of "
        "memory. Try --n-jobs 1, a classifier that needs less (sgd, logreg), or fewer features."
    )


@contextmanager
def _cluster(n_workers: int, n_threads: int) -> Iterator[Client]:
    environment = dict.fromkeys(THREAD_VARIABLES, str(n_threads))
    settings = {
        "distributed.nanny.pre-spawn-environ": {
            **dask.config.get("distributed.nanny.pre-spawn-environ"),
            **environment,
        },
        # A task whose worker died runs once more; then it is given up.
        "distributed.scheduler.allowed-failures": 1,
        "distributed.worker.multiprocessing-method": "spawn",
        "distributed.comm.timeouts.connect": "60s",
    }
    with dask.config.set(settings), _script_hidden(), _quiet():
        cluster = None
        try:
            with _interrupts_held():
                cluster = LocalCluster(  # type: ignore[no-untyped-call]
                    n_workers=n_workers,
                    threads_per_worker=1,
                    processes=True,
                    # Dask would count the pages of a memory map against a limit, and kill for it.
                    memory_limit=0,
                    # Any free port: a fixed one may be another cluster's.
                    dashboard_address="127.0.0.1:0",
                    silence_logs=logging.CRITICAL,
                )
            with Client(cluster) as client:  # type: ignore[no-untyped-call]
                yield client
        finally:
            if cluster is not None:
                cluster.close(timeout=10)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back while threads and workers are started.

    They inherit that and are never interrupted, so that this thread alone ends them, in order;
    a Ctrl-C that came meanwhile takes effect at the end.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Its start would let interrupts through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's log off the terminal; what matters of it comes back as outcomes."""
    logger = logging.getLogger("distributed")
    level, logger.level = logger.level, logging.CRITICAL
    try:
        yield
    finally:
        logger.level = level


@contextmanager
def _script_hidden() -> Iterator[None]:
    """Keep new processes from importing the script that is run.

    multiprocessing would, and a script that calls ``featstore.fit`` outside an
    ``if __name__ == "__main__"`` would start clusters without end.
    """
    main = vars(sys.modules["__main__"])
    kept: dict[str, Any] = {name: main[name] for name in ("__file__", "__spec__") if name in main}
    main.pop("__file__", None)
    main["__spec__"] = None
    try:
        yield
    finally:
        main.update(kept)
