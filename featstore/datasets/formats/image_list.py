"""Read image files without labels, from any folders."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.datasets.image_files import ImageWalk, LeftOut
from featstore.datasets.source import RGB, FileSource
from featstore.errors import DatasetNotFoundError


class UnlabelledSource(FileSource):
    """Image files without labels, in the order of their paths."""

    name = title = "images"
    bands = RGB
    class_names = ()

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    @property
    def paths(self) -> Sequence[Path]:
        """Files of the samples."""
        return self._paths

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """Labels, shape (n_samples,): -1."""
        return np.full(len(self._paths), -1, np.int32)

    @cached_property
    def splits(self) -> NDArray[np.uint8]:
        """Splits, shape (n_samples,): the first."""
        return np.zeros(len(self._paths), np.uint8)

    @property
    def sample_ids(self) -> Sequence[str]:
        """The images' paths."""
        return [str(path) for path in self._paths]

    def files(self) -> list[tuple[str, Path]]:
        """Return the images as (path, path)."""
        return [(str(path), path) for path in self._paths]

    def identity(self) -> dict[str, Any]:
        """Return what tells this apart beside the files' content."""
        return {"name": self.name}


def find_images(places: Sequence[str | Path]) -> tuple[list[Path], LeftOut]:
    """Return the images that are named and all in the folders named, and what is left out.

    Links are followed everywhere. A place that does not exist, or a folder without images, raises
    DatasetNotFoundError.
    """
    found: list[Path] = []
    left_out = LeftOut()
    for place in map(Path, places):
        if place.is_dir():
            walk = ImageWalk(place, follow_links=True)
            inside = sorted(path for _, path in walk.images(place))
            if not inside:
                reasons = " ".join(["", *walk.left_out.lines()])
                raise DatasetNotFoundError(f"{place} holds no image files.{reasons}")
            found += map(Path, inside)
            left_out += walk.left_out
        elif place.exists():
            found.append(place)
        else:
            raise DatasetNotFoundError(f"{place} does not exist; name an image or a folder.")
    return found, left_out
