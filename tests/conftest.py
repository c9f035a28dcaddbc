"""What several tests need: images on disk, and stores with features of known structure."""

from __future__ import annotations

import functools
import gc
import io
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

# The libraries read these once, when they are loaded: below, and in the processes of the tests.
# Several pytest workers with a thread for each core would wait for each other.
for _name in ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMEXPR"):
    os.environ.setdefault(f"{_name}_NUM_THREADS", "1")

# What earlier tests found out about networks is not what these tests find out.
_cache = tempfile.TemporaryDirectory(prefix="featstore-tests-")
os.environ["FEATSTORE_CACHE"] = _cache.name

# Loading the tests' modules makes millions of objects, and none of them becomes garbage.
gc.disable()

import numpy as np
import pytest
from makers import BACKBONE, PREPROCESS, ROOT, of_pixels, real_file, tiny, write_images
from matplotlib.figure import Figure
from PIL import Image

from featstore.config import SPLITS
from featstore.environment import available_cores
from featstore.fitting.fit import fit
from featstore.io.files import json_digest
from featstore.runs import charts
from featstore.runs.run import Run
from featstore.store.creation import create_set
from featstore.store.feature_store import FeatureStore, open_store
from featstore.store.set_folder import SetFolder
from featstore.store.writer import FeatureWriter

MAX_WORKERS = 4
"""Most pytest workers: each holds torch and its data, up to 3 GB."""

CLASSES = ("barren land", "trees", "grassland", "none of these")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return the number of pytest workers of ``--numprocesses auto``."""
    return min(MAX_WORKERS, available_cores())


LONG = ("test_docs.py", "faults", "extraction", "fitting", "parallel", "models", "store", "cli")
"""Parts of tests that take longest, which begin first: no pytest worker ends with a long one."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let long tests begin first."""

    def rank(item: pytest.Item) -> int:
        part = item.path.relative_to(ROOT / "tests").parts[0]
        return LONG.index(part) if part in LONG else len(LONG)

    items.sort(key=rank)


def pytest_collection_finish() -> None:
    """Collect garbage from here on, and never look for it among what is loaded by now."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each pytest worker whole files, and one of them all tests that share a zygote."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = str(super()._split_scope(nodeid))
            # In a soak they are most of the tests.
            together = file.startswith("tests/faults/") and config.option.markexpr != "soak"
            return "tests/faults" if together else file

    return Scheduling(config, log) if config.option.dist == "loadfile" else None


@pytest.fixture(autouse=True, scope="session")
def _no_waiting_for_the_disk() -> Iterator[None]:
    """Leave out the wait for the disk: only a loss of power would show it, and no test has one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda fd: None)
        yield


_numbers = itertools.count()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's stores, data and downloaded weights out of the tests."""
    monkeypatch.delenv("FEATSTORE_STORE", raising=False)
    monkeypatch.delenv("FEATSTORE_DATA", raising=False)
    # pytest-xdist passes the terminal's width on to its workers.
    monkeypatch.delenv("COLUMNS", raising=False)
    # No test but the few that write there make this folder; tmp_path would be made for all.
    monkeypatch.setenv("TORCH_HOME", f"{_cache.name}/torch-home-{next(_numbers)}")


@pytest.fixture
def no_umap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let features be drawn by PCA; compiling UMAP takes longer than all else in a report."""
    from featstore.report import charts as report_charts

    monkeypatch.setattr(report_charts, "find_spec", lambda name: None)


@pytest.fixture
def blank_pictures() -> Iterator[None]:
    """Let figures be files without a drawing, which takes longer than all that leads to it."""
    with blank_figures():
        yield


@contextmanager
def blank_figures() -> Iterator[None]:
    """Let figures be blank meanwhile."""
    png = io.BytesIO()
    Image.new("RGB", (1, 1)).save(png, "png")
    svg = "<svg width='1' height='1'></svg>"

    def save(self: Figure, target: Any, *, format: str, **_: object) -> None:
        if isinstance(target, Path):
            target.write_bytes(png.getvalue() if format == "png" else svg.encode())
        else:
            target.write(png.getvalue() if format == "png" else svg)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw_confusion", "draw_curves", "draw_predicted", "draw_reliability"):
            patch.setattr(charts, name, lambda *_: Figure())
        patch.setattr(Figure, "savefig", save)
        yield


@pytest.fixture
def short_reports(blank_pictures: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let studies end in a page that says what was left out, and draws nothing."""
    from featstore.study import run as study

    def write(store: object, runs: object, out: Path, **options: Any) -> dict[str, Any]:
        out.parent.mkdir(exist_ok=True)
        out.write_text("<!doctype html>", encoding="utf-8")
        return {"left_out": options["left_out"]}

    monkeypatch.setattr(study, "write_report", write)


@pytest.fixture
def few_epochs() -> Iterator[None]:
    """Let classifiers be trained for a few epochs or steps, which start no workers."""
    with short_training():
        yield


@contextmanager
def short_training() -> Iterator[None]:
    """Let classifiers be trained for a few epochs or steps meanwhile."""
    from featstore.fitting import cost
    from featstore.fitting.solvers import epochs, triplet

    train, draw = epochs.train, triplet._draw_batches

    def train_a_little(*args: Any, n_epochs: int | None = None, **options: Any) -> Any:
        return train(*args, n_epochs=min(n_epochs or 3, 3), **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(epochs, "train", train_a_little)
        patch.setattr(cost, "N_EPOCHS", 3)
        patch.setattr(triplet, "_draw_batches", lambda labels, n, rng: draw(labels, 20, rng))
        patch.setattr(cost, "TRIPLET_S", 0.0)
        yield


@pytest.fixture
def small_inputs() -> Iterator[None]:
    """Let networks take images of 32 pixels where the weights say 224; AlexNet needs 64."""
    with small_networks():
        yield


@contextmanager
def small_networks() -> Iterator[None]:
    """Let networks take small images meanwhile."""
    from featstore.models import torchvision_source, weights

    find = torchvision_source.find_weights

    def find_small(model: str, *args: Any, **options: Any) -> weights.Weights:
        return replace(find(model, *args, **options), image_size=64 if model == "alexnet" else 32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchvision_source, "find_weights", find_small)
        yield


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Return a tree of 27 images: 18 to train on, 9 to test on."""
    return write_images(tmp_path / "my images")


NUMERICS = {"device": "cpu", "engine": "eager", "batch_size": 64, "nodes": []}


def blobs(
    n_samples: int, n_features: int, n_classes: int = 4, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return separable X, float32, and y, int32; every class comes round in turn."""
    rng = np.random.default_rng(seed)
    y = (np.arange(n_samples) % n_classes).astype(np.int32)
    centres = rng.normal(size=(n_classes, n_features)) * 1.5
    X = centres[y] + rng.normal(size=(n_samples, n_features))
    return X.astype(np.float32), y


def add_features(
    store: FeatureStore,
    layers: Mapping[str, np.ndarray],
    y: np.ndarray,
    splits: np.ndarray,
    *,
    model: str = "resnet50",
    dataset: str = "demo",
    title: str | None = None,
    class_names: tuple[str, ...] = CLASSES,
    masked: Mapping[int, str] | None = None,
    first_rows: np.ndarray | None = None,
    identity: Mapping[str, Any] | None = None,
    groups: np.ndarray | None = None,
    targets: np.ndarray | None = None,
    dataset_info: Mapping[str, Any] | None = None,
    **facets: Any,
) -> None:
    """Put one feature set into a store through the sink, as extraction does."""
    n_samples = len(y)
    facets = {
        "dataset": dataset,
        "title": title or dataset,
        "model": model,
        "weights": "random:0",
        "weights_names": ["random:0"],
        "bands": "rgb",
        "image_size": 224,
        "precision": "fp32",
        "dtype": "float32",
        "limit": None,
        "seed": 0,
        **facets,
    }
    info = {
        "identity": {"key": facets, "facets": facets},
        "dataset": {
            "n_samples": n_samples,
            "class_names": list(class_names),
            "fingerprint": json_digest([facets["title"], n_samples]),
            "identity": dict(identity or {}),
            **(dataset_info or {}),
        },
        "backbone": BACKBONE | {"model": model},
        "preprocess": PREPROCESS,
        "command": "featstore extract",
    }
    ids = [f"{SPLITS[s]}/{i:07d}" for i, s in enumerate(splits)]
    if first_rows is None:
        first_rows = np.arange(n_samples)
    feature_set = create_set(
        store, info, y, splits, ids, first_rows, groups=groups, targets=targets
    )
    write_layers(feature_set, layers, ids, masked)


def write_layers(
    feature_set: SetFolder,
    layers: Mapping[str, np.ndarray],
    ids: Sequence[str] = (),
    masked: Mapping[int, str] | None = None,
) -> None:
    """Write layers into a set through the sink, as extraction does."""
    n_samples, n_before = feature_set.n_samples, len(feature_set.layer_names())
    for layer, X in layers.items():
        feature_set.begin_layer(layer, X.shape[1], {})
    with FeatureWriter(feature_set, list(layers), NUMERICS, "x") as sink:
        sink.add(0, dict(layers), dict(masked or {}))
    records = {
        layer: {
            "n_features": X.shape[1],
            "default": n_before + i == 0,
            "request": {},
            "shape": [X.shape[1]],
            "names": [layer],
            "layer": layer,
            "node": layer,
            "pool": None,
            "dtype": "float32",
            "command": "featstore extract",
            "completed": f"2024-01-01T00:00:0{n_before + i}+00:00",
            "n_computed": n_samples,
            "duration_s": 2.0,
            "device": "cpu (2 threads)",
            "masked": [
                {"row": row, "sample_id": ids[row], "error": cause}
                for row, cause in (masked or {}).items()
            ],
        }
        for i, (layer, X) in enumerate(layers.items())
    }
    sink.finish(records)


def store_in(
    folder: Path,
    n_samples: int = 320,
    n_features: int = 20,
    *,
    splits: np.ndarray | None = None,
    y: np.ndarray | None = None,
    X: np.ndarray | None = None,
    **more: Any,
) -> FeatureStore:
    """Make a store with one set: 240 train rows, then 80 test rows, of 4 classes."""
    blob_X, blob_y = blobs(n_samples, n_features)
    if splits is None:
        splits = (np.arange(n_samples) >= n_samples * 3 // 4).astype(np.uint8)
    store = open_store(folder / "store")
    layers = more.pop("layers", None) or {"fc1000": blob_X if X is None else X}
    add_features(store, layers, blob_y if y is None else y, splits, **more)
    return store


TAGS = ("trees", "water", "cars", "never")


def tagged(folder: Path, **more: Any) -> FeatureStore:
    """Make a store whose images have several classes, one of them none has; row 7 has no label."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(320, 12)).astype(np.float32)
    z = X @ rng.normal(size=(12, 4)) + rng.normal(size=(320, 4))
    targets = (z > [0, 2, 4, 99]).astype(np.float32)
    targets[7] = np.nan
    info = {"task": "multilabel", "target_names": list(TAGS)}
    given = {"class_names": TAGS, "targets": targets, "dataset_info": info, "title": "tags"}
    return store_in(folder, X=X, y=np.full(320, -1, np.int32), **given | more)


def measured(folder: Path, **more: Any) -> FeatureStore:
    """Make a store whose images have a number each, but for row 7."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(320, 12)).astype(np.float32)
    targets = (X @ rng.normal(size=12) + rng.normal(size=320) + 100).astype(np.float32)[:, None]
    targets[7] = np.nan
    info = {"task": "regression", "target_names": ["height_m"]}
    given = {"class_names": (), "targets": targets, "dataset_info": info, "title": "heights"}
    return store_in(folder, X=X, y=np.full(320, -1, np.int32), **given | more)


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., FeatureStore]:
    """Make a store as :func:`store_in` does, in a folder of the test's own."""
    return functools.partial(store_in, tmp_path)


@pytest.fixture
def store(make_store: Callable[..., FeatureStore]) -> FeatureStore:
    """Return a store with one set."""
    return make_store()


@pytest.fixture
def run(store: FeatureStore) -> Run:
    """Return a run of the store's set."""
    return fit(store)[0]


@dataclass(frozen=True)
class Sample:
    """Images, the store with their features, and a run; shared by all tests, which change none."""

    images: Path
    store: FeatureStore
    run: Run

    def copy(self, folder: Path) -> FeatureStore:
        """Return a copy of the store that a test may change."""
        shutil.copytree(self.store.path, folder / "store")
        return open_store(folder / "store")


def _sample(folder: Path, settings: Callable[..., dict[str, object]], **more: object) -> Sample:
    from featstore.extraction.extract import extract

    images = write_images(folder / "my images")
    store = open_store(folder / "store")
    extract(store=store, **settings(images, **more))  # type: ignore[arg-type]
    with blank_figures():
        (run,) = fit(store, "logreg", layers="fc" if more else None, n_jobs=1)
    return Sample(images, store, run)


@pytest.fixture(scope="session")
def pixel_sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """Return 27 images, 9 of them to test on, with pixel statistics and a logistic regression."""
    return _sample(tmp_path_factory.mktemp("pixels"), of_pixels)


@pytest.fixture(scope="session")
def network_sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """Return the same with two layers of a small network, and a logistic regression on one."""
    return _sample(tmp_path_factory.mktemp("network"), tiny, layers="conv1,fc")


@pytest.fixture(scope="session")
def real_sample(tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """Return real aerial photographs, with features of real weights of 240 of them."""
    from featstore.extraction.extract import extract

    data, weights = real_file("data/nwpu-resisc12"), real_file("weights/mobilenet_v2-b0353104.pth")
    store = open_store(tmp_path_factory.mktemp("real") / "store")
    options = {"root": str(data), "weights": str(weights), "image_size": 96, "limit": 240}
    extract("mobilenet_v2", "folder", store=store, **options)
    with blank_figures():
        (run,) = fit(store, "logreg", n_jobs=1)
    return Sample(data, store, run)
