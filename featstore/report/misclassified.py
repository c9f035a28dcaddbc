"""Mistakes: the test images that a run was surest of and wrong about, and what they resemble."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from featstore.fitting.run_features import features_of
from featstore.fitting.splits import row_numbers
from featstore.inference.nearest_rows import nearest
from featstore.runs.run import Run
from featstore.store.feature_store import FeatureStore

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
        Its class.
    """

    row: int
    sample_id: str
    label: str


@dataclass(frozen=True)
class Mistake:
    """A test image that was taken for another class.

    Parameters
    ----------
    image : Example
    predicted : str
        The class that it was taken for.
    score : float
        How sure the run was of that: a probability, or the classifier's decision value.
    neighbors : tuple of Example
        The training images whose features are nearest, the nearest first.
    """

    image: Example
    predicted: str
    score: float
    neighbors: tuple[Example, ...]


def find_mistakes(
    store: FeatureStore, run: Run, n_mistakes: int = 8, n_neighbors: int = 3
) -> list[Mistake]:
    """Return the test images that a run got most wrong: the surest of its wrong answers.

    Parameters
    ----------
    store : FeatureStore
        Where the run's features are.
    run : Run
    n_mistakes : int
        How many at the most.
    n_neighbors : int
        Training images to show for each.

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
    X, ids, y, names = selection.memmap(), selection.sample_ids, selection.y, run.class_names
    found = run.predictions
    wrong = np.flatnonzero(found["true"] != found["predicted"])
    # NumPy's searchsorted finds wrong places among strings of variable width.
    row_of = {name: row for row, name in enumerate(ids.tolist())}
    rows = np.array([row_of[name] for name in found["sample_id"][wrong].tolist()], np.int64)
    # Validation rows stand among the predictions, too.
    is_test = np.isin(rows, row_numbers(split.test))
    wrong, rows = wrong[is_test], rows[is_test]
    # A classifier of the user's may not say how sure it is: then in the images' order.
    surest = np.argsort(-np.nan_to_num(found["score"][wrong], nan=0.0), kind="stable")
    wrong, rows = wrong[surest[:n_mistakes]], rows[surest[:n_mistakes]]
    if not len(wrong):
        return []
    near, _ = nearest(X, row_numbers(split.train), X[rows], n_neighbors)

    def example(row: int) -> Example:
        return Example(row, str(ids[row]), names[y[row]])

    return [
        Mistake(
            example(int(row)),
            str(found["predicted"][at]),
            float(found["score"][at]),
            tuple(example(int(one)) for one in own if one >= 0),
        )
        for row, at, own in zip(rows, wrong, near, strict=True)
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
