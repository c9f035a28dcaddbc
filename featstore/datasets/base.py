"""Define what a dataset is: an ordered collection of images with labels and splits.

A :class:`Dataset` selects rows of a :class:`.Source`. All selections share the source, so that a
subset never copies the images.
"""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featstore.config import TASKS
from featstore.datasets.decode import DECODING, decode, image_shape
from featstore.datasets.drawing import spread
from featstore.datasets.image_bytes import ImageItem
from featstore.datasets.image_files import LeftOut
from featstore.datasets.reading import ALL, Range, Reading, sampled_range
from featstore.datasets.source import RGB, ArraySource, FileSource, Source
from featstore.errors import ConfigError, ImageError


class Dataset(ABC):
    """Rows of a source, in the source's order.

    Parameters
    ----------
    source : Source
        Reads the files.
    limit : int, optional
        Keep only this many samples, spread evenly over each class of each split; every one of these
        keeps at least one.
    """

    def __init__(self, source: Source, limit: int | None = None) -> None:
        self._source = source
        self._limit = limit
        self._picked: NDArray[np.int64] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.title!r}, {len(self):,} images)"

    @property
    def name(self) -> str:
        """The format: ``sat4``, ``sat6``, ``ucmerced``, ``folder`` or ``demo``."""
        return self._source.name

    @property
    def title(self) -> str:
        """The name for people: the format's, or for ``folder`` the root folder's."""
        return self._source.title

    @property
    def bands(self) -> tuple[str, ...]:
        """What each channel of an image is."""
        return self._source.bands

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; a label is a position among them."""
        return self._source.class_names

    @property
    def left_out(self) -> LeftOut:
        """What lies among the samples and is left out."""
        return self._source.left_out

    @property
    def notes(self) -> list[str]:
        """What people should know of how the files were read, as sentences."""
        return self._source.notes

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """The samples' rows of the source, increasing, shape (n_samples,)."""
        if self._picked is not None:
            return self._picked
        if self._limit is None:
            return np.arange(len(self._source.labels))
        return spread(self._source.labels, self._source.splits, self._limit)

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """Labels, shape (n_samples,); -1 where a sample has none."""
        return self._source.labels[self.rows]

    @property
    def task(self) -> str:
        """What a label is, one of :data:`featstore.config.TASKS`."""
        return self._source.task

    @property
    def target_names(self) -> tuple[str, ...]:
        """Names of the columns of `targets`; none of classification."""
        if self.task == TASKS[0]:
            return ()
        return self._source.target_names or self.class_names

    @cached_property
    def targets(self) -> NDArray[np.float32] | None:
        """Labels of other tasks than classification, shape (n_samples, n_targets), or None."""
        targets = self._source.targets
        return None if targets is None else targets[self.rows]

    @property
    def group_by(self) -> str:
        """What a group is, such as ``column scene``; empty without groups."""
        return self._source.group_by

    @cached_property
    def groups(self) -> NDArray[np.int32] | None:
        """Group of each sample, shape (n_samples,), or None."""
        groups = self._source.groups
        return None if groups is None else groups[self.rows]

    @property
    def places(self) -> NDArray[np.int32] | None:
        """Scene, row and column of the cell of each window of scenes, (n_samples, 3), or None."""
        return None

    def rows_by_class(self) -> dict[str, NDArray[np.int64]]:
        """Return the rows of each class, and those without one as ``no class``.

        A row with several classes is in each of them.
        """
        names, targets = self.class_names, self.targets
        if names and targets is not None:
            found = {name: np.flatnonzero(targets[:, i] == 1) for i, name in enumerate(names)}
            without = np.flatnonzero(~(targets == 1).any(axis=1))
        else:
            found = {name: np.flatnonzero(self.labels == i) for i, name in enumerate(names)}
            without = np.flatnonzero(self.labels < 0)
        return found | ({"no class": without} if len(without) else {})

    @cached_property
    def splits(self) -> NDArray[np.uint8]:
        """Splits, shape (n_samples,), as positions in :data:`featstore.config.SPLITS`."""
        return self._source.splits[self.rows]

    @cached_property
    def sample_ids(self) -> Sequence[str]:
        """Unique names of the samples, the same on every platform."""
        ids = self._source.sample_ids
        return ids if len(ids) == len(self) else [ids[row] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def files(self) -> Sequence[tuple[str, str | Path]]:
        """Return all source files as (stable relative name, path), sorted by name.

        A subset has the files of the whole, since they decide which rows it has.
        """
        return self._source.files()

    def identity(self) -> dict[str, Any]:
        """Return, as JSON-able values, what identifies this dataset beside its files' content.

        Loads nothing. It holds no absolute paths: the same files elsewhere are the same dataset.
        """
        identity = self._source.identity()
        if self._limit is not None:
            identity["limit"] = self._limit
        if self._picked is not None:
            identity["rows"] = hashlib.sha256(self._picked.astype("<i8").tobytes()).hexdigest()
        return identity

    def record_decoding(self, record: dict[str, Any]) -> dict[str, Any]:
        """Add the version of decoding to a record of settings, if the files are images."""
        return record

    @abstractmethod
    def shape(self, row: int) -> tuple[int, int]:
        """Return the height and width of one image, without decoding it if possible."""

    @abstractmethod
    def read(self, row: int, min_size: int | None = None) -> NDArray[np.uint8]:
        """Return one image, shape (H, W, C).

        Parameters
        ----------
        row : int
            The sample.
        min_size : int, optional
            Shortest side in pixels to which a reader may reduce the image; without it, the full
            image is read. See :func:`featstore.datasets.decode.decode`.

        Raises
        ------
        ImageError
            When it can't be decoded; names the file and the cause.
        """

    def subset(self, rows: NDArray[np.integer[Any]]) -> Self:
        """Return the dataset of some samples; it shares the source and copies no image.

        Parameters
        ----------
        rows : ndarray of int, shape (n,)
            Samples to keep, strictly increasing.

        Raises
        ------
        ConfigError
            When rows are not increasing, or are out of range.
        """
        rows = np.asarray(rows, np.int64)
        if rows.ndim != 1 or (np.diff(rows) <= 0).any():
            raise ConfigError("The rows of a subset must be strictly increasing.")
        if rows.size and not 0 <= rows[0] <= rows[-1] < len(self):
            raise ConfigError(
                f"A subset asks for rows {rows[0]} to {rows[-1]}; {self.title} has {len(self)}."
            )
        chosen = copy.copy(self)
        # Drops what the whole has cached of its own rows.
        chosen.__dict__ = {
            "_source": self._source,
            "_limit": self._limit,
            "_picked": self.rows[rows],
        } | {name: self.__dict__[name] for name in ("reading", "bands") if name in self.__dict__}
        return chosen


class ArrayDataset(Dataset):
    """Images of one shape in large arrays; reads blocks."""

    _source: ArraySource

    def __init__(self, source: ArraySource, limit: int | None = None) -> None:
        super().__init__(source, limit)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and number of bands."""
        return self._source.image_shape

    def shape(self, row: int) -> tuple[int, int]:
        """Return the height and width of all images."""
        return self.image_shape[:2]

    def read_block(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Return samples `start` to `stop`, shape (stop - start, H, W, C), C-contiguous."""
        return self._source.read_rows(self.rows[start:stop])

    def read(self, row: int, min_size: int | None = None) -> NDArray[np.uint8]:
        """Return one full image, shape (H, W, C)."""
        image: NDArray[np.uint8] = self.read_block(row, row + 1)[0]
        return image


class FileDataset(Dataset):
    """Images of any size, one in each file, or as bytes within larger files.

    `reading` says which bands are read, and how their values become bytes.
    """

    _source: FileSource

    def __init__(
        self, source: FileSource, limit: int | None = None, reading: Reading | None = None
    ) -> None:
        super().__init__(source, limit)
        self.reading = (reading or Reading()).numbered(source.file_bands)

    @cached_property
    def bands(self) -> tuple[str, ...]:
        """What each channel of an image is, as the first file says where bands were chosen."""
        if not self.reading.bands:
            return RGB
        if not (known := self._source.file_bands):
            return self.reading.band_names(self.paths[0])
        numbers = range(1, len(known) + 1) if self.reading.bands == (ALL,) else self.reading.bands
        return tuple(known[int(number) - 1][0] for number in numbers)

    def read_as(self, reading: Reading, bands: Sequence[str] = ()) -> Self:
        """Return the same images, read in another way; `bands` name what each must have."""
        other = copy.copy(self)
        known = {"bands": tuple(bands)} if bands else {}
        other.__dict__ = {k: v for k, v in self.__dict__.items() if k != "bands"} | known
        other.reading = reading.numbered(self._source.file_bands)
        return other

    @cached_property
    def paths(self) -> Sequence[ImageItem]:
        """Images of the samples."""
        paths = self._source.paths
        return paths if len(paths) == len(self) else [paths[row] for row in self.rows]

    def files_of(self, start: int, stop: int) -> list[Path]:
        """Return the files that hold the images of samples `start` to `stop`."""
        images = (self.paths[row] for row in range(start, stop))
        found = (image if isinstance(image, Path) else image.file for image in images)
        return list(dict.fromkeys(found))

    def record_decoding(self, record: dict[str, Any]) -> dict[str, Any]:
        """Add the version of decoding to a record of settings."""
        decode = [f"version {DECODING}", *([record["decode"]] if "decode" in record else [])]
        record = record | {"decode": "; ".join(decode)}
        if self.reading.is_default:
            return record
        return record | {"reading": self.reading.to_record() | {"names": list(self.bands)}}

    def sampled_range(self, low: float, high: float) -> tuple[Range, ...]:
        """Return, for each band, the values at two percentiles of the training images."""
        training = [path for path, i in zip(self.paths, self.splits, strict=True) if i == 0]
        return sampled_range(training or self.paths, self.reading, low, high)

    def shape(self, row: int) -> tuple[int, int]:
        """Return the height and width of one image."""
        path = self._source.paths[self.rows[row]]
        return image_shape(path) if self.reading.is_default else self.reading.shape(path)

    def read(self, row: int, min_size: int | None = None) -> NDArray[np.uint8]:
        """Return one image, shape (H, W, n_bands).

        Parameters
        ----------
        row : int
            The sample.
        min_size : int, optional
            Shortest side in pixels to which a large JPEG may be reduced: it is decoded at 1/2, 1/4
            or 1/8 of its size.

        Raises
        ------
        ImageError
            When it can't be decoded; names the file and the cause.
        """
        path = self._source.paths[self.rows[row]]
        if self.reading.is_default:
            return decode(path, min_size)
        image = self.reading.read(path)
        if image.shape[2] != len(self.bands):
            raise ImageError(
                f"{path}: holds {image.shape[2]} bands; expected {len(self.bands)} as of the other "
                f"images: {', '.join(self.bands)}."
            )
        return image
