"""Base of sources that change what another source says of the same images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.datasets.image_bytes import ImageItem
from featstore.datasets.image_files import LeftOut
from featstore.datasets.source import FileSource


class WrappedSource(FileSource):
    """A source that says what another one says; subclasses change some of it."""

    def __init__(self, source: FileSource) -> None:
        self._source = source
        self.name, self.title = source.name, source.title
        self.bands, self.file_bands = source.bands, source.file_bands

    @property
    def task(self) -> str:  # type: ignore[override]
        """What a label is."""
        return self._source.task

    @property
    def target_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the columns of `targets` where they are not the classes."""
        return self._source.target_names

    @property
    def group_by(self) -> str:  # type: ignore[override]
        """What a group is."""
        return self._source.group_by

    @property
    def left_out(self) -> LeftOut:
        """What lies among the samples and is left out."""
        return self._source.left_out

    @property
    def notes(self) -> list[str]:
        """What people should know of how the files were read."""
        return self._source.notes

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self._source.class_names

    @property
    def labels(self) -> NDArray[np.int32]:
        """Labels, shape (n_samples,)."""
        return self._source.labels

    @property
    def targets(self) -> NDArray[np.float32] | None:
        """Labels of tasks other than classification, or None."""
        return self._source.targets

    @property
    def strata(self) -> NDArray[np.integer[Any]]:
        """What a drawn split keeps the shares of, shape (n_samples,)."""
        return self._source.strata

    @property
    def groups(self) -> NDArray[np.int32] | None:
        """Group of each sample, or None."""
        return self._source.groups

    @property
    def splits(self) -> NDArray[np.uint8]:
        """Splits, shape (n_samples,)."""
        return self._source.splits

    @property
    def sample_ids(self) -> Sequence[str]:
        """Unique names of the samples."""
        return self._source.sample_ids

    @property
    def paths(self) -> Sequence[ImageItem]:
        """Images of the samples."""
        return self._source.paths

    def files(self) -> Sequence[tuple[str, str | Path]]:
        """Return all source files."""
        return self._source.files()

    def identity(self) -> dict[str, Any]:
        """Return what identifies the dataset beside its files' content."""
        return self._source.identity()
