from __future__ import annotations

import shutil

import numpy as np
import pytest
from makers import BACKBONE, PREPROCESS, tree_bytes

from featstore.errors import SchedulerError, StoreError
from featstore.store import layer_writer, writer
from featstore.store.creation import create_set
from featstore.store.feature_store import open_store
from featstore.store.format import fields, matrix
from featstore.store.writer import FeatureWriter

N, WIDTHS, BATCH = 23, {"conv1": 3, "fc": 5}, 4
NUMERICS = {"device": "cpu", "engine": "eager", "batch_size": BATCH}


class Crash(BaseException):
    """Stands for a kill: nothing is written after it."""


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    # Chunks of 10 and 6 rows, neither a multiple of the batch.
    monkeypatch.setattr(matrix, "CHUNK_NBYTES", 4 * 30)
    monkeypatch.setattr(writer, "CHECKPOINT_S", 0.0)
    monkeypatch.setattr(writer, "JOURNAL_S", 0.0)


@pytest.fixture
def feature_set(tmp_path):
    facets = {
        "dataset": "folder",
        "title": "t",
        "model": "m",
        "weights": "none",
        "weights_names": ["none"],
        "bands": "rgb",
        "image_size": 32,
        "precision": "fp32",
        "dtype": "float32",
        "limit": None,
        "seed": 0,
    }
    info = {
        "identity": {"facets": facets, "key": {}},
        "dataset": {"n_samples": N, "class_names": ["a"], "fingerprint": "f", "identity": {}},
        "backbone": BACKBONE,
        "preprocess": PREPROCESS,
        "command": "begin",
    }
    zeros = np.zeros(N, np.int32)
    names, rows = [str(i) for i in range(N)], np.arange(N)
    store = open_store(tmp_path / "store")
    made = create_set(store, info, zeros, zeros.astype("u1"), names, rows)
    for layer, width in WIDTHS.items():
        made.begin_layer(layer, width, {"layer": layer})
    return made


def features(start, stop):
    """Return the features of rows, a function of the row number."""
    rows = np.arange(start, stop, dtype=np.float32)[:, None]
    return {layer: rows * 10 + np.arange(w, dtype=np.float32) for layer, w in WIDTHS.items()}


def record(layer):
    """Return the record of a finished layer, without its files."""
    return {
        "masked": [],
        "completed": "now",
        "command": "begin",
        "layer": layer,
        "node": layer,
        "names": [layer],
        "default": False,
        "pool": None,
        "request": {},
        "shape": [WIDTHS[layer]],
        "n_features": WIDTHS[layer],
        "n_computed": N,
        "duration_s": 1.0,
        "device": "cpu",
        "dtype": "float32",
    }


def run(feature_set, layers=tuple(WIDTHS), stop_after=None):
    """Do what a pass does; return the rows that it computed."""
    computed = []
    with FeatureWriter(feature_set, list(layers), NUMERICS, "resume") as out:
        missing = out.missing_rows(N)
        for start in range(0, N, BATCH):
            if not missing[start : start + BATCH].any():
                continue
            stop = min(start + BATCH, N)
            found = features(start, stop)
            out.add(start, {name: found[name] for name in layers}, {})
            computed += range(start, stop)
            if stop_after is not None and stop > stop_after:
                raise KeyboardInterrupt
    out.finish({name: record(name) for name in layers})
    return computed


def check(feature_set):
    for layer, expected in features(0, N).items():
        np.testing.assert_array_equal(feature_set.matrix(layer).read(0, N), expected)
    assert feature_set.journal() == {}


def test_batches_become_whole_chunks(feature_set):
    assert run(feature_set) == list(range(N))
    check(feature_set)


def test_ctrl_c_keeps_all_that_came_in(feature_set):
    with pytest.raises(KeyboardInterrupt):
        run(feature_set, stop_after=13)
    assert feature_set.layers() == {}
    assert feature_set.why_unfinished("fc").endswith("is not finished. Resume it with: resume")
    assert run(feature_set) == list(range(16, N))
    check(feature_set)


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.soak)])
def test_a_crash_at_any_moment_ends_in_the_same_bytes(step, feature_set, monkeypatch, tmp_path):
    fresh = tmp_path / "fresh"
    shutil.copytree(feature_set.path, fresh)
    run(feature_set)
    unbroken = tree_bytes(feature_set.group)

    calls = {"n": 0, "fatal": None}

    def dying(function):
        def call(*args, **kwargs):
            calls["n"] += 1
            if calls["fatal"] is not None and calls["n"] >= calls["fatal"]:
                raise Crash
            return function(*args, **kwargs)

        return call

    for module, name in (
        (layer_writer, "sync_file"),
        (layer_writer, "sync_folder"),
        (fields, "write_json"),
    ):
        monkeypatch.setattr(module, name, dying(getattr(module, name)))
    monkeypatch.setattr(matrix.Matrix, "write_chunk", dying(matrix.Matrix.write_chunk))

    recomputed = []
    fatal = 1
    while True:
        shutil.rmtree(feature_set.path)
        shutil.copytree(fresh, feature_set.path)
        calls |= {"n": 0, "fatal": fatal}
        try:
            run(feature_set)
        except (Crash, StoreError):
            died = True
        else:
            died = False
        assert bool(feature_set.layers()) <= all(
            feature_set.matrix(name).read(0, N) is not None for name in feature_set.layers()
        )
        calls |= {"n": 0, "fatal": None}
        left = [name for name in WIDTHS if not feature_set.layer_path(name).is_file()]
        recomputed.append(len(run(feature_set, left)) if left else 0)
        assert tree_bytes(feature_set.group) == unbroken, f"died at write {fatal}"
        check(feature_set)
        if not died:
            break
        fatal += step
    # Each step lets more survive: the last crashes had nothing left to compute.
    assert fatal > 40
    assert recomputed[0] == N
    assert recomputed[-1] == 0
    assert all(later <= earlier for earlier, later in zip(recomputed, recomputed[1:], strict=False))


def test_rows_that_a_spool_lost_are_computed_again(feature_set):
    with pytest.raises(KeyboardInterrupt):
        run(feature_set, stop_after=13)
    (spool,) = feature_set.journal_path.glob("fc-*.spool")
    content = bytearray(spool.read_bytes())
    content[0] ^= 1
    spool.write_bytes(content)
    # The damaged spool held rows 12 to 15; conv1, whose chunk begins at 10, keeps its own.
    assert run(feature_set) == list(range(12, N))
    check(feature_set)


@pytest.mark.parametrize("content", ["", "{}", '{"layers": 3, "digest": "x"}'])
def test_a_damaged_journal_counts_as_empty(feature_set, content):
    with pytest.raises(KeyboardInterrupt):
        run(feature_set, stop_after=13)
    (feature_set.journal_path / "journal.json").write_text(content)
    assert feature_set.journal() == {}
    assert run(feature_set) == list(range(N))
    check(feature_set)


def test_a_chunk_file_lost_after_the_journal_is_computed_again(feature_set):
    with pytest.raises(KeyboardInterrupt):
        run(feature_set, stop_after=13)
    feature_set.writable_matrix("fc").chunk_path(0).unlink()
    assert run(feature_set)[0] == 0
    check(feature_set)


def test_layers_begun_in_another_pass_keep_their_journal(feature_set):
    with pytest.raises(KeyboardInterrupt):
        run(feature_set, ["conv1"], stop_after=13)
    assert run(feature_set, ["fc"]) == list(range(N))
    assert list(feature_set.layers()) == ["fc"]
    assert run(feature_set, ["conv1"]) == list(range(16, N))
    check(feature_set)


def test_masked_rows_survive_an_interruption(feature_set):
    out = FeatureWriter(feature_set, ["fc"], NUMERICS, "resume")
    with out:
        out.add(0, {"fc": features(0, 4)["fc"]}, {2: "broken.tif: cut short"})
    assert FeatureWriter(feature_set, ["fc"], NUMERICS, "resume").masked == {
        2: "broken.tif: cut short"
    }


def test_a_gap_is_never_closed_silently(feature_set):
    out = FeatureWriter(feature_set, ["fc"], NUMERICS, "resume")

    def leave_out_the_first():
        with out:
            out.add(4, {"fc": features(4, 8)["fc"]}, {})

    with pytest.raises(StoreError, match="rows 0 to 3 are missing"):
        leave_out_the_first()


def test_unfinished_layers_are_not_declared_complete(feature_set):
    out = FeatureWriter(feature_set, ["fc"], NUMERICS, "resume")
    with out:
        out.add(0, {"fc": features(0, 8)["fc"]}, {})
    with pytest.raises(StoreError, match="3 chunks of fc are missing"):
        out.finish({"fc": {}})
    assert feature_set.layers() == {}


def test_a_full_disk_raises_in_the_computing_thread(feature_set, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(matrix.Matrix, "write_chunk", full)
    with pytest.raises(StoreError, match="No space left on device"):
        run(feature_set)
    monkeypatch.undo()
    monkeypatch.setattr(matrix, "CHUNK_NBYTES", 4 * 30)
    run(feature_set)
    check(feature_set)


def test_waiting_rows_are_bounded(feature_set, monkeypatch):
    monkeypatch.setattr(writer, "QUEUE_NBYTES", 0)
    run(feature_set)
    check(feature_set)


def work_on(feature_set, share, chunks, stop_after=N, check=lambda: None):
    """Do what a worker does with a share; return the rows that it computed."""
    computed = []
    sink_ = FeatureWriter(feature_set, list(chunks), NUMERICS, "resume", share, chunks, check)
    with sink_ as out:
        missing = out.missing_rows(N)
        for start in range(0, min(stop_after, N), BATCH):
            stop = min(start + BATCH, N)
            if missing[start:stop].any():
                found = features(start, stop)
                masked = {5: "broken"} if start <= 5 < stop else {}
                out.add(start, {name: found[name] for name in chunks}, masked)
                computed += range(start, stop)
    return computed


@pytest.fixture
def begun(feature_set):
    """Return a set whose pass was begun and has done nothing yet."""
    with FeatureWriter(feature_set, list(WIDTHS), NUMERICS, "resume"):
        pass
    return feature_set


# Chunks of conv1 begin at rows 0, 10 and 20, those of fc at 0, 6, 12 and 18.
FIRST, SECOND = {"conv1": [0], "fc": [0, 1]}, {"conv1": [1, 2], "fc": [2, 3]}


def test_shares_are_taken_over_and_complete_the_layers(begun):
    with FeatureWriter(begun, list(WIDTHS), NUMERICS, "resume") as out:
        assert work_on(begun, "x-1", SECOND) == list(range(8, N))
        assert work_on(begun, "x-0", FIRST) == list(range(12))
        out.gather("x-0")
        assert out.missing_rows(N).nonzero()[0].tolist() == list(range(10, N))
        out.gather()
    out.finish({name: record(name) for name in WIDTHS})
    assert out.masked == {5: "broken"}
    check(begun)


def test_durable_chunks_of_a_share_outlive_its_coordinator(begun):
    work_on(begun, "x-0", FIRST, stop_after=8)
    # Chunk 0 of fc, rows 0 to 5, was whole.
    assert begun.journal()["fc"].chunks == {}
    assert run(begun, ["fc"]) == list(range(4, N))
    assert run(begun, ["conv1"]) == list(range(N))
    check(begun)


def test_an_interrupted_share_is_resumed(begun):
    assert work_on(begun, "x-0", FIRST, stop_after=8) == list(range(8))
    assert work_on(begun, "x-0", FIRST) == [8, 9, 10, 11]
    assert run(begun) == list(range(8, N))
    check(begun)


@pytest.mark.parametrize("damage", ["changed", "gone", "other conditions", "torn"])
def test_the_hashes_of_a_share_are_checked(begun, damage):
    numerics = NUMERICS | ({"engine": "x"} if damage == "other conditions" else {})
    work_on(begun, "x-0", FIRST)
    path = begun.writable_matrix("fc").chunk_path(0)
    if damage == "changed":
        path.write_bytes(path.read_bytes()[::-1])
    elif damage == "gone":
        path.unlink()
    elif damage == "torn":
        (begun.journal_path / "share-x-0.json").write_text("{")
    with FeatureWriter(begun, ["fc"], numerics, "resume") as out:
        assert 0 in out.layers["fc"].pending
    assert not list(begun.journal_path.glob("share-*"))


def test_a_share_that_is_not_wanted_writes_nothing(begun):
    def unwanted():
        raise SchedulerError("ended")

    with pytest.raises(SchedulerError):
        work_on(begun, "x-0", FIRST, check=unwanted)
    calls = []

    def wanted_for_a_while():
        calls.append(1)
        if len(calls) > 2:
            raise SchedulerError("ended")

    with pytest.raises(StoreError, match="ended"):
        work_on(begun, "x-0", FIRST, check=wanted_for_a_while)
    assert not begun.writable_matrix("fc").chunk_path(1).is_file()


def test_a_share_keeps_the_files_of_other_writers(begun):
    partial = begun.group / "fc" / "c" / "3" / f"0.{'a1' * 16}.partial"
    partial.parent.mkdir(parents=True)
    partial.touch()
    work_on(begun, "x-0", FIRST)
    assert partial.exists()
    run(begun)
    assert not partial.exists()
