"""Find the images of a dataset that trained the weights, and refuse to test on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from featstore.config import SPLITS
from featstore.errors import DatasetError, WeightsError
from featstore.extraction.spec import ExtractionSpec
from featstore.progress import Progress
from featstore.store.leaks import TrainedRows


def find_trained_rows(
    spec: ExtractionSpec, digests: np.ndarray, first_rows: np.ndarray, progress: Progress
) -> TrainedRows | None:
    """Return the rows whose images trained the weights; None if there are none.

    Test images among them raise DatasetError.
    """
    path = Path(spec.model.backbone["weights_path"] or "")
    if not path.is_file():
        return None
    # An answer from the store does without torch.
    from featstore.models.trained import read_trained

    if (known := read_trained(path)) is None:
        return None
    training, dataset = known.training, spec.images.dataset
    if training.network != spec.config.model:
        raise WeightsError(
            f"{path} holds weights of {training.network}, not of {spec.config.model}. Use --model "
            f"{training.network}."
        )
    mask = known.holds(digests)
    if not mask.any():
        return None
    rows = TrainedRows(mask, path.name, training.options)
    is_labelled = dataset.labels >= 0
    is_train = dataset.splits == SPLITS.index("train")
    tested = np.flatnonzero(~is_train & is_labelled)
    if wrong := rows.leak(first_rows, np.flatnonzero(is_train), tested):
        raise DatasetError(
            f"{wrong} They were trained on the training images of {training.dataset}, as divided "
            f"by extract {training.options}. Give the options of that split, or train on this one."
        )
    progress.say(f"{mask.sum():,} of {len(mask):,} images trained the weights {path.name}.")
    return rows
