"""Places: stores that can't be written, odd names and folders, other file systems, odd clocks."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from children import extract_words, group_bytes, resumed, run_content

from featstore.cli.main import _run
from featstore.runs.opening import list_runs
from featstore.store.feature_store import open_store
from featstore.store.verification import verify


@pytest.fixture
def read_only(whole_store, tmp_path):
    """Return a store on a file system that is mounted read-only, where that is allowed."""
    if sys.platform != "linux":
        pytest.skip("bind mounts are Linux's")
    store, place = shutil.copytree(whole_store, tmp_path / "original"), tmp_path / "place"
    place.mkdir()
    steps = [["mount", "--bind", store, place], ["mount", "-o", "remount,bind,ro", place]]
    for step in steps:
        done = subprocess.run([*map(str, step)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield store, place
    subprocess.run(["umount", str(place)], check=True)


def test_a_store_that_is_read_only_is_read_verified_and_answered_from(
    read_only, children, pictures, tmp_path, capsys
):
    original, store = read_only
    fit = ["fit", "--clf", "ridge"]
    fitted = children.command(original, *fit)
    assert fitted.code == 0, fitted.err
    answered = children.command(store, *fit)
    assert answered.code == 0, answered.err
    assert "as fitted before" in answered.err
    selection = open_store(store).select()
    X = selection.memmap()
    assert not X.flags.writeable
    np.testing.assert_array_equal(X, open_store(original).select().memmap())
    np.testing.assert_array_equal(X, selection.dask().compute())
    assert len(selection.sample_ids) == 36
    assert _run(["store", "verify", "--store", str(store)]) == 0
    assert "are intact" in capsys.readouterr().out
    again = children.command(store, *extract_words(pictures), "--json")
    assert again.result["n_computed"] == 0
    export = ["store", "export", str(tmp_path / "X.npz"), "--store", str(store)]
    assert _run(export) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "X.npz")["X"], X)


def test_what_has_to_write_a_read_only_store_says_so(read_only, children, pictures):
    original, store = read_only
    path = open_store(original).sets()[0].matrix("stats").chunk_path(3)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    damaged = children.command(store, "store", "verify")
    assert damaged.code == 1
    assert "chunk 3 of stats (rows 9 to 11)" in damaged.out
    assert "can't be marked for repair" in damaged.out
    assert "Read-only file system" in damaged.out
    for words in (extract_words(pictures, "--limit", "12"), ["fit", "--clf", "ridge"]):
        refused = children.command(store, *words)
        assert refused.code == 1
        assert "Traceback" not in refused.err
        assert "Read-only file system" in refused.err
        assert str(store) in refused.err


@pytest.mark.parametrize(
    ("at", "error", "cause"),
    [
        (60, "EACCES", "Permission denied"),
        (260, "EIO", "Input/output error"),
        pytest.param(260, "EROFS", "Read-only file system", marks=pytest.mark.soak),
        pytest.param(60, "EDQUOT", "Disk quota exceeded", marks=pytest.mark.soak),
    ],
)
def test_whatever_the_system_refuses_is_named_with_the_place(
    at, error, cause, children, pictures, unbroken, tmp_path
):
    store, words = tmp_path / "store", extract_words(pictures)
    refused = children.command(store, *words, fault={"at": at, "error": error})
    assert refused.code == 1, refused.err
    assert "Traceback" not in refused.err
    (line,) = [line for line in refused.err.splitlines() if line.startswith("Error: ")]
    assert cause in line
    assert str(store) in line
    assert "go on with: featstore extract " in line
    resumed(children.command(store, *words))
    assert group_bytes(store) == unbroken


SHELL = """it's "mine" $HOME `x` \\ *?\ntwo lines"""

NAMES = {
    "shell, in other scripts": f"{SHELL} 森林 лес ☃ 🛰",
    "decomposed": unicodedata.normalize("NFD", "Wälder é"),
    "200 characters": "n" * 200,
    "dash and dots": "-store..of...dots",
}


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=[pytest.mark.soak] * (n > 0)) for n, kind in enumerate(NAMES)],
)
def test_stores_and_images_may_have_any_name(kind, children, pictures, tmp_path):
    name = NAMES[kind]
    images = shutil.copytree(pictures, tmp_path / "images" / name)
    (images / "train" / "sand").rename(images / "train" / name)
    (images / "test" / "sand").rename(images / "test" / name)
    first = next((images / "train" / name).iterdir())
    first.rename(first.with_name(f"{name[:190]}.png"))
    store = tmp_path / name
    words = extract_words(images)
    killed = children.command(store, *words, fault={"at": 220})
    assert killed.code == -9
    resumed(children.command(store, *words))
    selection = open_store(store).select(dataset=name)
    # Names are composed, so that they are the same wherever the images are copied to.
    composed = unicodedata.normalize("NFC", name)
    assert composed in selection.class_names
    assert f"train/{composed}/{composed[:190]}.png" in selection.sample_ids
    assert selection.memmap().shape == (36, 29)
    assert verify(open_store(store).sets()[0]) == []
    resumed(children.command(store, "fit", "--clf", "ridge", "--n-jobs", "1"))
    (run,) = list_runs(open_store(store))
    assert composed in run.predictions["true"]


def test_composed_and_decomposed_names_are_two_stores_or_one_but_never_mixed(
    children, pictures, tmp_path
):
    for form in ("NFC", "NFD"):
        store = tmp_path / unicodedata.normalize(form, "Wälder é")
        resumed(children.command(store, *extract_words(pictures)))
        assert len(open_store(store).sets()) == 1


def test_a_store_behind_a_link_is_the_same_store(children, pictures, unbroken, tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    link.symlink_to(real, target_is_directory=True)
    real.mkdir()
    words = [*extract_words(pictures), "--json"]
    killed = children.command(link, *words, fault={"at": 220})
    assert killed.code == -9
    # Gone on with by its other name, by two at once.
    both = [children.command(place, *words) for place in (real, link)]
    assert sorted(child.result["n_computed"] > 0 for child in both) == [False, True]
    assert group_bytes(link) == group_bytes(real) == unbroken


def test_a_link_to_nowhere_is_named(tmp_path, pictures, children):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "deep")
    refused = children.command(tmp_path / "link", *extract_words(pictures))
    assert refused.code == 1
    assert "Traceback" not in refused.err
    assert str(tmp_path / "link") in refused.err


def test_a_store_on_another_file_system_than_temporary_files(children, pictures, unbroken):
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == Path(tempfile.gettempdir()).stat().st_dev:
        pytest.skip("there is no second file system")
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        store = Path(folder) / "store"
        killed = children.command(store, *extract_words(pictures), fault={"at": 220})
        assert killed.code == -9
        resumed(children.command(store, *extract_words(pictures)))
        assert group_bytes(store) == unbroken
        resumed(children.command(store, "fit", "--clf", "ridge", "--n-jobs", "1"))
        assert len(list_runs(open_store(store))) == 1


@pytest.mark.parametrize(
    "steps_s",
    [
        pytest.param([0.0, 1e6], marks=pytest.mark.soak, id="days ahead"),
        pytest.param([0.0, -1e6, 3e8], id="back and forth"),
        pytest.param([-1.7e9, 0.0], marks=pytest.mark.soak, id="1970"),
    ],
)
def test_clocks_that_jump_change_nothing_but_stamps(
    steps_s, children, pictures, unbroken, tmp_path
):
    store, words = tmp_path / "store", extract_words(pictures)
    killed = children.command(store, *words, clock=steps_s, fault={"at": 220})
    assert killed.code == -9
    again = children.command(store, *words, "--json", clock=steps_s)
    assert 0 < again.result["n_computed"] < 36
    assert children.command(store, *words, "--json", clock=steps_s).result["n_computed"] == 0
    assert group_bytes(store) == unbroken


def test_a_clock_that_jumps_sweeps_nothing_of_a_fit(children, whole_store, tmp_path):
    store, fit = tmp_path / "store", ["fit", "--clf", "ridge", "--n-jobs", "1"]
    shutil.copytree(whole_store, store)
    resumed(children.command(store, *fit))
    (first,) = list_runs(open_store(store))
    whole = run_content(first)
    together = [children.command(store, *fit, "--refit", clock=[0.0, 1e6, -1e6]) for _ in range(3)]
    for child in together:
        resumed(child)
    (second,) = list_runs(open_store(store))
    assert run_content(second) == whole


def test_a_clock_that_was_never_set_is_named(children, whole_store, tmp_path):
    store = shutil.copytree(whole_store, tmp_path / "store")
    refused = children.command(store, "fit", "--clf", "ridge", "--n-jobs", "1", clock=[-1.75e9])
    assert refused.code == 1
    assert "Traceback" not in refused.err
    assert "clock says 19" in refused.err
    assert list_runs(open_store(store)) == []
