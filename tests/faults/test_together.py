"""Several processes at once: one computes, the others wait, and nobody sees half of it."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
from children import extract_words, group_bytes, resumed, wait_until

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


def start_reader(children, store, expected):
    """Start a process that reads the store until it holds the set, and has been refused once."""
    path, labels = expected
    refused = store.with_name(f"{store.name} refused")
    request = {"store": str(store), "expected": path, "labels": labels, "refused": str(refused)}
    reader = children.start("watch", **request)
    wait_until(lambda: refused.exists() or reader.poll())
    return reader


def start_held(children, store, n, words):
    """Start one extraction in several processes, and let it stop half way until a file exists.

    Returns the process that computes, the processes that wait for it, and the file.
    """
    go = store.with_name(f"{store.name} go")
    held = {"row": 16, "until": str(go)}
    started = [children.command(store, *words, hold=held) for _ in range(n)]

    def durable():
        assert not any(child.poll() for child in started), [child.err for child in started]
        found = open_store(store).sets()
        journal = found[0].journal().get("stats") if found else None
        return journal is not None and len(journal.chunks) > 1

    wait_until(durable)
    (note,) = (store / "locks").glob("*.json")
    pid = json.loads(note.read_text())["pid"]
    (first,) = [child for child in started if child.pid == pid]
    waiting = [child for child in started if child is not first]
    wait_until(lambda: all(HOLDER.search(child.err) for child in waiting))
    return first, waiting, go


def named(child):
    """Return the processes that one said it waits for."""
    return {int(pid) for pid in HOLDER.findall(child.err)}


@pytest.mark.parametrize("n", [4, pytest.param(8, marks=pytest.mark.soak)])
def test_one_computes_and_the_others_wait_and_say_for_whom(
    n, children, pictures, unbroken, expected, tmp_path, tally
):
    store, words = tmp_path / "store", [*extract_words(pictures), "--json"]
    reader = start_reader(children, store, expected)
    first, waiting, go = start_held(children, store, n, words)
    go.touch()
    assert first.result["n_computed"] == 36
    assert [child.result["n_computed"] for child in waiting] == [0] * (n - 1)
    for child in waiting:
        assert first.pid in named(child)
        assert named(child) <= {first.pid, *(one.pid for one in waiting)}
    assert group_bytes(store) == unbroken
    assert verify(open_store(store).sets()[0]) == []
    assert reader.code == 0, reader.out
    tally.add("processes at once", str(n), "one computed, no reader saw half")


@pytest.mark.parametrize("n", [1, pytest.param(12, marks=pytest.mark.soak)])
def test_nobody_waits_for_one_that_was_killed(
    n, children, pictures, unbroken, expected, tmp_path, tally
):
    words = [*extract_words(pictures), "--json"]
    for i in range(n):
        store = tmp_path / f"{i}"
        reader = start_reader(children, store, expected)
        first, others, go = start_held(children, store, 4, words)
        first.kill()
        assert first.code == -9
        go.touch()
        computed = [child.result["n_computed"] for child in others]
        assert sorted(computed)[:2] == [0, 0]
        assert 0 < max(computed) < 36, "what the first had made durable is kept"
        assert group_bytes(store) == unbroken
        assert reader.code == 0, reader.out
        shutil.rmtree(store)
        tally.add("processes at once", "holder killed", "one computed, no reader saw half")


def test_those_that_wait_longer_say_for_whom_now(children, pictures, unbroken, tmp_path):
    store, words = tmp_path / "store", extract_words(pictures)
    first, (a, b), go = start_held(children, store, 3, words)
    first.kill()
    # One of the two takes over; the other has waited for both.
    wait_until(lambda: {first.pid, b.pid} <= named(a) or {first.pid, a.pid} <= named(b))
    go.touch()
    resumed(a)
    resumed(b)
    assert group_bytes(store) == unbroken


def test_two_fits_of_the_same_at_once_leave_one_whole_run(children, pictures, tmp_path):
    store = tmp_path / "store"
    resumed(children.command(store, *extract_words(pictures)))
    words = ["fit", "--clf", "ridge", "--n-jobs", "1", "--json"]
    results = [child.result for child in [children.command(store, *words) for _ in range(3)]]
    ids = {result["runs"][0]["run_id"] for result in results}
    assert len(ids) == 1
    assert {path.name for path in (store / "runs").iterdir()} == ids
