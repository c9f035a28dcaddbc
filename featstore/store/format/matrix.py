"""Matrices and vectors of a feature set as Zarr arrays; the only file that imports zarr.

A feature set is a plain Zarr v3 group, so any Zarr reader opens it. Each chunk holds whole rows and
ends in a CRC-32C, which every reader checks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from featstore.errors import CorruptionError, DatasetError
from featstore.store.format.array_schema import (
    ARRAY_TYPES,
    MAX_TEXT_NBYTES,
    chunk_problem,
    read_metadata,
    vector_rows,
)

if TYPE_CHECKING:
    import dask.array

CHUNK_NBYTES = 4 * 2**20
"""Target size of a chunk. Chunks of one row write at 25 MB/s, chunks of 4 MB at over 400."""


DTYPES = ("float32", "float16")


TEXT = np.dtype(object)
"""Type of arrays of text. One of fixed width would give each row the width of the longest, and
NumPy's StringDType is searched wrongly: ``np.searchsorted(a, b)`` finds no long text of b in a."""


_READ_ERRORS = (ValueError, TypeError, RuntimeError, OSError, KeyError)
"""What zarr and its codecs raise at damaged files; a shortage of memory is no damage."""


PARTIAL = re.compile(r"(zarr|[0-9]+)\.[0-9a-f]{32}\.partial")
"""Names of the files that zarr renames when they are whole."""


def _import_zarr() -> ModuleType:
    """Import zarr, which takes a second that an answer from the records alone does without."""
    import numcodecs.blosc
    import zarr
    import zarr.errors

    # Threads of Blosc write blocks in the order in which they finish, so the same rows would not
    # always give the same bytes.
    numcodecs.blosc.use_threads = False
    return zarr


def chunk_rows(n_samples: int, n_features: int, dtype: str = "float32") -> int:
    """Return how many whole rows make a chunk of about :data:`CHUNK_NBYTES`."""
    row_nbytes = np.dtype(dtype).itemsize * n_features
    return max(1, min(n_samples, round(CHUNK_NBYTES / row_nbytes)))


def _codecs(dtype: str) -> list[Any]:
    # Measured by benchmarks/bench_sink.py: byte shuffle and fast zstd compress features computed in
    # bfloat16 to 0.39 of their size, and sparse features (after a ReLU) to 0.19. Plain zstd
    # compresses the former to 0.46. Dense float32 features hardly compress (0.92) with any codec.
    codecs = _import_zarr().codecs
    size = np.dtype(dtype).itemsize
    return [
        codecs.BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", typesize=size),
        codecs.Crc32cCodec(),
    ]


def create_group(path: Path, attributes: Mapping[str, Any]) -> None:
    """Create an empty Zarr v3 group at `path`."""
    _import_zarr().create_group(path, zarr_format=3, attributes=dict(attributes))


def create_vector(
    group: Path, name: str, values: np.ndarray, attributes: Mapping[str, Any]
) -> None:
    """Write `values` (n_samples,) as the array of :data:`.ARRAY_TYPES` that has this name.

    Those of ``target`` are (n_samples, n_targets).
    """
    zarr = _import_zarr()
    is_text = ARRAY_TYPES[name] == "string"
    array = zarr.create_array(
        group / name,
        shape=values.shape,
        chunks=(vector_rows(*values.shape), *values.shape[1:]),
        dtype=str if is_text else ARRAY_TYPES[name],
        zarr_format=3,
        compressors=[zarr.codecs.BloscCodec(cname="zstd", clevel=1), zarr.codecs.Crc32cCodec()],
        dimension_names=("sample", "target")[: values.ndim],
        attributes=dict(attributes),
        config={"write_empty_chunks": True},
    )
    array[:] = values.astype(TEXT) if is_text else values


def create_matrix(
    group: Path,
    name: str,
    shape: tuple[int, int],
    attributes: Mapping[str, Any],
    dtype: str = "float32",
) -> None:
    """Create an empty matrix (n_samples, n_features).

    `dtype` is one of :data:`DTYPES`; readers get float32 from either.
    """
    _import_zarr().create_array(
        group / name,
        shape=shape,
        chunks=(chunk_rows(*shape, dtype), shape[1]),
        dtype=dtype,
        zarr_format=3,
        compressors=_codecs(dtype),
        fill_value=np.nan,
        dimension_names=("sample", f"{name}.feature"),
        attributes=dict(attributes),
        overwrite=True,
    )


def open_foreign_array(path: Path, name: str | None = None) -> Any:
    """Open an array that others wrote, or the array of a name in a group, for reading.

    Of a group without a name, its only array of two dimensions; of several, the list of their
    names is returned. numcodecs refuses codecs that run code.
    """
    zarr = _import_zarr()
    try:
        found = zarr.open(path, mode="r")
        if isinstance(found, zarr.Array):
            return found if name is None else []
        arrays = {key: one for key, one in found.arrays() if one.ndim == 2}
    except (zarr.errors.BaseZarrError, *_READ_ERRORS) as error:
        raise DatasetError(f"{path} is no Zarr array that can be read: {error}") from error
    usual = [key for key in ("features", "embeddings", "embedding", "X") if key in arrays]
    if name in arrays:
        return arrays[name]
    if name is None and (len(arrays) == 1 or len(usual) == 1):
        return arrays[(usual or list(arrays))[0]]
    return list(arrays)


def _open_array(path: Path, *, writable: bool = False) -> Any:
    """Open an array whose metadata have been checked."""
    zarr = _import_zarr()
    try:
        # Without a format, zarr would read other metadata of older formats, whose codecs run code.
        # All-zero chunks are written too, so that a chunk without a file is a missing chunk.
        return zarr.open_array(
            path,
            mode="r+" if writable else "r",
            zarr_format=3,
            config={"write_empty_chunks": True},
        )
    except (*_READ_ERRORS, zarr.errors.BaseZarrError) as error:
        raise CorruptionError(
            f"{path} is not a readable Zarr array ({error}). Run `featstore store verify`."
        ) from error


class Matrix:
    """A matrix (n_samples, n_features) on disk, read as float32 and written by whole chunks.

    Its metadata must have the number of rows, and of columns and the type where they are given.
    """

    def __init__(
        self,
        path: Path,
        n_samples: int,
        n_features: int | None = None,
        dtype: str | None = None,
        *,
        writable: bool = False,
    ) -> None:
        self.path = path
        self.metadata = read_metadata(path, (n_samples, n_features), dtype)
        self._array = _open_array(path, writable=writable)
        self.n_samples, self.n_features = self.metadata.shape
        self.chunk_rows = self.metadata.chunk_shape[0]
        self.dtype: str = self.metadata.data_type

    @property
    def n_chunks(self) -> int:
        """Number of chunks that a complete matrix has."""
        return self.metadata.n_chunks

    def chunk_range(self, index: int) -> tuple[int, int]:
        """Return the first row of chunk `index` and the row after its last."""
        start = index * self.chunk_rows
        return start, min(start + self.chunk_rows, self.n_samples)

    def chunk_path(self, index: int) -> Path:
        """Return the file that holds chunk `index`."""
        return self.path / "c" / str(index) / "0"

    def sweep(self) -> None:
        """Delete the unfinished files of a killed writer."""
        for path in self.path.rglob("*.partial"):
            if PARTIAL.fullmatch(path.name):
                path.unlink()

    def write_chunk(self, index: int, block: np.ndarray) -> Path:
        """Write chunk `index` whole from `block` and return its file."""
        start, stop = self.chunk_range(index)
        if block.shape != (stop - start, self.n_features):
            raise ValueError(
                f"chunk {index} has shape {(stop - start, self.n_features)}, not {block.shape}"
            )
        self._array[start:stop] = block.astype(self.dtype, copy=False)
        return self.chunk_path(index)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows `start` to `stop` as float32, and check every chunk's checksum.

        Raises
        ------
        CorruptionError
            When a chunk of these rows is missing or damaged.
        """
        chunks = range(start // self.chunk_rows, -(-stop // self.chunk_rows))
        for index in chunks:
            if problem := chunk_problem(self.chunk_path(index), self.metadata):
                raise CorruptionError(self._damage(index, problem))
        try:
            rows = cast("np.ndarray", self._array[start:stop]).astype(np.float32, copy=False)
        except _READ_ERRORS as error:
            index = self._first_bad(start, stop)
            raise CorruptionError(self._damage(index, str(error))) from error
        for index in chunks:
            # If the set was removed meanwhile, zarr reads NaN.
            if not self.chunk_path(index).is_file():
                raise CorruptionError(self._damage(index, "its file is missing"))
        return rows

    def _first_bad(self, start: int, stop: int) -> int:
        first = start // self.chunk_rows
        for index in range(first, -(-stop // self.chunk_rows)):
            try:
                self._array[slice(*self.chunk_range(index))]
            except _READ_ERRORS:
                return index
        return first

    def _damage(self, index: int, cause: str) -> str:
        start, stop = self.chunk_range(index)
        return (
            f"Chunk {index} (rows {start} to {stop - 1}) of {self.path} is damaged: {cause}. "
            "Run `featstore store verify`, then the same `featstore extract` again: it computes "
            "only the damaged chunks."
        )

    def dask(self) -> dask.array.Array:
        """Return the matrix as a lazy float32 Dask array, with one block for each chunk.

        Computing it raises the same errors as :meth:`read`.
        """
        import dask.array

        lazy = dask.array.from_array(  # type: ignore[no-untyped-call]
            _Rows(self), chunks=(self.chunk_rows, self.n_features), asarray=False, fancy=False
        )
        return cast("dask.array.Array", lazy)


class _Rows:
    """A matrix from which Dask takes blocks; zarr itself reads a missing chunk as NaN."""

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(self, matrix: Matrix) -> None:
        self.shape = (matrix.n_samples, matrix.n_features)
        self._matrix = matrix

    def __getitem__(self, at: tuple[slice, slice]) -> np.ndarray:
        rows, columns = at
        start, stop, step = rows.indices(self.shape[0])
        return self._matrix.read(start, stop)[::step, columns]

    def __dask_tokenize__(self) -> str:
        return f"{self._matrix.path.absolute()} {self._matrix.path.stat().st_mtime_ns}"


def read_vector(group: Path, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array of this shape that :func:`create_vector` wrote; text as str objects.

    Raises
    ------
    CorruptionError
        When it is missing or damaged.
    """
    path = group / name
    metadata = read_metadata(path, shape, ARRAY_TYPES[name])
    end = "/0" * (len(shape) - 1)
    problems = (chunk_problem(path / f"c/{i}{end}", metadata) for i in range(metadata.n_chunks))
    problem = next(filter(None, problems), None)
    try:
        if problem is None:
            values = np.asarray(_open_array(path)[:])
            if metadata.data_type != "string":
                return values
            values = values.astype(TEXT, copy=False)
            if max(map(len, values)) <= MAX_TEXT_NBYTES:
                return values
            problem = f"a text has more than {MAX_TEXT_NBYTES:,} characters"
    except _READ_ERRORS as error:
        problem = str(error).rstrip(".")
    raise CorruptionError(
        f"{path} is damaged: {problem}. Run `featstore store verify` to see what is, then "
        "`featstore store rm` and extract again."
    )
