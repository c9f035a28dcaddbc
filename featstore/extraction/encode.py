"""Encoding: new images through the backbones and layers that stored features came from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from featstore.datasets.base import Dataset
from featstore.extraction.pipeline import PassTimes, feature_batches
from featstore.extraction.spec import ExtractionSpec, recorded_spec
from featstore.io.fingerprints import FingerprintCache
from featstore.progress import SILENT, Progress
from featstore.store.format.run_schema import FeatureSpec

BLOCK_ROWS = 4096
"""Images whose features memory holds at a time."""


@dataclass(frozen=True)
class Block:
    """Features of some images in a row.

    Parameters
    ----------
    start, stop : int
        Which images of the dataset.
    X : ndarray of shape (stop - start, n_features), float32
        Columns as in the selection; NaN where an image can't be read.
    errors : dict of int to str
        Why, by row of the dataset.
    """

    start: int
    stop: int
    X: np.ndarray
    errors: dict[int, str]

    @property
    def readable(self) -> np.ndarray:
        """Rows of X that hold features, (stop - start,) bool."""
        readable = np.ones(self.stop - self.start, dtype=bool)
        readable[[row - self.start for row in self.errors]] = False
        return readable


class Encoder:
    """What turns images into the features that a selection of stored ones has.

    Parameters
    ----------
    specs : sequence of FeatureSpec
        The features, as :attr:`featstore.store.selection.Selection.feature_specs` says them and a
        run records them.
    bands : sequence of str
        Of the images to come.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:i``.
    cache : FingerprintCache
        Of files' hashes.
    progress : Progress
        Told of downloads.

    Raises
    ------
    BackboneError
        When pixel statistics are wanted of images that have other bands.
    DeviceError
        When there is no such device.
    WeightsError
        When the weights are not to be had, or are others now.
    """

    def __init__(
        self,
        specs: Sequence[FeatureSpec],
        bands: Sequence[str],
        device: str,
        cache: FingerprintCache,
        progress: Progress = SILENT,
    ) -> None:
        groups: dict[tuple[str, str], list[int]] = {}
        for i, spec in enumerate(specs):
            groups.setdefault((spec.set_id, spec.pool or "avg"), []).append(i)
        self._n_parts = len(specs)
        self._passes = [
            _Pass(
                recorded_spec([specs[i] for i in parts], bands, device, cache, progress),
                pool,
                {i: specs[i].node for i in parts},
            )
            for (_, pool), parts in groups.items()
        ]

    def blocks(
        self, dataset: Dataset, what: str = "Encoding", progress: Progress = SILENT
    ) -> Iterator[Block]:
        """Yield the images' features, in order, as many at a time as memory can well hold.

        Parameters
        ----------
        dataset : Dataset
            The images; with several sets of features each is read once for each of them.
        what : str
            What to call it to the user.
        progress : Progress
            Told of each batch.

        Raises
        ------
        FeatstoreError
            When a feature is not finite.
        """
        for one in self._passes:
            one.open(len(dataset), progress)
        progress.start(what, len(dataset) * len(self._passes), "images")
        try:
            for start in range(0, len(dataset), BLOCK_ROWS):
                stop = min(start + BLOCK_ROWS, len(dataset))
                images = dataset.subset(np.arange(start, stop))
                columns: dict[int, np.ndarray] = {}
                errors: dict[int, str] = {}
                for one in self._passes:
                    found, masked = one.encode(images, progress)
                    columns |= found
                    errors |= {start + row: cause for row, cause in masked.items()}
                X = np.concatenate([columns[i] for i in range(self._n_parts)], axis=1)
                yield Block(start, stop, X, errors)
        finally:
            progress.stop()


@dataclass
class _Pass:
    """One backbone's part in it."""

    recipe: ExtractionSpec
    pool: str
    nodes: dict[int, str]
    batch_size: int = 0

    def open(self, n_images: int, progress: Progress) -> None:
        requested = list(self.recipe.requested)
        opened = self.recipe.extractor.open(requested, n_images, None, progress)
        self.batch_size = opened["batch_size"]

    def encode(
        self, images: Dataset, progress: Progress
    ) -> tuple[dict[int, np.ndarray], dict[int, str]]:
        names = {layer.node: layer.stored_name(self.pool) for layer in self.recipe.requested}
        dtypes = dict.fromkeys(names.values(), "float32")
        starts = range(0, len(images), self.batch_size)
        found: dict[str, list[np.ndarray]] = {name: [] for name in dtypes}
        errors: dict[int, str] = {}
        for batch, rows in feature_batches(
            images, self.recipe.extractor, dtypes, starts, self.batch_size, "mask", PassTimes()
        ):
            for name, block in rows.items():
                # Some extractors hand out memory that they use again.
                found[name].append(np.array(block))
            errors |= batch.masked
            progress.advance(batch.stop - batch.start)
        return {i: np.concatenate(found[names[node]]) for i, node in self.nodes.items()}, errors
