"""Synthetic features for measurements of stage two: of low rank, with noise.

Each block is made by itself and written at once, so the features may be as large as the disk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from featstore.config import SPLITS
from featstore.store.creation import create_set
from featstore.store.feature_store import FeatureStore, open_store
from featstore.store.writer import FeatureWriter

BLOCK_ROWS = 8192
MODEL = "synthetic"
NOISE = 0.1
"""Variance of the noise; the other variance is about 1."""

SEPARATION = 1.893
"""Distance of each class's centre from the origin, in deviations within the class. With four
centres at right angles, the best possible rule labels 80 % of rows right."""


@dataclass(frozen=True)
class Features:
    """Rows of four classes that differ in a few of many directions.

    Parameters
    ----------
    n_samples, n_features : int
    n_test : int
        Number of test rows, the last ones.
    seed : int
    """

    n_samples: int
    n_features: int
    n_test: int
    seed: int = 0

    n_classes = 4

    @property
    def rank(self) -> int:
        """Number of directions, whose variances fall as 1, 1/2, 1/3, ..."""
        return max(self.n_classes, min(200, self.n_features // 5))

    @property
    def nbytes(self) -> int:
        """Bytes of the matrix in float32."""
        return 4 * self.n_samples * self.n_features

    @property
    def y(self) -> np.ndarray:
        """Labels, (n_samples,) int32."""
        rng = np.random.default_rng([self.seed, 0])
        return rng.integers(0, self.n_classes, self.n_samples, dtype=np.int32)

    @property
    def splits(self) -> np.ndarray:
        """Splits, (n_samples,) uint8, positions in :data:`featstore.config.SPLITS`."""
        is_test = np.arange(self.n_samples) >= self.n_samples - self.n_test
        return is_test.astype(np.uint8) * SPLITS.index("test")

    def blocks(self, layer: int = 0) -> Iterator[tuple[int, np.ndarray]]:
        """Yield blocks of rows, (n, n_features) float32, each with its first row's number.

        Another layer has other features of the same rows.
        """
        y = self.y
        centres, directions, scale, mean = _mixing(self, layer)
        for number, start in enumerate(range(0, self.n_samples, BLOCK_ROWS)):
            rng = np.random.default_rng([self.seed, 1, layer, number])
            own = y[start : start + BLOCK_ROWS]
            hidden = rng.standard_normal((len(own), self.rank), dtype=np.float32) + centres[own]
            X = rng.standard_normal((len(own), self.n_features), dtype=np.float32)
            X *= np.float32(NOISE**0.5)
            X += hidden @ directions
            yield start, X * scale + mean


@cache
def _mixing(features: Features, layer: int) -> tuple[np.ndarray, ...]:
    """Return centres, directions, and the columns' deviations and means, all float32."""
    rng = np.random.default_rng([features.seed, 2, layer])
    rank, n_features = features.rank, features.n_features
    turned, _ = np.linalg.qr(rng.normal(size=(rank, rank)))
    variances = 1.0 / np.arange(1, rank + 1)
    directions = rng.normal(size=(rank, n_features))
    directions *= np.sqrt(variances / variances.sum())[:, None]
    scale = np.exp(rng.normal(scale=0.5, size=n_features))
    mean = np.abs(rng.normal(size=n_features))
    found = SEPARATION * turned[: features.n_classes], directions, scale, mean
    return tuple(array.astype(np.float32) for array in found)


def write_store(path: Path, features: Features, layers: Sequence[str] = ("layer1",)) -> None:
    """Write features into a new store block by block, as an extraction does."""
    facets = {
        "dataset": "folder",
        "title": "synthetic",
        "model": MODEL,
        "weights": "random:0",
        "weights_names": ["random:0"],
        "bands": "rgb",
        "image_size": 224,
        "precision": "fp32",
        "dtype": "float32",
        "limit": None,
        "seed": features.seed,
    }
    splits = features.splits
    info = {
        "identity": {"key": facets, "facets": facets},
        "dataset": {
            "n_samples": features.n_samples,
            "class_names": [f"class {i}" for i in range(features.n_classes)],
            "fingerprint": f"synthetic {features.n_samples} {features.seed}",
            "identity": facets,
        },
        "backbone": {
            "model": MODEL,
            "weights": facets["weights"],
            "weights_name": facets["weights"],
            "weights_path": None,
            "weights_sha256": "none",
            "precision": facets["precision"],
        },
        "preprocess": {
            "image_size": facets["image_size"],
            "bands": "red,green,blue",
            "resize": "none",
        },
        "command": "",
    }
    ids = [f"{SPLITS[split]}/{row:07d}" for row, split in enumerate(splits)]
    rows = np.arange(features.n_samples)
    feature_set = create_set(open_store(path), info, features.y, splits, ids, rows)
    for layer in layers:
        feature_set.begin_layer(layer, features.n_features, {})
    numerics = {"device": "cpu", "engine": "synthetic", "batch_size": BLOCK_ROWS}
    with FeatureWriter(feature_set, list(layers), numerics, "") as sink:
        for blocks in zip(*(features.blocks(i) for i in range(len(layers))), strict=True):
            start = blocks[0][0]
            named = {layer: X for layer, (_, X) in zip(layers, blocks, strict=True)}
            sink.add(start, named, {})
    records = {
        layer: {
            "request": {},
            "shape": [features.n_features],
            "n_features": features.n_features,
            "n_computed": features.n_samples,
            "duration_s": 0.0,
            "device": "cpu",
            "default": number == 0,
            "names": [layer],
            "layer": layer,
            "node": layer,
            "pool": None,
            "dtype": "float32",
            "command": "",
            "completed": f"2024-01-01T00:00:{number:02d}+00:00",
            "masked": [],
        }
        for number, layer in enumerate(layers)
    }
    sink.finish(records)


def decode(store: FeatureStore) -> None:
    """Decode all layers of a store into its cache, so that the first fit does not have to."""
    for feature_set in store.sets():
        for layer in feature_set.layers():
            store.reopen([(feature_set.set_id, layer)]).memmap()


def write_arrays(folder: Path, features: Features, layers: Sequence[str] = ("layer1",)) -> None:
    """Write the same features as ``X-{layer}.npy``, ``y.npy``, and ``n_train.npy``."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "y.npy", features.y)
    np.save(folder / "n_train.npy", features.n_samples - features.n_test)
    for number, layer in enumerate(layers):
        shape = features.n_samples, features.n_features
        path = folder / f"X-{layer}.npy"
        X = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        for start, block in features.blocks(number):
            X[start : start + len(block)] = block
        X.flush()
