from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from distributed import Client, LocalCluster
from makers import Listener, tiny, tree_bytes, write_images

import featstore
from featstore.config import ExtractConfig
from featstore.errors import ConfigError, DeviceError, ImageError, SchedulerError
from featstore.extraction import coordinator
from featstore.extraction import worker as workplaces
from featstore.extraction.coordinator import n_shares, split
from featstore.extraction.extract import extract
from featstore.io.fingerprints import FingerprintCache, dataset_fingerprint
from featstore.models.networks import build_network
from featstore.parallel import cluster as parallel
from featstore.store.feature_store import open_store
from featstore.store.format import matrix
from featstore.store.verification import verify


@pytest.fixture
def small_chunks(monkeypatch):
    # Five rows of fc's 1000 features, ten of layer4's 512: no multiples of the batch of four.
    monkeypatch.setattr(matrix, "CHUNK_NBYTES", 4 * 1000 * 5)
    monkeypatch.setattr(coordinator, "MIN_BATCHES", 1)


def group_bytes(result):
    return tree_bytes(Path(result.path))


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory):
    """Run a scheduler and two workers as a user does, and return its address."""
    folder = tmp_path_factory.mktemp("cluster")
    start = [sys.executable, "-m", "dask"]
    options = ["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"]
    file = folder / "scheduler.json"
    logs = (folder / "log").open("w")
    running = [
        subprocess.Popen(
            [*start, "scheduler", *options, "--scheduler-file", str(file)],
            stdout=logs,
            stderr=logs,
        )
    ]
    while not file.exists():
        time.sleep(0.05)
    # As many threads as a process here has, on which the last bits depend.
    threads = str(torch.get_num_threads())
    worker = [*start, "worker", "--scheduler-file", str(file), "--nthreads", threads]
    worker += ["--local-directory", str(folder), "--no-dashboard"]
    running += [subprocess.Popen(worker, stdout=logs, stderr=logs, cwd=folder) for _ in range(2)]
    with Client(scheduler_file=str(file)) as client:
        client.wait_for_workers(2, timeout=60)
        address = client.scheduler.address
    yield address
    for process in reversed(running):
        process.terminate()
        process.wait(30)
    logs.close()


def test_local_workers_write_the_same_bytes(images, tmp_path, small_chunks):
    # Of this network, this size and this batch the bits depend on the number of threads.
    settings = tiny(images, model="resnet50", image_size=96, batch_size=7, layers="fc1000,layer4")
    one = extract(store=tmp_path / "one", **settings)
    listener = Listener()
    two = extract(store=tmp_path / "two", devices=("cpu", "cpu"), progress=listener, **settings)
    assert group_bytes(two) == group_bytes(one)
    assert two.device.startswith("2 workers, each on cpu")
    assert (two.n_computed, two.n_reused) == (27, 0)
    (phase,) = listener.named("Extracting")
    assert (phase.n_done, phase.total) == (27, 27)
    assert verify(open_store(tmp_path / "two").sets()[0]) == []
    again = extract(store=tmp_path / "two", devices=("cpu", "cpu"), **settings)
    assert again.n_computed == 0


def test_a_scheduler_and_its_workers_write_the_same_bytes(
    images, tmp_path, small_chunks, scheduler, monkeypatch
):
    path = featstore.open_dataset("folder", images).paths[13]
    path.write_bytes(path.read_bytes()[:100])
    # The workers run in another folder.
    monkeypatch.chdir(tmp_path)
    settings = tiny(images.relative_to(tmp_path), on_error="mask", layers="fc,layer4")
    one = extract(store="one", **settings)
    many = extract(store="many", scheduler=scheduler, **settings)
    assert group_bytes(many) == group_bytes(one)
    assert many.n_masked == 1
    pixels = {"model": "pixelstats", "dataset": "demo", "limit": 60}
    one = extract(store="one", **pixels)
    many = extract(store="many", scheduler=scheduler, **pixels)
    assert group_bytes(many) == group_bytes(one)


def test_an_error_of_a_worker_is_the_users(images, tmp_path, small_chunks, scheduler):
    path = featstore.open_dataset("folder", images).paths[13]
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    with pytest.raises(ImageError, match=f"{path.name}.*--on-error mask"):
        extract(store=tmp_path / "store", scheduler=scheduler, **tiny(images))
    with Client(scheduler, set_as_default=False) as client:
        kept = client.run(lambda: len(sys.modules["featstore.extraction.worker"]._workplaces))
    assert set(kept.values()) == {0}
    # Nothing is mixed with what was there before.
    path.write_bytes(whole)
    one = extract(store=tmp_path / "one", **tiny(images))
    many = extract(store=tmp_path / "store", scheduler=scheduler, **tiny(images))
    assert group_bytes(many) == group_bytes(one)


def test_ctrl_c_keeps_what_is_finished(images, tmp_path, small_chunks, scheduler, monkeypatch):
    one = extract(store=tmp_path / "one", **tiny(images))

    def interrupted(self, n):
        if self.phases[-1].what == "Extracting":
            raise KeyboardInterrupt

    monkeypatch.setattr(Listener, "advance", interrupted)
    listener = Listener()
    with pytest.raises(KeyboardInterrupt):
        extract(store=tmp_path / "two", scheduler=scheduler, progress=listener, **tiny(images))
    assert any(line.endswith("of 27 rows of fc are kept.") for line in listener.lines)
    monkeypatch.undo()
    monkeypatch.setattr(matrix, "CHUNK_NBYTES", 4 * 1000 * 5)
    # What was begun by several may be gone on with by one.
    resumed = extract(store=tmp_path / "two", **tiny(images))
    assert 0 < resumed.n_computed < 27
    assert group_bytes(resumed) == group_bytes(one)


def test_features_too_large_for_float16_are_begun_anew(images, tmp_path, small_chunks, scheduler):
    network = build_network("resnet18", 32, seed=0)
    weights = network.state_dict() | {"fc.weight": network.fc.weight.data * 1e6}
    torch.save(weights, tmp_path / "large.pth")
    settings = tiny(images, weights=str(tmp_path / "large.pth"), precision="bf16", compile="off")
    one = extract(store=tmp_path / "one", **settings)
    assert one.dtype == "float32"
    listener = Listener()
    many = extract(store=tmp_path / "many", scheduler=scheduler, progress=listener, **settings)
    assert group_bytes(many) == group_bytes(one)
    assert any("Beginning anew" in line for line in listener.lines)


def site_of(images, tmp_path):
    dataset = featstore.open_dataset("folder", images)
    cache = FingerprintCache(tmp_path / "cache")
    known = dataset_fingerprint(dataset.identity(), dataset.files(), cache)
    config = ExtractConfig(**tiny(images))
    return workplaces.WorkerContext(config.to_dict(), str(tmp_path / "store"), known)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "another"}, "same files at the same paths"),
        ({"weights_sha256": "another"}, "other weights than here"),
        ({"versions": {"torch": "0.1"}}, "torch .* not 0.1"),
    ],
)
def test_a_worker_that_would_compute_other_features_is_refused(
    images, tmp_path, scheduler, change, message
):
    site = replace(site_of(images, tmp_path), **change)
    with parallel.scheduler_pool(scheduler) as team:
        (outcome,) = team.run(workplaces.describe_device, [(site,)], died=coordinator._died)
    with pytest.raises(SchedulerError, match=message):
        raise outcome.error


def test_a_worker_on_a_device_of_another_type_is_refused(images, tmp_path):
    site = workplaces.WorkerContext(ExtractConfig(**tiny(images)).to_dict(), str(tmp_path), "")
    place = workplaces.WorkerState.__new__(workplaces.WorkerState)
    place.site = site
    place.extractor = SimpleNamespace(device_type="cpu", device_name="cpu (2 threads)")
    with pytest.raises(DeviceError, match="computed on cuda, and a worker has cpu"):
        place.prepare({"device": "cuda"})


KILLED = """
import json, sys
from featstore.store.format import matrix as matrices
from featstore.extraction import coordinator as spreading
from featstore.extraction.extract import extract
matrices.CHUNK_NBYTES = 4000
extract(store=sys.argv[1], devices=("cpu", "cpu"), **json.loads(sys.argv[2]))
"""


def kill_when_begun(store, find):
    """Kill, when a worker has noted two batches, the process that `find` returns the id of."""
    while not any(n_chunks(read(path)) >= 8 for path in journals(store)):
        time.sleep(0.005)
    os.kill(find(), signal.SIGKILL)


def journals(store):
    try:
        return list(store.rglob("share-*.json"))
    except FileNotFoundError:
        # A folder was renamed while it was looked through.
        return []


def n_chunks(journal):
    return len(re.findall(r'"\d+": "', journal))


def read(path):
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def worker_of(process_id):
    for child in psutil.Process(process_id).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "spawn_main" in " ".join(child.cmdline()):
                return child.pid
    raise AssertionError("there is no worker")


@pytest.fixture
def long_pass(tmp_path, monkeypatch):
    """Return the settings of a pass that can be killed, and the bytes that it is to end in."""
    monkeypatch.setattr(matrix, "CHUNK_NBYTES", 4 * 1000)
    settings = tiny(write_images(tmp_path / "more", n=50))
    return settings, group_bytes(extract(store=tmp_path / "one", **settings))


@pytest.mark.soak
def test_a_killed_coordinator_costs_nothing_but_time(tmp_path, long_pass):
    settings, unbroken = long_pass
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, tmp_path / "two", json.dumps(settings)]
    )
    kill_when_begun(tmp_path / "two", lambda: process.pid)
    process.wait()
    resumed = extract(store=tmp_path / "two", **settings)
    assert 0 < resumed.n_computed < 225
    assert group_bytes(resumed) == unbroken


def test_a_killed_worker_costs_nothing_but_time(tmp_path, long_pass):
    settings, unbroken = long_pass
    listener, store = Listener(), tmp_path / "three"
    killer = threading.Thread(
        target=kill_when_begun, args=(store, lambda: worker_of(os.getpid())), daemon=True
    )
    killer.start()
    # The one that is started in its place has to know its device.
    three = extract(store=store, devices=("cpu",), progress=listener, **settings)
    killer.join()
    assert group_bytes(three) == unbroken
    assert verify(open_store(store).sets()[0]) == []
    assert any(line.startswith("A worker died; rows ") for line in listener.lines)


def test_a_gpu_that_is_not_there_is_named(images, tmp_path):
    with pytest.raises(DeviceError, match="cuda:31 was asked for"):
        workplaces.WorkerState(site_of(images, tmp_path), "cuda:31", None)


def test_nobody_at_the_address_is_named(images, tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "CONNECT_S", 1)
    for address in ("tcp://127.0.0.1:1", "nonsense", "http://127.0.0.1:1", ""):
        with pytest.raises(SchedulerError, match="No Dask scheduler answers"):
            extract(store=tmp_path / "store", scheduler=address, **tiny(images))


def test_a_scheduler_without_workers_is_told(images, tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "CONNECT_S", 1)
    with LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as cluster:
        settings = tiny(images, scheduler=cluster.scheduler_address)
        with pytest.raises(SchedulerError, match="has no workers"):
            extract(store=tmp_path / "store", **settings)


class FakeMatrix:
    def __init__(self, n_samples, chunk_rows):
        self.n_samples, self.chunk_rows = n_samples, chunk_rows

    def chunk_range(self, index):
        start = index * self.chunk_rows
        return start, min(start + self.chunk_rows, self.n_samples)


@pytest.mark.parametrize("n_wanted", [1, 3, 8, 1000])
def test_each_missing_chunk_is_in_one_share_beside_its_neighbours(n_wanted):
    pending = {"wide": [0, 1, 2, 5, 6, 7, 8, 9], "narrow": [1, 2]}
    rows = {"wide": 100, "narrow": 333}
    layers = {
        name: SimpleNamespace(matrix=FakeMatrix(1000, rows[name]), pending=pending[name])
        for name in rows
    }
    shares = split(SimpleNamespace(layers=layers), n_wanted)
    assert len(shares) <= n_wanted
    found = Counter((name, i) for share in shares for name, chunks in share.items() for i in chunks)
    assert found == Counter((name, i) for name, chunks in pending.items() for i in chunks)
    firsts = [min(i * rows[n] for n, chunks in share.items() for i in chunks) for share in shares]
    assert firsts == sorted(firsts)


@pytest.mark.parametrize(
    ("n_rows", "n_workers", "batch_size", "expected"),
    [
        # Four for each worker, but none below 16 batches while each has one, nor above 64.
        (100_000, 8, 64, 32),
        (20_000, 8, 256, 8),
        (500_000, 2, 32, 244),
        (10, 2, 256, 2),
        (0, 2, 256, 1),
    ],
)
def test_shares_are_several_for_each_worker_but_no_crumbs(n_rows, n_workers, batch_size, expected):
    assert n_shares(n_rows, n_workers, batch_size) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": ("0", "gpu")}, "devices holds 'gpu'"),
        ({"devices": ("0",), "device": "cpu"}, "only one of"),
        ({"devices": ("0",), "scheduler": "tcp://a:1"}, "only one of"),
    ],
)
def test_devices_are_checked(options, message):
    with pytest.raises(ConfigError, match=message):
        ExtractConfig("resnet18", "folder", **options)


def test_gpus_go_by_number_and_the_command_says_so():
    config = ExtractConfig("resnet18", "folder", devices=("0", "cuda:1", "cpu"))
    assert config.devices == ("cuda:0", "cuda:1", "cpu")
    assert "--devices cuda:0,cuda:1,cpu" in config.command("s")
    assert ExtractConfig.from_dict(config.to_dict()) == config
    assert config.request() == ExtractConfig("resnet18", "folder").request()
