"""Teams: worker processes that are handed one task at a time each, and may die or come later."""

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
"""Time between two looks at which workers there are, when nothing else happens."""


ALONE_S = 60.0
"""Longest wait for a worker when there is none: one that died is started again in seconds."""


GATHER_S = 30.0
"""Longest wait for the result of a task that has ended."""


SETTLE_S = 60.0
"""Longest wait for the tasks in work to end, once they are told to."""


N_TRIES = 2
"""Workers that a task may cost."""


@dataclass(frozen=True)
class TaskResult:
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


class WorkerPool:
    """Workers that take tasks, one at a time each.

    Parameters
    ----------
    client : distributed.Client
        Connected to their scheduler.
    n_threads : int or None
        Threads of each for numerical libraries; None to leave them alone.
    greet : callable, optional
        Told the addresses of workers that are new; raises when they won't do.
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
        """How many workers there are now."""
        return len(self.addresses())

    @property
    def dashboard(self) -> str:
        """Address of the page on which Dask shows what its workers do."""
        return str(self._client.dashboard_link)

    def addresses(self) -> set[str]:
        """Return the addresses of the workers that there are now.

        Raises
        ------
        SchedulerError
            When the scheduler does not answer, or a new worker won't do.
        """
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
        # Dask would otherwise move the tasks of a worker that died, and nobody would know which.
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
        """Call a quick function on every worker, and don't mind where it fails."""
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

        Workers that come while it goes on get tasks too.

        Parameters
        ----------
        function : callable
            What workers can import.
        tasks : sequence of tuple
            Arguments of each call.
        done : callable, optional
            Told each task's position and outcome; when it raises, that ends the run.
        n_at_a_time : int, optional
            Most tasks at a time; by default as many as there are workers.
        died : callable
            Makes the error of a task that cost :data:`N_TRIES` workers.
        lost : callable, optional
            Told the position of a task whose worker died, before it is given to another.
        stop : callable, optional
            Tells the tasks in work to end, when the run ends before them. Where there is one,
            an error is raised only after they have.

        Raises
        ------
        SchedulerError
            When the scheduler does not answer any more, or all workers are gone.
        Exception
            What a task raises that is not a FeatstoreError, after the other tasks have ended.
        """
        work = _Work(self, function, tasks, n_at_a_time, died, lost)
        outcomes: dict[int, TaskResult] = {}
        try:
            while work.goes_on():
                for index, outcome in work.step():
                    outcomes[index] = outcome
                    done(index, outcome)
        except BaseException as error:
            if stop is not None:
                stop()
                if isinstance(error, Exception):
                    with suppress(SchedulerError):
                        work.settle()
            work.cancel()
            raise
        if work.surprise:
            raise work.surprise
        return [outcomes[index] for index in range(len(tasks))]


class _Work:
    """Which tasks wait, and which worker has which."""

    def __init__(
        self,
        team: WorkerPool,
        function: Callable[..., Any],
        tasks: Sequence[tuple[Any, ...]],
        n_at_a_time: int | None,
        died: Callable[[], FeatstoreError],
        lost: Callable[[int], None],
    ) -> None:
        self._n_at_a_time = len(tasks) if n_at_a_time is None else n_at_a_time
        self._team, self._function, self._tasks = team, function, tasks
        self._died, self._lost = died, lost
        self._waiting = deque(range(len(tasks)))
        self._running: dict[str, tuple[int, Any]] = {}
        self._ended: SimpleQueue[tuple[str, Any]] = SimpleQueue()
        self._n_deaths: Counter[int] = Counter()
        self._alone_since: float | None = None
        self.surprise: Exception | None = None

    def goes_on(self) -> bool:
        """Return whether any task has not ended."""
        return bool(self._waiting or self._running)

    def step(self) -> list[tuple[int, TaskResult]]:
        """Give tasks to idle workers, and return what ended meanwhile or soon after."""
        outcomes = self._collect(0)
        here = self._team.addresses()
        for address in set(self._running) - here:
            index, future = self._running.pop(address)
            future.cancel()
            outcomes += self._fell(index)
        self._check_alone(here)
        for address in sorted(here - set(self._running)):
            if self._waiting and len(self._running) < self._n_at_a_time:
                self._give(address, self._waiting.popleft())
        return outcomes or self._collect(POLL_S)

    def _give(self, address: str, index: int) -> None:
        future = self._team.submit(address, self._function, self._tasks[index])
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
            if address not in self._team.addresses():
                return self._fell(index)
            self.surprise = self.surprise or error
            return []

    def _fell(self, index: int) -> list[tuple[int, TaskResult]]:
        self._n_deaths[index] += 1
        if self._n_deaths[index] >= N_TRIES:
            return [(index, TaskResult(error=self._died()))]
        self._lost(index)
        self._waiting.appendleft(index)
        return []

    def _check_alone(self, here: set[str]) -> None:
        now = time.monotonic()
        if here:
            self._alone_since = None
        elif self._alone_since is None:
            self._alone_since = now
        elif now - self._alone_since > ALONE_S:
            raise SchedulerError(f"All workers are gone. Start new ones. {RESUME_HINT}")

    def settle(self) -> None:
        """Wait until the tasks in work have ended; what becomes of them is of no interest."""
        until = time.monotonic() + SETTLE_S
        self._waiting.clear()
        while self._running and time.monotonic() < until:
            with suppress(Empty):
                address, _ = self._ended.get(timeout=POLL_S)
                self._running.pop(address, None)
            for address in set(self._running) - self._team.addresses():
                del self._running[address]

    def cancel(self) -> None:
        """Tell the scheduler that nobody waits for the tasks in work."""
        for _, future in self._running.values():
            with suppress(Exception):
                future.cancel()


def _limited(n_threads: int | None, function: Callable[..., Any], task: tuple[Any, ...]) -> Any:
    with threadpoolctl.threadpool_limits(n_threads):
        return function(*task)
