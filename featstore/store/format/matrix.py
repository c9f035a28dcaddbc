"""Matrices and vectors of a feature set as Zarr arrays; the only file that imports zarr.

A feature set is a plain Zarr v3 group, so any Zarr reader opens it. Each chunk holds whole rows and
ends in a CRC-32C, which every reader checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from featstore.errors import CorruptionError

if TYPE_CHECKING:
    import dask.array

CHUNK_NBYTES = 4 * 2**20
"""Target size of a chunk. Chunks of one row write at 25 MB/s, chunks of 4 MB at over 400."""


DTYPES = ("float32", "float16")


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
    """Write `values` (n_samples,) of any integer dtype or of str as one array of the group."""
    zarr = _import_zarr()
    text = values.dtype.kind in "UTO"
    array = zarr.create_array(
        group / name,
        shape=values.shape,
        chunks=(max(1, min(len(values), 100_000)),),
        dtype=str if text else values.dtype,
        compressors=[zarr.codecs.BloscCodec(cname="zstd", clevel=1), zarr.codecs.Crc32cCodec()],
        dimension_names=("sample",),
        attributes=dict(attributes),
        config={"write_empty_chunks": True},
    )
    array[:] = values.astype(object) if text else values


def create_matrix(
    group: Path,
    name: str,
    shape: tuple[int, int],
    attributes: Mapping[str, Any],
    dtype: str = "float32",
) -> int:
    """Create an empty matrix (n_samples, n_features) and return its rows per chunk.

    `dtype` is one of :data:`DTYPES`; readers get float32 from either.
    """
    rows = chunk_rows(*shape, dtype)
    _import_zarr().create_array(
        group / name,
        shape=shape,
        chunks=(rows, shape[1]),
        dtype=dtype,
        compressors=_codecs(dtype),
        fill_value=np.nan,
        dimension_names=("sample", f"{name}.feature"),
        attributes=dict(attributes),
        overwrite=True,
    )
    return rows


class Matrix:
    """A matrix (n_samples, n_features) on disk, read as float32 and written by whole chunks."""

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        self.path = path
        zarr = _import_zarr()
        try:
            # All-zero chunks are written too, so that a chunk without a file is a missing chunk.
            self._array = zarr.open_array(
                path, mode="r+" if writable else "r", config={"write_empty_chunks": True}
            )
        except (FileNotFoundError, ValueError, KeyError, zarr.errors.BaseZarrError) as error:
            raise CorruptionError(
                f"{path} is not a readable Zarr array ({error}). Run `featstore store verify`."
            ) from error
        self.n_samples, self.n_features = map(int, self._array.shape)
        self.chunk_rows = int(self._array.chunks[0])
        self.dtype = str(self._array.dtype)

    @property
    def n_chunks(self) -> int:
        """Number of chunks that a complete matrix has."""
        return -(-self.n_samples // self.chunk_rows)

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
        self._refuse_missing(start, stop)
        try:
            rows = cast("np.ndarray", self._array[start:stop]).astype(np.float32, copy=False)
        except (ValueError, RuntimeError, OSError) as error:
            index = self._first_bad(start, stop)
            raise CorruptionError(self._damage(index, str(error))) from error
        # If the set was removed meanwhile, zarr reads NaN.
        self._refuse_missing(start, stop)
        return rows

    def _refuse_missing(self, start: int, stop: int) -> None:
        for index in range(start // self.chunk_rows, -(-stop // self.chunk_rows)):
            if not self.chunk_path(index).is_file():
                raise CorruptionError(self._damage(index, "its file is missing"))

    def _first_bad(self, start: int, stop: int) -> int:
        first = start // self.chunk_rows
        for index in range(first, -(-stop // self.chunk_rows)):
            try:
                self._array[slice(*self.chunk_range(index))]
            except (ValueError, RuntimeError, OSError):
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


def read_vector(group: Path, name: str) -> np.ndarray:
    """Return an array that :func:`create_vector` wrote.

    Raises
    ------
    CorruptionError
        When it is missing or damaged.
    """
    zarr = _import_zarr()
    try:
        values = np.asarray(zarr.open_array(group / name, mode="r")[:])
    except (ValueError, RuntimeError, OSError, KeyError, zarr.errors.BaseZarrError) as error:
        raise CorruptionError(
            f"{group / name} is damaged: {error}. Run `featstore store verify` to see what is, "
            "then `featstore store rm` and extract again."
        ) from error
    return np.array(values.tolist(), dtype=str) if values.dtype.kind in "TO" else values
