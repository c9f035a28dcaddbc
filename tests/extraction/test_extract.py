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
from makers import Listener, real_file, tiny, tree_bytes, write_images

import featstore
from featstore.cli.main import _run
from featstore.datasets.base import FileDataset
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
from featstore.extraction import extract as extraction
from featstore.extraction import pipeline
from featstore.extraction.extract import extract
from featstore.io.files import read_json, write_json
from featstore.models import backbone
from featstore.models.networks import build_network
from featstore.models.preprocess import Preprocess
from featstore.models.weights import IMAGENET_MEAN, IMAGENET_STD
from featstore.progress import Silent
from featstore.store import writer
from featstore.store.feature_store import open_store
from featstore.store.format import matrix


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "a store")


def normalised(pixels):
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels / 255 - mean) / std


@pytest.fixture
def small_chunks(monkeypatch):
    # Five rows of resnet18's 1000 features: no multiple of the batch of four.
    monkeypatch.setattr(matrix, "CHUNK_NBYTES", 4 * 1000 * 5)
    monkeypatch.setattr(writer, "CHECKPOINT_S", 0.0)


def test_the_images_size_is_recorded_and_decides_nothing(images, store):
    extract(store=store, **tiny(images))
    (feature_set,) = store.sets()
    assert feature_set.info.dataset.image_shape == (40, 40)
    info = read_json(feature_set.path / "set.json")
    del info["dataset"]["image_shape"]
    write_json(feature_set.path / "set.json", info)
    assert extract(store=store, **tiny(images)).n_computed == 0
    assert extract(store=store, **tiny(images, layers="conv1")).set_id == feature_set.set_id


def test_rows_are_what_the_network_gives_for_the_dataset_in_order(images, store):
    result = extract(store=store, **tiny(images))
    assert (result.n_images, result.n_computed, result.n_reused) == (27, 27, 0)
    assert result.layers == ["fc"]
    selection = store.select()
    dataset = featstore.open_dataset("folder", images)
    assert selection.sample_ids.tolist() == list(dataset.sample_ids)
    assert selection.y.tolist() == dataset.labels.tolist()
    assert selection.splits.tolist() == dataset.splits.tolist()
    network = build_network("resnet18", 32, seed=0)
    preprocess = Preprocess(32, "rgb", IMAGENET_MEAN, IMAGENET_STD)
    X = selection.memmap()
    for row in (0, 3, 4, 13, 26):
        image = preprocess(
            [(np.array([0]), dataset.read(row)[None].copy())], 1, torch.device("cpu")
        )
        with torch.inference_mode():
            expected = network(normalised(image))[0].numpy()
        np.testing.assert_allclose(X[row], expected, atol=1e-4)


def test_asked_again_nothing_is_built_or_read(images, store, monkeypatch):
    first = extract(store=store, **tiny(images))
    monkeypatch.setattr(
        sys.modules["featstore.models.networks"],
        "build_network",
        lambda *_, **__: pytest.fail("built"),
    )
    monkeypatch.setattr(FileDataset, "read", lambda *_: pytest.fail("read"))
    again = extract(store=store, **tiny(images, device="cpu", batch_size=9))
    assert (again.n_computed, again.n_reused) == (0, 27)
    assert again.path == first.path
    assert again.images_per_s == 0


def test_the_answer_comes_without_torch(images, store):
    extract(store=store, **tiny(images))
    code = (
        "import sys, json, featstore\n"
        f"r = featstore.extract(store={str(store.path)!r}, **json.loads(sys.argv[1]))\n"
        "print(r.n_reused, 'torch' in sys.modules)"
    )
    settings = json.dumps(tiny(images))
    done = subprocess.run([sys.executable, "-c", code, settings], capture_output=True, text=True)
    assert done.stdout.split() == ["27", "False"], done.stderr


def test_the_same_command_gives_the_same_bytes(images, tmp_path):
    groups = []
    for name in ("one", "two"):
        result = extract(store=tmp_path / name, **tiny(images))
        groups.append(tree_bytes(Path(result.path)))
    assert groups[0] == groups[1]


def test_another_layer_computes_only_what_is_missing(images, store, monkeypatch):
    extract(store=store, **tiny(images, layers="fc"))
    before = tree_bytes(store.sets()[0].group / "fc")
    read = []
    original = FileDataset.read
    monkeypatch.setattr(
        FileDataset, "read", lambda d, row, size: read.append(row) or original(d, row, size)
    )
    result = extract(store=store, **tiny(images, layers="fc,conv1,layer2"))
    assert result.layers == ["fc", "conv1", "layer2.1.relu_1"]
    assert sorted(read) == list(range(27))
    assert tree_bytes(store.sets()[0].group / "fc") == before
    assert len(store.sets()) == 1
    assert store.select(layers="conv1,layer2").n_features == 64 + 128
    assert extract(store=store, **tiny(images, layers="layer2")).n_computed == 0


def test_pooled_otherwise_is_another_matrix_of_the_same_set(images, store):
    extract(store=store, **tiny(images, layers="conv1"))
    result = extract(store=store, **tiny(images, layers="conv1", pool="max"))
    assert result.layers == ["conv1@max"]
    assert result.n_computed == 27
    assert len(store.sets()) == 1
    assert extract(store=store, **tiny(images, layers="conv1", pool="avg")).n_computed == 0


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "random:1"},
        {"image_size": 48},
        {"bands": "gray"},
        {"precision": "bf16"},
        {"limit": 12},
    ],
)
def test_whatever_changes_the_features_is_computed_anew(images, store, change):
    extract(store=store, **tiny(images))
    result = extract(store=store, **tiny(images) | change)
    assert result.n_computed == result.n_images > 0
    assert len(store.sets()) == 2


def test_a_changed_image_is_noticed_and_never_mixed(images, store):
    extract(store=store, **tiny(images))
    path = featstore.open_dataset("folder", images).paths[2]
    other = write_images(images.parent / "other", n=2, seed=9)
    shutil.copy(next(other.rglob("*.png")), path)
    assert extract(store=store, **tiny(images)).n_computed == 27
    assert len(store.sets()) == 2


def test_test_images_that_are_also_trained_on_are_counted(images, store):
    assert extract(store=store, **tiny(images)).n_leaked == 0
    shutil.copy(images / "train" / "sand" / "sand00.png", images / "test" / "sand" / "copy.png")
    shutil.copy(images / "train" / "sand" / "sand00.png", images / "train" / "sand" / "copy.png")
    shutil.copy(images / "test" / "water" / "water00.png", images / "test" / "water" / "copy.png")
    (images / "val" / "sand").mkdir(parents=True)
    shutil.copy(images / "train" / "water" / "water03.png", images / "val" / "sand")
    first = extract(store=store, **tiny(images))
    assert first.n_leaked == 2
    assert first.n_by_split == {"train": 19, "test": 11, "val": 1}
    again = extract(store=store, **tiny(images))
    assert (again.n_computed, again.n_leaked) == (0, 2)
    other_layer = extract(store=store, **tiny(images, layers="conv1"))
    assert (other_layer.n_computed, other_layer.n_leaked) == (31, 2)
    assert other_layer.to_dict()["n_leaked"] == 2
    dataset = featstore.open_dataset("folder", images)
    rows = store.get(first.set_id).first_rows
    found = {dataset.sample_ids[i]: dataset.sample_ids[rows[i]] for i in np.flatnonzero(rows < 31)}
    assert found["val/sand/water03.png"] == "train/water/water03.png"
    assert found["train/sand/sand00.png"] == "test/sand/copy.png"
    assert sum(name != first_name for name, first_name in found.items()) == 4


def test_of_fewer_images_only_those_are_compared(images, store):
    for path in (images / "train" / "sand").iterdir():
        shutil.copy(path, images / "test" / "sand")
    whole = extract(store=store, **tiny(images))
    assert whole.n_leaked == 6
    few = extract(store=store, **tiny(images, limit=12))
    dataset = featstore.open_dataset("folder", images, limit=12)
    files = [path.read_bytes() for path in dataset.paths]
    trained = {content for content, code in zip(files, dataset.splits, strict=True) if code == 0}
    tested = [content for content, code in zip(files, dataset.splits, strict=True) if code]
    assert few.n_leaked == sum(content in trained for content in tested) < 6


def test_masked_images_are_no_leak(images, store):
    for split in ("train", "test"):
        (images / split / "sand" / "cut.png").write_bytes(b"the same")
    masked = extract(store=store, **tiny(images, on_error="mask"))
    assert (masked.n_masked, masked.n_leaked) == (2, 0)
    assert extract(store=store, **tiny(images, on_error="mask")).n_leaked == 0


def test_the_command_tells_of_leaks(images, store, capsys):
    options = {k: v for k, v in tiny(images).items() if v is not None}
    words = [w for k, v in options.items() for w in (f"--{k.replace('_', '-')}", str(v))]
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
    extract(store=store, **tiny(images))
    renamed = images.rename(images.parent / "renamed")
    assert extract(store=store, **tiny(renamed)).n_computed == 0
    assert extract(store=store, **tiny(renamed, layers="conv1")).n_computed == 27
    assert len(store.sets()) == 1


def test_a_linked_folder_goes_by_the_links_name(images, store):
    link = images.parent / "linked"
    link.symlink_to(images, target_is_directory=True)
    extract(store=store, **tiny(link))
    assert store.select(dataset="linked").title == "linked"


def test_an_unreadable_image_stops_and_what_was_done_is_kept(images, store, small_chunks):
    path = featstore.open_dataset("folder", images).paths[13]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError, match=path.name):
        extract(store=store, **tiny(images))
    with pytest.raises(IncompleteError, match="Resume it with"):
        store.select()
    masked = extract(store=store, **tiny(images, on_error="mask"))
    assert masked.n_masked == 1
    assert masked.n_computed == 27 - 12
    selection = store.select()
    assert np.flatnonzero(~selection.valid).tolist() == [13]
    assert np.isnan(selection.memmap()[13]).all()
    assert np.isfinite(selection.memmap()[[12, 14]]).all()
    assert path.name in store.sets()[0].layer("fc").masked[0].error


def test_an_image_that_is_read_half_written_is_named_as_changed(images, store, monkeypatch):
    path = featstore.open_dataset("folder", images).paths[13]
    content = path.read_bytes()
    original = pipeline.feature_batches

    def cut(*args):
        path.write_bytes(content[: len(content) // 2])
        return original(*args)

    monkeypatch.setattr(pipeline, "feature_batches", cut)
    with pytest.raises(DatasetError, match=f"{path} was changed, or touched"):
        extract(store=store, **tiny(images))


def test_ctrl_c_keeps_what_was_computed(images, tmp_path, small_chunks, monkeypatch):
    unbroken = extract(store=tmp_path / "unbroken", **tiny(images))
    original = writer.FeatureWriter.add

    def interrupted(self, start, *rest):
        if start == 12:
            raise KeyboardInterrupt
        original(self, start, *rest)

    monkeypatch.setattr(writer.FeatureWriter, "add", interrupted)
    listener = Listener()
    with pytest.raises(KeyboardInterrupt):
        extract(store=tmp_path / "store", progress=listener, **tiny(images))
    assert "12 of 27 rows of fc are kept." in listener.lines
    assert "27 rows of 1,000 features are 108 kB before compression" in listener.lines[0]
    monkeypatch.undo()
    monkeypatch.setattr(matrix, "CHUNK_NBYTES", 4 * 1000 * 5)
    resumed = extract(store=tmp_path / "store", **tiny(images, batch_size=None))
    assert resumed.n_computed == 27 - 12
    assert resumed.batch_size == 4, "a resumed pass keeps the batches of the one that was begun"
    assert tree_bytes(Path(resumed.path)) == tree_bytes(Path(unbroken.path))


def test_two_at_once_compute_once(images, store, monkeypatch):
    started, release = threading.Event(), threading.Event()
    original = pipeline.run_pass
    n_passes = []

    def slow(*args, **kwargs):
        n_passes.append(1)
        started.set()
        release.wait(30)
        return original(*args, **kwargs)

    monkeypatch.setattr(pipeline, "run_pass", slow)
    lines, results = [], []

    class Releasing(Silent):
        def say(self, line):
            if "is being worked on" in line:
                lines.append(line)
                release.set()

    def work(progress):
        results.append(extract(store=store, progress=progress, **tiny(images)))

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


def test_what_cannot_fit_the_disk_is_refused_before_it_starts(images, store, monkeypatch):
    usage = shutil._ntuple_diskusage(10**9, 10**9 - 10**4, 10**4)
    monkeypatch.setattr(pipeline.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(SpaceError, match="--pool avg"):
        extract(store=store, **tiny(images))


def test_a_set_begun_on_another_device_is_not_mixed(images, store, small_chunks, monkeypatch):
    monkeypatch.setattr(
        writer.FeatureWriter, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        extract(store=store, **tiny(images))
    monkeypatch.undo()
    feature_set = store.sets()[0]
    from featstore.io.files import read_json, write_json

    path = feature_set.journal_path / "journal.json"
    journal = read_json(path)
    journal["layers"]["fc"]["numerics"]["device"] = "cuda"
    write_json(path, journal)
    with pytest.raises(DeviceError, match="begun on cuda"):
        extract(store=store, **tiny(images))


def test_a_value_that_is_not_finite_names_layer_and_image(images, store, monkeypatch):
    original = backbone.Backbone.__call__

    def broken(self, x):
        found = original(self, x)
        return {"fc": found["fc"] * torch.where(torch.arange(1000) == 7, float("inf"), 1.0)}

    monkeypatch.setattr(backbone.Backbone, "__call__", broken)
    with pytest.raises(FeatstoreError, match=r"Layer fc .*forest00\.png"):
        extract(store=store, **tiny(images))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"dataset": "sat5"}, FeatstoreError),
        ({"root": "nowhere"}, DatasetError),
        ({"model": "resnet51"}, FeatstoreError),
        ({"layers": "conv99"}, FeatstoreError),
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
        extract(store=tmp_path / "file", **tiny(images))


def test_provenance_is_kept_with_the_matrices(images, store):
    extract(store=store, **tiny(images))
    feature_set = store.sets()[0]
    record, info = feature_set.layer("fc"), feature_set.info
    assert record.versions["torch"] == torch.__version__.split("+")[0] or record.versions
    assert record.numerics.to_dict() == {
        "device": "cpu",
        "engine": "eager",
        "batch_size": 4,
        "nodes": ["fc"],
    }
    assert record.n_computed == 27
    assert record.duration_s > 0
    assert info.backbone.weights_sha256.startswith("random:0")
    assert info.preprocess.image_size == 32
    assert len(info.dataset.fingerprint) == 64


def test_python_and_config_are_one(images, store):
    config = featstore.config.ExtractConfig(**tiny(images) | {"layers": ("fc",)})
    assert extraction.run(config, store).n_computed == 27
    assert extract(store=store, **tiny(images, layers=["fc"])).n_computed == 0


@pytest.mark.parametrize(
    ("model", "file", "layers", "expected"),
    [
        ("mobilenet_v2", "mobilenet_v2-b0353104.pth", "classifier.1", 0.858),
        pytest.param(
            *("resnet50_v1", "resnet50_v1-imagenet.pth", "fc1000,pool5", 0.864),
            marks=pytest.mark.soak,
        ),
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
