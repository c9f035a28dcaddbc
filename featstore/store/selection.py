"""Layers of feature sets side by side: the features that one classifier is trained on."""

from __future__ import annotations

from collections import deque
from collections.abc import Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, cast

import numpy as np

from featstore.environment import available_cores
from featstore.errors import CorruptionError, SelectionError
from featstore.io.files import json_digest
from featstore.store.backend import Backend
from featstore.store.feature_set import FeatureSet
from featstore.store.format.layer_schema import LayerRecord
from featstore.store.format.matrix import Matrix
from featstore.store.format.run_schema import FeatureSpec, SelectionInfo
from featstore.store.leaks import TrainedRows
from featstore.store.memmap_cache import cached_memmap

if TYPE_CHECKING:
    import dask.array

    from featstore.store.footprints import Footprints


@dataclass(frozen=True)
class Selection:
    """Layers of one or more feature sets of one dataset, side by side: X, y and sample ids.

    Parameters
    ----------
    sources : tuple of (FeatureSet, str)
        Sets and their layers, in the order of their columns.
    """

    sources: tuple[tuple[FeatureSet, str], ...]

    def __repr__(self) -> str:
        of = f"{self.title} {self.model} {'+'.join(self.layers)}"
        return f"Selection({of!r}, {self.n_samples:,} rows x {self.n_features:,} features)"

    @property
    def parts(self) -> tuple[tuple[str, str], ...]:
        """Set ids and layers, in the order of their columns."""
        return tuple((s.set_id, layer) for s, layer in self.sources)

    @property
    def backend(self) -> Backend:
        """Where the files of the store are."""
        return self._sets[0].backend

    @cached_property
    def _sets(self) -> list[FeatureSet]:
        return [s for s, _ in self.sources]

    @cached_property
    def _records(self) -> list[LayerRecord]:
        return [s.layer(layer) for s, layer in self.sources]

    @property
    def dataset(self) -> str:
        """The dataset's kind: ``sat4``, ``folder``, ..."""
        return self._sets[0].facets.dataset

    @property
    def title(self) -> str:
        """The dataset's title; of the format ``folder``, the folder's name."""
        return self._sets[0].facets.title

    @property
    def model(self) -> str:
        """The network's name, or several joined by ``+``."""
        return "+".join(dict.fromkeys(s.facets.model for s in self._sets))

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers; with several networks, ``model:layer``."""
        if len({s.set_id for s in self._sets}) == 1:
            return tuple(layer for _, layer in self.sources)
        return tuple(f"{s.facets.model}:{layer}" for s, layer in self.sources)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, by label."""
        return self._sets[0].class_names

    @property
    def n_samples(self) -> int:
        """Number of rows."""
        return self._sets[0].n_samples

    @property
    def n_features(self) -> int:
        """Number of columns."""
        return sum(record.n_features for record in self._records)

    @property
    def y(self) -> np.ndarray:
        """Labels, (n_samples,) int32; -1 for a row without a label."""
        return self._sets[0].labels

    @property
    def task(self) -> str:
        """What a label is, one of :data:`featstore.config.TASKS`."""
        return self._sets[0].info.dataset.task

    @property
    def targets(self) -> np.ndarray | None:
        """Labels of other tasks than classification, (n_samples, n_targets) float32, or None."""
        return self._sets[0].targets

    @property
    def target_names(self) -> tuple[str, ...]:
        """Names of the columns of `targets`; none of classification."""
        return self._sets[0].info.dataset.target_names

    @property
    def groups(self) -> np.ndarray | None:
        """Group of each row, (n_samples,) int32, or None; no drawn split cuts one."""
        return self._sets[0].groups

    @property
    def footprints(self) -> Footprints | None:
        """Where the windows of scenes lie; None of other images."""
        # It imports all kinds of datasets, which lists of runs do without.
        from featstore.store.footprints import Footprints

        windows, places = self._sets[0].info.dataset.windows, self._sets[0].places
        return None if windows is None or places is None else Footprints(windows, places)

    @property
    def group_by(self) -> str:
        """What a group is, such as ``column scene``; empty without groups."""
        return self._sets[0].info.dataset.group_by

    @property
    def splits(self) -> np.ndarray:
        """Splits, (n_samples,) uint8, positions in :data:`featstore.config.SPLITS`."""
        return self._sets[0].splits

    @property
    def sample_ids(self) -> np.ndarray:
        """Names of the samples, (n_samples,) object, each a str."""
        return self._sets[0].sample_ids

    @property
    def first_rows(self) -> np.ndarray:
        """First row with the same image as each row, (n_samples,) int64."""
        return self._sets[0].first_rows

    @property
    def trained_rows(self) -> tuple[TrainedRows, ...]:
        """The rows whose images trained weights, for each set of such weights."""
        found = (s.trained_rows for s in dict.fromkeys(self._sets))
        return tuple(rows for rows in found if rows is not None)

    @property
    def has_official_split(self) -> bool:
        """Whether the dataset has a split of its own; otherwise featstore drew it."""
        return self._sets[0].info.dataset.has_official_split

    def split_text(self, *, is_drawn: bool = False) -> str:
        """Return how the rows are divided, for people; `is_drawn` says that a fit drew anew."""
        return self._sets[0].info.dataset.split_text(is_drawn=is_drawn)

    @cached_property
    def valid(self) -> np.ndarray:
        """Rows that were not masked, (n_samples,) bool."""
        valid = np.ones(self.n_samples, dtype=bool)
        for record in self._records:
            valid[record.masked_rows] = False
        return valid

    @property
    def feature_specs(self) -> tuple[FeatureSpec, ...]:
        """For each layer, the settings that compute the same features of other images."""
        return tuple(
            FeatureSpec(
                set_id=s.set_id,
                layer=layer,
                node=record.node,
                pool=record.pool,
                batch_size=record.numerics.batch_size,
                n_features=record.n_features,
                backbone=s.info.backbone,
                preprocess=s.info.preprocess,
            )
            for (s, layer), record in zip(self.sources, self._records, strict=True)
        )

    def describe(self) -> SelectionInfo:
        """Return the record of the selection; its ``digest`` changes when the features do."""
        weights = list(dict.fromkeys(s.facets.weights for s in self._sets))
        content = [
            {"set": s.info.key, "layer": layer, "files": record.files}
            for (s, layer), record in zip(self.sources, self._records, strict=True)
        ]
        return SelectionInfo(
            dataset=self.dataset,
            title=self.title,
            model=self.model,
            layers=self.layers,
            weights="+".join(weights),
            precision="+".join(dict.fromkeys(s.facets.precision for s in self._sets)),
            n_samples=self.n_samples,
            n_features=self.n_features,
            fingerprint=self._sets[0].info.dataset.fingerprint,
            set_ids=tuple(s.set_id for s in self._sets),
            features=self.feature_specs,
            digest=json_digest(content),
        )

    def dask(self) -> dask.array.Array:
        """Return the features as a lazy float32 Dask array (n_samples, n_features)."""
        import dask.array

        columns = [s.matrix(layer).dask() for s, layer in self.sources]
        side_by_side = dask.array.concatenate(columns, axis=1)  # type: ignore[no-untyped-call]
        return cast("dask.array.Array", side_by_side)

    def numpy(self) -> np.ndarray:
        """Return the features in memory, (n_samples, n_features) float32."""
        return np.array(self.memmap())

    def memmap(self) -> np.ndarray:
        """Return the features, (n_samples, n_features) float32, as a read-only memory map.

        They are decoded once, chunk by chunk, into a file of the store's cache that all processes
        share. Each process compares the file with its checksums first. If the store is read-only,
        the features are decoded into memory.

        Raises
        ------
        CorruptionError
            When a chunk is missing or damaged.
        SpaceError
            When the disk can't hold them.
        """
        name = f"{self.describe().digest[:32]}.npy"
        shape = (self.n_samples, self.n_features)
        return cached_memmap(
            self.backend.cache_dir / name,
            lambda: self.backend.lock_path(name),
            shape,
            self._fill,
            [s.set_id for s in self._sets],
        )

    def _fill(self, X: np.ndarray) -> None:
        try:
            self._decode(X)
        except CorruptionError:
            if gone := [s.set_id for s in self._sets if not s.path.exists()]:
                raise SelectionError(
                    f"{gone[0]} was removed while it was read. Extract it again, or select another."
                ) from None
            raise

    def _decode(self, X: np.ndarray) -> None:
        column = 0
        with ThreadPoolExecutor(available_cores()) as pool:
            for (s, layer), record in zip(self.sources, self._records, strict=True):
                matrix = s.matrix(layer)
                own = X[:, column : column + matrix.n_features]
                decode = partial(_decode_chunk, s, layer, matrix, own, {*record.masked_rows})
                # An error cancels what has not begun.
                deque(pool.map(decode, range(matrix.n_chunks)), maxlen=0)
                column += matrix.n_features


def _decode_chunk(
    feature_set: FeatureSet,
    layer: str,
    matrix: Matrix,
    X: np.ndarray,
    masked: Set[int],
    index: int,
) -> None:
    """Read one chunk of a layer into its rows of `X`."""
    start, stop = matrix.chunk_range(index)
    matrix.read_chunk(index, X[start:stop])
    _refuse_non_finite(feature_set, layer, X[start:stop], start, masked)


def _refuse_non_finite(
    feature_set: FeatureSet, layer: str, rows: np.ndarray, start: int, masked: Set[int]
) -> None:
    """Refuse rows with NaN or infinity that are not masked, before they get into the cache."""
    # NaN and infinity show in the sum, which is quicker than testing each value.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(rows.sum()):
            return
    bad = ~np.isfinite(rows)
    for i in np.flatnonzero(bad.any(axis=1)).tolist():
        if (row := start + i) not in masked:
            columns = ", ".join(map(str, np.flatnonzero(bad[i])[:5]))
            raise CorruptionError(
                f"{layer} of {feature_set.set_id} has features that are not finite numbers: row "
                f"{row} ({feature_set.sample_ids[row]}), columns {columns}. Look for damage with "
                "featstore store verify; if there is none, extract again with --precision fp32, "
                f"after: featstore store rm {feature_set.set_id}"
            )
