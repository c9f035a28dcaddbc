from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import dask
import psutil
import pytest
import torch
from distributed import Client, LocalCluster
from makers import Listener, of_pixels, tiny, tree_bytes

import featstore
from featstore.config import ExtractConfig
from featstore.datasets import registry
from featstore.errors import ConfigError, ImageError, SchedulerError
from featstore.extraction.coordinator import n_shards, split_chunks
from featstore.extraction.extract import extract
from featstore.models.torchvision_source import build_network
from featstore.parallel import cluster, worker_pool
from featstore.store.feature_store import open_store
from featstore.store.verification import verify


def group_bytes(result):
    return tree_bytes(Path(result.path))


@pytest.mark.soak
def test_local_workers_write_the_same_bytes(extracted, tmp_path, small_chunks):
    settings = tiny(extracted.images, layers="fc,conv1", devices=("cpu", "cpu"))
    listener, store = Listener(), open_store(tmp_path / "two")
    two = extract(store=store, progress=listener, **settings)
    assert group_bytes(two) == extracted.group
    assert two.device.startswith("2 workers, each on cpu")
    assert (two.n_computed, two.n_reused) == (27, 0)
    (phase,) = listener.named("Extracting")
    assert (phase.n_done, phase.total) == (27, 27)
    (feature_set,) = store.sets()
    assert verify(feature_set) == []
    # Each has as many threads as one process, whatever the number of workers.
    assert feature_set.layer("fc").numerics.n_threads == torch.get_num_threads()
    assert extract(store=store, **settings).n_computed == 0


@pytest.mark.soak
def test_workers_write_the_same_bytes_where_the_threads_decide_them(images, tmp_path, small_chunks):
    # Of this network, this size and this batch the bits depend on the number of threads.
    settings = tiny(images, model="resnet50", image_size=96, batch_size=7, layers="fc1000,layer4")
    one = extract(store=tmp_path / "one", **settings)
    two = extract(store=tmp_path / "two", devices=("cpu", "cpu"), **settings)
    assert group_bytes(two) == group_bytes(one)


@pytest.mark.soak
def test_a_scheduler_and_its_workers_write_the_same_bytes(
    extracted, tmp_path, small_chunks, scheduler
):
    settings = tiny(extracted.images, layers="fc,conv1", scheduler=scheduler)
    assert group_bytes(extract(store=tmp_path / "many", **settings)) == extracted.group


def test_workers_mask_images_and_find_relative_paths(
    images, tmp_path, small_pixel_chunks, scheduler, monkeypatch
):
    path = featstore.open_dataset("folder", images).paths[13]
    path.write_bytes(path.read_bytes()[:100])
    # The workers run in another folder.
    monkeypatch.chdir(tmp_path)
    settings = of_pixels(images.relative_to(tmp_path), on_error="mask", batch_size=4)
    one = extract(store="one", **settings)
    many = extract(store="many", scheduler=scheduler, **settings)
    assert group_bytes(many) == group_bytes(one)
    assert (one.n_masked, many.n_masked) == (1, 1)
    demo = {"model": "pixelstats", "dataset": "demo", "limit": 60}
    one = extract(store="one", **demo)
    assert group_bytes(extract(store="many", scheduler=scheduler, **demo)) == group_bytes(one)


OWN = """
import torch
from torch import nn


def build():
    torch.manual_seed(1)
    # To find the shape of a mean, PyTorch would import its compiler: seconds in each worker.
    network = nn.Sequential(nn.Conv2d(3, 16, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten())
    return network, {"image_size": 32}
"""


def test_workers_run_networks_of_the_working_folder_and_share_filters(
    images, tmp_path, chunks_of_16, scheduler, monkeypatch
):
    (tmp_path / "own_network.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for model in ("own_network:build", "mosaiks:16"):
        settings = {"dataset": "folder", "root": str(images), "batch_size": 4}
        if model == "own_network:build":
            settings |= {"precision": "fp32", "compile": "off"}
        one = extract(model, store="one", **settings)
        many = extract(model, store="many", scheduler=scheduler, **settings)
        assert many.device.startswith("2 workers")
        assert group_bytes(many) == group_bytes(one)


def test_a_workers_error_reaches_the_user(images, tmp_path, small_pixel_chunks, scheduler):
    path = featstore.open_dataset("folder", images).paths[13]
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    settings = of_pixels(images, batch_size=4)
    with pytest.raises(ImageError, match=f"{path.name}.*--on-error mask"):
        extract(store=tmp_path / "store", scheduler=scheduler, **settings)
    with Client(scheduler, set_as_default=False) as client:
        kept = client.run(lambda: len(sys.modules["featstore.extraction.worker"]._states))
    assert set(kept.values()) == {0}
    # Features of the whole image are not mixed with what was computed before.
    path.write_bytes(whole)
    one = extract(store=tmp_path / "one", **settings)
    many = extract(store=tmp_path / "store", scheduler=scheduler, **settings)
    assert group_bytes(many) == group_bytes(one)


def test_ctrl_c_keeps_finished_rows(images, tmp_path, small_pixel_chunks, scheduler, monkeypatch):
    settings = of_pixels(images, batch_size=4)
    one = extract(store=tmp_path / "one", **settings)

    def interrupted(self, n):
        if self.phases[-1].what == "Extracting":
            raise KeyboardInterrupt

    listener = Listener()
    with monkeypatch.context() as patch:
        patch.setattr(Listener, "advance", interrupted)
        with pytest.raises(KeyboardInterrupt):
            extract(store=tmp_path / "two", scheduler=scheduler, progress=listener, **settings)
    assert any(line.endswith("of 27 rows of stats are kept.") for line in listener.lines)
    # One process may continue what several began.
    resumed = extract(store=tmp_path / "two", **settings)
    assert 0 < resumed.n_computed < 27
    assert group_bytes(resumed) == group_bytes(one)


@pytest.mark.soak
def test_features_too_large_for_float16_start_again_in_float32(
    images, tmp_path, small_chunks, scheduler
):
    network = build_network("resnet18", 32, seed=0)
    weights = network.state_dict() | {"fc.weight": network.fc.weight.data * 1e6}
    torch.save(weights, tmp_path / "large.pth")
    settings = tiny(images, weights=str(tmp_path / "large.pth"), precision="bf16", compile="off")
    listener = Listener()
    many = extract(
        store=tmp_path / "many", scheduler=scheduler, progress=listener, limit=12, **settings
    )
    assert many.dtype == "float32"
    assert any("Starting again in float32" in line for line in listener.lines)
    assert verify(open_store(tmp_path / "many").sets()[0]) == []


SLOWLY = """
import time
from pathlib import Path
from featstore.models.pixelstats import PixelExtractor
from featstore.store import writer
writer.CHECKPOINT_S = 0.0

def waiting(compute):
    def wait(self, batch):
        while batch.start >= 8 and not Path({go!r}).exists():
            time.sleep(0.01)
        return compute(self, batch)
    return wait

# Dask loads this twice.
if PixelExtractor._compute.__name__ != "wait":
    PixelExtractor._compute = waiting(PixelExtractor._compute)
"""
"""Lets workers wait, after two batches of a pass, until a file is there."""

KILLED = """
import json, sys
import dask
from featstore.extraction import coordinator
from featstore.extraction.extract import extract
from featstore.store.format import matrix
matrix.CHUNK_NBYTES, coordinator.MIN_BATCHES = 4 * 29 * 5, 1
dask.config.set({"distributed.worker.preload": [sys.argv[1]]})
extract(store=sys.argv[2], devices=("cpu",), **json.loads(sys.argv[3]))
"""


@pytest.fixture
def slowly(tmp_path):
    """Return a script that slows workers down; its pass continues when the file beside it is."""
    path = tmp_path / "slowly.py"
    path.write_text(SLOWLY.format(go=str(tmp_path / "go")))
    return path


def kill_when_begun(store, find, go):
    """Kill, when a worker has made a chunk durable, the process that `find` returns the id of."""
    while not any('"0": "' in read(path) for path in journals(store)):
        time.sleep(0.005)
    os.kill(find(), signal.SIGKILL)
    go.touch()


def journals(store):
    try:
        return list(store.rglob("share-*.json"))
    except FileNotFoundError:
        # A folder was renamed during the search.
        return []


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


def test_a_killed_worker_costs_only_its_chunks(
    images, tmp_path, small_pixel_chunks, slowly, monkeypatch
):
    # A loaded machine may take minutes to start another worker.
    monkeypatch.setattr(worker_pool, "ALONE_S", 600)
    settings = of_pixels(images, batch_size=4)
    unbroken = group_bytes(extract(store=tmp_path / "one", **settings))
    listener, store = Listener(), tmp_path / "two"
    find = lambda: worker_of(os.getpid())  # noqa: E731
    killer = threading.Thread(
        target=kill_when_begun, args=(store, find, tmp_path / "go"), daemon=True
    )
    killer.start()
    # The worker that replaces the killed one has to know its device.
    with dask.config.set({"distributed.worker.preload": [str(slowly)]}):
        two = extract(store=store, devices=("cpu",), progress=listener, **settings)
    killer.join()
    assert group_bytes(two) == unbroken
    assert verify(open_store(store).sets()[0]) == []
    assert any(line.startswith("A worker died; rows 0 to 9 ") for line in listener.lines)


@pytest.mark.soak
def test_a_killed_coordinator_costs_only_unfinished_chunks(
    images, tmp_path, small_pixel_chunks, slowly
):
    settings = of_pixels(images, batch_size=4)
    unbroken = group_bytes(extract(store=tmp_path / "one", **settings))
    store = tmp_path / "two"
    words = [sys.executable, "-c", KILLED, str(slowly), str(store), json.dumps(settings)]
    process = subprocess.Popen(words)
    kill_when_begun(store, lambda: process.pid, tmp_path / "go")
    process.wait()
    resumed = extract(store=store, **settings)
    assert 0 < resumed.n_computed < 27
    assert group_bytes(resumed) == unbroken


def test_an_address_without_a_scheduler_is_named(images, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_S", 1)
    for address in ("tcp://127.0.0.1:1", "nonsense", "http://127.0.0.1:1", ""):
        with pytest.raises(SchedulerError, match="No Dask scheduler answers"):
            extract(store=tmp_path / "store", scheduler=address, **tiny(images))


def test_a_scheduler_without_workers_is_named(images, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_S", 1)
    with LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as empty:
        settings = tiny(images, scheduler=empty.scheduler_address)
        with pytest.raises(SchedulerError, match="has no workers"):
            extract(store=tmp_path / "store", **settings)


@pytest.mark.soak
def test_a_dataset_of_an_installed_package_is_computed_on_workers(images, tmp_path, monkeypatch):
    page = Path(__file__).parents[2] / "docs" / "adding-a-dataset.md"
    blocks = re.findall(r"```(python|toml)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    site, source, root = (tmp_path / name for name in ("site", "source", "tiles"))
    source.mkdir()
    (source / "labelled.py").write_text(blocks[0][1], encoding="utf-8")
    (source / "pyproject.toml").write_text(blocks[1][1], encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(site), str(source)], check=True)
    monkeypatch.syspath_prepend(str(site))
    registry._plug_in.cache_clear()
    paths = sorted(Path(images).rglob("*.png"))
    shutil.copytree(images, root)
    lines = [
        f"{path.relative_to(images)},{path.parent.name},{'test' if i % 3 == 0 else 'train'}"
        for i, path in enumerate(paths)
    ]
    (root / "labels.csv").write_text("\n".join(["file,class,split", *lines]), encoding="utf-8")
    store = open_store(tmp_path / "store")
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as workers:
        scheduler = workers.scheduler_address
        made = extract(
            model="pixelstats", dataset="labelled", root=root, scheduler=scheduler, store=store
        )
    assert (made.n_computed, made.title) == (len(paths), "labelled")
    (run,) = featstore.fit(store, "lda")
    (found,) = featstore.predict(run, paths[0], store=store)
    assert found.label in run.class_names
    registry._plug_in.cache_clear()


class FakeMatrix:
    def __init__(self, n_samples, chunk_rows):
        self.n_samples, self.chunk_rows = n_samples, chunk_rows

    def chunk_range(self, index):
        start = index * self.chunk_rows
        return start, min(start + self.chunk_rows, self.n_samples)


@pytest.mark.parametrize("n_wanted", [1, 3, 8, 1000])
def test_each_missing_chunk_is_in_one_shard_beside_its_neighbours(n_wanted):
    pending = {"wide": [0, 1, 2, 5, 6, 7, 8, 9], "narrow": [1, 2]}
    rows = {"wide": 100, "narrow": 333}
    layers = {
        name: SimpleNamespace(matrix=FakeMatrix(1000, rows[name]), pending=pending[name])
        for name in rows
    }
    shards = split_chunks(SimpleNamespace(layers=layers), n_wanted)
    assert len(shards) <= n_wanted
    found = Counter((name, i) for shard in shards for name, chunks in shard.items() for i in chunks)
    assert found == Counter((name, i) for name, chunks in pending.items() for i in chunks)
    firsts = [min(i * rows[n] for n, chunks in shard.items() for i in chunks) for shard in shards]
    assert firsts == sorted(firsts)


@pytest.mark.parametrize(
    ("n_rows", "n_workers", "batch_size", "expected"),
    [
        # Four for each worker, but none below 16 batches while each worker has one, nor above 64.
        (100_000, 8, 64, 32),
        (20_000, 8, 256, 8),
        (500_000, 2, 32, 244),
        (10, 2, 256, 2),
        (0, 2, 256, 1),
    ],
)
def test_each_worker_gets_several_shards_of_many_batches(n_rows, n_workers, batch_size, expected):
    assert n_shards(n_rows, n_workers, batch_size) == expected


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


def test_gpus_have_numbers_and_the_command_names_them():
    config = ExtractConfig("resnet18", "folder", devices=("0", "cuda:1", "cpu"))
    assert config.devices == ("cuda:0", "cuda:1", "cpu")
    assert "--devices cuda:0,cuda:1,cpu" in config.command("s")
    assert ExtractConfig.from_dict(config.to_dict()) == config
    assert config.request() == ExtractConfig("resnet18", "folder").request()
