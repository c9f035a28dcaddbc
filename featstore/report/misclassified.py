"""Mistakes: the test images that a run was surest of and wrong about, and what they resemble."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from featstore.fitting.run_features import features_of
from featstore.fitting.splits import row_numbers
from featstore.fitting.tasks import find_task
from featstore.inference.nearest_rows import nearest
from featstore.runs.run import Run
from featstore.store.feature_store import FeatureStore

N_MISTAKES, N_NEIGHBORS = 8, 3
"""Images that are shown at the most, and training images beside each."""


THUMBNAIL_PX = 144
"""Longer side of a picture in a page; twice of what it is shown at, for dense screens."""


@dataclass(frozen=True)
class Example:
    """A stored image.

    Parameters
    ----------
    row : int
    sample_id : str
    label : str
        Its class, its classes, or its number.
    """

    row: int
    sample_id: str
    label: str


@dataclass(frozen=True)
class Mistake:
    """A test image that was taken for another class, for other classes, or for another number.

    Parameters
    ----------
    image : Example
    predicted : str
        What it was taken for.
    score : float
        How sure the run was of that: a probability, or the classifier's decision value; of several
        classes that of the surest wrong one, NaN of a number.
    neighbors : tuple of Example
        The training images whose features are nearest, the nearest first.
    """

    image: Example
    predicted: str
    score: float
    neighbors: tuple[Example, ...]


def find_mistakes(store: FeatureStore, run: Run) -> list[Mistake]:
    """Return the test images that a run got most wrong, :data:`N_MISTAKES` at the most.

    They are the surest of its wrong answers, or the numbers farthest from the true ones.

    Parameters
    ----------
    store : FeatureStore
        Where the run's features are.
    run : Run

    Returns
    -------
    list of Mistake
        The surest first; empty when the run made none.

    Raises
    ------
    SelectionError, IncompleteError, CorruptionError
        When the features are not there any more, or are damaged.
    RunError
        When the run is damaged.
    """
    selection, split = features_of(run, store)
    X, ids, task = selection.memmap(), selection.sample_ids, find_task(run.task)
    # NumPy's searchsorted finds wrong places among strings of variable width.
    row_of = {name: row for row, name in enumerate(ids.tolist())}
    all_rows = np.array([row_of[name] for name in run.predictions["sample_id"].tolist()], np.int64)
    # Validation rows stand among the predictions, too.
    is_test = np.isin(all_rows, row_numbers(split.test))
    worst = run.scoring.worst(run, np.flatnonzero(is_test))[:N_MISTAKES]
    if not worst:
        return []
    rows = all_rows[[one.at for one in worst]]
    near, _ = nearest(X, row_numbers(split.train), X[rows], N_NEIGHBORS)

    def example(row: int) -> Example:
        return Example(row, str(ids[row]), task.label_text(selection, row) or "")

    return [
        Mistake(
            example(int(row)),
            wrong.predicted,
            wrong.score,
            tuple(example(int(one)) for one in own if one >= 0),
        )
        for row, wrong, own in zip(rows, worst, near, strict=True)
    ]


def thumbnail_uri(image: np.ndarray) -> str:
    """Return an image as a ``data:`` address, made smaller where it is large.

    Parameters
    ----------
    image : ndarray of shape (height, width, 3), uint8
    """
    picture = Image.fromarray(image)
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    # Few pixels want every one kept; JPEG is the smaller for the others.
    form = "PNG" if max(picture.size) <= 64 else "JPEG"
    picture.save(stream, form, quality=82)
    text = base64.b64encode(stream.getvalue()).decode()
    return f"data:image/{form.lower()};base64,{text}"
