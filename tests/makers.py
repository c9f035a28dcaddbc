"""Functions with which tests make images and settings, and find real files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import rasterio
from PIL import Image

from featstore.config import FitConfig

if TYPE_CHECKING:
    from featstore.runs.run import Run

ROOT = Path(__file__).resolve().parent.parent
BACKBONE = {
    "model": "m",
    "weights": "none",
    "weights_name": "none",
    "weights_path": None,
    "weights_sha256": "none",
    "precision": "fp32",
}
"""What a set says of its network."""
PREPROCESS = {"image_size": 32, "bands": "red,green,blue", "resize": "none"}
LAYER_JOURNAL = {
    "chunks": {},
    "spool": None,
    "metadata": "0" * 64,
    "numerics": {"device": "cpu", "engine": "eager", "batch_size": 4, "nodes": ["conv1"]},
    "masked": {},
    "command": "featstore extract",
}
"""What a journal says of a layer that was just begun."""


def scores(n_classes: int) -> dict[str, object]:
    """Return the scores of one split, all 0."""
    row = {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}
    return {
        "n_samples": 0,
        "accuracy": 0.0,
        "average_accuracy": 0.0,
        "kappa": None,
        "majority_accuracy": 0.0,
        "per_class": [{"name": str(i), **row} for i in range(n_classes)],
        "confusion": [[0] * n_classes for _ in range(n_classes)],
    }


def run_record(
    class_names: Sequence[str], test_split: str = "test", **selection: object
) -> dict[str, object]:
    """Return what a fit gives write_run to write; `selection` replaces what it says of that."""
    spec = {
        "set_id": "set",
        "layer": "fc1000",
        "node": "fc1000",
        "pool": None,
        "batch_size": 1,
        "n_features": 1,
        "backbone": BACKBONE,
        "preprocess": PREPROCESS,
    }
    n_classes = len(class_names)
    return {
        "key": "0" * 64,
        "created": "now",
        "command": "featstore fit",
        "fit": FitConfig("logreg").to_dict(),
        "params": {},
        "search": None,
        "selection": {
            "dataset": "demo",
            "title": "demo",
            "model": "m",
            "layers": ["fc1000"],
            "weights": "none",
            "precision": "fp32",
            "n_samples": 1,
            "n_features": 1,
            "fingerprint": "0" * 64,
            "set_ids": ["set"],
            "features": [spec],
            "digest": "0" * 64,
            **selection,
        },
        "class_names": list(class_names),
        "rows": {
            "n_train": 0,
            "n_test": 0,
            "n_val": 0,
            "test_split": test_split,
            "n_masked": 0,
            "n_unlabelled": 0,
            "n_leaked": 0,
            "n_dropped": 0,
            "n_train_of_class": [0] * n_classes,
        },
        "n_constant_features": 0,
        "metrics": {
            "test": scores(n_classes),
            "val": None,
            "train": {"accuracy": 0.0, "n_samples": 0},
        },
        "score_kind": "probability",
        "converged": True,
        "solver": "none",
        "notes": [],
        "duration_s": {"total": 0.0},
        "peak_rss_nbytes": 0,
        "provenance": {
            "versions": {"scikit-learn": "0"},
            "machine": {"processor": "none", "n_cores": 1},
        },
    }


@dataclass
class Phase:
    """A phase of work, as a progress was told of it."""

    what: str
    total: int
    unit: str
    n_done: int = 0
    is_over: bool = False


class Listener:
    """A progress that keeps the lines and phases it was told, and holds that phases nest."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.phases: list[Phase] = []
        self._open: list[Phase] = []

    def named(self, what: str) -> list[Phase]:
        """Return the phases of one name."""
        return [phase for phase in self.phases if phase.what == what]

    def start(self, what: str, total: int, unit: str) -> None:
        """Keep a phase."""
        self.phases.append(Phase(what, total, unit))
        self._open.append(self.phases[-1])

    def advance(self, n: int) -> None:
        """Count in the phase that began last."""
        self._open[-1].n_done += n

    def stop(self) -> None:
        """End the phase that began last."""
        self._open.pop().is_over = True

    def say(self, line: str) -> None:
        """Keep a line."""
        self.lines.append(line)


def write_images(root: Path, n: int = 6, size: int = 40, seed: int = 0) -> Path:
    """Write train/ and test/ trees of three classes, n and n // 2 PNG files in each."""
    rng = np.random.default_rng(seed)
    colors = {"forest": (30, 90, 40), "sand": (200, 180, 120), "water": (20, 60, 150)}
    for split, count in (("train", n), ("test", n // 2)):
        for name, color in colors.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                noise = rng.normal(0, 30, (size, size, 3))
                pixels = np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{name}{i:02d}.png")
    return root


def tiny(root: Path, **options: object) -> dict[str, object]:
    """Return the settings of an extraction that takes a second."""
    settings: dict[str, object] = {
        "model": "resnet18",
        "dataset": "folder",
        "root": str(root),
        "weights": "random:0",
        "image_size": 32,
        "batch_size": 4,
        "precision": "fp32",
    }
    return settings | options


def of_pixels(root: Path, **options: object) -> dict[str, object]:
    """Return the settings of an extraction of pixel statistics, which takes less."""
    return {"model": "pixelstats", "dataset": "folder", "root": str(root), **options}


def tree_bytes(folder: Path) -> dict[str, bytes]:
    """Return every file's bytes below a folder, by relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def real_file(relative: str) -> Path:
    """Return a real image tree or weight file from beside the checkout, or skip the test.

    They are looked for in the folder that FEATSTORE_TEST_FILES names, and in those that lie
    beside the checkout.
    """
    folders = [Path(os.environ.get("FEATSTORE_TEST_FILES", ROOT)), *sorted(ROOT.parent.glob("*"))]
    for folder in folders:
        if (folder / relative).exists():
            return folder / relative
    pytest.skip(f"no real files here: {relative}")


def recorded(run: Run, record: dict[str, Any], run_id: str | None = None) -> Run:
    """Return a run with another record, and id."""
    path = run.path.with_name(run_id or run.run_id)
    return type(run).of(path, type(run.record).model_validate(record), run.backend)


def altered(
    run: Run,
    *,
    n_right: int | None = None,
    n_features: int | None = None,
    cv_accuracy: float | None = None,
    digest: str = "",
    selection: dict[str, Any] | None = None,
    preprocess: dict[str, Any] | None = None,
    rows: dict[str, Any] | None = None,
    created: str | None = None,
    **settings: Any,
) -> Run:
    """Return a run as if it had been asked for otherwise, and right on other test images.

    The first `n_right` of its test images are right, and the others wrong.
    """
    record = run.record.to_dict()
    for part in record["selection"]["features"]:
        part["preprocess"] |= preprocess or {}
    record["selection"]["digest"] += f"{digest}{preprocess}{rows}{selection}"
    record["selection"] |= selection or {}
    if n_features is not None:
        record["selection"]["n_features"] = n_features
    record["fit"] |= settings
    record["rows"] |= rows or {}
    record["created"] = created or record["created"]
    if cv_accuracy is not None:
        best = {"kind": "grid", "cv": 5, "seed": 0, "best": {}, "candidates": [], "deviation": 0.0}
        record["search"] = best | {"accuracy": cv_accuracy}
    told = f"{digest}{settings}{preprocess}{rows}{selection}{cv_accuracy}{n_right}{created}"
    name = f"{run.run_id}-{abs(hash(told)):016x}"
    n_test = record["rows"]["n_test"]
    if n_right is not None:
        for score in ("accuracy", "average_accuracy", "kappa"):
            record["metrics"]["test"][score] = n_right / n_test
    found = recorded(run, record, name)
    if n_right is not None:
        right = np.arange(n_test) < n_right
        vars(found)["predictions"] = {
            "sample_id": np.array([f"test/{i}" for i in range(n_test)]),
            "split": np.full(n_test, "test"),
            "true": np.full(n_test, "a"),
            "predicted": np.where(right, "a", "b"),
            "score": np.ones(n_test),
        }
    return found


PLACE = rasterio.Affine(10, 0, 500_000, 0, -10, 4_600_000)


def write_scene(path: Path, pixels: np.ndarray, **more: Any) -> str:
    """Write pixels, (bands, height, width), as a GeoTIFF."""
    settings = {"crs": "EPSG:32633", "transform": PLACE} | more
    masked = settings.pop("mask", None)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        count=pixels.shape[0],
        height=pixels.shape[1],
        width=pixels.shape[2],
        dtype=pixels.dtype,
        **settings,
    ) as raster:
        raster.write(pixels)
        if masked is not None:
            raster.write_mask(masked)
    return str(path)
