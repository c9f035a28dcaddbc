"""Label new images with a run's backbone, layers and model."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import numpy as np

from featstore.datasets.base import FileDataset
from featstore.datasets.formats.image_list import UnlabelledSource
from featstore.extraction.encode import Block, Encoder
from featstore.fitting.evaluate import predict_blocks
from featstore.fitting.solvers.blocks import Samples
from featstore.inference.given_images import GivenImage, ImageFile, as_files
from featstore.io.fingerprints import FingerprintCache
from featstore.progress import Progress
from featstore.progress_bars import IN_NOTEBOOKS
from featstore.runs.run import Run, open_run
from featstore.store.feature_store import FeatureStore, open_store
from featstore.text import no_formula

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline


@dataclass(frozen=True)
class Prediction:
    """A run's label for one image.

    Parameters
    ----------
    path : str
        The image; of arrays and files without a name ``image 0``, ``image 1``, ...
    label : str or None
        Name of the class; None if the image can't be read.
    score : float or None
        The class's probability or decision value; None if the classifier gives neither.
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
    images: GivenImage | Iterable[GivenImage],
    *,
    store: str | Path | FeatureStore | None = None,
    device: str = "auto",
    trusted: Sequence[str] = (),
    progress: Progress = IN_NOTEBOOKS,
) -> list[Prediction]:
    """Label new images with a run's model.

    The images take the same preprocessing, backbone and layers as the model's training images.

    Parameters
    ----------
    run : Run, str or Path
        A run, its name, or its folder.
    images : str, Path, ndarray, PIL.Image.Image, binary file, or several of these
        Images, or folders of images. An array is (height, width) or (height, width, 3) uint8, or
        several of these stacked.
    store : str, Path or FeatureStore
        The store of the run.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:i``.
    trusted : sequence of str
        Types of your own classifier, as ``package.module.Class``. Their code is run.
    progress : Progress

    Returns
    -------
    list of Prediction
        One for each image, in order; an unreadable image has an error instead of a label.

    Raises
    ------
    ConfigError
        When an image is something else.
    DatasetNotFoundError
        When an image or folder does not exist, or a folder holds no images.
    RunError
        When the run is not found, or can't be loaded.
    WeightsError
        When the run's weights can't be had.
    """
    opened = open_store(store, progress)
    run = run if isinstance(run, Run) else open_run(run, opened)
    model = run.load_model(trusted) if trusted else run.model
    with as_files(images, progress) as files:
        dataset = FileDataset(UnlabelledSource([file.path for file in files]))
        cache = FingerprintCache(opened.cache_dir / "fingerprints")
        encoder = Encoder(run.selection.features, dataset, device, cache, progress)
        blocks = encoder.blocks("Predicting", progress)
        return [one for block in blocks for one in _predict_block(run, model, block, files)]


def write_csv(predictions: Iterable[Prediction], stream: TextIO) -> None:
    """Write predictions as CSV; no text in it is a formula to a spreadsheet."""
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["path", "class", "score", "score_kind", "error"])
    for one in predictions:
        score = "" if one.score is None else f"{one.score:.6g}"
        texts = [no_formula(text or "") for text in (one.path, one.label, one.error)]
        writer.writerow([texts[0], texts[1], score, one.score_kind, texts[2]])


def _predict_block(
    run: Run, model: Pipeline, block: Block, files: Sequence[ImageFile]
) -> Iterator[Prediction]:
    """Yield the labels of a block of images."""
    readable = block.readable
    predicted = predict_blocks(model, Samples(block.X, np.flatnonzero(readable)))
    found = zip(predicted.labels.tolist(), predicted.scores.tolist(), strict=True)
    for row in range(block.start, block.stop):
        label, score = next(found) if readable[row - block.start] else (None, None)
        # Your own classifier may give no score.
        score = None if score is None or np.isnan(score) else score
        name = None if label is None else run.class_names[label]
        error = block.errors.get(row)
        if error is not None:
            error = error.replace(str(files[row].path), files[row].name)
        yield Prediction(files[row].name, name, score, predicted.score_kind, error)
