from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from makers import Listener, of_pixels, real_file, tiny, tree_bytes, write_images

import featstore
from featstore.cli.main import _run
from featstore.datasets.base import FileDataset
from featstore.datasets.formats.folder import FolderSource
from featstore.errors import (
    ConfigError,
    DatasetError,
    DeviceError,
    FeatstoreError,
    ImageError,
    IncompleteError,
    SpaceError,
    StoreError,
)
from featstore.extraction import extract as stage_one
from featstore.extraction import pipeline
from featstore.extraction.extract import extract
from featstore.io.files import read_json, write_json
from featstore.models import pixelstats, torchvision_source
from featstore.models.preprocess import Preprocess
from featstore.models.torchvision_source import build_network
from featstore.models.weights import IMAGENET_MEAN, IMAGENET_STD
from featstore.progress import Silent
from featstore.store import creation, writer
from featstore.store.feature_store import open_store
from featstore.store.verification import verify_store


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "a store")


def lose_first_chunk(store):
    """Remove the first five or more rows of pixel statistics from the one set."""
    (feature_set,) = store.sets()
    (feature_set.group / "stats" / "c" / "0" / "0").unlink()
    return feature_set


@pytest.mark.parametrize(
    ("first", "wrong"),
    [
        ("train/" + "é" * 2050, r"a sample id of 4,106 bytes, 'train/é.*at most 4,096"),
        ("train/1", r"sample ids of 400,\d\d\d bytes in a chunk of 100,000 rows; at most 400,000"),
    ],
)
def test_sample_ids_that_no_reader_would_take_are_refused(tmp_path, monkeypatch, first, wrong):
    images = write_images(tmp_path / "images", n=2, size=8)
    monkeypatch.setattr(FolderSource, "sample_ids", [first, *map(str, range(8))])
    monkeypatch.setattr(creation, "MAX_CHUNK_NBYTES", 400_000)
    with pytest.raises(DatasetError, match=wrong):
        extract(store=tmp_path / "store", **of_pixels(images))


def test_rows_are_what_the_network_gives_for_the_dataset_in_order(extracted):
    selection = extracted.store.select(layers="fc")
    dataset = featstore.open_dataset("folder", extracted.images)
    assert selection.sample_ids.tolist() == list(dataset.sample_ids)
    assert selection.y.tolist() == dataset.labels.tolist()
    assert selection.splits.tolist() == dataset.splits.tolist()
    network = build_network("resnet18", 32, seed=0)
    preprocess = Preprocess(32, "rgb", IMAGENET_MEAN, IMAGENET_STD)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    X = selection.numpy()
    for row in (0, 3, 4, 13, 26):
        group = np.array([0]), dataset.read(row)[None].copy()
        pixels = preprocess([group], 1, torch.device("cpu"))
        with torch.inference_mode():
            expected = network((pixels / 255 - mean) / std)[0].numpy()
        np.testing.assert_allclose(X[row], expected, atol=1e-4)


def test_the_result_counts_and_the_records_say_how(extracted):
    (feature_set,) = extracted.store.sets()
    record, info = feature_set.layer("fc"), feature_set.info
    assert record.versions["torch"] == torch.__version__.split("+")[0] or record.versions
    assert record.numerics.to_dict() == {
        "device": "cpu",
        "engine": "eager",
        "batch_size": 4,
        "nodes": ["fc", "conv1"],
    }
    assert record.n_computed == 27
    assert record.duration_s > 0
    assert info.backbone.weights_sha256.startswith("random:0")
    assert info.preprocess.image_size == 32
    assert len(info.dataset.fingerprint) == 64
    assert info.dataset.image_shape == (40, 40)


def test_a_repeated_request_builds_and_reads_nothing(stored, monkeypatch):
    monkeypatch.setattr(torchvision_source, "build_network", lambda *_, **__: pytest.fail("built"))
    monkeypatch.setattr(FileDataset, "read", lambda *_: pytest.fail("read"))
    settings = tiny(stored.images, device="cpu", batch_size=9)
    for layers in ("fc", ["fc"], ()):
        again = extract(store=stored.store, layers=layers, **settings)
        assert (again.n_computed, again.n_reused) == (0, 27)
        assert again.path == str(stored.store.sets()[0].group)
        assert again.layers == ["fc"]
        assert again.images_per_s == 0
    both = extract(store=stored.store, layers="conv1, fc", **settings)
    assert (both.n_computed, both.layers) == (0, ["conv1", "fc"])


def test_the_answer_comes_without_torch(stored):
    code = (
        "import sys, json, featstore\n"
        f"r = featstore.extract(store={str(stored.store.path)!r}, **json.loads(sys.argv[1]))\n"
        "print(r.n_reused, 'torch' in sys.modules)"
    )
    settings = json.dumps(tiny(stored.images))
    done = subprocess.run([sys.executable, "-c", code, settings], capture_output=True, text=True)
    assert done.stdout.split() == ["27", "False"], done.stderr


def test_the_same_command_gives_the_same_bytes(extracted, store, small_chunks):
    again = extract(store=store, **tiny(extracted.images, layers="fc,conv1"))
    assert (again.n_images, again.n_computed, again.n_reused) == (27, 27, 0)
    assert tree_bytes(Path(again.path)) == extracted.group


def test_another_layer_computes_only_what_is_missing(stored, monkeypatch):
    before = stored.group
    read = []
    original = FileDataset.read
    monkeypatch.setattr(
        FileDataset,
        "read",
        lambda d, row, min_size=None: read.append(row) or original(d, row, min_size),
    )
    result = extract(store=stored.store, **tiny(stored.images, layers="fc,conv1,layer2"))
    assert result.layers == ["fc", "conv1", "layer2.1.relu_1"]
    # The first one is also looked at before the network is opened.
    assert sorted(read) == [0, *range(27)]
    assert before.items() <= stored.group.items()
    assert len(stored.store.sets()) == 1
    assert stored.store.select(layers="conv1,layer2").n_features == 64 + 128
    assert extract(store=stored.store, **tiny(stored.images, layers="layer2")).n_computed == 0


def test_another_pooling_is_another_matrix_of_the_same_set(stored):
    result = extract(store=stored.store, **tiny(stored.images, layers="conv1", pool="max"))
    assert (result.layers, result.n_computed) == (["conv1@max"], 27)
    assert len(stored.store.sets()) == 1
    again = extract(store=stored.store, **tiny(stored.images, layers="conv1", pool="avg"))
    assert again.n_computed == 0


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "random:1"},
        {"image_size": 48},
        {"bands": "gray"},
        {"precision": "bf16"},
        {"dtype": "float16"},
        {"limit": 12},
    ],
)
def test_whatever_changes_the_features_makes_another_set(stored, change, monkeypatch):
    class ComputingError(Exception):
        pass

    def compute(*_):
        raise ComputingError

    monkeypatch.setattr(stage_one, "compute_layers", compute)
    with pytest.raises(ComputingError):
        extract(store=stored.store, **tiny(stored.images) | change)
    assert len(stored.store.sets()) == 2


def test_the_images_size_decides_nothing(images, store):
    extract(store=store, **of_pixels(images))
    (feature_set,) = store.sets()
    info = read_json(feature_set.path / "set.json")
    del info["dataset"]["image_shape"]
    write_json(feature_set.path / "set.json", info)
    assert extract(store=store, **of_pixels(images)).n_computed == 0
    lose_first_chunk(store)
    assert extract(store=store, **of_pixels(images)).set_id == feature_set.set_id


def test_a_missing_chunk_is_computed_again(images, store, small_pixel_chunks):
    first = extract(store=store, **of_pixels(images, batch_size=4))
    before = tree_bytes(Path(first.path))
    lose_first_chunk(store)
    again = extract(store=store, **of_pixels(images, batch_size=4))
    assert again.n_computed == 8, "the two batches of rows 0 to 4"
    assert tree_bytes(Path(again.path)) == before


def test_a_changed_image_is_noticed_and_never_mixed(images, store):
    extract(store=store, **of_pixels(images))
    path = featstore.open_dataset("folder", images).paths[2]
    other = write_images(images.parent / "other", n=2, seed=9)
    shutil.copy(next(other.rglob("*.png")), path)
    assert extract(store=store, **of_pixels(images)).n_computed == 27
    assert len(store.sets()) == 2


def test_test_images_that_are_also_trained_on_are_counted(images, store):
    assert extract(store=store, **of_pixels(images)).n_leaked == 0
    shutil.copy(images / "train" / "sand" / "sand00.png", images / "test" / "sand" / "copy.png")
    shutil.copy(images / "train" / "sand" / "sand00.png", images / "train" / "sand" / "copy.png")
    shutil.copy(images / "test" / "water" / "water00.png", images / "test" / "water" / "copy.png")
    (images / "val" / "sand").mkdir(parents=True)
    shutil.copy(images / "train" / "water" / "water03.png", images / "val" / "sand")
    first = extract(store=store, **of_pixels(images))
    assert first.n_leaked == 2
    assert first.n_by_split == {"train": 19, "test": 11, "val": 1}
    again = extract(store=store, **of_pixels(images))
    assert (again.n_computed, again.to_dict()["n_leaked"]) == (0, 2)
    dataset = featstore.open_dataset("folder", images)
    rows = store.get(first.set_id).first_rows
    found = {dataset.sample_ids[i]: dataset.sample_ids[rows[i]] for i in np.flatnonzero(rows < 31)}
    assert found["val/sand/water03.png"] == "train/water/water03.png"
    assert found["train/sand/sand00.png"] == "test/sand/copy.png"
    assert sum(name != first_name for name, first_name in found.items()) == 4


def test_a_limit_compares_only_its_own_images(images, store):
    for path in (images / "train" / "sand").iterdir():
        shutil.copy(path, images / "test" / "sand")
    assert extract(store=store, **of_pixels(images)).n_leaked == 6
    few = extract(store=store, **of_pixels(images, limit=12))
    dataset = featstore.open_dataset("folder", images, limit=12)
    files = [path.read_bytes() for path in dataset.paths]
    trained = {content for content, code in zip(files, dataset.splits, strict=True) if code == 0}
    tested = [content for content, code in zip(files, dataset.splits, strict=True) if code]
    assert few.n_leaked == sum(content in trained for content in tested) < 6


def test_masked_images_are_no_leak(images, store):
    for split in ("train", "test"):
        (images / split / "sand" / "cut.png").write_bytes(b"the same")
    masked = extract(store=store, **of_pixels(images, on_error="mask"))
    assert (masked.n_masked, masked.n_leaked) == (2, 0)
    assert extract(store=store, **of_pixels(images, on_error="mask")).n_leaked == 0


def test_the_command_tells_of_leaks(images, store, capsys):
    words = [w for k, v in of_pixels(images).items() for w in (f"--{k}", str(v))]
    args = ["extract", *words, "--store", str(store.path)]
    assert _run(args) == 0
    assert "--drop-leaks" not in capsys.readouterr().out
    shutil.copy(images / "train" / "sand" / "sand00.png", images / "test" / "sand" / "copy.png")
    for _ in range(2):
        assert _run(args) == 0
        assert (
            "1 of 10 test images is also among the training images; `featstore fit --drop-leaks` "
            "leaves it out.\n"
        ) in capsys.readouterr().out
    (images / "val" / "sand").mkdir(parents=True)
    shutil.copy(images / "train" / "sand" / "sand00.png", images / "val" / "sand")
    assert _run(args) == 0
    assert (
        "2 of 11 test and val images are also among the training images; `featstore fit "
        "--drop-leaks` leaves them out.\n"
    ) in capsys.readouterr().out
    assert _run([*args, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["n_leaked"], result["n_computed"]) == (2, 0)
    assert result["n_by_split"] == {"train": 18, "test": 10, "val": 1}


def test_a_renamed_folder_is_the_same_dataset(images, store):
    extract(store=store, **of_pixels(images))
    renamed = images.rename(images.parent / "renamed")
    assert extract(store=store, **of_pixels(renamed)).n_computed == 0
    lose_first_chunk(store)
    assert extract(store=store, **of_pixels(renamed)).n_computed == 27
    assert len(store.sets()) == 1


def test_a_linked_folder_has_the_links_name(images, store):
    link = images.parent / "linked"
    link.symlink_to(images, target_is_directory=True)
    extract(store=store, **of_pixels(link))
    assert store.select(dataset="linked").title == "linked"


def test_an_unreadable_image_stops_and_finished_rows_are_kept(
    images, store, small_pixel_chunks, monkeypatch
):
    # With two batches in flight, two of the three before the image's are finished.
    monkeypatch.setattr(pixelstats, "available_cores", lambda: 1)
    path = featstore.open_dataset("folder", images).paths[13]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError, match=path.name):
        extract(store=store, **of_pixels(images, batch_size=4))
    with pytest.raises(IncompleteError, match="Resume it with"):
        store.select()
    masked = extract(store=store, **of_pixels(images, batch_size=4, on_error="mask"))
    assert masked.n_masked == 1
    assert masked.n_computed == 27 - 8
    selection = store.select()
    assert np.flatnonzero(~selection.valid).tolist() == [13]
    assert np.isnan(selection.memmap()[13]).all()
    assert np.isfinite(selection.memmap()[[12, 14]]).all()
    assert path.name in store.sets()[0].layer("stats").masked[0].error


def test_a_half_written_image_is_named_as_changed(images, store, monkeypatch):
    path = featstore.open_dataset("folder", images).paths[13]
    content = path.read_bytes()
    original = pipeline.feature_batches

    def cut(*args):
        path.write_bytes(content[: len(content) // 2])
        return original(*args)

    monkeypatch.setattr(pipeline, "feature_batches", cut)
    with pytest.raises(DatasetError, match=f"{path} was changed, or touched"):
        extract(store=store, **of_pixels(images))


def test_ctrl_c_keeps_finished_rows(extracted, store, small_chunks, monkeypatch):
    original = writer.FeatureWriter.add

    def interrupted(self, start, *rest):
        if start == 12:
            raise KeyboardInterrupt
        original(self, start, *rest)

    listener = Listener()
    settings = tiny(extracted.images, layers="fc,conv1")
    with monkeypatch.context() as patch:
        patch.setattr(writer.FeatureWriter, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            extract(store=store, progress=listener, **settings)
    assert "12 of 27 rows of fc, conv1 are kept." in listener.lines
    assert "27 rows of 1,064 features are 115 kB before compression" in listener.lines[0]
    resumed = extract(store=store, **settings | {"batch_size": None})
    assert resumed.n_computed == 27 - 12
    assert resumed.batch_size == 4, "a resumed pass keeps the batches that it began with"
    assert tree_bytes(Path(resumed.path)) == extracted.group


def test_two_at_once_compute_once(images, store, monkeypatch):
    started, release = threading.Event(), threading.Event()
    original = pipeline.run_pass
    n_passes = []

    def slow(*args, **kwargs):
        n_passes.append(1)
        started.set()
        release.wait(60)
        return original(*args, **kwargs)

    monkeypatch.setattr(pipeline, "run_pass", slow)
    lines, results = [], []

    class Releasing(Silent):
        def say(self, line):
            if "is being worked on" in line:
                lines.append(line)
                release.set()

    def work(progress):
        results.append(extract(store=store, progress=progress, **of_pixels(images)))

    first = threading.Thread(target=work, args=(Silent(),))
    first.start()
    assert started.wait(60)
    second = threading.Thread(target=work, args=(Releasing(),))
    second.start()
    for thread in (first, second):
        thread.join(60)
    assert len(n_passes) == 1
    assert sorted(r.n_computed for r in results) == [0, 27]
    assert "is being worked on by process" in lines[0]


def test_features_larger_than_the_free_disk_are_refused(images, store, monkeypatch):
    usage = shutil._ntuple_diskusage(10**9, 10**9 - 10**3, 10**3)
    monkeypatch.setattr(pipeline.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SpaceError, match="--pool avg"):
        extract(store=store, **of_pixels(images))


@pytest.fixture
def begun_on_cuda(images, store, monkeypatch):
    """Return an unfinished set whose journal says that it was begun on another device."""

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(writer.FeatureWriter, "finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            extract(store=store, **of_pixels(images))
    (feature_set,) = store.sets()
    path = feature_set.journal_path / "journal.json"
    journal = read_json(path)
    journal["layers"]["stats"]["numerics"]["device"] = "cuda"
    write_json(path, journal)
    return feature_set


def test_a_set_that_was_begun_on_another_device_is_not_mixed(images, store, begun_on_cuda):
    with pytest.raises(DeviceError, match="begun on cuda"):
        extract(store=store, **of_pixels(images))


@pytest.mark.parametrize("part", ["stats", "stats/c", "."])
def test_an_unfinished_layer_without_files_is_begun_again(
    part, images, store, begun_on_cuda, capsys, tmp_path
):
    shutil.rmtree(begun_on_cuda.group / part)
    address = ["--store", store.address]
    assert _run(["store", "show", begun_on_cuda.set_id, *address]) == 0
    assert (
        "its files are missing. Begin it again with: featstore extract" in capsys.readouterr().out
    )
    with pytest.raises(SystemExit):
        _run(["store", "verify", *address])
    said = capsys.readouterr().out
    assert "features.zarr/stats: all files of the unfinished layer are missing" in said
    assert "Repair with: featstore extract" in said
    assert (part == ".") == ("after: featstore store rm" in said)
    listener = Listener()
    assert extract(store=store, progress=listener, **of_pixels(images)).n_computed == 27
    assert [line for line in listener.lines if "missing; it is begun again" in line]
    assert verify_store(store).damages == []
    extract(store=tmp_path / "whole", **of_pixels(images))
    (whole,) = open_store(tmp_path / "whole").sets()
    assert tree_bytes(store.sets()[0].group) == tree_bytes(whole.group)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"dataset": "sat5"}, FeatstoreError),
        ({"root": "nowhere"}, DatasetError),
        ({"model": "resnet51"}, FeatstoreError),
        ({"layers": "conv99"}, FeatstoreError),
        ({"layers": ""}, ConfigError),
        ({"weights": "nothing.pth"}, FeatstoreError),
        ({"pool": "sum"}, ConfigError),
        ({"device": "cuda:31"}, DeviceError),
    ],
)
def test_a_mistake_is_answered_and_leaves_nothing(images, store, change, error):
    with pytest.raises(error):
        extract(store=store, **tiny(images) | change)
    assert store.sets() == []


def test_a_store_that_cannot_be_written_is_named(images, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file"):
        extract(store=tmp_path / "file", **of_pixels(images))


@pytest.mark.soak
@pytest.mark.parametrize(
    ("model", "file", "layers", "expected"),
    [
        ("mobilenet_v2", "mobilenet_v2-b0353104.pth", "classifier.1", 0.858),
        ("resnet50_v1", "resnet50_v1-imagenet.pth", "fc1000,pool5", 0.864),
    ],
)
def test_real_images_and_weights_reach_the_reference(store, model, file, layers, expected):
    """Accuracy of StandardScaler and LogisticRegression(C=0.01), published with the images."""
    data, weights = real_file("data/nwpu-resisc12"), real_file(f"weights/{file}")
    checkpoints = Path(os.environ["TORCH_HOME"]) / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    spec = str(weights)
    if model == "mobilenet_v2":
        shutil.copy(weights, checkpoints)
        spec = "imagenet"
    result = extract(model, "folder", root=str(data), weights=spec, layers=layers, store=store)
    assert result.n_computed == 1200
    accuracies = {}
    for layer in layers.split(","):
        (run,) = featstore.fit(store, "logreg", layers=layer)
        accuracies[layer] = run.metrics.test.accuracy
    assert accuracies[layers.split(",")[0]] == pytest.approx(expected, abs=0.015)
    if "pool5" in accuracies:
        assert accuracies["pool5"] == pytest.approx(0.886, abs=0.015)
