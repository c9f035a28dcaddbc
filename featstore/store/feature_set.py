"""Feature sets: the features of one backbone on one dataset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from featstore.config import SPLITS
from featstore.errors import CorruptionError
from featstore.io.files import file_sha256
from featstore.store.backend import Backend
from featstore.store.format.array_schema import VECTORS, read_metadata
from featstore.store.format.matrix import Matrix, chunk_problem, read_vector
from featstore.store.format.schema import LayerRecord
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
        """Path or URL of the group, for any Zarr reader."""
        return self.backend.locate(self.place)

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
        self._fetch(record.files, record.files)
        return self._open(layer, record)

    def shape_of(self, layer: str) -> Matrix:
        """Open the matrix of a complete layer for its shape only; its chunks are not downloaded."""
        record = self.layer(layer)
        self._fetch([f"{layer}/zarr.json"], record.files)
        return self._open(layer, record)

    def _open(self, layer: str, record: LayerRecord) -> Matrix:
        self._check(layer, [f"{layer}/zarr.json"], record.files)
        matrix = Matrix(self.group / layer, self.n_samples, record.n_features, record.dtype)
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
        files = self.info.files if record is None else record.files
        metadata = f"{array}/zarr.json"
        try:
            self._fetch([metadata], files)
            if record is None:
                found = read_metadata(self.group / array, (self.n_samples,), VECTORS[array])
            else:
                found = self._open(array, record).metadata
        except CorruptionError as error:
            yield metadata, str(error)
            return
        for file in files:
            if file.startswith(f"{array}/c/") and (path := self.group / file).is_file():
                problem = chunk_problem(path, found)
                if problem is not None:
                    yield file, problem

    def missing_chunks(self, layer: str) -> list[int]:
        """Return the chunks of a complete layer whose files are missing."""
        files = self.layer(layer).files
        found = self.backend.sizes(f"{self.place}/{layer}")
        gone = [name for name in files if name.removeprefix(f"{layer}/") not in found]
        if (self.group / layer / "zarr.json").is_file() or f"{layer}/zarr.json" in gone:
            self._check(layer, [f"{layer}/zarr.json"], files)
        prefix = f"{layer}/c/"
        chunks = (name.removeprefix(prefix) for name in gone if name.startswith(prefix))
        return sorted(int(name.split("/")[0]) for name in chunks)

    def fetch_intact(self) -> None:
        """Download the intact chunks of damaged layers, so that only the others are computed."""
        for layer, journal in self.journal().items():
            if journal.damaged is not None:
                files = {f"{layer}/c/{index}/0": sha for index, sha in journal.chunks.items()}
                files[f"{layer}/zarr.json"] = journal.metadata
                self.backend.fetch(self.place, files, strict=False)

    def mark_damaged(self, chunks: Mapping[str, Sequence[int]]) -> None:
        """Make complete layers with damaged chunks unfinished; the caller holds the set.

        `chunks` holds the numbers of the damaged chunks by layer.
        """
        if not chunks:
            return
        self.journal_damage(chunks)
        self.backend.unpublish(self, chunks)
        self.reopen_layers(list(chunks))

    def _fetch(self, names: Iterable[str], files: Mapping[str, str]) -> None:
        self.backend.fetch(self.place, {name: files[name] for name in names})

    def _check(self, array: str, names: Iterable[str], files: Mapping[str, str]) -> None:
        """Compare small files with their hashes; a matrix's chunks have checksums of their own."""
        for name in names:
            path = self.group / name
            if not path.is_file() or file_sha256(path) != files[name]:
                raise CorruptionError(
                    f"{self.group / array} is damaged: {path.relative_to(self.group)} is not as it "
                    "was written. Run `featstore store verify`, which says how to repair it."
                )

    def _vector(self, name: str, lowest: int | None = None, n_values: int = 0) -> np.ndarray:
        """Return a vector; with `lowest`, all values must lie from `lowest` to below `n_values`."""
        files = self.info.files
        own = [file for file in files if file.startswith(f"{name}/")]
        self._fetch(own, files)
        self._check(name, own, files)
        values = read_vector(self.group, name, self.n_samples)
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

    @property
    def nbytes(self) -> int:
        """Bytes on disk, or on object storage."""
        return sum(self.backend.sizes(f"{SETS}/{self.set_id}").values())

    def matrix_nbytes(self, layer: str) -> int:
        """Return the bytes of one matrix on disk, or on object storage."""
        return sum(self.backend.sizes(f"{self.place}/{layer}").values())
