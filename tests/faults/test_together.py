"""Several processes at once: one computes, the others wait, and nobody sees half of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time

import numpy as np
import pytest
from children import extract_words, group_bytes, resumed

from featstore.store.feature_store import open_store
from featstore.store.verification import verify

HOLDER = re.compile(r"is being worked on by process (\d+) on \S+ since \S+; waiting for it\.")


@pytest.fixture(scope="module")
def expected(children, pictures, tmp_path_factory):
    """Return a file with the features, and the labels."""
    folder = tmp_path_factory.mktemp("expected")
    resumed(children.command(folder / "store", *extract_words(pictures)))
    selection = open_store(folder / "store").select()
    np.save(folder / "X.npy", selection.memmap())
    return str(folder / "X.npy"), selection.y.tolist()


def start_readers(children, store, expected, n=2):
    path, labels = expected
    request = {"store": str(store), "expected": path, "labels": labels, "seconds": 60}
    return [children.start("watch", **request) for _ in range(n)]


def holder_of(store, others=()):
    """Wait until one process has made chunks durable, and return its id."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = open_store(store).sets()
        journal = found[0].journal().get("stats") if found else None
        if journal is not None and len(journal.chunks) > 1:
            (note,) = (store / "locks").glob("*.json")
            pid = json.loads(note.read_text())["pid"]
            if pid not in others:
                return pid
        time.sleep(0.002)
    raise AssertionError("nobody computes")


def wait_for_waiters(waiting):
    """Wait until each of several processes has said for whom it waits."""
    until = time.monotonic() + 60
    while not all(HOLDER.search(child.err) for child in waiting):
        assert time.monotonic() < until, "nobody waits"
        time.sleep(0.01)


@pytest.mark.parametrize("n", [2, 8])
def test_one_computes_and_the_others_wait_and_say_for_whom(
    n, children, pictures, unbroken, expected, tmp_path, tally
):
    store, words = tmp_path / "store", [*extract_words(pictures), "--json"]
    readers = start_readers(children, store, expected)
    started = [children.command(store, *words, batch_s=0.3) for _ in range(n)]
    first = holder_of(store)
    # It stands still until all others have come, however slowly they start.
    os.kill(first, signal.SIGSTOP)
    waiting = [child for child in started if child.pid != first]
    wait_for_waiters(waiting)
    os.kill(first, signal.SIGCONT)
    assert {child.pid: child.result["n_computed"] for child in started} == {
        child.pid: 36 if child.pid == first else 0 for child in started
    }
    for child in waiting:
        named = {int(pid) for pid in HOLDER.findall(child.err)}
        assert first in named
        assert named <= {one.pid for one in started}
    assert group_bytes(store) == unbroken
    assert verify(open_store(store).sets()[0]) == []
    for reader in readers:
        seen = reader.result
        assert seen["n_seen"] == 3
        assert seen["n_refused"] > 0
    tally.add("processes at once", str(n), "one computed, no reader saw half")


@pytest.mark.parametrize("n", [1, pytest.param(12, marks=pytest.mark.soak)])
def test_nobody_waits_for_one_that_was_killed(
    n, children, pictures, unbroken, expected, tmp_path, tally
):
    words = [*extract_words(pictures), "--json"]
    for i in range(n):
        store = tmp_path / f"{i}"
        started = [children.command(store, *words, batch_s=0.2) for _ in range(4)]
        readers = start_readers(children, store, expected, 1)
        first = holder_of(store)
        (killed,) = [child for child in started if child.pid == first]
        killed.kill()
        assert killed.code == -9
        others = [child for child in started if child is not killed]
        computed = [child.result["n_computed"] for child in others]
        assert sorted(computed)[:2] == [0, 0]
        assert 0 < max(computed) < 36, "what the first had made durable is kept"
        assert group_bytes(store) == unbroken
        assert all(reader.result["n_seen"] == 3 for reader in readers)
        shutil.rmtree(store)
        tally.add("processes at once", "holder killed", "one computed, no reader saw half")


def test_those_that_wait_longer_say_for_whom_now(children, pictures, unbroken, tmp_path):
    store, words = tmp_path / "store", extract_words(pictures)
    started = [children.command(store, *words, batch_s=0.3) for _ in range(3)]
    first = holder_of(store)
    (killed,) = [child for child in started if child.pid == first]
    others = [child for child in started if child is not killed]
    wait_for_waiters(others)
    killed.kill()
    for child in others:
        resumed(child)
    told = [[int(pid) for pid in HOLDER.findall(child.err)] for child in others]
    # One of the two has taken over; the other has waited for both.
    pids = {child.pid for child in others}
    assert any(first in named and pids & set(named) for named in told), told
    assert group_bytes(store) == unbroken


def test_two_fits_of_the_same_at_once_leave_one_whole_run(children, pictures, tmp_path):
    store = tmp_path / "store"
    resumed(children.command(store, *extract_words(pictures)))
    words = ["fit", "--clf", "ridge", "--n-jobs", "1", "--json"]
    results = [child.result for child in [children.command(store, *words) for _ in range(3)]]
    ids = {result["runs"][0]["run_id"] for result in results}
    assert len(ids) == 1
    assert {path.name for path in (store / "runs").iterdir()} == ids
