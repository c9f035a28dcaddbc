"""Feature sets: the features of one backbone on one dataset."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from featstore.config import SPLITS
from featstore.errors import CorruptionError, StoreError
from featstore.io.files import file_sha256, sync_file
from featstore.store.backend import Backend
from featstore.store.format.array_schema import ARRAY_TYPES, read_metadata
from featstore.store.format.chunks import chunk_problem
from featstore.store.format.layer_schema import LayerRecord
from featstore.store.format.matrix import Matrix, read_vector
from featstore.store.leaks import TrainedRows
from featstore.store.record_index import SetOutline
from featstore.store.set_folder import SETS, SetFolder


@dataclass(frozen=True)
class FeatureSet(SetFolder):
    """The features that one backbone computed of one dataset, complete or not.

    Parameters
    ----------
    path : Path
        The set's folder on this machine.
    backend : Backend
        Where the files of its store are.
    """

    backend: Backend = field(compare=False, repr=False)

    def __repr__(self) -> str:
        return f"FeatureSet({self.set_id!r}, {self.n_samples:,} rows, layers {[*self.layers()]})"

    @cached_property
    def outline(self) -> SetOutline:
        """What searches need of its records, as they were when the set was listed."""
        return SetOutline.of(self.info, self.layers())

    @property
    def address(self) -> str:
        """Path or URL of the Zarr group with the newest layer, for any Zarr reader."""
        layers = list(self.layers())
        return self.address_of(layers[-1]) if layers else self.backend.locate(self.place)

    def address_of(self, layer: str) -> str:
        """Return the path or URL of the Zarr group with a complete layer.

        On object storage, each upload has a group of its own: labels, splits, ids and first rows,
        and the layers that were extracted together.
        """
        return self.backend.locate(self.place, self.layer(layer).folder)

    def matrix(self, layer: str) -> Matrix:
        """Open the matrix of a complete layer.

        Raises
        ------
        CorruptionError
            When its metadata is damaged.
        IncompleteError
            When the layer is not finished.
        """
        record = self.layer(layer)
        return self._open(layer, record, record.files)

    def shape_of(self, layer: str) -> Matrix:
        """Open the matrix of a complete layer for its shape only; its chunks are not downloaded."""
        return self._open(layer, self.layer(layer), [f"{layer}/zarr.json"])

    def _open(self, layer: str, record: LayerRecord, names: Iterable[str]) -> Matrix:
        metadata = f"{layer}/zarr.json"
        paths = self._fetch(names, record.files, record.folder)
        _check(paths, [metadata], record.files)
        folder = paths[metadata].parent
        matrix = Matrix(folder, self.n_samples, record.n_features, record.dtype)
        if record.chunk_hashes().keys() != set(range(matrix.n_chunks)):
            raise CorruptionError(
                f"{self.layer_path(layer)} does not name the {matrix.n_chunks:,} chunks of "
                f"{matrix.path}. Extract again, after: featstore store rm {self.set_id}"
            )
        return matrix

    def unsafe_files(self, array: str, record: LayerRecord | None) -> Iterator[tuple[str, str]]:
        """Yield files of a layer or vector that featstore did not write, and why each is none.

        `record` is the layer's. Chunks are looked at where they are on this machine.
        """
        own, metadata = self.info if record is None else record, f"{array}/zarr.json"
        try:
            path = self._fetch([metadata], own.files, own.folder)[metadata]
            if record is None:
                shape = self.info.dataset.vector_shape(array)
                found = read_metadata(path.parent, shape, ARRAY_TYPES[array])
            else:
                found = self._open(array, record, [metadata]).metadata
        except CorruptionError as error:
            yield metadata, str(error)
            return
        for file in own.files:
            if not file.startswith(f"{array}/c/"):
                continue
            for group in dict.fromkeys((path.parent.parent, self.group)):
                problem = chunk_problem(group / file, found) if (group / file).is_file() else None
                if problem is not None:
                    yield file, problem

    def missing_chunks(self, layer: str) -> list[int] | None:
        """Return the missing chunks of a complete layer; None if no file is missing at all."""
        record, metadata = self.layer(layer), f"{layer}/zarr.json"
        if (self.group / metadata).is_file():
            _check({metadata: self.group / metadata}, [metadata], record.files)
        found = self._sizes(layer)
        gone = {name for name in record.files if name.removeprefix(f"{layer}/") not in found}
        missing = [i for i in record.chunk_hashes() if f"{layer}/c/{i}/0" in gone]
        return sorted(missing) if gone else None

    def fetch_intact(self) -> None:
        """Complete the group on this machine with what was uploaded from it.

        That is, besides labels and ids, the intact chunks of damaged layers, so that only the
        others are computed.
        """
        if self.info.folder:
            self._bring(self.info.files, self.info.folder, strict=True)
        for layer, journal in self.journal().items():
            if journal.damaged is not None:
                files = {f"{layer}/c/{index}/0": sha for index, sha in journal.chunks.items()}
                files[f"{layer}/zarr.json"] = journal.metadata
                self._bring(files, journal.folder)

    def _bring(self, files: Mapping[str, str], upload: str | None, *, strict: bool = False) -> None:
        found = self.backend.fetch(self.place, files, upload=upload, strict=strict)
        for name, path in found.items():
            own = self.group / name
            # In a copy of a bucket, the files are where they were uploaded to.
            if path != own and path.is_file():
                own.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, own)
                sync_file(own)

    def mark_damaged(self, chunks: Mapping[str, Sequence[int]]) -> None:
        """Make complete layers with damaged chunks unfinished here; the caller holds the set.

        `chunks` holds the numbers of the damaged chunks by layer.
        """
        if not chunks:
            return
        self.journal_damage(chunks)
        self.backend.unpublish(self, chunks)
        self.reopen_layers(list(chunks))

    def _fetch(
        self, names: Iterable[str], files: Mapping[str, str], upload: str | None
    ) -> dict[str, Path]:
        return self.backend.fetch(self.place, {n: files[n] for n in names}, upload=upload)

    def _sizes(self, layer: str) -> dict[str, int]:
        """Return the bytes of each file of a complete layer, by its name in the layer's folder."""
        record = self.layer_record_name(layer)
        return self.backend.sizes(record, f"{self.place}/{layer}", self.layer(layer).folder)

    def _vector(self, name: str, lowest: int | None = None, n_values: int = 0) -> np.ndarray:
        """Return a vector; with `lowest`, all values must lie from `lowest` to below `n_values`."""
        files = self.info.files
        own = [file for file in files if file.startswith(f"{name}/")]
        paths = self._fetch(own, files, self.info.folder)
        _check(paths, own, files)
        shape = self.info.dataset.vector_shape(name)
        values = read_vector(paths[f"{name}/zarr.json"].parent.parent, name, shape)
        if lowest is not None and values.size:
            for value in (values.min(), values.max()):
                if not lowest <= value < n_values:
                    raise self._misfit(f"{name} has {value}; expected {lowest} to {n_values - 1}")
        return values

    def _misfit(self, wrong: str) -> CorruptionError:
        return CorruptionError(
            f"{self.path / 'set.json'} and the files beside it do not fit: {wrong}. Put back the "
            f"files, or extract again, after: featstore store rm {self.set_id}"
        )

    @cached_property
    def labels(self) -> np.ndarray:
        """Class of each row, (n_samples,) int32; -1 for a row without a class."""
        return self._vector("label", -1, len(self.class_names))

    @cached_property
    def splits(self) -> np.ndarray:
        """Split of each row, (n_samples,) uint8, a position in :data:`featstore.config.SPLITS`."""
        return self._vector("split", 0, len(SPLITS))

    @cached_property
    def sample_ids(self) -> np.ndarray:
        """Name of each row's sample, (n_samples,) object, each a str."""
        return self._vector("sample_id")

    @cached_property
    def first_rows(self) -> np.ndarray:
        """First row with the same image as each row, (n_samples,) int64.

        See :func:`featstore.datasets.duplicates.find_first_rows`.
        """
        return self._vector("first_row", 0, self.n_samples)

    @cached_property
    def groups(self) -> np.ndarray | None:
        """Group of each row, (n_samples,) int32 from 0, or None; no drawn split cuts one."""
        has_groups = bool(self.info.dataset.group_by)
        return self._vector("group", 0, self.n_samples) if has_groups else None

    @cached_property
    def targets(self) -> np.ndarray | None:
        """Labels of other tasks than classification, (n_samples, n_targets) float32, or None.

        NaN for a row without a label.
        """
        is_classification = self.info.dataset.task == "classification"
        return None if is_classification else self._vector("target")

    @cached_property
    def places(self) -> np.ndarray | None:
        """Scene, row and column of each window's cell, (n_samples, 3) int32, or None."""
        windows = self.info.dataset.windows
        if windows is None:
            return None
        places = self._vector("place")
        sizes = [(scene.height, scene.width) for scene in windows.scenes]
        shapes = -(-np.array(sizes) // windows.stride)
        scenes, cells = places[:, 0], places[:, 1:]
        is_known = (scenes >= 0) & (scenes < len(shapes))
        if not (is_known.all() and (cells >= 0).all() and (cells < shapes[scenes]).all()):
            raise self._misfit("place names a cell beyond its scene")
        return places

    @cached_property
    def trained_rows(self) -> TrainedRows | None:
        """The rows whose images trained the weights; None if there are none."""
        trained = self.info.dataset.trained
        if trained is None:
            return None
        try:
            return TrainedRows.from_record(
                trained.rows, trained.weights, trained.options, self.n_samples
            )
        except ValueError as error:
            raise self._misfit(str(error)) from error

    @property
    def nbytes(self) -> int:
        """Bytes on disk, or on object storage."""
        with suppress(StoreError):
            if self.info.nbytes is not None:
                return self.info.nbytes + sum(map(self.matrix_nbytes, self.layers()))
        return sum(self.backend.sizes(self.record_name, f"{SETS}/{self.set_id}").values())

    def matrix_nbytes(self, layer: str) -> int:
        """Return the bytes of one matrix on disk, or on object storage."""
        known = self.layer(layer).nbytes
        return sum(self._sizes(layer).values()) if known is None else known


def _check(paths: Mapping[str, Path], names: Iterable[str], files: Mapping[str, str]) -> None:
    """Compare small files with their hashes; a matrix's chunks have checksums of their own."""
    for name in names:
        if not paths[name].is_file() or file_sha256(paths[name]) != files[name]:
            raise CorruptionError(
                f"{paths[name].parents[name.count('/') - 1]} is damaged: {name} is not as it was "
                "written. Run `featstore store verify`, which says how to repair it."
            )
