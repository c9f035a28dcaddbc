"""Image files without labels, wherever they lie."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.datasets.base import RGB, FileSource, is_hidden
from featstore.datasets.decode import IMAGE_SUFFIXES
from featstore.errors import DatasetNotFoundError


class UnlabelledSource(FileSource):
    """Image files without labels.

    Parameters
    ----------
    paths : sequence of Path
        The images, in the samples' order.
    """

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


def find_images(places: Sequence[str | Path]) -> list[Path]:
    """Return the images that are named, and all that lie in the folders named, in order.

    Raises
    ------
    DatasetNotFoundError
        When a place is not there, or a folder holds no images.
    """
    found: list[Path] = []
    for place in map(Path, places):
        if place.is_dir():
            inside = sorted(
                (
                    p
                    for p in place.rglob("*")
                    if p.suffix.lower() in IMAGE_SUFFIXES
                    and not any(map(is_hidden, p.relative_to(place).parts))
                    and p.is_file()
                ),
                key=lambda p: p.as_posix(),
            )
            if not inside:
                raise DatasetNotFoundError(f"{place} holds no image files.")
            found += inside
        elif place.exists():
            found.append(place)
        else:
            raise DatasetNotFoundError(f"{place} is not there; name an image or a folder of them.")
    return found
