"""Find images that are nearly the same as a training image, by the distance of their features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from featstore.fitting.solvers.blocks import Samples
from featstore.fitting.splits import Split, row_numbers
from featstore.fitting.tasks import Task
from featstore.inference.familiarity import Familiarity
from featstore.progress import Progress
from featstore.store.selection import Selection

NEAR = 0.3
"""Share of the median distance between a training image and its nearest neighbor, up to which
another image is a near-copy. Measured on NWPU-RESISC45 with MobileNetV2's features.18, 60 images
each: a brighter, mirrored or strongly compressed image lies at 0.05, 0.18 and 0.22 of it (medians),
one without its border at 0.24, one without a fifth at 0.41; of 1,200 images one pair of two files
lies within 0.3, and shows the same trees."""


N_COMPONENTS = 128
"""Principal components in which the nearest image is looked for; it is then measured in all."""


@dataclass(frozen=True)
class NearCopy:
    """An image that is nearly the same as a training image.

    Parameters
    ----------
    sample_id, split, label : str
        The image, its split in the run, and its class.
    train_id, train_label : str
        The training image.
    distance : float
        1 less the cosine of their features, as a share of the median distance between a training
        image and its nearest neighbor.
    is_exact : bool
        Whether both are the same image, pixel by pixel.
    """

    sample_id: str
    split: str
    label: str
    train_id: str
    train_label: str
    distance: float
    is_exact: bool


def find_near_copies(
    selection: Selection, split: Split, kind: Task, progress: Progress
) -> list[NearCopy]:
    """Return test and validation images that are nearly a training image, the nearest first."""
    train, X = row_numbers(split.train), selection.memmap()
    familiarity = Familiarity.fit(Samples(X, train))
    if familiarity is None:
        return []
    limit = NEAR * familiarity.median_distance
    reference = familiarity.reference
    pca = PCA(min(N_COMPONENTS, *reference.shape), random_state=0).fit(reference)

    def reduced(samples: Samples, block: slice) -> np.ndarray:
        points: np.ndarray = pca.transform(familiarity.unit_rows(samples.take(block)))
        return points

    trained = Samples(X, train)
    points = np.concatenate([reduced(trained, block) for block in trained.blocks()])
    nearest = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(points)
    found: list[NearCopy] = []
    for use, rows in split.uses().items():
        if use == "train":
            continue
        samples, numbers = Samples(X, rows), row_numbers(rows)
        progress.start("Comparing with training images", len(samples), "images")
        try:
            for block in samples.blocks():
                gaps, at = nearest.kneighbors(reduced(samples, block))
                # Half the squared distance of rows of length 1 is 1 less their cosine, and no
                # projection makes it longer.
                near = np.flatnonzero(gaps[:, 0] ** 2 / 2 <= limit)
                pairs = zip(numbers[block][near], train[at[near, 0]], strict=True)
                found += _measured(selection, use, kind, familiarity, list(pairs))
                progress.advance(len(gaps))
        finally:
            progress.stop()
    near_enough = [one for one in found if one.distance <= NEAR]
    return sorted(near_enough, key=lambda one: (one.distance, one.sample_id))


def _measured(
    selection: Selection,
    use: str,
    kind: Task,
    familiarity: Familiarity,
    pairs: list[tuple[int, int]],
) -> Iterator[NearCopy]:
    """Yield pairs of a row and a training row with the distance of all their features."""
    X, ids, first = selection.memmap(), selection.sample_ids, selection.first_rows
    for row, other in pairs:
        one, two = familiarity.unit_rows(X[[row, other]])
        is_exact = bool(first[row] == first[other])
        distance = 0.0 if is_exact else max(0.0, 1 - float(one @ two))
        yield NearCopy(
            str(ids[row]),
            use,
            kind.label_text(selection, row) or "",
            str(ids[other]),
            kind.label_text(selection, other) or "",
            distance / familiarity.median_distance,
            is_exact,
        )
