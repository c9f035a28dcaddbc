"""Training images in memory: read as ``extract`` reads them, divided, drawn and augmented."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from featstore.config import SPLITS, TASKS
from featstore.datasets.base import ArrayDataset, Dataset
from featstore.datasets.drawing import draw_groups, draw_split
from featstore.datasets.loader import batches
from featstore.errors import ImageError, TrainError
from featstore.models.preprocess import Preprocess
from featstore.progress import SILENT, Progress
from featstore.text import join_some, nbytes_text

FIT_SHARE = 0.9
"""Share of the training images that the network is fitted to; the others choose the epoch."""


READ_ROWS, READ_FILES = 1024, 64
"""Images that are read at a time, from arrays and from files."""


MEMORY_SHARE = 0.5
"""Share of the free memory that the images may take."""


N_TURNS = 8
"""Turns of a square image by quarters, and of its mirror image."""


@dataclass(frozen=True)
class TrainingRows:
    """The training rows of a dataset: those to fit a network to, and those held out.

    `rows` are (n,) increasing rows of the dataset, `y` (n,) their classes, counted from 0 without
    gaps, `class_names` the names of these; `is_fit` is (n,) bool.
    """

    rows: NDArray[np.int64]
    y: NDArray[np.int64]
    class_names: tuple[str, ...]
    is_fit: NDArray[np.bool_]


def choose_rows(dataset: Dataset, random_state: int, n_needed: int = 1) -> TrainingRows:
    """Return the training rows of a dataset, a tenth of each class held out; whole groups.

    `n_needed` is how many images of each class the network must be fitted to. Images that nothing
    can be learned from raise TrainError.
    """
    if dataset.task != TASKS[0]:
        raise TrainError(
            f"{dataset.title} has labels of {dataset.task}; networks are trained on images of one "
            "class each."
        )
    is_train = (dataset.splits == SPLITS.index("train")) & (dataset.labels >= 0)
    rows = np.flatnonzero(is_train)
    present, y = np.unique(dataset.labels[rows], return_inverse=True)
    names = tuple(dataset.class_names[label] for label in present.tolist())
    if len(names) < 2:
        found = f"all of the class {names[0]}" if names else "none with a class"
        raise TrainError(
            f"{dataset.title} has {len(rows):,} training images, {found}; a network needs two "
            "classes or more."
        )
    few = np.flatnonzero(np.bincount(y) < n_needed + 1)
    if few.size:
        raise TrainError(
            f"Some classes have fewer than {n_needed + 1} training images, and one of each is held "
            f"out: {join_some([names[c] for c in few])}. Add images, or remove the classes."
        )
    is_fit = _draw(dataset, rows, y, random_state)
    short = np.flatnonzero(np.bincount(y[is_fit], minlength=len(names)) < n_needed)
    if short.size:
        raise TrainError(
            f"The groups leave fewer than {n_needed} images to learn "
            f"{join_some([names[c] for c in short])} from. Choose smaller groups."
        )
    return TrainingRows(rows, y.astype(np.int64), names, is_fit)


def _draw(
    dataset: Dataset, rows: NDArray[np.int64], y: NDArray[np.int64], random_state: int
) -> NDArray[np.bool_]:
    if dataset.groups is None:
        ids = dataset.sample_ids
        drawn = draw_split([ids[row] for row in rows.tolist()], y, random_state, FIT_SHARE)
        return np.equal(drawn, 0)
    _, codes = np.unique(dataset.groups[rows], return_inverse=True)
    groups = codes.astype(np.int32)
    order = np.random.RandomState(random_state).permutation(int(groups.max()) + 1)
    is_fit = draw_groups(y, groups, order.tolist(), FIT_SHARE)
    if is_fit.all():
        raise TrainError(
            f"The {len(order)} groups of training images are too few to hold some out. Choose "
            "smaller groups."
        )
    return is_fit


def read_images(
    dataset: Dataset,
    rows: NDArray[np.int64],
    preprocess: Preprocess,
    progress: Progress = SILENT,
) -> torch.Tensor:
    """Return the images of rows, resized, (n, n_bands, image_size, image_size) uint8.

    Images that memory can't hold raise TrainError, one that can't be read ImageError.
    """
    size, n_bands = preprocess.image_size, len(preprocess.mean)
    shape = (len(rows), n_bands, size, size)
    nbytes, free = int(np.prod(shape)), psutil.virtual_memory().available
    if nbytes > MEMORY_SHARE * free:
        raise TrainError(
            f"{len(rows):,} images of {size} px and {n_bands} bands are {nbytes_text(nbytes)}, and "
            f"{nbytes_text(free)} of memory are free; they may take half. Use a smaller "
            "--image-size or a --limit."
        )
    pixels = torch.empty(shape, dtype=torch.uint8)
    chosen = dataset.subset(rows)
    step = READ_ROWS if isinstance(dataset, ArrayDataset) else READ_FILES
    min_size = preprocess.resized_size * 4 // 3
    progress.start("Reading images", len(rows), "images")
    try:
        for batch in batches(chosen, range(0, len(rows), step), step, "stop", min_size):
            n = batch.stop - batch.start
            pixels[batch.start : batch.stop] = preprocess(batch.groups, n, torch.device("cpu"))
            progress.advance(n)
    except ImageError as error:
        text = str(error).partition(" To go on without")[0]
        raise ImageError(f"{text} Remove it, or mend it, and train again.") from error
    finally:
        progress.stop()
    return pixels


def band_statistics(
    pixels: torch.Tensor, positions: torch.Tensor
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of each band of some images, for values from 0 to 1.

    `pixels` are (n, n_bands, h, w) uint8. The deviation of a constant band is a grey level.
    """
    means, deviations = [], []
    levels = torch.arange(256, dtype=torch.float64)
    for band in range(pixels.shape[1]):
        # Exact, whatever the number of threads.
        counts = torch.zeros(256, dtype=torch.int64)
        for at in torch.split(positions, READ_ROWS):
            counts += torch.bincount(pixels[at, band].flatten(), minlength=256)
        share = counts.double() / counts.sum()
        mean = float((share * levels).sum())
        variance = float((share * (levels - mean).square()).sum())
        means.append(mean / 255)
        deviations.append(max(variance**0.5, 1.0) / 255)
    return tuple(means), tuple(deviations)


def augment(images: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Return square images (n, n_bands, h, h), each turned by quarters, and mirrored from 4 on.

    `turns` are (n,) whole numbers from 0 to 7, the eight symmetries of a square.
    """
    turned = torch.empty_like(images)
    for turn in range(N_TURNS):
        chosen = (turns == turn).nonzero().flatten()
        part = torch.rot90(images[chosen], turn % 4, (2, 3))
        turned[chosen] = part.flip(3) if turn >= N_TURNS // 2 else part
    return turned


def draw_batches(n: int, batch_size: int, generator: torch.Generator) -> Sequence[torch.Tensor]:
    """Return the positions of each batch of an epoch; what is left over waits for another one."""
    order = torch.randperm(n, generator=generator)
    return torch.split(order[: n - n % batch_size], batch_size)


def draw_triplet_batches(
    y: torch.Tensor, n_classes: int, n_each: int, generator: torch.Generator
) -> Sequence[torch.Tensor]:
    """Return the positions of each batch of an epoch: `n_each` images of each of some classes.

    A class of fewer images gives some of them twice.
    """
    members = [(y == label).nonzero().flatten() for label in range(int(y.max()) + 1)]
    drawn = []
    for _ in range(max(1, len(y) // (n_classes * n_each))):
        batch = []
        for label in torch.randperm(len(members), generator=generator)[:n_classes].tolist():
            own = members[label]
            if len(own) < n_each:
                at = torch.randint(len(own), (n_each,), generator=generator)
            else:
                at = torch.randperm(len(own), generator=generator)[:n_each]
            batch.append(own[at])
        drawn.append(torch.cat(batch))
    return drawn
