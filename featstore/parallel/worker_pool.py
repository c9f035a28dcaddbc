"""A pool of worker processes with one task each; workers may die, and new ones may join."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

import threadpoolctl

from featstore.errors import FeatstoreError, SchedulerError
from featstore.text import RESUME_HINT

POLL_S = 0.5
"""Time between two checks for new and dead workers while no task ends."""


ALONE_S = 60.0
"""Longest wait for a worker when all are gone: a dead one restarts in seconds."""


GATHER_S = 30.0
"""Longest wait for the result of a task that has ended."""


SETTLE_S = 60.0
"""Longest wait for running tasks to end after a request to stop."""


N_TRIES = 2
"""Workers that may die at a task before it fails."""


@dataclass(frozen=True)
class TaskResult:
    """What a task returned, or why it failed."""

    value: Any = None
    error: FeatstoreError | None = None


class WorkerPool:
    """Workers that take tasks, one at a time each.

    The client is connected to their scheduler. Each worker's numerical libraries get `n_threads`
    threads, or keep their own number. `greet` receives the addresses of new workers, and raises to
    refuse them.
    """

    def __init__(
        self,
        client: Any,
        n_threads: int | None = None,
        greet: Callable[[list[str]], None] = lambda addresses: None,
    ) -> None:
        self._client = client
        self._n_threads = n_threads
        self._greet = greet
        self._greeted: set[str] = set()

    @property
    def n_workers(self) -> int:
        """Current number of workers."""
        return len(self.addresses())

    @property
    def dashboard(self) -> str:
        """Address of the page on which Dask shows what its workers do."""
        return str(self._client.dashboard_link)

    def addresses(self) -> set[str]:
        """Return the addresses of the current workers, and greet the new ones."""
        try:
            found = set(self._client.nthreads())
        except Exception as error:
            # Dask raises errors of many kinds for a connection that is lost.
            raise SchedulerError(
                f"The Dask scheduler no longer answers ({error or type(error).__name__}). "
                f"{RESUME_HINT}"
            ) from error
        if new := sorted(found - self._greeted):
            self._greet(new)
            self._greeted.update(new)
        return found

    def submit(self, address: str, function: Callable[..., Any], task: tuple[Any, ...]) -> Any:
        """Give a task to one worker, and to no other; return the future."""
        # Otherwise Dask would silently move the tasks of a dead worker.
        return self._client.submit(
            _limited,
            self._n_threads,
            function,
            task,
            pure=False,
            workers=[address],
            allow_other_workers=False,
        )

    def everywhere(self, function: Callable[[], Any]) -> None:
        """Call a quick function on every worker, and ignore failures."""
        self._client.run(function, on_error="ignore")

    def run(
        self,
        function: Callable[..., Any],
        tasks: Sequence[tuple[Any, ...]],
        done: Callable[[int, TaskResult], None] = lambda index, outcome: None,
        *,
        n_at_a_time: int | None = None,
        died: Callable[[], FeatstoreError],
        lost: Callable[[int], None] = lambda index: None,
        stop: Callable[[], None] | None = None,
    ) -> list[TaskResult]:
        """Call ``function(*task)`` for each task; see :meth:`.TaskPool.run`.

        New workers get tasks too.

        Parameters
        ----------
        function : callable
            One that workers can import.
        tasks : sequence of tuple
            Arguments of each call.
        done : callable, optional
            Receives each task's position and result; if it raises, the run ends.
        n_at_a_time : int, optional
            Most tasks at a time; by default as many as there are workers.
        died : callable
            Makes the error of a task at which :data:`N_TRIES` workers died.
        lost : callable, optional
            Receives the position of a task whose worker died, before another worker gets it.
        stop : callable, optional
            Tells the running tasks to end, when the run ends before them. With it, an error is
            raised only after they have ended.

        Raises
        ------
        SchedulerError
            When the scheduler no longer answers, or all workers are gone.
        Exception
            What a task raises that is not a FeatstoreError, after the other tasks have ended.
        """
        work = _Dispatch(self, function, tasks, n_at_a_time, died, lost)
        results: dict[int, TaskResult] = {}
        try:
            while not work.is_done:
                for index, result in work.step():
                    results[index] = result
                    done(index, result)
        except BaseException as error:
            if stop is not None:
                stop()
                if isinstance(error, Exception):
                    with suppress(SchedulerError):
                        work.settle()
            work.cancel()
            raise
        if work.unexpected:
            raise work.unexpected
        return [results[index] for index in range(len(tasks))]


class _Dispatch:
    """The tasks that wait, and the task of each worker."""

    def __init__(
        self,
        pool: WorkerPool,
        function: Callable[..., Any],
        tasks: Sequence[tuple[Any, ...]],
        n_at_a_time: int | None,
        died: Callable[[], FeatstoreError],
        lost: Callable[[int], None],
    ) -> None:
        self._n_at_a_time = len(tasks) if n_at_a_time is None else n_at_a_time
        self._pool, self._function, self._tasks = pool, function, tasks
        self._died, self._lost = died, lost
        self._waiting = deque(range(len(tasks)))
        self._running: dict[str, tuple[int, Any]] = {}
        self._ended: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self._n_deaths: Counter[int] = Counter()
        self._alone_since: float | None = None
        self.unexpected: Exception | None = None

    @property
    def is_done(self) -> bool:
        """Whether all tasks have ended."""
        return not (self._waiting or self._running)

    def step(self) -> list[tuple[int, TaskResult]]:
        """Give tasks to idle workers, and return the results that came meanwhile or soon after."""
        results = self._collect(0)
        addresses = self._pool.addresses()
        for address in set(self._running) - addresses:
            index, future = self._running.pop(address)
            future.cancel()
            results += self._lose(index)
        self._check_alone(addresses)
        for address in sorted(addresses - set(self._running)):
            if self._waiting and len(self._running) < self._n_at_a_time:
                self._give(address, self._waiting.popleft())
        return results or self._collect(POLL_S)

    def _give(self, address: str, index: int) -> None:
        future = self._pool.submit(address, self._function, self._tasks[index])
        self._running[address] = index, future
        future.add_done_callback(lambda ended: self._ended.put((address, ended)))

    def _collect(self, timeout_s: float) -> list[tuple[int, TaskResult]]:
        try:
            address, future = self._ended.get(timeout_s > 0, timeout_s)
        except Empty:
            return []
        index, current = self._running.get(address, (-1, None))
        if future is not current:
            return []
        del self._running[address]
        try:
            return [(index, TaskResult(future.result(timeout=GATHER_S)))]
        except FeatstoreError as error:
            return [(index, TaskResult(error=error))]
        except Exception as error:  # noqa: BLE001 - raised once the others have ended
            if address not in self._pool.addresses():
                return self._lose(index)
            self.unexpected = self.unexpected or error
            return []

    def _lose(self, index: int) -> list[tuple[int, TaskResult]]:
        """Let another worker try a task whose worker died, or give it up."""
        self._n_deaths[index] += 1
        if self._n_deaths[index] >= N_TRIES:
            return [(index, TaskResult(error=self._died()))]
        self._lost(index)
        self._waiting.appendleft(index)
        return []

    def _check_alone(self, addresses: set[str]) -> None:
        now = time.monotonic()
        if addresses:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = now
        elif now - self._alone_since > ALONE_S:
            raise SchedulerError(f"All workers are gone. Start new ones. {RESUME_HINT}")

    def settle(self) -> None:
        """Wait until the running tasks have ended, and ignore their results."""
        until = time.monotonic() + SETTLE_S
        self._waiting.clear()
        while self._running and time.monotonic() < until:
            with suppress(Empty):
                address, _ = self._ended.get(timeout=POLL_S)
                self._running.pop(address, None)
            for address in set(self._running) - self._pool.addresses():
                del self._running[address]

    def cancel(self) -> None:
        """Tell the scheduler to drop the running tasks."""
        for _, future in self._running.values():
            with suppress(Exception):
                future.cancel()


def _limited(n_threads: int | None, function: Callable[..., Any], task: tuple[Any, ...]) -> Any:
    with threadpoolctl.threadpool_limits(n_threads):
        return function(*task)
