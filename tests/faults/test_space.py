"""Disks that are full, at any write: a message that says how to go on, and nothing lost."""

from __future__ import annotations

import itertools
import os
import random
import re
import shutil
import subprocess
import sys
from contextlib import suppress

import pytest
from children import extract_words, group_bytes, resumed, run_content, wait_until
from operations import GROWING

from featstore.errors import IncompleteError, SelectionError
from featstore.progress import Silent
from featstore.runs.opening import list_runs
from featstore.store.feature_store import open_store
from featstore.store.verification import verify

NO_SPACE = "No space left on device"
SAME = "each named with the command to go on, all resumed to the same bytes"


def check_message(child, store, command, cause=NO_SPACE):
    """Check that a command said what was wrong, where, and how to go on, and nothing else."""
    assert child.code == 1, child.err
    assert "Traceback" not in child.err
    assert child.out == ""
    (line,) = [line for line in child.err.splitlines() if line.startswith("Error: ")]
    assert cause in line
    assert str(store) in line
    assert f"featstore {command} " in line, line


def check_unfinished(store):
    try:
        open_store(store).select()
    except (SelectionError, IncompleteError):
        return
    # All there is can have been written before the error came.
    assert verify(open_store(store).sets()[0]) == []


def durable(store):
    """Return the chunks that the journal says are there."""
    found = open_store(store).sets()
    journal = found[0].journal() if found else {}
    return set(journal["stats"].chunks) if "stats" in journal else set()


@pytest.fixture(scope="module")
def growing(children, pictures, tmp_path_factory):
    """Return the numbers of the operations of an extraction that may find no room."""
    store = tmp_path_factory.mktemp("counted") / "store"
    counted = children.command(store, *extract_words(pictures), fault={})
    resumed(counted)
    return [(n, phase) for n, (kind, phase, _) in enumerate(counted.report, 1) if kind in GROWING]


@pytest.mark.parametrize("which", ["one a phase", pytest.param("all", marks=pytest.mark.soak)])
def test_a_disk_that_is_full_from_some_write_on_costs_nothing_that_is_durable(
    which, growing, children, pictures, unbroken, tmp_path, tally
):
    words = extract_words(pictures)
    for number, phase in growing if which == "all" else one_a_phase(growing):
        store = tmp_path / f"{number}"
        full = children.command(store, *words, fault={"at": number, "error": "ENOSPC"})
        if full.code == 0:
            # All was written but the index of records, which can be made again.
            assert open_store(store).select().n_samples == 36
            assert verify(open_store(store).sets()[0]) == []
            continue
        check_message(full, store, "extract")
        check_unfinished(store)
        before = durable(store)
        again = children.command(store, *words, "--json")
        assert again.result["n_computed"] <= 36 - 3 * len(before) + 4
        assert group_bytes(store) == unbroken
        shutil.rmtree(store)
        tally.add("full disks at a write of extract", phase, SAME)


def one_a_phase(growing):
    """Return the operation in the middle of each phase."""
    by_phase = {}
    for number, phase in growing:
        by_phase.setdefault(phase, []).append((number, phase))
    return [own[len(own) // 2] for own in by_phase.values()]


@pytest.mark.parametrize("n", [3, pytest.param(100, marks=pytest.mark.soak)])
def test_one_write_that_fails_is_never_taken_for_one_that_did_not(
    n, growing, children, pictures, unbroken, tmp_path, tally
):
    words = extract_words(pictures)
    for number, _ in random.Random(n).sample(growing, n):
        store = tmp_path / f"{number}"
        error = random.Random(number).choice(["ENOSPC", "EDQUOT", "EIO"])
        fault = {"at": number, "error": error, "lasting": False}
        one = children.command(store, *words, fault=fault)
        if one.code:
            causes = {"ENOSPC": NO_SPACE, "EDQUOT": "quota exceeded", "EIO": "Input/output error"}
            check_message(one, store, "extract", causes[error])
            check_unfinished(store)
            resumed(children.command(store, *words))
        # Where it went on without, as without a list of hashes that only saves time, all is there.
        assert group_bytes(store) == unbroken
        shutil.rmtree(store)
        tally.add("single failing writes of extract", error, SAME)


@pytest.mark.parametrize("nbytes", [1300, pytest.param(2000, marks=pytest.mark.soak)])
def test_a_limit_of_the_size_of_files_is_told(nbytes, children, pictures, unbroken, tmp_path):
    store, words = tmp_path / "store", extract_words(pictures)
    limited = children.command(store, *words, file_nbytes=nbytes)
    check_message(limited, store, "extract", "File too large")
    check_unfinished(store)
    resumed(children.command(store, *words))
    assert group_bytes(store) == unbroken


@pytest.mark.parametrize("which", ["one a phase", pytest.param("all", marks=pytest.mark.soak)])
def test_a_disk_that_is_full_leaves_a_whole_run_of_fit_or_none(
    which, children, whole_store, tmp_path, tally
):
    words = ["fit", "--clf", "ridge", "--n-jobs", "1"]
    shutil.copytree(whole_store, tmp_path / "whole")
    counted = children.command(tmp_path / "whole", *words, fault={})
    resumed(counted)
    (run,) = list_runs(open_store(tmp_path / "whole"))
    whole = run_content(run)
    growing = [
        (n, phase) for n, (kind, phase, _) in enumerate(counted.report, 1) if kind in GROWING
    ]
    for number, phase in growing if which == "all" else one_a_phase(growing):
        store = tmp_path / f"{number}"
        shutil.copytree(whole_store, store)
        full = children.command(store, *words, fault={"at": number, "error": "ENOSPC"})
        assert full.code == 1, (number, full.err)
        assert "Traceback" not in full.err
        error = full.err[full.err.rindex("Error: ") :]
        assert NO_SPACE in error
        assert str(store) in error
        assert "featstore fit" in error or "run the same command again" in error
        assert all(run_content(one) == whole for one in list_runs(open_store(store), Silent()))
        resumed(children.command(store, *words))
        (run,) = list_runs(open_store(store))
        assert run_content(run) == whole
        shutil.rmtree(store)
        tally.add("full disks at a write of fit", phase, "each left a whole run or none")


@pytest.fixture
def small_disk(tmp_path):
    """Mount a small file system, where that is allowed; yield it and what makes it larger."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(*options):
        words = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(place)]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")

    if sys.platform != "linux":
        pytest.skip("tmpfs is Linux's")
    yield place, mount
    subprocess.run(["umount", str(place)], check=True)


def fill_blocks(folder):
    """Take all blocks of a file system."""
    with (folder / "filler").open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(bytes(4096))


def fill_inodes(folder):
    """Take all inodes of a file system."""
    with suppress(OSError):
        for i in itertools.count():
            (folder / f"{i}").touch()


@pytest.mark.parametrize("fill", [fill_blocks, fill_inodes])
def test_a_real_disk_that_is_full_is_told_and_gone_on_with(
    fill, small_disk, children, pictures, unbroken, tmp_path
):
    place, mount = small_disk
    mount("size=8m", "nr_inodes=1000")
    store, words, go = place / "store", extract_words(pictures), tmp_path / "go"
    full = children.command(store, *words, hold={"row": 16, "until": str(go)})
    wait_until(lambda: len(durable(store)) > 1)
    fillers = place / "fillers"
    fillers.mkdir()
    fill(fillers)
    go.touch()
    check_message(full, store, "extract")
    check_unfinished(store)
    shutil.rmtree(fillers)
    assert 0 < children.command(store, *words, "--json").result["n_computed"] < 36
    assert group_bytes(store) == unbroken


def test_a_disk_that_can_not_hold_what_fit_decodes_is_told_before(
    small_disk, children, whole_store
):
    place, mount = small_disk
    mount("size=8m")
    store = shutil.copytree(whole_store, place / "store")
    fill_blocks(place)
    # Blocks for the folders and locks, and none for the matrix.
    mount("remount", f"size={2**23 + 3 * os.statvfs(place).f_bsize}")
    full = children.command(store, "fit", "--clf", "ridge", "--n-jobs", "1")
    assert full.code == 1
    assert "Traceback" not in full.err
    error = " ".join(full.err[full.err.rindex("Error: ") :].split())
    assert re.search(r"copy of \d+ x 29 features takes . kB|No space left", error)
    (place / "filler").unlink()
    resumed(children.command(store, "fit", "--clf", "ridge", "--n-jobs", "1"))


def test_a_map_is_never_written_where_the_disk_has_no_room(children, whole_store, tmp_path):
    # Without its room taken before, this would end by SIGBUS.
    store = shutil.copytree(whole_store, tmp_path / "store")
    fault = {"at": 1, "error": "ENOSPC", "lasting": False, "kinds": ["allocate"]}
    full = children.command(store, "fit", "--clf", "ridge", "--n-jobs", "1", fault=fault)
    assert full.code == 1
    assert "The decoded copy of 36 x 29 features takes 4 kB" in " ".join(full.err.split())
    resumed(children.command(store, "fit", "--clf", "ridge", "--n-jobs", "1"))
