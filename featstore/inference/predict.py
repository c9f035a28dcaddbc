"""Prediction: new images through a run's own backbone, layers and model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featstore.datasets.base import FileDataset
from featstore.datasets.formats.image_list import UnlabelledSource, find_images
from featstore.extraction.encode import Encoder
from featstore.fitting.evaluate import predict_blocks
from featstore.fitting.solvers.blocks import Samples
from featstore.io.fingerprints import FingerprintCache
from featstore.progress import SILENT, Progress
from featstore.runs.run import Run, open_run
from featstore.store.feature_store import FeatureStore, open_store


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
    opened = open_store(store, progress)
    run = run if isinstance(run, Run) else open_run(run, opened)
    model = run.load_model(trusted) if trusted else run.model
    dataset = FileDataset(UnlabelledSource(find_images(images)))
    cache = FingerprintCache(opened.cache_dir / "fingerprints")
    encoder = Encoder(run.selection.features, dataset.bands, device, cache, progress)
    predictions = []
    for block in encoder.blocks(dataset, "Predicting", progress):
        readable = block.readable
        judged = predict_blocks(model, Samples(block.X, np.flatnonzero(readable)))
        found = zip(judged.labels.tolist(), judged.scores.tolist(), strict=True)
        for row in range(block.start, block.stop):
            label, score = next(found) if readable[row - block.start] else (None, None)
            # A classifier of the user's may not say how sure it is.
            score = None if score is None or np.isnan(score) else score
            name = None if label is None else run.class_names[label]
            path, error = str(dataset.paths[row]), block.errors.get(row)
            predictions.append(Prediction(path, name, score, judged.score_kind, error))
    return predictions
