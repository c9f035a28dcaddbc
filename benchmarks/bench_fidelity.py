"""The cost of half precision: features and accuracies compared with float32, on real images.

    python benchmarks/bench_fidelity.py --root IMAGES --model resnet50_v1 --weights FILE

IMAGES is a tree of class folders, best with train/ and test/ above them. For each precision,
featstore extracts and stores the features, and fits a logistic regression on the training images.
The cosine is the smallest one, over all images, of stored features with the float32 ones.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import click
import numpy as np
from results import save, table
from turns import Turn

import featstore
from featstore.cli import console
from featstore.extraction import Extraction
from featstore.models.devices import describe_device, resolve_device
from featstore.store.feature_store import FeatureStore, open_store

PRECISIONS = ("fp32", "auto", "bf16")
"""The precisions, the reference first."""


def least_cosine(X: np.ndarray, Y: np.ndarray) -> float:
    """Return the smallest cosine of a row of X with the same row of Y."""
    X, Y = X.astype(np.float64), Y.astype(np.float64)
    norms = np.linalg.norm(X, axis=1) * np.linalg.norm(Y, axis=1)
    # Beyond the ninth digit float64 rounds.
    return round(float(((X * Y).sum(axis=1) / norms).min()), 9)


def measure(store: FeatureStore, done: Extraction) -> tuple[np.ndarray, float]:
    """Return an extraction's features, and the test accuracy of a classifier on them."""
    features = store.get(done.set_id).matrix(done.layers[0]).read(0, done.n_images)
    (run,) = featstore.fit(store, "logreg", set_id=done.set_id, layers=done.layers[0], n_jobs=1)
    return features, run.metrics.test.accuracy


def compare(precisions: Sequence[str], store: FeatureStore, options: dict[str, Any]) -> list[Turn]:
    """Extract in each precision, and return a row for each."""
    rows: list[Turn] = []
    reference, accuracy = np.empty(0), 0.0
    for precision in precisions:
        done = featstore.extract(
            store=store, precision=precision, progress=console.Lines(console.say), **options
        )
        features, found = measure(store, done)
        if not rows:
            reference, accuracy = features, found
        rows.append(
            {
                "model": done.model,
                "precision": precision,
                "computed in": done.precision,
                "stored as": done.dtype,
                "engine": done.engine,
                "features": features.shape[1],
                "1 - cosine": 1 - least_cosine(features, reference),
                "test accuracy %": 100 * found,
                "points to fp32": 100 * (found - accuracy),
                # If auto is fp32, nothing is computed.
                "images/s": done.images_per_s or None,
            }
        )
    return rows


@click.command()
@click.option("--root", required=True, metavar="DIR", help="A tree of class folders.")
@click.option("--model", required=True, metavar="NAME")
@click.option("--weights", default="imagenet", show_default=True, metavar="SPEC")
@click.option("--layers", default="", metavar="NAME", help="[default: the feature layer]")
@click.option("--limit", type=int, metavar="N", help="Use N images.")
@click.option("--device", default="auto", show_default=True)
def main(root: str, model: str, weights: str, layers: str, limit: int | None, device: str) -> None:
    """Compare half precision with float32 on real images."""
    options = {
        "model": model,
        "dataset": "folder",
        "root": root,
        "weights": weights,
        "layers": layers or (),
        "limit": limit,
        "device": device,
    }
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        rows = compare(PRECISIONS, store, options)
        (first, *_) = store.sets()
        title = f"{first.n_samples:,} images of {first.facets.title}, logistic regression"
    table(rows, title)
    where = describe_device(resolve_device(device))
    label = "-".join([model, *layers.split(",")]) if layers else model
    save("fidelity", rows, title=title, device=where, label=label)


if __name__ == "__main__":
    main()
