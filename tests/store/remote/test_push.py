from __future__ import annotations

import itertools
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import zarr
from conftest import CLASSES, add_features, blobs
from makers import Listener, of_pixels, run_record, tree_bytes
from obstore.store import from_url
from services import machine, object_of, publish, set_objects, store_at
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from zarr.storage import ObjectStore

import featstore
from featstore.cli.main import _run
from featstore.errors import CorruptionError, RunError, StoreError
from featstore.extraction import pipeline
from featstore.extraction.extract import extract
from featstore.fitting.fit import fit_each
from featstore.io.files import file_sha256, json_bytes, write_json
from featstore.progress import Silent
from featstore.runs import writer
from featstore.runs.opening import list_runs, open_run
from featstore.runs.tags import remove_run, tag_run
from featstore.runs.verification import verify_runs
from featstore.runs.writer import write_run
from featstore.store.feature_store import open_store
from featstore.store.remote import backend, client, lease, push, services
from featstore.store.remote.records import is_record
from featstore.store.verification import verify


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lease, "RENEW_S", 0.2)
    monkeypatch.setattr(lease, "LOOK_S", 0.05)


@pytest.fixture
def expired(monkeypatch):
    """Let the lease of a killed process be taken over at once."""
    monkeypatch.setattr(lease, "LEASE_S", 0.0)
    monkeypatch.setattr(lease, "LOOK_S", 0.0)


class Killed(BaseException):
    """As if the process had ended here."""


def kill_at(remote, monkeypatch, moment):
    """Let a remote's process end at a write to the service; None counts the writes alone.

    A write of an even moment does not arrive any more, one of an odd moment is the last that does.
    """
    count = []

    def mortal(original):
        def call(*args):
            if moment is not None and len(count) > moment // 2:
                raise Killed
            count.append(args)
            if moment is not None and len(count) > moment // 2:
                if moment % 2:
                    original(*args)
                raise Killed
            return original(*args)

        return call

    for name in ("_put", "delete"):
        monkeypatch.setattr(remote, name, mortal(getattr(remote, name)))
    return count


def unsent(url):
    """Return a store with a set that was not sent yet."""
    store = open_store(url)
    X, y = blobs(30, 500)
    add_features(store, {"fc": X, "conv1": X[:, :40]}, y, y * 0)
    return store


def objects(store):
    return {
        name: store.backend.remote.get(name)
        for name in store.backend.remote.entries("")
        if not name.startswith("locks/")
    }


def without_the_uploads_name(found):
    """Return the objects' names and bytes, but for the records' times and the uploads' names."""
    uploads = {name.split("/")[3] for name in found if name.startswith("uploads/")}
    assert len(uploads) == 1
    (upload,) = uploads
    return {
        name.replace(upload, "upload"): None if is_record(name) else content
        for name, content in found.items()
    }


def check_whole(found):
    """Make sure that what counts as complete is."""
    for name, content in found.items():
        folder = re.sub(r"/(set|layers/[^/]*|metrics)\.json$", "", name)
        if folder == name:
            continue
        record = json.loads(content)
        below = f"uploads/{folder}/{record['folder']}/"
        below += "features.zarr/" if name.startswith("sets/") else ""
        for file, sha256 in record["files"].items():
            assert client.hashlib.sha256(found[below + file]).hexdigest() == sha256
        if "/layers/" in name:
            assert f"{folder}/set.json" in found


def n_writes(url, monkeypatch):
    store = unsent(url)
    with monkeypatch.context() as patch:
        count = kill_at(store.backend.remote, patch, None)
        publish(store)
    return len(count)


@pytest.mark.parametrize(
    ("service", "step"),
    [
        ("url", 3),
        pytest.param("url", 1, marks=pytest.mark.soak),
        pytest.param("s3_url", 17, marks=pytest.mark.soak),
    ],
)
def test_killed_at_every_write_it_is_never_half_and_ends_in_the_same_bytes(
    request, monkeypatch, tmp_path, service, step, expired
):
    url = request.getfixturevalue(service)
    # One at a time, so that every moment is one.
    monkeypatch.setattr(client, "N_AT_A_TIME", 1)
    whole_writes = n_writes(url, monkeypatch)
    machine(monkeypatch, tmp_path, 99)
    prepared = unsent(f"memory:///{tmp_path.name}/prepared").path / "sets"
    machine(monkeypatch, tmp_path, 1)
    unbroken = objects(open_store(url))
    check_whole(unbroken)
    assert whole_writes > 18
    states = set()
    # Of an odd step, every other moment is one of a write that still arrives.
    for moment in range(0, 2 * whole_writes, step):
        client._in_memory.clear()
        remote = client.open_storage(url)
        remote.delete(list(remote.entries("")))
        machine(monkeypatch, tmp_path, 100 + moment)
        store = open_store(url)
        shutil.copytree(prepared, store.path / "sets")
        with monkeypatch.context() as patch:
            kill_at(store.backend.remote, patch, moment)
            with pytest.raises(Killed):
                publish(store)
        found = objects(store)
        check_whole(found)
        states.add(sum("/layers/" in name for name in found))
        store = open_store(url)
        with monkeypatch.context() as patch:
            count = kill_at(store.backend.remote, patch, None)
            publish(store)
        # What arrived is not sent again; a layer's metadata and the lease always are.
        assert len(count) < whole_writes - moment // 2 + 6
        again = objects(store)
        assert without_the_uploads_name(again) == without_the_uploads_name(unbroken)
        assert not store.backend.remote.entries("locks/")
    assert states == {0, 1, 2} or service == "s3_url"


def sent_again(store, monkeypatch):
    """Kill what sends and let it go on; return the chunks that had arrived and are sent again."""
    with monkeypatch.context() as patch:
        kill_at(store.backend.remote, patch, 37)
        with pytest.raises(Killed):
            publish(store)
    there = {name for name in objects(store) if "/c/" in name}
    assert len(there) > 5
    with monkeypatch.context() as patch:
        sent = kill_at(store.backend.remote, patch, None)
        publish(store)
    return {str(args[0]) for args in sent} & there


def test_what_arrived_is_not_sent_again(s3_url, monkeypatch, expired):
    again = sent_again(unsent(s3_url), monkeypatch)
    assert not again


KILLED = """
import json, sys, time
from featstore.store.format import matrix; from featstore.store.remote import client, lease
lease.LEASE_S, lease.LOOK_S = 1.0, 0.1
matrix.CHUNK_NBYTES = 4 * 29 * 5
client.N_AT_A_TIME = 1
original = client.ObjectStorage._put
def slow(self, name, data, mode):
    print(name, flush=True)
    time.sleep(0.02)
    return original(self, name, data, mode)
client.ObjectStorage._put = slow
from featstore.extraction.extract import extract
print("done", json.dumps(extract(**json.loads(sys.argv[1])).to_dict()))
"""


@pytest.mark.soak
def test_sigkill_while_it_is_sent_costs_no_computing(
    s3_url, shared_pixels, shared_images, tmp_path, monkeypatch
):
    url = s3_url
    settings = of_pixels(shared_images, batch_size=4) | {"store": url}
    rng = random.Random(0)
    n_killed = 0
    while True:
        arguments = [sys.executable, "-c", KILLED, json.dumps(settings)]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        n_lines = rng.randint(2, 7) if n_killed < 1 else 10**6
        for line in process.stdout:
            n_lines -= 1
            if line.startswith("done") or n_lines == 0:
                break
        if not line.startswith("done"):
            time.sleep(rng.uniform(0, 0.04))
            os.kill(process.pid, signal.SIGKILL)
            n_killed += 1
        process.wait()
        process.stdout.close()
        check_whole(objects(open_store(url)))
        if line.startswith("done"):
            break
    assert n_killed == 1
    result = json.loads(line.removeprefix("done "))
    assert result["n_computed"] == 0
    machine(monkeypatch, tmp_path, 2)
    (feature_set,) = open_store(url).sets()
    (unbroken,) = open_store(shared_pixels).sets()
    assert tree_bytes(feature_set.matrix("stats").path) == tree_bytes(unbroken.group / "stats")


def test_a_network_that_fails_keeps_what_was_computed(url, images, monkeypatch, five_rows):
    original, settings = client.ObjectStorage.put, of_pixels(images, batch_size=4)

    def fails(self, name, data):
        if "/c/3/0" in name:
            raise StoreError(services.explain(self.url, "HTTP error"))
        return original(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(client.ObjectStorage, "put", fails)
        with pytest.raises(
            StoreError, match="does not answer.*is kept; the same command continues"
        ):
            extract(store=url, **settings)
    store = open_store(url)
    assert not any("/layers/" in name for name in objects(store))
    assert store.select().n_samples == 27
    assert extract(store=url, **settings).n_computed == 0
    assert any("/layers/" in name for name in objects(store))


def test_two_machines_at_once_compute_once(url, images, tmp_path, monkeypatch, quick):
    started, release = threading.Event(), threading.Event()
    original, n_passes = pipeline.run_pass, []

    def slow(*args, **kwargs):
        n_passes.append(1)
        started.set()
        release.wait(30)
        return original(*args, **kwargs)

    monkeypatch.setattr(pipeline, "run_pass", slow)
    results = []

    class Releasing(Listener):
        def say(self, line):
            super().say(line)
            if "is being worked on" in line:
                release.set()

    stores = []
    for number in (1, 2):
        machine(monkeypatch, tmp_path, number)
        stores.append(open_store(url))
    listener = Releasing()

    def work(store, progress):
        results.append(extract(store=store, progress=progress, **of_pixels(images)))

    first = threading.Thread(target=work, args=(stores[0], Silent()))
    first.start()
    assert started.wait(60)
    second = threading.Thread(target=work, args=(stores[1], listener))
    second.start()
    for thread in (first, second):
        thread.join(60)
    assert len(n_passes) == 1
    assert sorted(r.n_computed for r in results) == [0, 27]
    assert sum("is being worked on by process" in line for line in listener.lines) == 1


def test_the_record_that_is_there_first_wins(url, images, tmp_path, monkeypatch):
    """Without a lease, two machines may compute the same, in batches of other sizes."""
    machine(monkeypatch, tmp_path, 2)
    other = open_store(url)
    with monkeypatch.context() as patch:
        patch.setattr(type(other.backend), "push_set", lambda *_, **__: None)
        extract(store=other, **of_pixels(images, batch_size=9))
    machine(monkeypatch, tmp_path, 1)
    first = extract(store=url, **of_pixels(images, batch_size=4))
    store = open_store(url)
    before = objects(store)
    machine(monkeypatch, tmp_path, 2)
    again = extract(store=other, **of_pixels(images, batch_size=9))
    assert (again.n_computed, again.batch_size) == (0, 4)
    assert objects(store) == before
    (feature_set,) = other.sets()
    feature_set.matrix("stats")
    for name, sha256 in feature_set.layer("stats").files.items():
        assert file_sha256(feature_set.group / name) == sha256
    assert first.set_id == feature_set.set_id


def test_a_record_that_comes_while_it_is_sent_wins(url, monkeypatch, tmp_path):
    store = unsent(url)
    machine(monkeypatch, tmp_path, 2)
    other = unsent(url)
    path = other.sets()[0].layer_path("fc")
    content = json.loads(path.read_text()) | {"n_computed": 7}
    del content["digest"]
    write_json(path, content)
    original, late = push.publish, [lambda: publish(other)]

    def slow(own, record, content):
        if own is store.backend and late:
            late.pop()()
        return original(own, record, content)

    # As where the service has no conditional writes to keep a lease by.
    monkeypatch.setattr(push, "publish", slow)
    monkeypatch.setattr(lease, "_acquire", lambda *_, **__: False)
    publish(store)
    assert store.sets()[0].layer("fc").n_computed == 7
    check_whole(objects(store))


def test_a_machine_that_lost_its_lease_unawares_does_no_harm(s3_url, monkeypatch, tmp_path):
    """It wakes when another machine has finished the same set, with other bytes."""
    url, store = s3_url, unsent(s3_url)
    original, is_asleep = client.ObjectStorage.put, [True]
    machine(monkeypatch, tmp_path, 2)
    other = open_store(url)
    X, y = blobs(30, 500)
    add_features(other, {"fc": 2 * X, "conv1": X[:, :40]}, y, y * 0)

    def put(remote, name, data):
        if remote is store.backend.remote and "/fc/c/" in name and is_asleep:
            is_asleep.clear()
            # As if the lease had expired.
            with monkeypatch.context() as patch:
                patch.setattr(lease, "_acquire", lambda *_, **__: False)
                publish(other)
        return original(remote, name, data)

    monkeypatch.setattr(client.ObjectStorage, "put", put)
    publish(store)
    assert not is_asleep
    for number in (1, 2, 3):
        machine(monkeypatch, tmp_path, number)
        found = open_store(url)
        check_whole(objects(found))
        assert verify(found.sets()[0]) == []
        np.testing.assert_array_equal(found.select(layers="fc").memmap(), 2 * X)
    there = ObjectStore(from_url(found.sets()[0].address_of("fc")), read_only=True)
    np.testing.assert_array_equal(zarr.open_group(there, mode="r")["fc"][:], 2 * X)


NAMES = tuple(f"another {name}" for name in CLASSES)


def test_two_machines_that_make_a_set_at_once_agree(url, monkeypatch, tmp_path):
    """The labels' files of the one that is late may have other bytes, beside its layers, too."""
    store = unsent(url)
    machine(monkeypatch, tmp_path, 2)
    other = open_store(url)
    X, y = blobs(30, 500)
    add_features(other, {"pool": X[:, :9]}, y, y * 0, class_names=NAMES)
    original, late = push.publish, [lambda: publish(other)]

    def slow(own, record, content):
        if own is store.backend and late:
            late.pop()()
        return original(own, record, content)

    monkeypatch.setattr(push, "publish", slow)
    monkeypatch.setattr(lease, "_acquire", lambda *_, **__: False)
    publish(store)
    machine(monkeypatch, tmp_path, 3)
    (found,) = open_store(url).sets()
    assert sorted(found.layers()) == ["conv1", "fc", "pool"]
    assert found.class_names == NAMES
    assert verify(found) == []


def test_a_file_that_was_damaged_before_it_was_sent_is_not_sent(
    url, images, monkeypatch, five_rows
):
    store, settings = open_store(url), of_pixels(images, batch_size=4)
    with monkeypatch.context() as patch:
        patch.setattr(type(store.backend), "push_set", lambda *_, **__: None)
        result = extract(store=store, **settings)
    path = store.sets()[0].matrix("stats").chunk_path(2)
    intact = tree_bytes(path.parents[2])
    for file, n_computed in ((path, 8), (path.parents[2] / "zarr.json", 0)):
        file.write_bytes(file.read_bytes()[:-1] + b"x")
        with pytest.raises(CorruptionError, match=f"/{file.name} is damaged.*featstore extract"):
            publish(store)
        with monkeypatch.context() as patch:
            patch.setattr(type(store.backend), "push_set", lambda *_, **__: None)
            assert extract(store=store, **settings).n_computed == n_computed
    extract(store=store, **settings)
    there = set_objects(store, result.set_id)
    assert {f"stats/{name}": content for name, content in intact.items()}.items() <= there.items()
    check_whole(objects(store))


def test_labels_that_were_damaged_before_they_were_sent_are_named(url):
    store = unsent(url)
    path = store.sets()[0].group / "label" / "c" / "0"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptionError, match=r"label/c/0 is damaged.*featstore store rm"):
        publish(store)
    assert not any(name.endswith(".json") and "zarr" not in name for name in objects(store))


def test_removing_takes_the_records_first(url, monkeypatch):
    store = store_at(url)
    deleted = []
    original = store.backend.remote.delete
    monkeypatch.setattr(
        store.backend.remote,
        "delete",
        lambda names: deleted.append(names) or original(names),
    )
    store.remove(store.sets()[0])
    assert "layers/fc.json" in deleted[0][0]
    assert deleted[1][0].endswith("set.json")
    assert store.backend.remote.entries("") == {}
    assert store.sets() == []


def test_a_set_that_another_machine_works_on_is_not_removed(url, monkeypatch, tmp_path, quick):
    store = store_at(url)
    set_id = store.sets()[0].set_id
    machine(monkeypatch, tmp_path, 2)
    other = open_store(url)
    with store.backend.working_on(set_id), pytest.raises(StoreError, match="worked on by process"):
        other.remove(other.sets()[0])
    other.remove(other.sets()[0])
    assert store.sets() == []


def test_a_run_is_killed_at_every_write_and_sent_by_the_same_fit(url, monkeypatch, expired):
    monkeypatch.setattr(client, "N_AT_A_TIME", 1)
    store = store_at(url)
    (run,) = featstore.fit(store, n_jobs=1)
    place = f"runs/{run.run_id}/"
    unbroken = {n: c for n, c in objects(store).items() if n.startswith(place)}
    is_killed, moment = True, 0
    while is_killed:
        store.backend.remote.delete(list(store.backend.remote.entries(place)))
        store.backend.forget([f"{place}metrics.json"])
        with monkeypatch.context() as patch:
            kill_at(store.backend.remote, patch, moment)
            try:
                featstore.fit(store, n_jobs=1)
            except Killed:
                moment += 1
            else:
                is_killed = False
        check_whole(objects(store))
        (again,) = featstore.fit(store, n_jobs=1)
        assert {n: c for n, c in objects(store).items() if n.startswith(place)} == unbroken
        assert again.record == run.record
    # The model, the predictions, the record, and what goes before them.
    assert moment > len(run.record.files)


def test_a_run_that_is_there_stays_unless_it_is_fitted_again(url, monkeypatch, tmp_path):
    store = store_at(url)
    machine(monkeypatch, tmp_path, 2)
    other = open_store(url)
    with monkeypatch.context() as patch:
        patch.setattr(type(other.backend), "push_run", lambda *_: None)
        (late,) = featstore.fit(other, n_jobs=1)
    machine(monkeypatch, tmp_path, 1)
    (run,) = featstore.fit(store, n_jobs=1)
    machine(monkeypatch, tmp_path, 2)
    assert late.record.duration_s != run.record.duration_s
    (again,) = featstore.fit(other, n_jobs=1)
    assert again.record == run.record
    assert open_run(run.run_id, other).model.predict(other.select().memmap()[:3]).shape == (3,)
    (held,) = list_runs(store)
    (refitted,) = featstore.fit(other, n_jobs=1, refit=True)
    assert refitted.record != run.record
    assert list_runs(store)[0].record == refitted.record
    assert list_runs(store)[0].predictions
    # A reader of the old run still reads its own files, and none of the new one's.
    assert held.predictions["score"].tolist() == run.predictions["score"].tolist()
    assert held.model.predict(store.select().memmap()[:3]).shape == (3,)
    assert held.below != list_runs(store)[0].below
    assert list_runs(store)[0].model.predict(store.select().memmap()[:3]).shape == (3,)
    check_whole(objects(store))


def test_a_removed_run_is_gone_on_every_machine(url, monkeypatch, tmp_path):
    store = store_at(url)
    (run,) = featstore.fit(store, n_jobs=1)
    machine(monkeypatch, tmp_path, 2)
    other = open_store(url)
    (same,) = list_runs(other)
    with pytest.raises(RunError, match="can't be tagged: tags are kept for stores in a folder"):
        tag_run(other, same, "paper")
    remove_run(other, same)
    assert list_runs(other) == list_runs(store) == []
    assert not [name for name in objects(store) if name.startswith(f"runs/{run.run_id}/")]
    (again,) = featstore.fit(store, n_jobs=1)
    assert [one.run_id for one in list_runs(other)] == [again.run_id]


def test_a_run_that_another_machine_finished_meanwhile_is_used(url, monkeypatch, tmp_path):
    store = store_at(url)
    machine(monkeypatch, tmp_path, 2)
    other = open_store(url)
    original, first = writer.save_model, []

    def late(model, path):
        original(model, path)
        if not first:
            first.append(None)
            machine(monkeypatch, tmp_path, 1)
            first[:] = featstore.fit(store, n_jobs=1)
            machine(monkeypatch, tmp_path, 2)
            # As when another process of this machine looks.
            assert len(list_runs(other)) == 1

    monkeypatch.setattr(writer, "save_model", late)
    (one,) = fit_each(other, n_jobs=1)
    assert one.reused
    assert one.run.record == first[0].record
    there = objects(store)
    check_whole(there)
    assert one.run.predictions["score"].tolist() == first[0].predictions["score"].tolist()
    machine(monkeypatch, tmp_path, 1)
    assert list_runs(store)[0].record == first[0].record


@pytest.mark.parametrize("damage", [b"{}", None])
def test_a_run_that_is_damaged_there_gives_way(url, monkeypatch, tmp_path, damage):
    store = store_at(url)
    (run,) = featstore.fit(store, n_jobs=1)
    name = f"runs/{run.run_id}/metrics.json"
    if damage is None:
        record = json.loads(store.backend.remote.get(name)) | {"key": "another"}
        del record["digest"]
        damage = json_bytes(record)
    store.backend.remote.put(name, damage)
    machine(monkeypatch, tmp_path, 2)
    (one,) = fit_each(url, n_jobs=1)
    assert not one.reused
    machine(monkeypatch, tmp_path, 3)
    (found,) = list_runs(open_store(url))
    assert found.record == one.run.record
    assert found.predictions
    check_whole(objects(store))


def write_again(store, created):
    """Write a run in the place of the one that is there, as a fit does that is asked to refit."""
    model = Pipeline([("clf", LogisticRegression())])
    columns = {"sample_id": np.array([created]), "score": np.array([1.0])}
    record = run_record(["a", "b"]) | {"created": created}
    return write_run(store, "run", record, model, columns, None, replace=True)


def test_a_run_is_replaced_whole_whenever_that_is_killed(url, monkeypatch, tmp_path, expired):
    monkeypatch.setattr(client, "N_AT_A_TIME", 1)
    store = open_store(url)
    old = write_again(store, "first")
    seen = []
    for moment in itertools.count():
        with monkeypatch.context() as patch:
            kill_at(client.ObjectStorage, patch, moment)
            try:
                write_again(store, f"at {moment}")
                break
            except Killed:
                pass
        check_whole(objects(store))
        machine(monkeypatch, tmp_path, 100 + moment)
        (found,) = list_runs(open_store(url))
        assert found.predictions["sample_id"].tolist() == [found.record.created]
        seen.append(found.record.created != old.record.created)
        machine(monkeypatch, tmp_path, 1)
        # What a fit does when the run is there.
        store.backend.push_run("run")
        check_whole(objects(store))
        (again,) = list_runs(store)
        assert again.record.created == f"at {moment}"
        assert verify_runs(store) == (1, [])
        old = again
    assert len(seen) > 8
    assert set(seen) == {True, False}
    # Nothing of the runs that were replaced is left there.
    assert store.backend.collect(safe_age_s=0.0)
    assert sum("runs/run/" in name for name in objects(store)) == len(old.record.files) + 1
    assert verify_runs(store) == (1, [])


@pytest.mark.parametrize("is_first", [True, False], ids=["the first fit", "a refit"])
def test_a_run_that_is_being_sent_is_not_replaced_under_it(is_first, url, monkeypatch, tmp_path):
    store = store_at(url)
    if not is_first:
        featstore.fit(store, n_jobs=1)
    publish_, late, waits = push.publish, [], threading.Event()
    locked = backend.locked

    def waiting(*args, **options):
        if late and threading.current_thread() is late[0]:
            waits.set()
        return locked(*args, **options)

    def slow(*args):
        if not late:
            # As of another process with the same working folder.
            late.append(
                threading.Thread(target=featstore.fit, args=(open_store(url),), kwargs=again)
            )
            late[0].start()
            assert waits.wait(60)
        return publish_(*args)

    again = {"n_jobs": 1, "refit": True}
    monkeypatch.setattr(push, "publish", slow)
    monkeypatch.setattr(backend, "locked", waiting)
    featstore.fit(store, n_jobs=1, refit=not is_first)
    late[0].join()
    check_whole(objects(store))
    machine(monkeypatch, tmp_path, 2)
    other = open_store(url)
    assert verify_runs(other) == (1, [])
    assert list_runs(other)[0].predictions


def test_google_cloud_storage_serves_as_well(gs_url, monkeypatch, tmp_path, quick):
    store = store_at(gs_url)
    (feature_set,) = store.sets()
    featstore.fit(store, n_jobs=1)
    machine(monkeypatch, tmp_path, 2)
    other = open_store(gs_url)
    (again,) = featstore.fit(other, n_jobs=1, refit=True)
    assert list_runs(store)[0].record == again.record
    # The lease of a machine that died.
    monkeypatch.setattr(lease, "LEASE_S", 0.3)
    name = f"locks/{feature_set.set_id[-12:]}.json"
    store.backend.remote.put(name, b'{"pid": 1, "host": "far", "since": "then"}')
    other.remove(other.get(feature_set.set_id))
    assert store.sets() == []
    assert not any(n.startswith("locks/") for n in store.backend.remote.entries(""))


def test_a_copy_of_all_objects_is_a_store(url, monkeypatch, tmp_path):
    store = store_at(url)
    featstore.fit(store, n_jobs=1)
    (run,) = featstore.fit(store, n_jobs=1, refit=True)
    for name, content in objects(store).items():
        path = tmp_path / "copy" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    copy = open_store(tmp_path / "copy")
    assert [verify(feature_set) for feature_set in copy.sets()] == [[]]
    assert verify_runs(copy) == (1, [])
    (found,) = list_runs(copy)
    assert found.record == run.record
    assert found.predictions["score"].tolist() == run.predictions["score"].tolist()
    assert found.model.predict(copy.select().memmap()[:3]).shape == (3,)
    assert featstore.fit(copy, n_jobs=1)[0].record == run.record


def test_a_set_that_another_machine_removes_while_it_is_verified_is_no_damage(
    url, monkeypatch, tmp_path
):
    store = store_at(url)
    machine(monkeypatch, tmp_path, 2)
    other = open_store(url)
    (feature_set,) = other.sets()
    store.remove(store.sets()[0])
    assert verify(feature_set) == []


def test_of_two_machines_that_fit_again_the_first_stays(url, monkeypatch, tmp_path):
    store = store_at(url)
    featstore.fit(store, n_jobs=1)
    machine(monkeypatch, tmp_path, 2)
    other = open_store(url)
    with monkeypatch.context() as patch:
        patch.setattr(type(other.backend), "push_run", lambda *_: None)
        featstore.fit(other, n_jobs=1, refit=True)
    machine(monkeypatch, tmp_path, 1)
    (first,) = featstore.fit(store, n_jobs=1, refit=True)
    machine(monkeypatch, tmp_path, 2)
    (late,) = featstore.fit(other, n_jobs=1)
    assert late.record == first.record == list_runs(store)[0].record
    check_whole(objects(store))


def test_all_commands_take_a_url(s3_url, images, tmp_path, monkeypatch, capsys, no_umap, five_rows):
    url, settings = s3_url, of_pixels(images, batch_size=4)

    def run(*words):
        assert _run([*words]) == 0, capsys.readouterr()
        return capsys.readouterr().out

    monkeypatch.setenv("FEATSTORE_STORE", url)
    options = [w for k, v in settings.items() for w in (f"--{k.replace('_', '-')}", str(v))]
    result = json.loads(run("extract", *options, "--json"))
    assert result["path"].startswith(f"{url}/uploads/sets/{result['set_id']}/")
    assert "Next: featstore fit --clf logreg\n" in run("extract", *options)
    machine(monkeypatch, tmp_path, 2)
    (fitted,) = json.loads(run("fit", "--clf", "logreg", "--json"))["runs"]
    machine(monkeypatch, tmp_path, 3)
    said = json.loads(run("predict", fitted["run_id"], str(images / "test"), "--json"))
    assert len(said["predictions"]) == 9
    report = json.loads(run("report", "--json", "--out", str(tmp_path / "report.html")))
    assert report["store"] == url
    (listed,) = json.loads(run("store", "ls", "--json"))["sets"]
    assert listed["path"] == result["path"]
    assert listed["nbytes"] > 27 * 29
    assert result["path"] in run("store", "show", result["set_id"])
    assert "1 feature set and 1 run are intact" in run("store", "verify")
    run("store", "export", str(tmp_path / "out.npz"))
    assert (tmp_path / "out.npz").stat().st_size > 27 * 29 * 4
    sheet = tmp_path / "neighbors.png"
    assert json.loads(
        run("neighbors", fitted["run_id"], str(images / "test"), "--json", "--out", str(sheet))
    )
    assert sheet.is_file()
    store = open_store(url)
    name = object_of(store, result["set_id"], "stats/c/1/0")
    store.backend.remote.put(name, b"x" * store.backend.remote.entry(name).nbytes)
    with pytest.raises(SystemExit):
        _run(["store", "verify"])
    broken = capsys.readouterr().out
    assert "chunk 1 of stats (rows 5 to 9): its bytes are not those" in broken
    (repair,) = re.findall(r"Repair with: featstore (.*)", broken)
    assert f"--store {url!r}" in repair
    assert "8 images computed" in run(*shlex.split(repair))
    assert "are intact" in run("store", "verify")
    assert "Removed" in run("store", "rm", "--yes", result["set_id"])
    assert not store.backend.remote.entries("sets/")
