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

from featstore.config import SPLITS, TASKS
from featstore.datasets.drawing import TRAIN_FRACTION, draw_rows_or_groups
from featstore.datasets.formats.table_columns import split_code
from featstore.datasets.formats.table_labels import REGRESSION, LabelReader, Labels
from featstore.datasets.source import RGB, RGB_NIR, ArraySource, FileSource, Source
from featstore.errors import DatasetError
from featstore.io.files import json_digest

NAME = "images"
"""The format's name in a store; nothing opens it again."""

MAX_LEADING_BANDS = 16
"""Arrays so low, and wider and deeper, are refused as (n_samples, n_bands, height, width)."""


class _Given(Source):
    """Labels, splits and groups of given samples; without splits, 70 % of each class train."""

    name = NAME

    def __init__(
        self,
        title: str,
        sample_ids: Sequence[str],
        labels: Any = None,
        splits: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        seed: int = 0,
        task: str | None = None,
    ) -> None:
        self.title = title or NAME
        self.seed = seed
        self._ids = _checked_ids(sample_ids)
        self._labels = None if labels is None else _read_labels(labels, self._ids, task)
        self._given_splits = None if splits is None else _checked_splits(splits, len(self._ids))
        self._group_names: list[str] = []
        self._groups = None
        if groups is not None:
            found, codes = np.unique(_column(groups, len(self._ids), "groups"), return_inverse=True)
            self._group_names, self._groups = found.tolist(), codes.astype(np.int32)

    @property
    def task(self) -> str:  # type: ignore[override]
        """What a label is, one of :data:`featstore.config.TASKS`."""
        return TASKS[0] if self._labels is None else self._labels.task

    @property
    def target_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of the columns of `targets`."""
        if self.task == TASKS[0]:
            return ()
        return ("value",) if self.task == REGRESSION else self.class_names

    @property
    def group_by(self) -> str:  # type: ignore[override]
        """What a group is."""
        return "" if self._groups is None else "given groups"

    @property
    def groups(self) -> NDArray[np.int32] | None:
        """Group of each sample, shape (n_samples,), or None."""
        return self._groups

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, sorted; numbers by value."""
        return () if self._labels is None else self._labels.class_names

    @property
    def labels(self) -> NDArray[np.int32]:
        """Labels, shape (n_samples,); -1 where a label is not one class."""
        n_samples = len(self._ids)
        return np.full(n_samples, -1, np.int32) if self._labels is None else self._labels.labels

    @property
    def targets(self) -> NDArray[np.float32] | None:
        """Several classes or a number for each sample, (n_samples, n_targets), or None."""
        return None if self._labels is None else self._labels.targets

    @property
    def _is_drawn(self) -> bool:
        return self._given_splits is None and self._labels is not None

    @cached_property
    def splits(self) -> NDArray[np.uint8]:
        """Splits, shape (n_samples,), given or drawn; all train without labels."""
        if self._given_splits is not None:
            return self._given_splits
        if self._labels is None:
            return np.zeros(len(self._ids), np.uint8)
        strata, names = self._labels.strata, self._group_names
        return draw_rows_or_groups(self._ids, strata, self._groups, names, self.seed, self.group_by)

    @property
    def sample_ids(self) -> Sequence[str]:
        """Names of the samples."""
        return self._ids

    def identity(self) -> dict[str, Any]:
        """Return what tells this apart beside the files: ids, labels, splits and groups."""
        arrays = (self.labels, self.targets, self.splits, self.groups)
        rows = [self._ids, self.class_names, [None if a is None else a.tolist() for a in arrays]]
        identity: dict[str, Any] = {"dataset": NAME, "format": 1, "rows": json_digest(rows)}
        if self._is_drawn:
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

    def __init__(self, pixels: NDArray[np.uint8], *args: Any, **columns: Any) -> None:
        super().__init__(*args, **columns)
        self._pixels = pixels
        self.image_shape = pixels.shape[1:]
        known = {3: RGB, 4: RGB_NIR}
        n_bands = pixels.shape[3]
        self.bands = known.get(n_bands) or tuple(str(i + 1) for i in range(n_bands))

    @property
    def sha256_of_each(self) -> list[str]:
        """The sha256 (hex) of each image's shape and bytes."""
        return [_array_sha256(image[np.newaxis]) for image in self._pixels]

    def read_rows(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the images of some rows."""
        return np.ascontiguousarray(self._pixels[rows])

    def files(self) -> list[tuple[str, str | Path]]:
        """Return no files."""
        return []

    def identity(self) -> dict[str, Any]:
        """Return what tells this apart: pixels, ids, labels and splits."""
        return super().identity() | {"pixels": _array_sha256(self._pixels)}


class GivenFiles(_Given, FileSource):
    """Images in one file each."""

    bands = RGB

    def __init__(self, paths: Sequence[Path], *args: Any, **columns: Any) -> None:
        super().__init__(*args, **columns)
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
    sample_ids: Sequence[str] | None = None,
    title: str = "",
    **columns: Any,
) -> GivenArray | GivenFiles:
    """Return the source of images in memory or in files.

    Parameters
    ----------
    images : ndarray or sequence
        (n_samples, height, width, n_bands) or (n_samples, height, width) uint8, or a sequence of
        such arrays of one shape, or of paths.
    sample_ids : sequence of str, optional
        Unique names; by default the paths, or ``image 0``, ``image 1``, ...
    title : str
        The dataset's name for people.
    **columns
        ``labels``, ``splits`` and ``groups``, with a value for each image; ``seed``; ``task``.

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
    if paths is not None:
        return GivenFiles(paths, title, ids, **columns)
    return GivenArray(_stacked(given), title, ids, **columns)


def _stacked(images: Any) -> NDArray[np.uint8]:
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
    if pixels.shape[1] <= MAX_LEADING_BANDS < min(pixels.shape[2:]):
        raise DatasetError(
            f"images is an array of shape {pixels.shape}, whose bands seem to come first; "
            f"{expected}: images.transpose(0, 2, 3, 1)."
        )
    return pixels


def _array_sha256(pixels: NDArray[np.uint8]) -> str:
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


def _read_labels(labels: Any, ids: Sequence[str], task: str | None) -> Labels:
    """Return labels of each sample: a class, a list of classes, or a number."""
    if isinstance(labels, np.ndarray) and labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    given = labels.tolist() if isinstance(labels, np.ndarray) else list(labels)
    if isinstance(labels, np.ndarray) and labels.ndim == 2:
        if not np.isin(labels, (0, 1)).all():
            raise DatasetError(
                f"labels has the shape {labels.shape}; an array of two dimensions must hold 0 and "
                "1, with a column for each class."
            )
        given = [[str(i) for i, has in enumerate(row) if has] for row in given]
    if len(given) != len(ids):
        raise DatasetError(f"{len(given):,} labels are given for {len(ids):,} samples.")
    reader = LabelReader(task, ())
    reader.add(given, lambda row: str(ids[row]))
    return reader.finish()


def _column(values: ArrayLike, n_samples: int, what: str) -> NDArray[np.str_]:
    found = np.asarray(values).ravel().astype(str)
    if len(found) != n_samples:
        raise DatasetError(f"{len(found):,} {what} are given for {n_samples:,} samples.")
    return found


def _checked_splits(splits: ArrayLike, n_samples: int) -> NDArray[np.uint8]:
    names = _column(splits, n_samples, "splits").tolist()
    code_of = {name: split_code(name.strip()) for name in dict.fromkeys(names)}
    if wrong := [name for name, code in code_of.items() if code is None]:
        raise DatasetError(f"splits holds {wrong[0]!r}; expected {', '.join(SPLITS)}.")
    return np.array([code_of[name] for name in names], np.uint8)
