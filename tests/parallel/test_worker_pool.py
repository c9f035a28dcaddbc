from __future__ import annotations

import threading
import time

import pytest

from featstore.errors import FeatstoreError, FitError, SchedulerError
from featstore.parallel import worker_pool
from featstore.parallel.worker_pool import TaskResult, WorkerPool


class FakeFuture:
    def __init__(self):
        self.callback = None
        self.value = None
        self.ended = False
        self.cancelled = False

    def add_done_callback(self, callback):
        self.callback = callback
        if self.ended:
            callback(self)

    def end(self, value):
        self.value, self.ended = value, True
        if self.callback:
            self.callback(self)

    def result(self, timeout):
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value

    def cancel(self):
        self.cancelled = True


class FakeClient:
    """A cluster whose workers do what a function of (address, task) says.

    The function returns a value, or raises; ``dies`` takes the worker away, ``hangs`` never ends.
    """

    def __init__(self, behaviour, addresses=("a", "b")):
        self.behaviour = behaviour
        self.workers = dict.fromkeys(addresses, 1)
        self.given = []
        self.futures = []

    def nthreads(self):
        if self.workers is None:
            raise OSError("connection lost")
        return dict(self.workers)

    def submit(self, limited, n_threads, function, task, *, pure, workers, allow_other_workers):
        (address,) = workers
        assert not allow_other_workers
        self.given.append((address, task))
        future = FakeFuture()
        self.futures.append(future)
        try:
            value = self.behaviour(address, *task)
        except Exception as error:  # noqa: BLE001 - what a task raises comes back as it is
            value = error
        if value == "dies":
            del self.workers[address]
        elif value != "hangs":
            future.end(value)
        return future


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(worker_pool, "POLL_S", 0.01)
    monkeypatch.setattr(worker_pool, "ALONE_S", 0.05)


def died():
    return FitError("died")


def run(client, tasks, **options):
    return WorkerPool(client).run(None, [(task,) for task in tasks], died=died, **options)


def test_each_worker_has_one_task_at_a_time_and_results_keep_their_order():
    client = FakeClient(lambda address, task: task * 10)
    received = []
    results = run(client, [1, 2, 3], done=lambda index, result: received.append(index))
    assert [o.value for o in results] == [10, 20, 30]
    assert sorted(received) == [0, 1, 2]
    assert {address for address, _ in client.given[:2]} == {"a", "b"}


def test_no_more_tasks_at_a_time_than_are_allowed():
    client = FakeClient(lambda address, task: "hangs", "abcd")
    most = []
    stepped = threading.Event()

    def end_all():
        while not stepped.wait(0.01):
            waiting = [future for future in list(client.futures) if not future.ended]
            most.append(len(waiting))
            for future in waiting:
                future.end(7)

    ender = threading.Thread(target=end_all)
    ender.start()
    try:
        results = run(client, range(9), n_at_a_time=2)
    finally:
        stepped.set()
        ender.join()
    assert [result.value for result in results] == [7] * 9
    assert max(most) == 2


def test_the_task_of_a_dead_worker_goes_to_another():
    client = FakeClient(lambda address, task: "dies" if (address, task) == ("a", 1) else task)
    lost = []
    assert [o.value for o in run(client, [1, 2, 3], lost=lost.append)] == [1, 2, 3]
    assert lost == [0]


def test_a_task_that_costs_two_workers_is_given_up():
    client = FakeClient(lambda address, task: "dies" if task == 1 else task, ("a", "b", "c"))
    results = run(client, [1, 2, 3])
    assert str(results[0].error) == "died"
    assert [o.value for o in results[1:]] == [2, 3]


def test_a_worker_that_comes_later_gets_tasks_and_is_looked_at():
    client = FakeClient(lambda address, task: task, ("a",))
    greeted = []

    def done(index, result):
        client.workers["late"] = 1

    pool = WorkerPool(client, greet=greeted.append)
    pool.run(None, [(i,) for i in range(4)], done, died=died)
    assert {address for address, _ in client.given} == {"a", "late"}
    assert greeted == [["a"], ["late"]]


def test_no_worker_is_waited_for_and_then_received():
    client = FakeClient(lambda address, task: "dies", ("a",))
    with pytest.raises(SchedulerError, match="All workers are gone"):
        run(client, [1])


def test_a_worker_that_is_started_again_goes_on():
    def behaviour(address, task):
        if address == "a":
            threading.Timer(0.02, client.workers.__setitem__, ("again", 1)).start()
            return "dies"
        return task

    client = FakeClient(behaviour, ("a",))
    assert run(client, [7]) == [TaskResult(7)]


def test_a_scheduler_that_is_gone_is_received():
    def behaviour(address, task):
        client.workers = None
        return "hangs"

    client = FakeClient(behaviour)
    with pytest.raises(SchedulerError, match="no longer answers"):
        run(client, [1, 2])
    assert all(future.cancelled for future in client.futures)


def test_a_bug_is_raised_after_the_others_have_ended():
    def behaviour(address, task):
        return 1 / task

    client = FakeClient(behaviour)
    received = []
    with pytest.raises(ZeroDivisionError):
        run(client, [0, 1, 2], done=lambda index, result: received.append(index))
    assert sorted(received) == [1, 2]


def test_an_error_waits_for_the_tasks_in_work():
    client = FakeClient(lambda address, task: "hangs" if task == 1 else FeatstoreError("no"))
    ended = []

    def stop():
        ended.append(False)
        threading.Timer(0.05, end).start()

    def end():
        ended.append(True)
        client.futures[0].end(None)

    def done(index, result):
        raise result.error

    began = time.monotonic()
    with pytest.raises(FeatstoreError, match="no"):
        run(client, [1, 2], done=done, stop=stop)
    assert ended == [False, True]
    # Not to the end of the wait, which is for tasks that never end.
    assert time.monotonic() - began < worker_pool.SETTLE_S / 2
