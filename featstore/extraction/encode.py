"""Turn new images into the features that a selection or a run has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from featstore.datasets.base import Dataset, FileDataset
from featstore.datasets.reading import Reading
from featstore.extraction.pipeline import PassTimes, feature_batches
from featstore.io.fingerprints import FingerprintCache
from featstore.models.base import Model
from featstore.models.registry import reopen_model
from featstore.progress import SILENT, Progress
from featstore.store.format.run_schema import FeatureSpec

BLOCK_ROWS = 4096
"""Images whose features are in memory at a time."""


@dataclass(frozen=True)
class Block:
    """Features of consecutive images."""

    start: int
    """The first image's row in the dataset."""
    stop: int
    """The row after the last one."""
    X: np.ndarray
    """Features, (stop - start, n_features) float32, with the selection's columns; NaN where an
    image can't be read."""
    errors: dict[int, str]
    """Why an image can't be read, by its row in the dataset."""

    @property
    def readable(self) -> np.ndarray:
        """Rows of X that hold features, (stop - start,) bool."""
        readable = np.ones(self.stop - self.start, dtype=bool)
        readable[[row - self.start for row in self.errors]] = False
        return readable


class Encoder:
    """Computes the features of new images as those of a selection were computed.

    `features` are the records that :attr:`featstore.store.selection.Selection.feature_specs` gives
    and a run keeps. Of `dataset`, files are read as the features' own were: their bands, range and
    missing data. See :func:`reopen_model` for the errors.
    """

    def __init__(
        self,
        features: Sequence[FeatureSpec],
        dataset: Dataset,
        device: str,
        cache: FingerprintCache,
        progress: Progress = SILENT,
    ) -> None:
        self._n_parts = len(features)
        self._n_images = len(dataset)
        self._passes = []
        for pool, parts in parts_by_pass(features):
            images = read_as(dataset, features[parts[0]])
            own = [features[i] for i in parts]
            model = reopen_model(own, images.bands, device, cache, progress)
            self._passes.append(_Pass(images, model, pool, {i: features[i].node for i in parts}))

    def blocks(self, what: str = "Encoding", progress: Progress = SILENT) -> Iterator[Block]:
        """Open the networks, and return the images' features, in order, in blocks that fit memory.

        `what` names the phase to the user. Features of several sets read each image once for each
        set. A feature that is not finite raises FeatstoreError.
        """
        for one in self._passes:
            one.open(self._n_images, progress)
        return self._encoded(what, progress)

    def _encoded(self, what: str, progress: Progress) -> Iterator[Block]:
        progress.start(what, self._n_images * len(self._passes), "images")
        try:
            for start in range(0, self._n_images, BLOCK_ROWS):
                stop = min(start + BLOCK_ROWS, self._n_images)
                columns: dict[int, np.ndarray] = {}
                errors: dict[int, str] = {}
                for one in self._passes:
                    found, masked = one.encode(start, stop, progress)
                    columns |= found
                    errors |= {start + row: cause for row, cause in masked.items()}
                X = np.concatenate([columns[i] for i in range(self._n_parts)], axis=1)
                yield Block(start, stop, X, errors)
        finally:
            progress.stop()


def parts_by_pass(features: Sequence[FeatureSpec]) -> list[tuple[str, list[int]]]:
    """Return, for each pass over the images, its pooling and the features that it computes."""
    groups: dict[tuple[str, str], list[int]] = {}
    for i, record in enumerate(features):
        groups.setdefault((record.set_id, record.pool or "avg"), []).append(i)
    return [(pool, parts) for (_, pool), parts in groups.items()]


def read_as(dataset: Dataset, features: FeatureSpec) -> Dataset:
    """Return images of files read as those were that features were computed of."""
    if not isinstance(dataset, FileDataset):
        return dataset
    record = features.preprocess.reading
    if record is None:
        return dataset.read_as(Reading())
    return dataset.read_as(Reading.from_record(record.to_dict()), record.names)


@dataclass
class _Pass:
    """Images, a model, and the parts of the features that it computes, by their nodes."""

    images: Dataset
    model: Model
    pool: str
    nodes: dict[int, str]
    batch_size: int = 0

    def open(self, n_images: int, progress: Progress) -> None:
        numerics = self.model.extractor.open(list(self.model.layers), n_images, None, progress)
        self.batch_size = numerics["batch_size"]

    def encode(
        self, start: int, stop: int, progress: Progress
    ) -> tuple[dict[int, np.ndarray], dict[int, str]]:
        images = self.images.subset(np.arange(start, stop))
        names = {layer.node: layer.stored_name(self.pool) for layer in self.model.layers}
        dtypes = dict.fromkeys(names.values(), "float32")
        starts = range(0, len(images), self.batch_size)
        # A map has no cells for windows that can't be read.
        on_error = "mask" if isinstance(images, FileDataset) else "stop"
        found: dict[str, list[np.ndarray]] = {name: [] for name in dtypes}
        errors: dict[int, str] = {}
        for batch, rows in feature_batches(
            images, self.model.extractor, dtypes, starts, self.batch_size, on_error, PassTimes()
        ):
            for name, block in rows.items():
                # Some extractors use the block's memory again.
                found[name].append(np.array(block))
            errors |= batch.masked
            progress.advance(batch.stop - batch.start)
        return {i: np.concatenate(found[names[node]]) for i, node in self.nodes.items()}, errors
