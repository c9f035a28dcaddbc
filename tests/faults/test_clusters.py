"""Dask workers that are killed and schedulers that are lost, in extract and in fit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from children import SMALL, extract_words, group_bytes, resumed
from distributed import Client

from featstore.progress import Silent
from featstore.runs.opening import list_runs
from featstore.store.feature_store import open_store
from featstore.store.verification import verify
from featstore.text import RESUME_HINT

pytestmark = pytest.mark.soak


SLOWLY = """
import time
from featstore.store.format import matrix
from featstore.models import pixelstats
from featstore.store import writer
from featstore.extraction import coordinator
from featstore.fitting import worker as tasks
matrix.CHUNK_NBYTES = 4 * 29 * 3
writer.CHECKPOINT_S = writer.JOURNAL_S = 0.0

def slowed(function, seconds):
    def slow(*args):
        time.sleep(seconds)
        return function(*args)
    return slow

# Dask loads what is to be preloaded twice.
if tasks._fit.__name__ != "slow":
    pixelstats.PixelExtractor._compute = slowed(pixelstats.PixelExtractor._compute, 0.4)
    tasks._fit = slowed(tasks._fit, 1)
"""


class Cluster:
    """A scheduler and two workers, as a user starts them, whose work takes its time."""

    def __init__(self, folder):
        self._start = [sys.executable, "-m", "dask"]
        self._file = folder / "scheduler.json"
        self._log = (folder / "log").open("w")
        self._folder = folder
        (folder / "slowly.py").write_text(SLOWLY)
        options = ["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"]
        self.scheduler = self._run("scheduler", *options)
        while not self._file.exists():
            time.sleep(0.05)
        threads = ["--nthreads", "1", "--no-dashboard", "--no-nanny", "--death-timeout", "20"]
        threads += ["--local-directory", str(folder), "--preload", str(folder / "slowly.py")]
        self.workers = [self._run("worker", *threads) for _ in range(2)]
        with Client(scheduler_file=str(self._file)) as client:
            client.wait_for_workers(2, timeout=600)
            self.address = client.scheduler.address

    def _run(self, what, *options):
        return subprocess.Popen(
            [*self._start, what, "--scheduler-file", str(self._file), *options],
            stdout=self._log,
            stderr=self._log,
            cwd=self._folder,
        )

    def close(self):
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()
        self._log.close()


ALONE = """
import json, sys
from zygote import command
sys.exit(command(json.loads(sys.argv[1])))
"""


class Alone:
    """A ``featstore`` of its own: a client's threads don't outlive a fork."""

    def __init__(self, store, *words):
        request = {"args": [*words, "--store", str(store)], "constants": SMALL}
        here = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
        self._process = subprocess.Popen(
            [sys.executable, "-c", ALONE, json.dumps(request)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=here,
        )

    def end(self):
        """Return the exit code and what was said on stderr."""
        _, err = self._process.communicate(timeout=180)
        return self._process.returncode, err


@pytest.fixture
def cluster(tmp_path):
    (tmp_path / "cluster").mkdir()
    made = Cluster(tmp_path / "cluster")
    yield made
    made.close()


def wait_until(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def n_durable(store):
    return len(list(Path(store).glob("sets/*/features.zarr/stats/c/*/0")))


def runs_of(store):
    return list_runs(open_store(store), Silent())


def lose_scheduler(cluster, child, is_begun):
    """Kill the scheduler when a command's work has begun, and see what the command says."""
    wait_until(is_begun)
    cluster.scheduler.kill()
    code, err = child.end()
    assert code == 1, err
    assert "Traceback" not in err
    assert "Dask scheduler no longer answers" in err
    assert RESUME_HINT in err
    for worker in cluster.workers:
        worker.kill()
        worker.wait()


def test_a_scheduler_that_is_lost_in_extract_is_told_and_what_was_finished_is_kept(
    cluster, children, pictures, unbroken, tmp_path
):
    store, words = tmp_path / "store", extract_words(pictures)
    child = Alone(store, *words, "--scheduler", cluster.address)
    lose_scheduler(cluster, child, lambda: n_durable(store) >= 4)
    assert open_store(store).sets()[0].unfinished() == ["stats"]
    again = children.command(store, *words, "--json")
    assert 0 < again.result["n_computed"] < 36
    assert group_bytes(store) == unbroken


def test_a_worker_that_is_killed_in_extract_costs_only_its_share(
    cluster, children, pictures, unbroken, tmp_path
):
    store, words = tmp_path / "store", extract_words(pictures)
    child = Alone(store, *words, "--scheduler", cluster.address)
    wait_until(lambda: n_durable(store) >= 3)
    cluster.workers[0].kill()
    code, err = child.end()
    assert code == 0, err
    assert "A worker died; rows " in err
    assert group_bytes(store) == unbroken
    assert verify(open_store(store).sets()[0]) == []


def test_a_worker_that_is_killed_in_fit_costs_nothing(cluster, children, pictures, tmp_path):
    store = tmp_path / "store"
    resumed(children.command(store, *extract_words(pictures)))
    words = ["fit", "--clf", "ridge", "--repeats", "5", "--split-seed", "1"]
    child = Alone(store, *words, "--scheduler", cluster.address)
    wait_until(lambda: len(runs_of(store)) >= 1)
    cluster.workers[0].kill()
    code, err = child.end()
    assert code == 0, err
    assert len(runs_of(store)) == 5
    assert len(children.command(store, *words, "--json").result["runs"]) == 5


def test_a_scheduler_that_is_lost_in_fit_is_told_and_runs_are_kept(
    cluster, children, pictures, tmp_path
):
    store = tmp_path / "store"
    resumed(children.command(store, *extract_words(pictures)))
    words = ["fit", "--clf", "ridge", "--repeats", "6", "--split-seed", "1"]
    child = Alone(store, *words, "--scheduler", cluster.address)
    lose_scheduler(cluster, child, lambda: len(runs_of(store)) >= 2)
    kept = {run.run_id: run.record.created for run in runs_of(store)}
    assert 2 <= len(kept) < 6
    again = children.command(store, *words, "--n-jobs", "1", "--json").result
    assert sum(run["reused"] for run in again["runs"]) == len(kept)
    assert {run.run_id: run.record.created for run in runs_of(store)}.items() >= kept.items()
