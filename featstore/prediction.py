"""Prediction: new images through a run's own backbone, layers and model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.blocks import Samples
from featstore.datasets.base import RGB, FileDataset, FileSource
from featstore.errors import DatasetNotFoundError
from featstore.images import IMAGE_SUFFIXES
from featstore.judgement import judge
from featstore.progress import SILENT, Progress
from featstore.provenance import FingerprintCache
from featstore.runs import Run, open_run
from featstore.store import FeatureStore, open_store


@dataclass(frozen=True)
class Prediction:
    """What a run says of one image.

    Parameters
    ----------
    path : str
        The image.
    label : str or None
        Name of the class; None when the image can't be read.
    score : float or None
        Of that class: a probability, or the decision value of a classifier that gives none.
    score_kind : str
        ``probability`` or ``decision value``.
    error : str or None
        Why the image can't be read.
    """

    path: str
    label: str | None
    score: float | None
    score_kind: str
    error: str | None = None


class _Images(FileSource):
    """Image files without labels."""

    name = title = "images"
    bands = RGB
    class_names = ()

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    @property
    def paths(self) -> Sequence[Path]:
        return self._paths

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        return np.full(len(self._paths), -1, np.int32)

    @cached_property
    def splits(self) -> NDArray[np.uint8]:
        return np.zeros(len(self._paths), np.uint8)

    @property
    def sample_ids(self) -> Sequence[str]:
        return [str(path) for path in self._paths]

    def files(self) -> list[tuple[str, Path]]:
        return [(str(path), path) for path in self._paths]

    def identity(self) -> dict[str, Any]:
        return {"name": self.name}


def find_images(places: Sequence[str | Path]) -> list[Path]:
    """Return the images that are named, and all that lie in the folders named, in order.

    Raises
    ------
    DatasetNotFoundError
        When a place is not there, or a folder holds no images.
    """
    found: list[Path] = []
    for place in map(Path, places):
        if place.is_dir():
            inside = sorted(
                (p for p in place.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()),
                key=lambda p: p.as_posix(),
            )
            if not inside:
                raise DatasetNotFoundError(f"{place} holds no image files.")
            found += inside
        elif place.exists():
            found.append(place)
        else:
            raise DatasetNotFoundError(f"{place} is not there; name an image or a folder of them.")
    return found


def predict(
    run: Run | str | Path,
    images: Sequence[str | Path],
    *,
    store: str | Path | FeatureStore = "feature-store",
    device: str = "auto",
    trusted: Sequence[str] = (),
    progress: Progress = SILENT,
) -> list[Prediction]:
    """Label new images with a run's model.

    They go through the same preprocessing, backbone and layers as the images that the model was
    trained on.

    Parameters
    ----------
    run : Run, str or Path
        A run, its name, or its folder.
    images : sequence of str or Path
        Images, or folders of images.
    store : str, Path or FeatureStore
        The store that the run lies in.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:i``.
    trusted : sequence of str
        Types of a classifier of the user's, as ``package.module.Class``. Their code is run.
    progress : Progress
        Told how it goes on.

    Returns
    -------
    list of Prediction
        One for each image, in order; one that can't be read has an error instead of a label.

    Raises
    ------
    DatasetNotFoundError
        When an image or folder is not there.
    RunError
        When there is no such run, or it can't be loaded.
    WeightsError
        When the weights that it was trained with are not to be had.
    """
    opened = store if isinstance(store, FeatureStore) else open_store(store)
    run = run if isinstance(run, Run) else open_run(run, opened)
    model = run.load_model(trusted) if trusted else run.model
    dataset = FileDataset(_Images(find_images(images)))
    cache = FingerprintCache(opened.cache_dir / "fingerprints")
    X, errors = _features(run, dataset, device, cache, progress)
    readable = np.isfinite(X).all(axis=1)
    judged = judge(model, Samples(X, np.flatnonzero(readable)))
    found = zip(judged.labels.tolist(), judged.scores.tolist(), strict=True)
    predictions = []
    for row, path in enumerate(dataset.paths):
        label, score = next(found) if readable[row] else (None, None)
        # A classifier of the user's may not say how sure it is.
        score = None if score is None or np.isnan(score) else score
        name = None if label is None else run.class_names[label]
        predictions.append(Prediction(str(path), name, score, judged.score_kind, errors.get(row)))
    return predictions


def _features(
    run: Run, dataset: FileDataset, device: str, cache: FingerprintCache, progress: Progress
) -> tuple[np.ndarray, dict[int, str]]:
    """Return X, (n_images, n_features) float32, NaN where an image can't be read, and why."""
    from featstore.passes import PassTimes, feature_batches
    from featstore.recipes import recorded_recipe

    specs = run.selection["features"]
    columns: dict[int, np.ndarray] = {}
    errors: dict[int, str] = {}
    passes: dict[tuple[str, str], list[int]] = {}
    for i, spec in enumerate(specs):
        passes.setdefault((spec["set_id"], spec["pool"] or "avg"), []).append(i)
    for (_, pool), parts in passes.items():
        recipe = recorded_recipe([specs[i] for i in parts], dataset.bands, device, cache, progress)
        extractor, layers = recipe.extractor, list(recipe.asked)
        batch_size = extractor.open(layers, len(dataset), None, progress)["batch_size"]
        dtypes = {layer.stored_name(pool): "float32" for layer in layers}
        blocks: list[dict[str, np.ndarray]] = []
        progress.start("Predicting", len(dataset), "images")
        try:
            starts = range(0, len(dataset), batch_size)
            found = feature_batches(
                dataset, extractor, dtypes, starts, batch_size, "mask", PassTimes()
            )
            for batch, rows in found:
                blocks.append(rows)
                errors |= batch.masked
                progress.advance(batch.stop - batch.start)
        finally:
            progress.stop()
        by_node = {layer.node: layer.stored_name(pool) for layer in layers}
        for i in parts:
            name = by_node[specs[i]["node"]]
            columns[i] = np.concatenate([block[name] for block in blocks])
    return np.concatenate([columns[i] for i in range(len(specs))], axis=1), errors
