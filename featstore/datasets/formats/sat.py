"""Read what the MATLAB and CSV files of SAT-4 and SAT-6 share.

They hold images of 28 x 28 pixels and four bands (red, green, blue, near infrared; uint8),
one-hot labels, and annotations that name the classes: Basu et al. 2015,
doi:10.1145/2820783.2820816.
"""

from __future__ import annotations

import re
import threading
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from featstore.datasets.source import RGB_NIR, ArraySource
from featstore.datasets.text_column import TextColumn
from featstore.errors import DatasetError

IMAGE_SHAPE = (28, 28, 4)


N_CLASSES = {"sat4": 4, "sat6": 6, "demo": 4}


class Pixels(Protocol):
    """Images that can be sliced along their first axis: an array, a memory map, an HDF5 dataset."""

    @property
    def shape(self) -> tuple[int, ...]: ...  # noqa: D102

    def __getitem__(self, rows: Any, /) -> Any: ...


class SatSource(ArraySource):
    """Training images in the file's order, then test images.

    `name` is ``sat4``, ``sat6``, or ``demo``, which has SAT-4's format.
    """

    bands = RGB_NIR
    image_shape = IMAGE_SHAPE

    def __init__(self, name: str) -> None:
        self.name = self.title = name
        self._n_classes = N_CLASSES[name]
        self._lock = threading.Lock()

    @abstractmethod
    def _read_labels(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Return the training and the test labels."""

    @abstractmethod
    def _read_class_names(self) -> tuple[str, ...]:
        """Return the names of the classes, from the annotations."""

    @abstractmethod
    def _open_pixels(self) -> tuple[Pixels, Pixels]:
        """Return the training and the test images, both as long as the labels."""

    @staticmethod
    @abstractmethod
    def _to_images(pixels: Any) -> Any:
        """View some of the pixels as (n, rows, columns, bands)."""

    @abstractmethod
    def _where(self) -> Path:
        """Return the file or folder that messages name."""

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the one-hot labels."""
        return self._read_class_names()

    @cached_property
    def _labels(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        train, test = self._read_labels()
        counts = np.bincount(np.concatenate([train, test]), minlength=self._n_classes)
        if empty := [self.class_names[i] for i in np.flatnonzero(counts == 0)]:
            raise DatasetError(f"{self._where()}: no image is of class {', '.join(empty)}.")
        return train, test

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """Labels, shape (n_samples,)."""
        return np.concatenate(self._labels)

    @cached_property
    def splits(self) -> NDArray[np.uint8]:
        """Splits, shape (n_samples,): train, then test."""
        train, test = self._labels
        return np.repeat(np.array([0, 1], np.uint8), [len(train), len(test)])

    @cached_property
    def sample_ids(self) -> Sequence[str]:
        """Names such as ``train/0000012``: split and position in the file, from 0."""
        return TextColumn(
            f"{split}/{i:07d}"
            for split, labels in zip(("train", "test"), self._labels, strict=True)
            for i in range(len(labels))
        )

    def identity(self) -> dict[str, Any]:
        """Return the dataset's name and its reader's version."""
        return {"dataset": self.name, "format": 1}

    @property
    def _pixels(self) -> tuple[Pixels, Pixels]:
        # Two threads must not load the same gigabyte.
        with self._lock:
            if "_opened" not in self.__dict__:
                self._opened = self._open_pixels()
            return self._opened

    def read_rows(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images of some rows, shape (len(rows), 28, 28, 4), C-contiguous."""
        train, test = self._pixels
        n_train = train.shape[0]
        border = int(np.searchsorted(rows, n_train))
        images = np.empty((len(rows), *IMAGE_SHAPE), np.uint8)
        try:
            for pixels, chosen, out in (
                (train, rows[:border], images[:border]),
                (test, rows[border:] - n_train, images[border:]),
            ):
                if len(chosen):
                    out[:] = self._to_images(pixels[_as_slice(chosen)])
        except OSError as error:
            raise DatasetError(f"{self._where()}: images can't be read: {error}.") from None
        return images


def _as_slice(rows: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """Turn increasing rows without gaps into a slice, which reads without a copy."""
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first + 1 == len(rows) else rows


def from_one_hot(rows: NDArray[Any], where: str) -> NDArray[np.int32]:
    """Turn one-hot rows, (n_samples, n_classes), into labels, (n_samples,) int32.

    `where` is the file, and the variable in it, that messages name.
    """
    is_one = rows == 1
    bad = np.flatnonzero((is_one.sum(axis=1) != 1) | ((rows != 0) != is_one).any(axis=1))
    if len(bad):
        found = " ".join(f"{value:g}" for value in rows[bad[0]])
        raise DatasetError(
            f"{where}: the label of image {bad[0] + 1} is [{found}], not one-hot "
            f"({len(bad)} of {len(rows)} are not)."
        )
    labels: NDArray[np.int32] = is_one.argmax(axis=1).astype(np.int32)
    return labels


def class_order(rows: Sequence[Sequence[Any]], n_classes: int, where: str) -> tuple[str, ...]:
    """Read the classes' names from annotations, in the order of the one-hot labels.

    Each row holds a class's name and its code, in either order. The code is a one-hot vector or a
    position (from 0 or 1), as numbers or as text such as ``[1 0 0 0]``. `where` is the file, and
    the variable in it, that messages name.
    """
    if len(rows) != n_classes:
        raise DatasetError(f"{where}: names {len(rows)} classes; expected {n_classes}.")
    codes, names = [], []
    for number, row in enumerate(rows, 1):
        numbers = [_code(cell, n_classes) for cell in row]
        texts = [str(cell).strip() for cell, code in zip(row, numbers, strict=True) if code is None]
        if len(texts) != 1 or len(texts) == len(row) or not texts[0]:
            raise DatasetError(
                f"{where}: row {number} is {list(row)!r}; expected a class's one-hot code or "
                "position, and its name."
            )
        names += texts
        codes.append([value for code in numbers for value in code or ()])
    positions = _positions(codes, n_classes)
    if positions is None or len(set(names)) != n_classes:
        raise DatasetError(
            f"{where}: codes {codes} and names {names} don't name each of {n_classes} classes once."
        )
    return tuple(names[positions.index(i)] for i in range(n_classes))


def _code(cell: Any, n_classes: int) -> list[int] | None:
    """Return the numbers in an annotation's cell, or None when it is a name."""
    if not isinstance(cell, str):
        values = np.ravel(cell)
        if values.dtype.kind not in "biuf":
            return None
        codes: list[int] = np.nan_to_num(values, nan=-1).astype(int).tolist()
        return codes
    if not re.fullmatch(r"[\[\](){}\s,;0-9]*[0-9][\[\](){}\s,;0-9]*", cell):
        return None
    numbers = re.findall(r"\d+", cell)
    if len(numbers) == 1 and len(numbers[0]) == n_classes:
        numbers = list(numbers[0])
    return [int(number) for number in numbers]


def _positions(codes: list[list[int]], n_classes: int) -> list[int] | None:
    """Return the class that each code means, or None when they don't mean each class once."""
    if all(len(code) == 1 for code in codes):
        positions = [code[0] for code in codes]
        first = min(positions)
        positions = [position - first for position in positions] if first in (0, 1) else []
    elif all(sorted(code) == [0] * (n_classes - 1) + [1] for code in codes):
        positions = [code.index(1) for code in codes]
    else:
        return None
    return positions if sorted(positions) == list(range(n_classes)) else None
