from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from conftest import add_features, blobs
from makers import Listener
from services import machine, publish, store_at

import featstore
from featstore.cli.main import _run
from featstore.errors import StoreError
from featstore.store.feature_store import open_store
from featstore.store.remote import gc, lease, push
from featstore.store.verification import verify


@pytest.fixture
def tomorrow(monkeypatch):
    """Let each gc run a day and an hour later."""
    original = gc._now
    later = timedelta(days=1, hours=1)
    monkeypatch.setattr(gc, "_now", lambda backend: original(backend) + later)


def killed_upload(url, monkeypatch, tmp_path, number=1):
    """Return a store whose upload ended before its first record."""
    machine(monkeypatch, tmp_path, number)
    store = open_store(url)
    X, y = blobs(40, 6)
    add_features(store, {"fc8": X}, y, np.zeros(40, np.uint8), model="alexnet")

    def fails(*_):
        raise StoreError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(push, "publish", fails)
        with pytest.raises(StoreError, match="gone"):
            publish(store)
    return store


FOREIGN = [
    "uploads/thesis.pdf",
    "uploads/sets/a/b/thesis.json",
    "uploads/sets/a/b/features.zarr/notes.txt",
    "sets/mine/notes.txt",
    "runs/tensorboard/events.out",
    "locks/readme.txt",
    "zarr.json",
]


def test_only_what_no_record_names_is_deleted(url, monkeypatch, tmp_path, tomorrow, capsys):
    store = store_at(url)
    featstore.fit(store, n_jobs=1)
    (run,) = featstore.fit(store, n_jobs=1, refit=True)
    killed = killed_upload(url, monkeypatch, tmp_path, 2)
    remote = store.backend.remote
    for name in FOREIGN:
        remote.put(name, b"mine")
    # What a removal that was killed leaves, and the lease of a machine that died.
    remote.put("sets/demo-vgg16-0123456789ab/layers/fc.json", remote.get("zarr.json"))
    remote.put("locks/a-run-that-died.json", b"{}")
    before = set(remote.entries(""))
    machine(monkeypatch, tmp_path, 3)
    assert _run(["store", "gc", "--dry-run", "--store", url]) == 0
    said = capsys.readouterr().out
    assert set(remote.entries("")) == before
    assert said.count("Would delete") == 4
    assert _run(["store", "gc", "--store", url]) == 0
    assert capsys.readouterr().out == said.replace("Would delete", "Deleted")
    gone = before - set(remote.entries(""))
    (old,) = {n.split("/")[3] for n in gone if n.startswith("uploads/runs/")}
    assert old != run.below
    for start, n_files in {
        "locks/a-run-that-died.json": 1,
        "sets/demo-vgg16-0123456789ab/layers/fc.json": 1,
        f"uploads/runs/{run.run_id}/{old}/": len(run.record.files),
        f"uploads/sets/{killed.sets()[0].set_id}/": 9,
    }.items():
        assert sum(name.startswith(start) for name in gone) == n_files
    assert len(gone) == 11 + len(run.record.files)
    assert set(FOREIGN) < set(remote.entries(""))
    assert _run(["store", "gc", "--json", "--store", url]) == 0
    assert json.loads(capsys.readouterr().out)["deleted"] == []
    (kept,) = open_store(url).sets()
    assert verify(kept) == []
    # The upload that was killed begins again.
    publish(killed)
    assert verify(next(s for s in open_store(url).sets() if s.facets.model == "alexnet")) == []


def test_an_upload_that_may_go_on_is_left_alone(url, monkeypatch, tmp_path, tomorrow):
    killed = killed_upload(url, monkeypatch, tmp_path)
    # On the machine itself, and where another machine holds the set.
    assert killed.backend.collect() == []
    machine(monkeypatch, tmp_path, 2)
    other = open_store(url)
    listener = Listener()
    for name, value in {"LEASE_S": 2.0, "RENEW_S": 0.1, "LOOK_S": 0.05}.items():
        monkeypatch.setattr(lease, name, value)
    with killed.backend.working_on(killed.sets()[0].set_id):
        found = other.backend.collect(listener)
    # By this clock, the lease is a day old.
    assert [one.name.split("/")[0] for one in found] == ["locks"]
    assert "Left alone" in listener.lines[0]
    assert len(other.backend.collect()) == 1


def test_an_upload_of_today_is_left_alone(url, monkeypatch, tmp_path):
    killed = killed_upload(url, monkeypatch, tmp_path)
    machine(monkeypatch, tmp_path, 2)
    assert open_store(url).backend.collect() == []
    # The clock is the service's, not this machine's.
    other = open_store(url)
    now = gc._now(other.backend)
    assert abs(now - datetime.now(UTC)) < timedelta(minutes=5)
    other.backend.remote.put("locks/gc.json", b"{}")
    assert gc._now(other.backend) == other.backend.remote.entry("locks/gc.json").modified
    assert killed.backend.remote.entries("uploads/")


def test_a_damaged_record_names_what_it_may_name(url, monkeypatch, tmp_path, tomorrow):
    store = store_at(url)
    (feature_set,) = store.sets()
    remote = store.backend.remote
    remote.put(feature_set.layer_record_name("fc"), b"{}")
    machine(monkeypatch, tmp_path, 2)
    assert open_store(url).backend.collect() == []
    assert len(remote.entries("uploads/")) > 5


def test_leftovers_of_killed_processes_are_deleted_in_a_folder(make_store, monkeypatch):
    store = make_store(n_samples=40)
    featstore.fit(store, n_jobs=1)
    (feature_set,) = store.sets()
    left = [
        "sets/.new-demo-vgg16-0123456789ab/set.json",
        "sets/.old-demo-vgg16-0123456789ab-01234567/set.json",
        f"sets/{feature_set.set_id}/.new-layer-abcdefgh/x/zarr.json",
        f"sets/{feature_set.set_id}/layers/.fc1000.json.01234567.tmp",
        "runs/.new-run-01234567/model.skops",
        "runs/.old-run-01234567/model.skops",
        "cache/scratch/fit-0123456789ab/x.npy",
        "cache/.x.npy.01234567.tmp",
        "uploads/sets/none-0123456789ab/01234567/features.zarr/zarr.json",
    ]
    kept = [
        "runs/.new-mine/thesis.txt",
        "runs/.new-run-01234567/thesis.txt",
        "sets/.old-demo-vgg16-0123456789ab-01234567/thesis.txt",
        "uploads/sets/none-0123456789ab/01234567/thesis.txt",
        "runs/tensorboard/events.out",
        "cache/thesis.npy",
        "sets/notes.tmp",
        ".thesis.01234567.tmp",
        f"uploads/sets/{feature_set.set_id}/thesis.txt",
    ]
    for name in left + kept:
        (store.path / name).parent.mkdir(parents=True, exist_ok=True)
        (store.path / name).write_bytes(b"x")
    before = {path for path in store.path.rglob("*") if path.is_file()}
    assert {one.name for one in store.backend.collect(dry_run=True)} == {
        name.partition("/set.json")[0].partition("/model")[0].partition("/x")[0]
        for name in left
        if ".tmp" not in name and "uploads" not in name
    }
    # What no lock protects must be old.
    for name in left:
        os.utime(store.path / name, (0, 0))
    assert len(store.backend.collect(dry_run=True)) == len(left)
    assert {path for path in store.path.rglob("*") if path.is_file()} >= before
    assert len(store.backend.collect()) == len(left)
    after = {path for path in store.path.rglob("*") if path.is_file()}
    assert before - after == {store.path / name for name in left}
    assert verify(feature_set) == []
    assert store.backend.collect() == []


def test_a_draft_that_a_process_works_on_is_left_alone(make_store):
    store = make_store(n_samples=40)
    draft = store.path / "sets" / ".new-demo-vgg16-0123456789ab"
    draft.mkdir()
    with store.backend.working_on("demo-vgg16-0123456789ab"):
        assert store.backend.collect() == []
    assert draft.is_dir()
    assert [one.name for one in store.backend.collect()] == ["sets/.new-demo-vgg16-0123456789ab"]
