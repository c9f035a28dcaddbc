"""Predict the labels of new images with a run's backbone, layers and model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.datasets.base import FileDataset
from featstore.datasets.formats.image_list import UnlabelledSource
from featstore.errors import ConfigError, SelectionError, StoreError
from featstore.extraction.encode import Block, Encoder
from featstore.extraction.feature_files import FeatureTable, open_features, side_by_side, table_of
from featstore.fitting.solvers.blocks import Samples
from featstore.fitting.tasks import find_task
from featstore.inference.familiarity import Familiarity, check_reject, familiarity_of
from featstore.inference.given_images import GivenImage, ImageFile, as_files
from featstore.inference.predictions import AnyPrediction, Maker, maker
from featstore.io.fingerprints import FingerprintCache
from featstore.progress import Progress
from featstore.progress_bars import IN_NOTEBOOKS
from featstore.runs.opening import open_run
from featstore.runs.run import Run
from featstore.store.feature_store import FeatureStore, open_store

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline


def predict(
    run: Run | str | Path,
    images: GivenImage | Iterable[GivenImage],
    *,
    store: str | Path | FeatureStore | None = None,
    device: str = "auto",
    threshold: float | None = None,
    familiarity: bool = True,
    reject: float = 0.0,
    trusted: Sequence[str] = (),
    progress: Progress = IN_NOTEBOOKS,
) -> list[AnyPrediction]:
    """Predict the labels of new images with a run's model.

    The images take the same preprocessing, backbone and layers as the model's training images.
    Scores are calibrated probabilities, if the run has a calibration; `score_kind` says so.

    Parameters
    ----------
    run : Run, str or Path
        A run, its name, or its folder.
    images : str, Path, ndarray, PIL.Image.Image, binary file, or several of these
        Images, or folders of images. An array is (height, width) or (height, width, 3) uint8, or
        several of these stacked. Of a run on imported features: files of features, or an array
        (n_samples, n_features).
    store : str, Path or FeatureStore
        The store of the run.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:i``.
    threshold : float, optional
        Score above which an image has a class, of a run with several classes; by default 0.5 of
        probabilities and 0 of decision values.
    familiarity : bool
        Whether to compare the images with the run's training images. An image's familiarity is the
        share of training images whose features are at least as far from their nearest neighbor as
        the image's are from the nearest training image. It needs the stored features of the run.
    reject : float
        Familiarity below which an image gets no label; 0.05 leaves out what is less familiar than
        95 % of the training images are to each other.
    trusted : sequence of str
        Types of your own classifier, as ``package.module.Class``. Their code is run.
    progress : Progress

    Returns
    -------
    list of Prediction, LabelsPrediction or NumberPrediction
        One for each image, in order, by the run's task; an unreadable image has an error instead of
        a label.

    Raises
    ------
    ConfigError
        When an image is something else, a threshold is given for another task, or `reject` is no
        share.
    DatasetNotFoundError
        When an image or folder does not exist, or a folder holds no images.
    RunError
        When the run is not found, or can't be loaded.
    SelectionError
        When `reject` is given and the store no longer has the run's features.
    WeightsError
        When the run's weights are missing.
    """
    opened = open_store(store, progress)
    run = run if isinstance(run, Run) else open_run(run, opened)
    make = maker(run, threshold)
    model = run.load_model(trusted) if trusted else run.model
    familiar = _familiarity(run, opened, familiarity=familiarity, reject=reject, progress=progress)
    labeller = _Labeller(run, model, make, familiar, reject)
    if run.selection.is_imported:
        return list(_predict_features(labeller, images))
    with as_files(images, progress) as files:
        dataset = FileDataset(UnlabelledSource([file.path for file in files]))
        cache = FingerprintCache(opened.cache_dir / "fingerprints")
        encoder = Encoder(run.selection.features, dataset, device, cache, progress)
        blocks = encoder.blocks("Predicting", progress)
        names = [file.name for file in files]
        return [one for block in blocks for one in labeller.label(_named(block, files), names)]


def _familiarity(
    run: Run, store: FeatureStore, *, familiarity: bool, reject: float, progress: Progress
) -> Familiarity | None:
    check_reject(reject)
    if not familiarity:
        if reject:
            raise ConfigError("--reject needs familiarity. Leave out --no-familiarity.")
        return None
    try:
        return familiarity_of(run, store)
    except (SelectionError, StoreError) as error:
        if reject:
            raise
        progress.say(f"How familiar the images are is unknown: {error}")
        return None


@dataclass(frozen=True)
class _Labeller:
    """What makes predictions of rows of features."""

    run: Run
    model: Pipeline
    make: Maker
    familiarity: Familiarity | None
    reject: float

    def label(self, block: Block, names: Sequence[str]) -> Iterator[AnyPrediction]:
        """Yield the predictions of a block of rows, which have these names."""
        readable = block.readable
        samples = Samples(block.X, np.flatnonzero(readable))
        predicted = find_task(self.run.task).predict(self.model, samples, self.run.calibrator)
        shares = None
        if self.familiarity is not None:
            shares = self.familiarity.of(block.X[readable]).tolist()
        at = iter(range(len(predicted.labels)))
        for row in range(block.start, block.stop):
            position = next(at) if readable[row - block.start] else None
            one = self.make(names[row], predicted, position, block.errors.get(row))
            if shares is not None and position is not None:
                one = replace(one, familiarity=shares[position])
                if shares[position] < self.reject:
                    one = one.unlabelled()
            yield one


def _named(block: Block, files: Sequence[ImageFile]) -> Block:
    """Return a block whose errors name images as the caller does."""
    errors = {
        row: error.replace(str(files[row].path), files[row].name)
        for row, error in block.errors.items()
    }
    return replace(block, errors=errors)


def _predict_features(labeller: _Labeller, given: Any) -> Iterator[AnyPrediction]:
    """Yield the predictions of rows of features, from files or an array."""
    run = labeller.run
    is_one = isinstance(given, str | Path | np.ndarray)
    tables = [
        open_features(one) if isinstance(one, str | Path) else table_of(one)
        for one in ([given] if is_one else given)
    ]
    widths = [part.n_features for part in run.selection.features]
    if len(widths) > 1 and [table.shape[1] for table in tables] == widths:
        yield from _predict_rows(labeller, side_by_side(tables))
        return
    for table in tables:
        if table.shape[1] != run.selection.n_features:
            parts = zip(run.selection.layers, widths, strict=True)
            expected = " and ".join(f"{width:,} of {name}" for name, width in parts)
            hint = ": give a file of each, in this order" * (len(widths) > 1)
            raise ConfigError(
                f"{table.name} has {table.shape[1]:,} features a row; {run.run_id} was trained on "
                f"{expected}{hint}."
            )
        yield from _predict_rows(labeller, table)


def _predict_rows(labeller: _Labeller, table: FeatureTable) -> Iterator[AnyPrediction]:
    ids = table.columns.get("id", np.arange(table.shape[0])).astype(str).tolist()
    start = 0
    for rows in table.float_blocks():
        stop = start + len(rows)
        lacking = np.flatnonzero(~np.isfinite(rows).all(axis=1)).tolist()
        errors = {start + row: "the row lacks features" for row in lacking}
        yield from labeller.label(Block(start, stop, rows, errors), ids)
        start = stop
