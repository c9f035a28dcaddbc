"""Find the images that rows of features were computed from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.config import DatasetOptions
from featstore.datasets.base import Dataset
from featstore.datasets.decode import decode
from featstore.datasets.formats.synthetic import demo_file
from featstore.datasets.reading import Reading
from featstore.datasets.registry import data_root, find_format, open_dataset
from featstore.datasets.source import RGB
from featstore.errors import DatasetError, DatasetNotFoundError, FeatstoreError
from featstore.io.fingerprints import FingerprintCache, dataset_fingerprint
from featstore.progress import SILENT, Progress
from featstore.store.feature_store import FeatureStore
from featstore.store.format.set_schema import Facets


class Originals:
    """The images of a feature set's rows, read from the folder they were extracted from.

    The folder is opened with the first image.

    Parameters
    ----------
    store : FeatureStore
    set_id : str
        The feature set, as :meth:`featstore.store.feature_store.FeatureStore.get` takes it.
    root : str or Path, optional
        Folder of the images; by default the one they were extracted from.
    progress : Progress
    """

    def __init__(
        self,
        store: FeatureStore,
        set_id: str,
        root: str | Path | None = None,
        progress: Progress = SILENT,
    ) -> None:
        self._feature_set = store.get(set_id)
        self._cache = FingerprintCache(store.cache_dir / "fingerprints")
        self._root = root
        self._progress = progress

    def image(self, row: int, min_size: int | None = None) -> NDArray[np.uint8]:
        """Return the image of a row, (H, W, 3): its red, green and blue bands.

        Parameters
        ----------
        row : int
            Row of the feature set.
        min_size : int, optional
            Shortest side in pixels to which a reader may reduce the image; see
            :meth:`featstore.datasets.Dataset.read`.

        Raises
        ------
        DatasetError
            When the images are gone, or are others than those of the set.
        ImageError
            When this image can't be decoded.
        """
        return _picture(self.dataset.read(row, min_size), self.dataset.bands)

    def read_file(self, path: Path, min_size: int | None = None) -> NDArray[np.uint8]:
        """Return the picture, (H, W, 3), of a file that is read as the set's own images are."""
        record = self._feature_set.info.preprocess.reading
        if record is None:
            return decode(path, min_size)
        return _picture(Reading.from_record(record.to_dict()).read(path), record.names)

    def unavailable_reason(self) -> str | None:
        """Return why the images are missing, and the cure; None when they are there."""
        try:
            _ = self.dataset
        except DatasetError as error:
            return str(error)
        return None

    @cached_property
    def dataset(self) -> Dataset:
        """The images, opened; see :meth:`image` for the errors."""
        info, facets = self._feature_set.info.dataset, self._feature_set.facets
        root = self._root if self._root is not None else info.root
        try:
            record = self._feature_set.info.preprocess.reading
            reading = None if record is None else Reading.from_record(record.to_dict())
            dataset = _open(facets, root, reading, info.options)
            fingerprint = dataset_fingerprint(
                dataset.identity(), dataset.files(), self._cache, self._progress
            )
        except (FeatstoreError, OSError) as error:
            raise DatasetNotFoundError(
                f"The images of {self._feature_set.set_id} are gone from their folder. Name the "
                f"folder that holds them now with --root. {error}"
            ) from error
        if fingerprint != info.fingerprint:
            raise DatasetError(
                f"The images at {data_root(root)} are not those of {self._feature_set.set_id}. "
                "Name the folder that holds them with --root, or extract again."
            )
        return dataset


def _picture(image: NDArray[np.uint8], bands: Sequence[str]) -> NDArray[np.uint8]:
    """Return the red, green and blue bands; the first ones where none has such a name."""
    if image.shape[2] < 3:
        return np.repeat(image[..., :1], 3, axis=2)
    order = [bands.index(color) for color in RGB] if set(RGB) <= set(bands) else [0, 1, 2]
    return np.ascontiguousarray(image[..., order])


def _open(
    facets: Facets,
    root: str | Path | None,
    reading: Reading | None,
    options: Mapping[str, Any],
) -> Dataset:
    name, seed = facets.dataset, facets.seed
    if name == "demo":
        # Opening a demo generates it; showing its images must not.
        entry = find_format(name)
        places = entry.places(data_root(root)) if entry else []
        if not any((place / demo_file(seed)).is_file() for place in places):
            raise DatasetNotFoundError(
                f"demo: found no {demo_file(seed)}; looked in {', '.join(map(str, places))}."
            )
    # The fingerprint tells whether links lead to the same images.
    known = {field.name for field in fields(DatasetOptions)}
    settings: dict[str, Any] = {"seed": seed, "limit": facets.limit}
    settings |= {k: v for k, v in options.items() if k in known} | {"follow_links": True}
    return open_dataset(name, root, reading=reading, progress=SILENT, **settings)
