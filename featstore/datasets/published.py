"""Divide images as published lists do: one list of names for each split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featstore.config import SPLITS
from featstore.datasets.decode import IMAGE_SUFFIXES
from featstore.datasets.image_bytes import ImageItem
from featstore.datasets.image_files import LeftOut
from featstore.datasets.source import FileSource
from featstore.datasets.wrapped import WrappedSource
from featstore.errors import DatasetError, DatasetNotFoundError
from featstore.io.files import json_digest
from featstore.text import join_some


class _Entry(NamedTuple):
    """A name in a list, and where it stands."""

    name: str
    place: str


class ListedSource(WrappedSource):
    """The images that lists name, each in the split of its list; the others are left out.

    `lists` are the files of the training, test and, as a third, validation split, with one name a
    line: with or without folders and ending. Blank lines, and lines that begin with ``#``, count
    for nothing.
    """

    def __init__(self, source: FileSource, lists: Sequence[str]) -> None:
        super().__init__(source)
        self._lists = [list(_read_list(Path(path).expanduser())) for path in lists]

    @cached_property
    def _chosen(self) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """The listed rows of the source, increasing, and their splits."""
        ids = self._source.sample_ids
        rows_of_stem: dict[str, list[int]] = {}
        for row, sample_id in enumerate(ids):
            rows_of_stem.setdefault(_parts(sample_id)[0], []).append(row)
        found: dict[int, tuple[int, _Entry]] = {}
        for code, entries in enumerate(self._lists):
            for entry in entries:
                row = self._find(entry, ids, rows_of_stem)
                if row in found:
                    other = found[row][1]
                    raise DatasetError(
                        f"{entry.place}: {entry.name!r} is the image {ids[row]}, which "
                        f"{other.place} names too. Remove one of them."
                    )
                found[row] = code, entry
        rows = np.array(sorted(found), np.int64)
        return rows, np.array([found[row][0] for row in rows.tolist()], np.uint8)

    def _find(self, entry: _Entry, ids: Sequence[str], rows_of_stem: dict[str, list[int]]) -> int:
        """Return the row of the image that a list names."""
        parts = _parts(entry.name)
        hits = []
        for row in rows_of_stem.get(parts[0], ()):
            own = _parts(ids[row])
            n = min(len(own), len(parts))
            if own[:n] == parts[:n]:
                hits.append(row)
        if len(hits) > 1:
            exact = [row for row in hits if f"/{ids[row]}".endswith(f"/{entry.name}")]
            hits = exact if len(exact) == 1 else hits
        if not hits:
            raise DatasetError(
                f"{entry.place}: {self.title} has no image {entry.name!r}; its images have names "
                f"such as {ids[0] if len(ids) else '(none)'}."
            )
        if len(hits) > 1:
            raise DatasetError(
                f"{entry.place}: {entry.name!r} may be {join_some([ids[row] for row in hits])}. "
                "Add the folder."
            )
        return hits[0]

    @property
    def left_out(self) -> LeftOut:
        """What lies among the samples and is left out, the images in no list too."""
        n_unlisted = len(self._source.sample_ids) - len(self._chosen[0])
        return self._source.left_out + LeftOut(n_unlisted=n_unlisted)

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """Labels, shape (n_samples,)."""
        return self._source.labels[self._chosen[0]]

    @cached_property
    def targets(self) -> NDArray[np.float32] | None:
        """Labels of tasks other than classification, or None."""
        targets = self._source.targets
        return None if targets is None else targets[self._chosen[0]]

    @cached_property
    def strata(self) -> NDArray[np.integer[Any]]:
        """What a drawn split keeps the shares of, shape (n_samples,)."""
        return self._source.strata[self._chosen[0]]

    @cached_property
    def groups(self) -> NDArray[np.int32] | None:
        """Group of each sample, or None."""
        groups = self._source.groups
        return None if groups is None else groups[self._chosen[0]]

    @property
    def splits(self) -> NDArray[np.uint8]:
        """Splits by the lists, shape (n_samples,)."""
        return self._chosen[1]

    @cached_property
    def sample_ids(self) -> Sequence[str]:
        """Unique names of the samples."""
        ids = self._source.sample_ids
        return [ids[row] for row in self._chosen[0].tolist()]

    @cached_property
    def paths(self) -> Sequence[ImageItem]:
        """Images of the samples."""
        paths = self._source.paths
        return [paths[row] for row in self._chosen[0].tolist()]

    def files(self) -> Sequence[tuple[str, str | Path]]:
        """Return the source files without the images in no list."""
        every = set(map(str, self._source.paths))
        unlisted = every - set(map(str, self.paths))
        return [(name, path) for name, path in self._source.files() if str(path) not in unlisted]

    def identity(self) -> dict[str, Any]:
        """Return what identifies the dataset, with the names in the lists."""
        identity = self._source.identity()
        # The lists decide, not the draw.
        identity.pop("split", None)
        names = {
            split: json_digest(sorted(entry.name for entry in entries))
            for split, entries in zip(SPLITS, self._lists, strict=False)
        }
        return identity | {"published_split": names}


def _read_list(path: Path) -> Iterator[_Entry]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DatasetNotFoundError(
            f"{path}: the list can't be read: {error.strerror}. Name lists with --splits."
        ) from None
    except UnicodeDecodeError:
        raise DatasetError(f"{path}: is not a list of names in UTF-8.") from None
    names = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    entries = [
        _Entry(name.replace("\\", "/").removeprefix("./"), f"{path}, line {number:,}")
        for number, name in names
        if name and not name.startswith("#")
    ]
    if not entries:
        raise DatasetError(f"{path}: names no images; expected one name a line.")
    yield from entries


def _parts(name: str) -> tuple[str, ...]:
    """Return a name without an image's ending, then its folders from the innermost on."""
    *folders, last = name.split("/")
    stem, dot, ending = last.rpartition(".")
    if f".{ending.lower()}" in IMAGE_SUFFIXES and dot:
        last = stem
    return (last, *folders[::-1])
