"""Define what a source is: the files of one dataset, as its format reads them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.config import TASKS
from featstore.datasets.image_bytes import ImageItem
from featstore.datasets.image_files import LeftOut

RGB = ("red", "green", "blue")


RGB_NIR = (*RGB, "nir")


class Source(ABC):
    """The files of one dataset, as its format reads them; they load when they are needed.

    Attributes
    ----------
    name : str
        The format: ``sat4``, ``sat6``, ``ucmerced``, ``folder`` or ``demo``.
    title : str
        The name for people.
    task : str
        What a label is: one of :data:`featstore.config.TASKS`.
    target_names : tuple of str
        Names of the columns of `targets` where they are not the classes.
    group_by : str
        What a group is, such as ``column scene``; empty without groups.
    bands : tuple of str
        What each channel of an image is, such as ``("red", "green", "blue")``.
    file_bands : tuple of (tuple of str)
        Names of the bands of files that name none themselves, each with its other names.
    """

    name: str
    title: str
    bands: tuple[str, ...]
    task: str = TASKS[0]
    target_names: tuple[str, ...] = ()
    group_by: str = ""
    file_bands: tuple[tuple[str, ...], ...] = ()

    @property
    def left_out(self) -> LeftOut:
        """What lies among the samples and is left out."""
        return LeftOut()

    @property
    def notes(self) -> list[str]:
        """What people should know of how the files were read, as sentences."""
        return []

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; a label is a position among them."""

    @property
    @abstractmethod
    def labels(self) -> NDArray[np.int32]:
        """Labels, shape (n_samples,); -1 where a sample has none."""

    @property
    def targets(self) -> NDArray[np.float32] | None:
        """Labels of tasks other than classification, shape (n_samples, n_targets); NaN for none.

        With several classes an image, 1 for each class that it has and 0 for the others.
        """
        return None

    @property
    def strata(self) -> NDArray[np.integer[Any]]:
        """What a drawn split keeps the shares of, shape (n_samples,): by default the labels."""
        return self.labels

    @property
    def groups(self) -> NDArray[np.int32] | None:
        """Group of each sample from 0, shape (n_samples,), or None; a drawn split cuts none."""
        return None

    @property
    @abstractmethod
    def splits(self) -> NDArray[np.uint8]:
        """Splits, shape (n_samples,), as positions in :data:`featstore.config.SPLITS`."""

    @property
    @abstractmethod
    def sample_ids(self) -> Sequence[str]:
        """Unique names of the samples, the same on every platform."""

    @abstractmethod
    def files(self) -> Sequence[tuple[str, str | Path]]:
        """Return all source files as (stable relative name, path), sorted by name."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return, as JSON-able values, what identifies the dataset beside its files' content."""


class ArraySource(Source):
    """A source whose images have one shape and lie in a few large arrays."""

    image_shape: tuple[int, int, int]

    @abstractmethod
    def read_rows(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images of some rows, shape (len(rows), H, W, C), C-contiguous."""


class FileSource(Source):
    """A source with one image in each file, or as bytes within larger files."""

    @property
    @abstractmethod
    def paths(self) -> Sequence[ImageItem]:
        """Images of the samples, in the samples' order."""
