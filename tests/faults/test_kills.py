"""Processes that are killed by SIGKILL, at numbered operations and at moments: nothing is lost."""

from __future__ import annotations

import json
import random
import shutil
import time

import pytest
from children import SMALL, extract_words, group_bytes, resumed, run_content
from makers import Listener, tiny, tree_bytes

from featstore.errors import IncompleteError, SelectionError
from featstore.io.files import read_json
from featstore.runs.opening import list_runs
from featstore.store.feature_store import open_store
from featstore.store.verification import verify

PHASES = ("open", "first chunk", "mid-write", "journal", "finalise")
SAME = "all resumed to the same bytes"


def drawn(rng, operations, n_each, phases=PHASES):
    """Return numbers of operations, as many of each phase, where it has so many."""
    numbers = {}
    for number, (_, phase, *_) in enumerate(operations, 1):
        if phase in phases:
            numbers.setdefault(phase, []).append(number)
    return sorted(n for own in numbers.values() for n in rng.sample(own, min(n_each, len(own))))


def check_reader(store, whole):
    """Check that a reader is refused, or finds all of it; return whether it finds it."""
    try:
        selection = open_store(store).select()
    except (SelectionError, IncompleteError):
        return False
    (feature_set,) = open_store(store).sets()
    assert tree_bytes(feature_set.group) == whole
    assert selection.n_samples == len(selection.y)
    return True


def phase_on_disk(store):
    """Return what a killed extraction was doing, by what it left."""
    found = open_store(store).sets()
    if found and found[0].layers():
        return "finalise"
    journal = found[0].journal() if found else {}
    if not journal:
        return "open"
    return "mid-write" if journal["stats"].chunks else "first chunk"


@pytest.fixture(scope="module")
def operations(children, pictures, tmp_path_factory):
    """Return kind and phase of each operation of an unbroken extraction, in order."""
    store = tmp_path_factory.mktemp("counted") / "store"
    counted = children.command(store, *extract_words(pictures), fault={})
    resumed(counted)
    found = [tuple(one[:2]) for one in counted.report]
    assert {phase for _, phase in found} == set(PHASES)
    return found


@pytest.fixture(params=[1, pytest.param(24, marks=pytest.mark.soak)])
def n_each(request):
    return request.param


def test_a_kill_at_any_operation_of_extract_ends_in_the_same_bytes(
    n_each, operations, children, pictures, unbroken, tmp_path, tally
):
    rng = random.Random(n_each)
    words = extract_words(pictures)
    for number in drawn(rng, operations, n_each):
        store = tmp_path / f"{number}"
        killed = children.command(store, *words, fault={"at": number})
        assert killed.code == -9, (number, killed.err)
        phase = killed.report["phase"]
        assert phase in PHASES
        was_complete = check_reader(store, unbroken)
        assert not was_complete or phase == "finalise"
        n_reused = children.command(store, *words, "--json").result["n_reused"]
        assert not was_complete or n_reused == 36
        assert group_bytes(store) == unbroken, (number, killed.report)
        assert verify(open_store(store).sets()[0]) == []
        assert not [p for p in store.rglob("*.tmp") if "cache" not in p.parts], number
        assert not list(store.rglob("*.partial")), number
        shutil.rmtree(store)
        tally.add("kills of extract at an operation", phase, SAME)


@pytest.mark.parametrize("n", [1, pytest.param(40, marks=pytest.mark.soak)])
def test_a_kill_at_any_moment_of_extract_ends_in_the_same_bytes(
    n, children, pictures, unbroken, tmp_path, tally
):
    rng = random.Random(n)
    words = extract_words(pictures)
    for i in range(n):
        store = tmp_path / f"{i}"
        # Killed twice: what goes on after a kill may be killed as well.
        for _ in range(2):
            child = children.command(store, *words, batch_s=0.06)
            time.sleep(rng.uniform(0, 0.6))
            child.kill()
            check_reader(store, unbroken)
            if child.code == -9:
                tally.add("kills of extract at a moment", phase_on_disk(store), SAME)
        resumed(children.command(store, *words))
        assert group_bytes(store) == unbroken
        assert verify(open_store(store).sets()[0]) == []
        shutil.rmtree(store)


@pytest.mark.soak
def test_a_kill_of_a_network_s_extract_ends_in_the_same_bytes(children, pictures, tmp_path, tally):
    settings = tiny(pictures, layers="conv1,fc")
    words = [w for k, v in settings.items() for w in (f"--{k.replace('_', '-')}", str(v))]
    more = {
        "modules": ["torch", "featstore.models.network_source"],
        "constants": SMALL | {"store.format.matrix.CHUNK_NBYTES": 4 * 1000 * 5},
    }
    counted = children.command(tmp_path / "whole", "extract", *words, fault={}, **more)
    resumed(counted)
    whole = group_bytes(tmp_path / "whole")
    for number in drawn(random.Random(1), counted.report, 4):
        store = tmp_path / f"{number}"
        killed = children.command(store, "extract", *words, fault={"at": number}, **more)
        assert killed.code == -9
        resumed(children.command(store, "extract", *words, **more))
        assert group_bytes(store) == whole
        tally.add("kills of a network's extract", killed.report["phase"], SAME)


@pytest.fixture(scope="module", params=["ridge", pytest.param("softmax", marks=pytest.mark.soak)])
def fitted(request, children, whole_store, tmp_path_factory):
    """Return words of a fit, a store to fit in, what a fit leaves, and its operations."""
    folder = tmp_path_factory.mktemp("fitted")
    words = ["fit", "--clf", request.param, "--n-jobs", "1"]
    words += ["--epochs", "2"] if request.param == "softmax" else []
    shutil.copytree(whole_store, folder / "whole")
    counted = children.command(folder / "whole", *words, fault={})
    resumed(counted)
    (run,) = list_runs(open_store(folder / "whole"))
    assert ("curves.json" in run.record.files) == (request.param == "softmax")
    return words, whole_store, run_content(run), [tuple(one[:2]) for one in counted.report]


@pytest.mark.parametrize("n_each", [1, pytest.param(8, marks=pytest.mark.soak)])
def test_a_kill_at_any_operation_of_fit_leaves_a_whole_run_or_none(
    n_each, fitted, children, tmp_path, tally
):
    words, bare, whole, operations = fitted
    phases = {phase for _, phase in operations}
    for number in drawn(random.Random(n_each), operations, n_each, phases):
        store = tmp_path / f"{number}"
        shutil.copytree(bare, store)
        killed = children.command(store, *words, fault={"at": number})
        assert killed.code == -9, (number, killed.err)
        listener = Listener()
        runs = list_runs(open_store(store), listener)
        assert listener.lines == []
        assert all(run_content(run) == whole for run in runs)
        resumed(children.command(store, *words))
        (run,) = list_runs(open_store(store))
        assert run_content(run) == whole
        if runs:
            # Only a fit that has something to do sweeps what the one before it left.
            resumed(children.command(store, *words, "--refit"))
        left = [path for path in store.rglob("*") if path.name.startswith((".", "fit-"))]
        assert [path for path in left if path.parent.name != "index"] == []
        assert not list(store.glob("cache/*.tmp"))
        shutil.rmtree(store)
        tally.add("kills of fit", killed.report["phase"], "each left a whole run or none")


def test_sets_and_runs_get_their_names_only_when_they_are_whole(children, pictures, tmp_path):
    store = tmp_path / "store"
    words = {"extract": extract_words(pictures), "fit": ["fit", "--clf", "ridge", "--n-jobs", "1"]}
    done = {}
    for name, own in words.items():
        counted = children.command(store, *own, fault={})
        resumed(counted)
        done[name] = [(kind, where) for kind, _, where in counted.report]
    (set_id,) = [path.name for path in (store / "sets").iterdir()]
    (run_id,) = [path.name for path in (store / "runs").iterdir()]
    # Drafts are renamed, so that of a run nothing is ever made or written under its name ...
    assert not [where for _, where in done["fit"] if where.startswith(f"runs/{run_id}/")]
    assert [kind for kind, where in done["fit"] if where.startswith("runs/.new-")].count("rename")
    # ... and of a set only what is a layer's, the layer's record last.
    inside = [where for _, where in done["extract"] if where.startswith(f"sets/{set_id}/")]
    parts = {where.split("/")[2] for where in inside}
    assert not {part for part in parts if part == "set.json" or part.startswith(".set.json")}
    vectors = [f"sets/{set_id}/features.zarr/{name}" for name in ("label", "split", "sample_id")]
    assert not [where for where in inside if where.startswith(tuple(vectors))]
    records = [i for i, where in enumerate(inside) if "/layers/" in where]
    assert not [where for where in inside[records[0] :] if "/features.zarr/" in where]


def test_the_counts_of_kills_are_of_different_phases(operations):
    chosen = [operations[number - 1][1] for number in drawn(random.Random(0), operations, 2)]
    assert sorted(chosen) == sorted(PHASES * 2)


def test_a_journal_never_names_what_is_not_there(operations, children, pictures, tmp_path):
    number = next(n for n, (_, phase) in enumerate(operations, 1) if phase == "journal")
    killed = children.command(tmp_path / "s", *extract_words(pictures), fault={"at": number + 3})
    assert killed.code == -9
    (feature_set,) = open_store(tmp_path / "s").sets()
    journal = read_json(feature_set.journal_path / "journal.json")["layers"]["stats"]
    matrix = feature_set.writable_matrix("stats")
    assert journal["chunks"]
    assert all(matrix.chunk_path(int(index)).is_file() for index in journal["chunks"])
    assert json.dumps(journal["numerics"]) != "{}"
