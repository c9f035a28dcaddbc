from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import boto3
import filelock
import numpy as np
import pytest
import xarray
import zarr
from conftest import add_features, blobs, write_layers
from makers import LAYER_JOURNAL, Listener, of_pixels, tiny, tree_bytes
from obstore.store import from_url
from services import (
    BUCKET,
    machine,
    object_of,
    point_at,
    publish,
    set_objects,
    store_at,
)
from zarr.storage import ObjectStore

import featstore
from featstore.cli.main import _run
from featstore.errors import CorruptionError, IncompleteError, RunError, SelectionError, StoreError
from featstore.extraction.extract import extract
from featstore.fitting import cost
from featstore.fitting.fit import fit_each
from featstore.io.files import json_bytes, write_json
from featstore.runs.opening import list_runs, open_run
from featstore.runs.verification import verify_runs
from featstore.store.feature_store import open_store
from featstore.store.remote import backend
from featstore.store.remote import client as remotes
from featstore.store.verification import schedule_repair, verify


def requests_of(store, monkeypatch, method="get"):
    """Return the list to which the names that a store asks the service for are added."""
    names = []
    original = getattr(store.backend.remote, method)
    monkeypatch.setattr(
        store.backend.remote,
        method,
        lambda name, *rest: names.append(name) or original(name, *rest),
    )
    return names


def add_layer(store, name, X):
    """Add a layer to the only set of a store, as extraction does."""
    (feature_set,) = store.sets()
    with store.backend.working_on(feature_set.set_id):
        feature_set.fetch_intact()
        write_layers(feature_set, {name: X})


def copied(store, folder):
    """Return a store that is a copy of all objects in a folder."""
    for name in store.backend.remote.entries(""):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(store.backend.remote.get(name))
    return open_store(folder)


def flip(store, name, position=-9):
    """Change a bit of an object."""
    content = bytearray(store.backend.remote.get(name))
    content[position] ^= 1
    store.backend.remote.put(name, bytes(content))


def test_the_working_folder_is_where_the_environment_says(url, tmp_path, monkeypatch):
    store = open_store(f"{url}/")
    assert store.address == store.backend.locate() == url
    assert store.path.parent == tmp_path / "machine 1"
    assert store.sets() == []
    assert repr(store) == f"FeatureStore('{url}')"
    monkeypatch.delenv("FEATSTORE_CACHE")
    assert "featstore" in str(open_store(url).path)
    assert open_store(url).path != open_store(f"{url}x").path
    with pytest.raises(SelectionError, match=f"{url} holds no feature sets"):
        store.select()
    with pytest.raises(StoreError, match="give it as a str"):
        open_store(Path(url))


@pytest.mark.parametrize(
    ("name", "address", "other"),
    [
        ("AWS_ENDPOINT", "s3://b/x", "AZURE_STORAGE_ACCOUNT_NAME"),
        ("AZURE_STORAGE_ACCOUNT_NAME", "az://b/x", "AWS_ENDPOINT"),
        ("GOOGLE_BASE_URL", "gs://b/x", "AWS_ENDPOINT"),
    ],
)
def test_a_bucket_of_the_same_name_elsewhere_has_its_own_working_folder(
    name, address, other, monkeypatch
):
    for one in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AZURE_STORAGE_ACCOUNT_NAME"):
        monkeypatch.delenv(one, raising=False)
    monkeypatch.setattr(backend, "open_storage", lambda url: remotes.ObjectStorage(url, None))
    bare = open_store(address).path
    assert bare.name == hashlib.sha256(address.encode()).hexdigest()[:16]
    monkeypatch.setenv(other, "https://one")
    assert open_store(address).path == bare
    paths = {bare}
    for value in ("https://one", "https://two", "https://two/"):
        monkeypatch.setenv(name, value)
        paths.add(open_store(address).path)
    assert len(paths) == 3


def test_another_machine_reads_what_the_first_one_wrote(
    s3_url, shared_pixels, shared_images, monkeypatch, tmp_path
):
    url, settings = s3_url, of_pixels(shared_images)
    store = open_store(url)
    shutil.copytree(shared_pixels / "sets", store.path / "sets")
    publish(store)
    (first,) = store.sets()
    assert first.address.startswith(f"{url}/uploads/sets/{first.set_id}/")
    assert store.get(first.address).set_id == first.set_id
    machine(monkeypatch, tmp_path, 2)
    again = extract(store=url, **settings)
    assert (again.n_computed, again.path) == (0, first.address)
    (run,) = featstore.fit(url, n_jobs=1)
    machine(monkeypatch, tmp_path, 1)
    (one,) = fit_each(url, "logreg", n_jobs=1)
    assert one.reused
    assert one.run.run_id == run.run_id


def test_any_zarr_reader_opens_the_bucket(s3_url):
    filled = store_at(s3_url)
    selection = filled.select()
    (feature_set,) = filled.sets()
    there = ObjectStore(from_url(feature_set.address), read_only=True)
    group = zarr.open_group(there, mode="r")
    np.testing.assert_array_equal(group["fc"][:], selection.memmap())
    data = xarray.open_zarr(there, consolidated=False)
    assert data["fc"].dims == ("sample", "fc.feature")
    assert data["label"].values.tolist() == selection.y.tolist()


def test_a_layer_that_is_added_later_has_a_whole_group_of_its_own(
    filled, url, monkeypatch, tmp_path
):
    machine(monkeypatch, tmp_path, 2)
    other = open_store(url)
    add_layer(other, "pool", filled.select().memmap()[:, :5])
    publish(other)
    (feature_set,) = filled.sets()
    assert verify(feature_set) == []
    groups = {name: feature_set.address_of(name) for name in ("fc", "pool")}
    assert groups["fc"] != groups["pool"] == feature_set.address
    assert [filled.get(address).set_id for address in groups.values()] == [feature_set.set_id] * 2
    copy = copied(filled, tmp_path / "copy")
    for store in (filled, copy):
        (found,) = store.sets()
        assert found.nbytes == feature_set.nbytes
        for name in groups:
            np.testing.assert_array_equal(
                store.select(layers=name).memmap(), filled.select(layers=name).memmap()
            )
    for name, address in groups.items():
        path = copy.path / address.removeprefix(f"{url}/")
        data = xarray.open_zarr(path, consolidated=False)
        assert {name, "label", "split", "sample_id", "first_row"} == set(data)
        assert data["label"].values.tolist() == feature_set.labels.tolist()
    # The copies beside the later layer are verified, and repaired, too.
    there = groups["pool"].removeprefix(f"{url}/")
    flip(filled, f"{there}/label/c/0")
    (damage,) = verify(filled.sets()[0])
    assert (damage.layer, damage.file.split("/")[1:]) == (
        "pool",
        ["features.zarr", "label", "c", "0"],
    )
    with filled.backend.working_on(feature_set.set_id):
        schedule_repair(filled.sets()[0], [damage])
    assert filled.sets()[0].unfinished() == ["pool"]
    add_layer(filled, "pool", other.select(layers="pool").memmap())
    publish(filled)
    assert verify(filled.sets()[0]) == []
    # A copy can be worked on like any other store.
    add_layer(copy, "new", filled.select().memmap()[:, :3])
    (found,) = copy.sets()
    assert verify(found) == []
    assert set(xarray.open_zarr(found.address, consolidated=False)) >= {"new", "label"}
    copy.remove(found)
    assert not list((copy.path / "uploads" / "sets").iterdir())


def test_looking_fetches_what_changed_and_nothing_else(filled, url, tmp_path, monkeypatch):
    machine(monkeypatch, tmp_path, 2)
    store = open_store(url)
    asked = requests_of(store, monkeypatch)
    (feature_set,) = store.sets()
    place = f"sets/{feature_set.set_id}"
    assert sorted(asked) == [f"{place}/layers/fc.json", f"{place}/set.json"]
    assert not (feature_set.group / "fc").exists()
    assert (feature_set.n_samples, feature_set.unfinished()) == (320, [])
    assert store.sets()[0].layers()
    assert len(asked) == 2
    (store.path / place / "layers" / "fc.json").unlink()
    assert store.sets()[0].layers()
    assert asked[2:] == [f"{place}/layers/fc.json"]
    (store.path / "mirror.json").write_text("{}")
    assert store.sets()[0].layers()
    assert len(asked) == 5


def test_a_listing_is_believed_for_a_moment(filled, url, monkeypatch):
    monkeypatch.setattr(backend, "REFRESH_S", 60.0)
    store = open_store(url)
    asked = requests_of(store, monkeypatch, "entries")
    for _ in range(3):
        assert len(store.sets()) == 1
    assert len(asked) == 1


def test_a_listing_of_many_sets_is_one_request(gs_url, gcs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(backend, "REFRESH_S", 60.0)
    (feature_set,) = store_at(gs_url).sets()
    _, bucket = gcs
    prefix = f"a prefix/sets/{feature_set.set_id}/"
    n_sets = 10
    for name, value in [n for n in bucket.found.items() if n[0].startswith(prefix)]:
        for i in range(1, n_sets):
            bucket.found[name.replace(feature_set.set_id, f"demo-{i:012x}")] = value

    def n_requests():
        bucket.n_requests = 0
        assert _run(["store", "ls", "--json", "--store", gs_url]) == 0
        sets = json.loads(capsys.readouterr().out)["sets"]
        assert len(sets) == n_sets
        assert all(one["nbytes"] == feature_set.nbytes for one in sets)
        return bucket.n_requests

    # On another machine, the records are brought once; then the listing says that none is new.
    machine(monkeypatch, tmp_path, 2)
    assert n_requests() == 1 + 2 * n_sets
    assert n_requests() == 1


def test_matrices_come_when_they_are_read(filled, url, tmp_path, monkeypatch):
    machine(monkeypatch, tmp_path, 2)
    store = open_store(url)
    fetched = requests_of(store, monkeypatch, "sha256")
    selection = store.select()
    assert fetched == []
    assert selection.y.tolist() == filled.select().y.tolist()
    assert {name.split("/")[5] for name in fetched} == {"label"}
    np.testing.assert_array_equal(selection.memmap(), filled.select().memmap())
    n_fetched = len(fetched)
    np.testing.assert_array_equal(selection.dask().compute(), filled.select().memmap())
    assert len(fetched) == n_fetched
    assert store.sets()[0].nbytes == filled.sets()[0].nbytes
    assert 0 < store.sets()[0].matrix_nbytes("fc") < store.sets()[0].nbytes


def test_a_long_fetch_is_told_of(filled, url, tmp_path, monkeypatch):
    monkeypatch.setattr(backend, "N_AT_A_TIME", 2)
    machine(monkeypatch, tmp_path, 2)
    listener = Listener()
    selection = open_store(url, listener).select()
    np.testing.assert_array_equal(selection.memmap(), filled.select().memmap())
    (phase,) = listener.phases
    assert phase.what == f"Fetching from {url}"
    # The matrix's two chunks and its metadata; labels and the like are too short.
    assert (phase.total, phase.n_done, phase.unit, phase.is_over) == (3, 3, "files", True)


@pytest.mark.parametrize("n", range(3))
def test_a_broken_fetch_leaves_nothing_and_goes_on(filled, url, tmp_path, monkeypatch, n):
    machine(monkeypatch, tmp_path, 2)
    store = open_store(url)
    (feature_set,) = store.sets()
    original = store.backend.remote.sha256
    n_left = [n]

    def broken(name, copy):
        if n_left[0] == 0:
            copy.write_bytes(original(name).encode())
            raise StoreError("gone")
        n_left[0] -= 1
        return original(name, copy)

    with monkeypatch.context() as patch:
        patch.setattr(store.backend.remote, "sha256", broken)
        with pytest.raises(StoreError, match="gone"):
            feature_set.matrix("fc")
    files = feature_set.layer("fc").files
    whole = tree_bytes(filled.sets()[0].group)
    here = tree_bytes(store.path / "uploads" / "sets")
    assert len(here) <= n < len(files)
    assert all(whole[n.split("features.zarr/")[1]] == content for n, content in here.items())
    assert feature_set.matrix("fc").read(0, 320).shape == (320, 20)


def test_a_record_there_reaches_no_file_outside_of_the_working_folder(
    filled, url, tmp_path, monkeypatch
):
    (tmp_path / "mine.txt").write_text("mine")
    there = filled.backend.remote
    files = {str(tmp_path / "mine.txt"): "0" * 64, "../../../mine.txt": "0" * 64}
    record = json.dumps({"files": files}).encode()
    (feature_set,) = filled.sets()
    there.put("runs/evil/metrics.json", record)
    there.put(f"sets/{feature_set.set_id}/layers/evil.json", record)
    machine(monkeypatch, tmp_path, 2)
    store = open_store(url)
    assert list_runs(store) == []
    store.sets()
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_an_object_that_is_no_run_s_takes_no_runs_with_it(filled, url):
    there = filled.backend.remote
    (run,) = fit_each(filled, "lda")
    there.put("runs/metrics.json", b"{}")
    assert len(list_runs(open_store(url))) == 1
    there.delete(["runs/metrics.json"])
    assert len(list_runs(open_store(url))) == 1
    assert run.run.path.is_dir()


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """Return the objects of a store with a set and a run."""
    folder = tmp_path_factory.mktemp("fitted")
    with pytest.MonkeyPatch.context() as patch:
        machine(patch, folder, 1)
        store = store_at(f"memory:///{folder.name}")
        featstore.fit(store, n_jobs=1)
        remote = store.backend.remote
        return {n: remote.get(n) for n in remote.entries("") if not n.startswith("locks/")}


FOREIGN = [
    "runs/.hidden/metrics.json",
    f"runs/{'☃' * 100}/metrics.json",
    "sets/{set_id}/layers/other/evil.json",
]
"""Names of objects that featstore does not write."""


def test_an_object_whose_name_leads_elsewhere_is_passed_over(
    s3_url, endpoint, tmp_path, monkeypatch, capsys, fitted
):
    url, filled = s3_url, open_store(s3_url)
    for name, content in fitted.items():
        filled.backend.remote.put(name, content)
    (run,) = list_runs(filled)
    (feature_set,) = filled.sets()
    keys = ["a prefix/" + key.format(set_id=feature_set.set_id) for key in FOREIGN]
    client = boto3.client("s3", endpoint_url=endpoint)
    for key in keys:
        client.put_object(Bucket=BUCKET, Key=key, Body=json_bytes({"files": {}}))
    for number in (1, 2):
        machine(monkeypatch, tmp_path, number)
        listener = Listener()
        store = open_store(url, listener)
        for _ in range(2):
            assert [found.run_id for found in list_runs(store)] == [run.run_id]
            assert [s.set_id for s in store.sets()] == [feature_set.set_id]
            assert list(store.sets()[0].layers()) == ["fc"]
        assert store.sets()[0].nbytes > 0
        assert listener.lines == []
        assert {path.name for path in store.path.iterdir()} <= {
            "outbox",
            "sets",
            "runs",
            "uploads",
            "mirror.json",
            "locks",
            "cache",
        }
    assert _run(["store", "ls", "--store", url]) == 0
    assert feature_set.set_id in capsys.readouterr().out
    open_run(run.run_id, store).model.predict(store.select().memmap()[:3])
    store.remove(store.sets()[0])
    assert filled.sets() == []
    # What is foreign stays.
    listed = client.list_objects_v2(Bucket=BUCKET)["Contents"]
    assert set(keys) <= {one["Key"] for one in listed}


@pytest.mark.parametrize(
    "name",
    ["..", ".", "", "a+b", "%2e%2e", "%2F", "\\", "..\\..", "C:", "a\nb", "a\x1bb", " ", "~"],
)
def test_no_name_of_an_object_leads_out_of_the_working_folder(gs_url, gcs, tmp_path, name):
    _, bucket = gcs
    record = json_bytes({"files": {}})
    keys = [
        f"a prefix/{name}",
        f"a prefix/{name}/evil.json",
        f"a prefix/sets/{name}/set.json",
        f"a prefix/sets/{name}/layers/{name}.json",
        f"a prefix/sets/a/layers/{name}/{name}.json",
        f"a prefix/runs/{name}/metrics.json",
        f"/a prefix/runs/{name}/metrics.json",
    ]
    bucket.found.update({key: (record, n + 1) for n, key in enumerate(keys)})
    store = open_store(gs_url)
    said = []
    for look in (list_runs, type(store).sets, lambda store: store.backend.collect()):
        try:
            look(store)
        except StoreError as error:
            said.append(str(error))
    assert all("can't be passed over" in text and text.isprintable() for text in said)
    here = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    own = ("sets", "runs", "locks", "cache", "mirror.json")
    assert all(path.parts[2] in own and len(path.parts) < 7 for path in here)
    assert {path.parts[0] for path in here} <= {"machine 1"}
    # Objects with names that featstore never gives stay.
    if not name.isprintable() or set(name) & set("./\\") or not name:
        assert set(keys) <= set(bucket.found)


@pytest.mark.parametrize("name", ["a\x01b", "../evil", "", "a/.."])
def test_an_object_that_can_not_be_passed_over_is_named(s3_url, endpoint, name):
    store = open_store(s3_url)
    client = boto3.client("s3", endpoint_url=endpoint)
    for key in (f"runs/{name}/metrics.json", f"sets/{name}/set.json"):
        client.put_object(Bucket=BUCKET, Key=f"a prefix/{key}", Body=b"{}")
    for listing in (list_runs, type(store).sets):
        with pytest.raises(StoreError, match="can't be passed over.*Remove it") as caught:
            listing(store)
        assert str(caught.value).isprintable()
    assert not any(store.path.rglob("*.json"))


def test_a_set_that_was_uploaded_before_uploads_had_folders_is_read_and_repaired(
    url, images, tmp_path, monkeypatch, five_rows
):
    settings = of_pixels(images, batch_size=4)
    result = extract(store=url, **settings)
    there = open_store(url).backend.remote
    for name, content in {n: there.get(n) for n in there.entries("")}.items():
        there.delete([name])
        if name.startswith("uploads/"):
            there.put(f"sets/{result.set_id}/features.zarr/{name.split('.zarr/')[1]}", content)
        else:
            record = json.loads(content)
            known = {k: v for k, v in record.items() if k not in ("digest", "folder", "nbytes")}
            there.put(name, json_bytes(known))
    machine(monkeypatch, tmp_path, 2)
    store = open_store(url)
    (feature_set,) = store.sets()
    assert feature_set.address == f"{url}/sets/{result.set_id}/features.zarr"
    assert verify(feature_set) == []
    assert feature_set.nbytes > feature_set.matrix_nbytes("stats") > 0
    assert store.select().memmap().shape == (27, 29)
    there.delete([f"sets/{result.set_id}/features.zarr/stats/c/2/0"])
    machine(monkeypatch, tmp_path, 3)
    assert extract(store=url, **settings).n_computed == 8
    assert verify(open_store(url).sets()[0]) == []


def test_what_is_gone_there_goes_here(filled, url, tmp_path, monkeypatch):
    machine(monkeypatch, tmp_path, 2)
    other = open_store(url)
    other.select().memmap()
    folder = other.sets()[0].path
    filled.remove(filled.sets()[0])
    assert filled.backend.remote.entries("") == {}
    assert filled.sets() == other.sets() == []
    assert not folder.exists()


def test_a_layer_that_is_gone_there_goes_here(filled, url, tmp_path, monkeypatch):
    machine(monkeypatch, tmp_path, 2)
    other = open_store(url)
    other.select().memmap()
    (feature_set,) = other.sets()
    filled.backend.remote.delete([f"sets/{feature_set.set_id}/layers/fc.json"])
    (found,) = other.sets()
    assert found.layers() == {}
    assert not (found.group / "fc").exists()


def test_files_that_featstore_did_not_write_stay_when_a_set_or_run_is_gone_there(
    filled, url, tmp_path, monkeypatch
):
    (run,) = featstore.fit(filled, n_jobs=1)
    machine(monkeypatch, tmp_path, 2)
    listener = Listener()
    other = open_store(url, listener)
    other.select().memmap()
    (feature_set,) = other.sets()
    (elsewhere,) = list_runs(other)
    # A run that lies elsewhere stays there.
    elsewhere.path.rename(tmp_path / "run")
    elsewhere.path.symlink_to(tmp_path / "run")
    (feature_set.path / "thesis.txt").write_text("mine")
    filled.remove(filled.sets()[0])
    filled.backend.remove_run(run.run_id)
    assert other.sets() == list_runs(other) == []
    assert [path.read_text() for path in other.path.glob("sets/*/thesis.txt")] == ["mine"]
    assert (tmp_path / "run" / "metrics.json").is_file()
    said = "\n".join(listener.lines)
    assert "Files that featstore did not write" in said
    assert "It was a link" in said


def test_unfinished_work_stays_whatever_happens_there(filled, url, images, monkeypatch):
    (feature_set,) = filled.sets()
    place = f"sets/{feature_set.set_id}"
    feature_set.begin_layer("conv1", 3, {})
    feature_set.journal_path.mkdir()
    write_json(
        feature_set.journal_path / "journal.json",
        {"layers": {"conv1": LAYER_JOURNAL}},
    )
    filled.backend.remote.delete([f"{place}/layers/fc.json", f"{place}/set.json"])
    (found,) = filled.sets()
    assert (list(found.layers()), found.unfinished()) == ([], ["conv1"])
    assert found.journal()
    assert found.labels.shape == (320,)


def test_a_set_that_is_worked_on_is_left_as_it_is(filled, url, tmp_path, monkeypatch):
    machine(monkeypatch, tmp_path, 2)
    other = open_store(url)
    other.select().memmap()
    (feature_set,) = other.sets()
    filled.remove(filled.sets()[0])
    with filelock.FileLock(other.backend.set_lock(feature_set.set_id)):
        assert len(other.sets()) == 1
    assert other.sets() == []


def test_a_flipped_bit_is_found_refused_and_repaired(
    s3_url, shared_pixels, shared_images, tmp_path, monkeypatch, five_rows
):
    url, settings = s3_url, of_pixels(shared_images, batch_size=4)
    store = open_store(url)
    shutil.copytree(shared_pixels / "sets", store.path / "sets")
    publish(store)
    (result,) = store.sets()
    intact = set_objects(store, result.set_id)
    flip(store, object_of(store, result.set_id, "stats/c/2/0"))
    machine(monkeypatch, tmp_path, 2)
    store = open_store(url)
    with pytest.raises(CorruptionError, match=r"stats/c/2/0 is damaged: its bytes.*store verify"):
        store.select().memmap()
    (damage,) = verify(store.sets()[0])
    assert (damage.layer, damage.chunk) == ("stats", 2)
    assert "rows 10 to 14" in damage.problem
    with store.backend.working_on(result.set_id):
        assert schedule_repair(store.sets()[0], [damage]) == [damage]
    with pytest.raises(IncompleteError, match=r"damaged \(chunks 2\).*featstore extract"):
        store.select(layers="stats")
    # Any machine repairs it, and computes no more than what is damaged.
    machine(monkeypatch, tmp_path, 3)
    store = open_store(url)
    with pytest.raises(CorruptionError, match=r"stats/c/2/0 is damaged: it is missing"):
        store.select().memmap()
    assert extract(store=url, **settings).n_computed == 8
    assert set_objects(store, result.set_id) == intact
    for number in (1, 2, 3):
        machine(monkeypatch, tmp_path, number)
        (feature_set,) = open_store(url).sets()
        assert verify(feature_set) == []
        assert feature_set.matrix("stats").read(0, 27).shape == (27, 29)


def test_every_object_of_a_set_is_verified(filled):
    (feature_set,) = filled.sets()
    remote = filled.backend.remote
    for name in sorted(remote.entries(f"uploads/sets/{feature_set.set_id}/")):
        content = remote.get(name)
        flip(filled, name, len(content) // 2)
        (damage,) = verify(filled.sets()[0])
        assert name.endswith(damage.file)
        remote.delete([name])
        (damage,) = verify(filled.sets()[0])
        assert name.endswith(damage.file)
        assert "missing" in damage.problem
        remote.put(name, content)
    assert verify(filled.sets()[0]) == []
    remote.put(name.replace("zarr.json", "fc/c/99/0"), b"x")
    (damage,) = verify(filled.sets()[0])
    assert "did not write" in damage.problem


def test_a_missing_chunk_is_computed_again_without_an_audit(url, images, five_rows):
    settings = of_pixels(images, batch_size=4)
    result = extract(store=url, **settings)
    store = open_store(url)
    intact = set_objects(store, result.set_id)
    store.backend.remote.delete([object_of(store, result.set_id, "stats/c/2/0")])
    assert extract(store=url, **settings).n_computed == 8
    assert set_objects(store, result.set_id) == intact


@pytest.mark.parametrize(
    "by",
    [pytest.param(2, marks=pytest.mark.soak, id="this machine"), pytest.param(3, id="another")],
)
def test_damaged_metadata_is_made_again(url, images, tmp_path, monkeypatch, five_rows, by):
    settings = of_pixels(images, batch_size=4)
    result = extract(store=url, **settings)
    store = open_store(url)
    intact = set_objects(store, result.set_id)
    flip(store, object_of(store, result.set_id, "stats/zarr.json"), 5)
    machine(monkeypatch, tmp_path, 2)
    store = open_store(url)
    (feature_set,) = store.sets()
    with store.backend.working_on(result.set_id):
        (damage,) = schedule_repair(feature_set, verify(feature_set))
        assert (damage.layer, damage.chunk) == ("stats", None)
    assert f"--store '{url}'" in store.sets()[0].why_unfinished("stats")
    machine(monkeypatch, tmp_path, by)
    assert extract(store=url, **settings).n_computed == 0
    assert set_objects(store, result.set_id) == intact


def test_a_damaged_copy_is_fetched_again(filled):
    (feature_set,) = filled.sets()
    expected = feature_set.matrix("fc").read(0, 320)
    path = feature_set.matrix("fc").chunk_path(0)
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptionError):
        feature_set.matrix("fc").read(0, 320)
    assert verify(feature_set) == []
    np.testing.assert_array_equal(feature_set.matrix("fc").read(0, 320), expected)


@pytest.mark.parametrize("record", ["sets/*/set", "sets/*/layers/fc", "runs/*/metrics"])
def test_a_damaged_copy_of_a_record_is_fetched_again(filled, url, tmp_path, monkeypatch, record):
    featstore.fit(filled, n_jobs=1)

    def answers(store):
        (feature_set,) = store.sets()
        (run,) = list_runs(store)
        return feature_set.info, feature_set.layers(), run.record, run.model.n_features_in_

    # On the machine that sent it, and on one that fetched it.
    for number in (1, 2):
        machine(monkeypatch, tmp_path, number)
        store = open_store(url)
        expected = answers(store)
        (path,) = store.path.glob(f"{record}.json")
        intact, times = path.read_bytes(), path.stat()
        edited = json.loads(intact) | {"created": "once", "completed": "once"}
        del edited["digest"]
        for damaged in (intact.replace(b'"', b"'", 1), intact[:-9], b"", json_bytes(edited)):
            path.write_bytes(damaged)
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
            asked = requests_of(store, monkeypatch)
            assert answers(store) == expected
            assert asked == [path.relative_to(store.path).as_posix()]
            assert path.read_bytes() == intact


def test_runs_come_and_go(filled, url, tmp_path, monkeypatch):
    (run,) = featstore.fit(url, n_jobs=1)
    machine(monkeypatch, tmp_path, 2)
    other = open_store(url)
    (found,) = list_runs(other)
    assert found.run_id == run.run_id
    assert not (found.path / "model.skops").exists()
    assert found.predictions["score"].tolist() == run.predictions["score"].tolist()
    assert found.model.predict(other.select().memmap()[:5]).shape == (5,)
    assert open_run(f"{url}/runs/{run.run_id}", other).run_id == run.run_id
    assert verify_runs(other) == (1, [])
    flip(other, f"uploads/runs/{run.run_id}/{run.below}/predictions.csv")
    n_runs, (damage,) = verify_runs(other)
    assert (n_runs, damage.file) == (1, "predictions.csv")
    shutil.rmtree(other.path / "uploads")
    with pytest.raises(RunError, match="predictions.csv is not what fit wrote"):
        _ = list_runs(other)[0].predictions
    other.backend.remote.delete([f"runs/{run.run_id}/metrics.json"])
    assert list_runs(other) == []
    with pytest.raises(RunError, match=f"{url} holds no runs"):
        open_run(run.run_id, other)


@pytest.mark.soak
def test_workers_open_the_store_by_its_url(s3_url, monkeypatch):
    url, filled = s3_url, store_at(s3_url)
    monkeypatch.setattr(cost, "QUICK_S", 0.0)
    fits = fit_each(url, ["lda", "ridge"], n_jobs=2)
    assert [one.error for one in fits] == [None, None]
    there = filled.backend.remote.entries("runs/")
    for one in fits:
        assert f"runs/{one.run.run_id}/metrics.json" in there
        assert f"--store {url!r}" in one.run.record.command


def test_a_network_that_is_gone_is_one_error(monkeypatch, tmp_path):
    machine(monkeypatch, tmp_path, 1)
    point_at(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.setattr(remotes, "RETRIES", 0)
    with pytest.raises(StoreError, match="does not answer"):
        open_store("s3://bucket/x").sets()


@pytest.mark.soak
def test_more_layers_are_added_from_another_machine(
    url, shared_network, shared_images, tmp_path, monkeypatch
):
    store = open_store(url)
    shutil.copytree(shared_network / "sets", store.path / "sets")
    (feature_set,) = store.sets()
    # As if only the last layer had been extracted.
    feature_set.layer_path("conv1").unlink()
    shutil.rmtree(feature_set.group / "conv1")
    publish(store)
    machine(monkeypatch, tmp_path, 2)
    result = extract(store=url, **tiny(shared_images, layers="conv1"))
    assert result.n_computed == 27
    machine(monkeypatch, tmp_path, 1)
    store = open_store(url)
    assert len(store.sets()) == 1
    assert store.select(layers="conv1,fc").memmap().shape == (27, 1064)


def test_sets_of_other_features_lie_side_by_side(filled, url, tmp_path, monkeypatch):
    machine(monkeypatch, tmp_path, 2)
    other = open_store(url)
    X, y = blobs(40, 6)
    add_features(other, {"fc8": X}, y, np.zeros(40, np.uint8), model="alexnet")
    publish(other)
    assert [s.facets.model for s in filled.sets()] == ["alexnet", "resnet50"]
    assert filled.select(model="alexnet").memmap().shape == (40, 6)
