"""Matrices and vectors of a feature set as Zarr arrays; the only file that imports zarr.

A feature set is a plain Zarr v3 group, so any Zarr reader opens it. Each chunk holds whole rows and
ends in a CRC-32C, which every reader checks. zarr itself writes metadata and vectors; the chunks of
matrices are written, and all chunks read, without its second of imports and its copies.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from featstore.errors import CorruptionError, DatasetError
from featstore.store.format.array_schema import (
    ARRAY_TYPES,
    MAX_TEXT_NBYTES,
    ArrayMetadata,
    read_metadata,
    vector_rows,
)
from featstore.store.format.chunks import import_blosc, pack, stored_type, text_problem, unpack

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
"""Names of the files that are renamed when they are whole."""


def _import_zarr() -> ModuleType:
    """Import zarr, which takes a second that reading does without."""
    import zarr
    import zarr.errors

    import_blosc()
    return zarr


def chunk_rows(n_samples: int, n_features: int, dtype: str = "float32") -> int:
    """Return how many whole rows make a chunk of about :data:`CHUNK_NBYTES`."""
    row_nbytes = np.dtype(dtype).itemsize * n_features
    return max(1, min(n_samples, round(CHUNK_NBYTES / row_nbytes)))


def _codecs(dtype: str) -> list[Any]:
    # The compressor is for those who write with zarr: featstore chooses it by chunk.
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
    group: Path, name: str, values: np.ndarray | Sequence[str], attributes: Mapping[str, Any]
) -> None:
    """Write `values` (n_samples,) as the array of :data:`.ARRAY_TYPES` that has this name.

    Those of ``target`` are (n_samples, n_targets).
    """
    zarr = _import_zarr()
    is_text = ARRAY_TYPES[name] == "string"
    shape = values.shape if isinstance(values, np.ndarray) else (len(values),)
    n_rows = vector_rows(*shape)
    array = zarr.create_array(
        group / name,
        shape=shape,
        chunks=(n_rows, *shape[1:]),
        dtype=str if is_text else ARRAY_TYPES[name],
        zarr_format=3,
        compressors=[zarr.codecs.BloscCodec(cname="zstd", clevel=1), zarr.codecs.Crc32cCodec()],
        dimension_names=("sample", "target")[: len(shape)],
        attributes=dict(attributes),
        config={"write_empty_chunks": True},
    )
    if not is_text:
        array[:] = values
        return
    # Texts take several times their bytes until they are written.
    for start in range(0, shape[0], n_rows):
        rows = range(start, min(start + n_rows, shape[0]))
        array[start : rows.stop] = np.array([str(values[row]) for row in rows], TEXT)


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
    ) -> None:
        self.path = path
        self.metadata = read_metadata(path, (n_samples, n_features), dtype)
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
        rows = block
        if len(block) < self.chunk_rows:
            # Every chunk of a Zarr array has the same shape.
            rows = np.full(self.metadata.chunk_shape, np.nan, self.dtype)
            rows[: len(block)] = block
        path = self.chunk_path(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(16)}.partial")
        temporary.write_bytes(pack(rows.astype(stored_type(self.metadata), copy=False)))
        return temporary.replace(path)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return rows `start` to `stop` as float32, and check every chunk's checksum.

        Raises
        ------
        CorruptionError
            When a chunk of these rows is missing or damaged.
        """
        rows = np.empty((stop - start, self.n_features), np.float32)
        for index in range(start // self.chunk_rows, -(-stop // self.chunk_rows)):
            first, last = self.chunk_range(index)
            low, high = max(first, start), min(last, stop)
            if (low, high) == (first, last):
                self.read_chunk(index, rows[low - start : high - start])
            else:
                rows[low - start : high - start] = self._unpack(index)[low - first : high - first]
        return rows

    def read_chunk(self, index: int, out: np.ndarray) -> None:
        """Read the rows of chunk `index` into `out`, (n, n_features) float32.

        Raises
        ------
        CorruptionError
            When the chunk is missing or damaged.
        """
        is_whole = len(out) == self.chunk_rows and out.flags.c_contiguous
        if is_whole and out.dtype == stored_type(self.metadata):
            self._unpack(index, out)
        else:
            out[:] = self._unpack(index)[: len(out)]

    def _unpack(self, index: int, out: np.ndarray | None = None) -> np.ndarray:
        try:
            return unpack(self.chunk_path(index), self.metadata, out)
        except ValueError as error:
            raise CorruptionError(self._damage(index, str(error))) from error

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
    values = np.empty(shape, TEXT if metadata.data_type == "string" else metadata.data_type)
    rows, end = metadata.chunk_shape[0], "/0" * (len(shape) - 1)
    try:
        for index in range(metadata.n_chunks):
            own = values[index * rows : (index + 1) * rows]
            own[:] = _unpack_vector(path / f"c/{index}{end}", metadata)[: len(own)]
    except ValueError as error:
        raise CorruptionError(
            f"{path} is damaged: {str(error).rstrip('.')}. Run `featstore store verify` to see "
            "what is, then `featstore store rm` and extract again."
        ) from error
    return values


def _unpack_vector(path: Path, metadata: ArrayMetadata) -> np.ndarray:
    content = unpack(path, metadata)
    if metadata.data_type != "string":
        return content
    if problem := text_problem(content, metadata):
        raise ValueError(problem)
    from numcodecs.vlen import VLenUTF8

    texts: np.ndarray = VLenUTF8().decode(content)
    if max(map(len, texts)) > MAX_TEXT_NBYTES:
        raise ValueError(f"a text has more than {MAX_TEXT_NBYTES:,} characters")
    return texts
