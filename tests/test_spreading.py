from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from makers import tiny, tree_bytes

import featstore
from featstore import matrices, parallel, spreading
from featstore.audit import verify
from featstore.config import ExtractConfig
from featstore.errors import ConfigError, ImageError, SchedulerError
from featstore.extraction import extract
from featstore.progress import Silent
from featstore.store import open_store


@pytest.fixture
def small_chunks(monkeypatch):
    # Five rows of fc's 1000 features, 78 of conv1's 64: no multiples of the batch or each other.
    monkeypatch.setattr(matrices, "CHUNK_NBYTES", 4 * 1000 * 5)


def group_bytes(result):
    return tree_bytes(Path(result.path))


class Listener(Silent):
    def __init__(self):
        self.n_done = 0

    def advance(self, n):
        self.n_done += n


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
    worker = [*start, "worker", "--scheduler-file", str(file), "--nthreads", "3"]
    worker += ["--local-directory", str(folder), "--no-dashboard"]
    running += [subprocess.Popen(worker, stdout=logs, stderr=logs) for _ in range(2)]
    from distributed import Client

    with Client(scheduler_file=str(file)) as client:
        client.wait_for_workers(2, timeout=60)
        yield client.scheduler.address
    for process in reversed(running):
        process.terminate()
        process.wait(30)
    logs.close()


def test_local_workers_write_the_same_bytes(images, tmp_path, small_chunks):
    settings = tiny(images, layers="conv1,fc")
    one = extract(store=tmp_path / "one", **settings)
    listener = Listener()
    two = extract(store=tmp_path / "two", devices=("cpu", "cpu"), progress=listener, **settings)
    assert group_bytes(two) == group_bytes(one)
    assert two.device.startswith("2 workers, each on cpu")
    assert listener.n_done >= 27
    assert verify(open_store(tmp_path / "two").sets()[0]) == []
    again = extract(store=tmp_path / "two", devices=("cpu", "cpu"), **settings)
    assert again.n_computed == 0


def test_a_scheduler_and_its_workers_write_the_same_bytes(
    images, tmp_path, small_chunks, scheduler, monkeypatch
):
    path = featstore.open_dataset("folder", images).paths[13]
    path.write_bytes(path.read_bytes()[:100])
    settings = tiny(images.relative_to(tmp_path), on_error="mask")
    monkeypatch.chdir(tmp_path)
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
    with pytest.raises(ImageError, match=path.name):
        extract(store=tmp_path / "store", scheduler=scheduler, **tiny(images))
    # Nothing is mixed with what was there before.
    path.write_bytes(whole)
    one = extract(store=tmp_path / "one", **tiny(images))
    many = extract(store=tmp_path / "store", scheduler=scheduler, **tiny(images))
    assert group_bytes(many) == group_bytes(one)


def test_a_worker_that_sees_other_images_is_refused(images, tmp_path, scheduler):
    config = ExtractConfig(**tiny(images))
    site = spreading.Site(config.to_dict(), str(tmp_path / "store"), "another fingerprint")
    open_store(tmp_path / "store")
    with parallel.remote_team(scheduler) as team:
        (outcome,) = team.run(spreading.survey, [(site,)])
    assert isinstance(outcome.error, SchedulerError)
    assert "same files at the same paths" in str(outcome.error)


def workers_of(process_id):
    import psutil

    found = []
    for child in psutil.Process(process_id).children(recursive=True):
        try:
            if "spawn_main" in " ".join(child.cmdline()):
                found.append(child.pid)
        except psutil.Error:
            continue
    return found


def chunks_of(store):
    return len(list(store.rglob("features.zarr/fc/c/*/0")))


def test_a_killed_worker_costs_nothing_but_time(images, tmp_path, monkeypatch):
    monkeypatch.setattr(matrices, "CHUNK_NBYTES", 4 * 1000)
    settings = tiny(images, batch_size=1)
    one = extract(store=tmp_path / "one", **settings)
    store, killed, stop = tmp_path / "two", [], threading.Event()

    def kill():
        while not stop.is_set():
            if 2 <= chunks_of(store) < 20 and (workers := workers_of(os.getpid())):
                killed.append(workers[0])
                os.kill(workers[0], signal.SIGKILL)
                return
            time.sleep(0.002)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        two = extract(store=store, devices=("cpu", "cpu"), **settings)
    finally:
        stop.set()
        killer.join()
    assert killed
    assert group_bytes(two) == group_bytes(one)
    assert verify(open_store(store).sets()[0]) == []


def test_a_killed_coordinator_is_gone_on_with(images, tmp_path, monkeypatch):
    monkeypatch.setattr(matrices, "CHUNK_NBYTES", 4 * 1000)
    settings = tiny(images, batch_size=1)
    one = extract(store=tmp_path / "one", **settings)
    store = tmp_path / "two"
    code = (
        "import json, sys\n"
        "from featstore import matrices\n"
        "from featstore.extraction import extract\n"
        "matrices.CHUNK_NBYTES = 4000\n"
        "extract(store=sys.argv[1], devices=('cpu', 'cpu'), **json.loads(sys.argv[2]))\n"
    )
    import json

    process = subprocess.Popen(
        [sys.executable, "-c", code, str(store), json.dumps(settings)], start_new_session=True
    )
    while chunks_of(store) < 10 and process.poll() is None:
        time.sleep(0.002)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    resumed = extract(store=store, devices=("cpu", "cpu"), **settings)
    assert 0 < resumed.n_computed < 27
    assert group_bytes(resumed) == group_bytes(one)


def test_nobody_at_the_address_is_named(images, tmp_path, monkeypatch):
    monkeypatch.setattr(parallel, "CONNECT_S", 1)
    for address in ("tcp://127.0.0.1:1", "nonsense"):
        with pytest.raises(SchedulerError, match="No Dask scheduler answers"):
            extract(store=tmp_path / "store", scheduler=address, **tiny(images))


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
