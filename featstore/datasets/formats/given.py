"""Take images from a caller's arrays or files, with labels that the caller gives."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from featstore.config import SPLITS
from featstore.datasets.drawing import TRAIN_FRACTION, draw_split
from featstore.datasets.source import RGB, RGB_NIR, ArraySource, FileSource, Source
from featstore.errors import DatasetError
from featstore.io.files import json_digest

NAME = "images"
"""The format's name in a store; nothing opens it again."""


class _Given(Source):
    """Labels and splits of given images; without splits, 70 % of each class are for training."""

    name = NAME

    def __init__(
        self,
        title: str,
        sample_ids: Sequence[str],
        labels: ArrayLike | None,
        splits: ArrayLike | None,
        seed: int,
    ) -> None:
        self.title = title or NAME
        self._ids = _checked_ids(sample_ids)
        self._names = _checked_labels(labels, len(self._ids))
        self._given_splits = None if splits is None else _checked_splits(splits, len(self._ids))
        self.seed = seed

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, sorted; numbers by value."""
        if self._names is None:
            return ()
        return tuple(str(name) for name in np.unique(self._names).tolist())

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """Labels, shape (n_samples,); -1 without labels."""
        if self._names is None:
            return np.full(len(self._ids), -1, np.int32)
        return np.unique(self._names, return_inverse=True)[1].astype(np.int32)

    @cached_property
    def splits(self) -> NDArray[np.uint8]:
        """Splits, shape (n_samples,), given or drawn; all train without labels."""
        if self._given_splits is not None:
            return self._given_splits
        if self._names is None:
            return np.zeros(len(self._ids), np.uint8)
        return draw_split(self._ids, self.labels, self.seed)

    @property
    def sample_ids(self) -> Sequence[str]:
        """Names of the samples."""
        return self._ids

    def identity(self) -> dict[str, Any]:
        """Return what tells this apart beside the files: ids, labels and splits."""
        rows = [self._ids, list(self.class_names), self.labels.tolist(), self.splits.tolist()]
        identity: dict[str, Any] = {"dataset": NAME, "format": 1, "rows": json_digest(rows)}
        if self._given_splits is None and self._names is not None:
            identity["split"] = {"train_fraction": TRAIN_FRACTION, "seed": self.seed}
        return identity


class GivenRows(_Given):
    """Samples without images: ids, labels and splits."""

    bands = ()

    def files(self) -> list[tuple[str, str | Path]]:
        """Return no files."""
        return []


class GivenArray(_Given, ArraySource):
    """Images in one array, (n_samples, height, width, n_bands) uint8."""

    def __init__(self, pixels: NDArray[np.uint8], *args: Any) -> None:
        super().__init__(*args)
        self._pixels = pixels
        self.image_shape = pixels.shape[1:]
        known = {3: RGB, 4: RGB_NIR}
        n_bands = pixels.shape[3]
        self.bands = known.get(n_bands) or tuple(str(i + 1) for i in range(n_bands))

    def read_rows(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images of some rows."""
        return np.ascontiguousarray(self._pixels[rows])

    def files(self) -> list[tuple[str, str | Path]]:
        """Return no files."""
        return []

    def identity(self) -> dict[str, Any]:
        """Return what tells this apart: pixels, ids, labels and splits."""
        return super().identity() | {"pixels": array_sha256(self._pixels)}


class GivenFiles(_Given, FileSource):
    """Images in one file each."""

    bands = RGB

    def __init__(self, paths: Sequence[Path], *args: Any) -> None:
        super().__init__(*args)
        self._paths = paths

    @property
    def paths(self) -> Sequence[Path]:
        """Files of the samples."""
        return self._paths

    def files(self) -> list[tuple[str, str | Path]]:
        """Return the images, sorted by their names."""
        return sorted(zip(self._ids, self._paths, strict=True))


def given_source(
    images: Any,
    *,
    labels: ArrayLike | None = None,
    splits: ArrayLike | None = None,
    sample_ids: Sequence[str] | None = None,
    title: str = "",
    seed: int = 0,
) -> GivenArray | GivenFiles:
    """Return the source of images in memory or in files.

    Parameters
    ----------
    images : ndarray or sequence
        (n_samples, height, width, n_bands) or (n_samples, height, width) uint8, or a sequence of
        such arrays of one shape, or of paths.
    labels : array-like, optional
        Class of each image, a name or a whole number.
    splits : sequence of str, optional
        ``train``, ``test`` or ``val`` for each image; without them, they are drawn by class.
    sample_ids : sequence of str, optional
        Unique names; by default the paths, or ``image 0``, ``image 1``, ...

    Raises
    ------
    DatasetError
        When these do not fit together, or an image is none.
    """
    if isinstance(images, str | Path):
        raise DatasetError(
            f"images is {str(images)!r}; give a list of files or arrays. A folder is a dataset: "
            "featstore.extract(model, folder)."
        )
    given = images if isinstance(images, np.ndarray) else list(images)
    if len(given) == 0:
        raise DatasetError("images is empty; give one or more.")
    paths = None
    if not isinstance(given, np.ndarray) and isinstance(given[0], str | Path):
        paths = [_checked_path(path) for path in given]
    ids = [str(one) for one in sample_ids] if sample_ids is not None else None
    if ids is None:
        ids = [f"image {i}" for i in range(len(given))] if paths is None else list(map(str, paths))
    if len(ids) != len(given):
        raise DatasetError(f"{len(ids):,} sample_ids are given for {len(given):,} images.")
    more = (title, ids, labels, splits, seed)
    return GivenArray(stacked(given), *more) if paths is None else GivenFiles(paths, *more)


def stacked(images: Any) -> NDArray[np.uint8]:
    """Return images as one array, (n_samples, height, width, n_bands) uint8."""
    expected = "expected (n_samples, height, width) or (n_samples, height, width, n_bands) uint8"
    shapes = Counter(np.shape(image) for image in images)
    if len(shapes) > 1:
        found = " and ".join(map(str, [*shapes][:2]))
        raise DatasetError(
            f"The images have shapes such as {found}; an array holds images of one shape. Give "
            "files, or resize them."
        )
    pixels = np.asarray(images)
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or not pixels.size:
        hint = " Scale the values to bytes." if pixels.dtype.kind in "iuf" else ""
        raise DatasetError(
            f"images is an array of shape {pixels.shape} of {pixels.dtype}; {expected}.{hint}"
        )
    if pixels.ndim == 3:
        return np.repeat(pixels[..., np.newaxis], 3, axis=3)
    return pixels


def array_sha256(pixels: NDArray[np.uint8]) -> str:
    """Return the sha256 (hex) of an array's shape and bytes."""
    digest = hashlib.sha256(str(pixels.shape).encode())
    # A row at a time: a view that is not contiguous is not copied whole.
    for image in pixels:
        digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def _checked_path(path: Any) -> Path:
    if not isinstance(path, str | Path):
        raise DatasetError(f"images holds paths and a {type(path).__name__}; give paths alone.")
    if not Path(path).is_file():
        raise DatasetError(f"images holds {path}, which is not a file.")
    return Path(path)


def _checked_ids(ids: Sequence[str]) -> list[str]:
    counts = Counter(ids)
    if len(counts) < len(ids):
        twice = next(name for name, n in counts.items() if n > 1)
        raise DatasetError(f"Two images have the name {twice!r}; give unique sample_ids.")
    return list(ids)


def _checked_labels(labels: ArrayLike | None, n_samples: int) -> NDArray[Any] | None:
    if labels is None:
        return None
    found = np.asarray(labels)
    if found.shape != (n_samples,):
        raise DatasetError(f"labels have the shape {found.shape}; expected ({n_samples},).")
    if found.dtype.kind == "O":
        found = np.array([str(label) for label in found])
    if found.dtype.kind not in "iubU":
        raise DatasetError(
            f"labels are {found.dtype}; expected names or whole numbers, one for each image."
        )
    return found


def _checked_splits(splits: ArrayLike, n_samples: int) -> NDArray[np.uint8]:
    names = [str(split) for split in np.asarray(splits).ravel().tolist()]
    if len(names) != n_samples:
        raise DatasetError(f"{len(names):,} splits are given for {n_samples:,} samples.")
    if wrong := [split for split in names if split not in SPLITS]:
        raise DatasetError(f"splits holds {wrong[0]!r}; expected {', '.join(SPLITS)}.")
    return np.array([SPLITS.index(split) for split in names], np.uint8)
