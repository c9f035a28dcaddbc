"""Read features that were computed elsewhere: .npy, .npz, Parquet and Zarr."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from featstore.errors import DatasetError, DatasetNotFoundError
from featstore.store.format.matrix import open_foreign_array
from featstore.text import join_some

COLUMNS = {
    "id": ("id", "ids", "sample_id", "sample_ids"),
    "label": ("label", "labels", "class", "y"),
    "split": ("split", "splits"),
    "group": ("group", "groups"),
}
"""Names of arrays and columns beside the features, by what they hold."""


KINDS = {name: kind for kind, names in COLUMNS.items() for name in names}
"""What each of these names holds."""


BLOCK_NBYTES = 16 * 2**20
"""Bytes of features that are read at a time."""


@dataclass(frozen=True)
class FeatureTable:
    """Features in a file or in memory, and the columns beside them.

    `name` is the file's, for people. `blocks` yields consecutive rows, (k, n_features), in their
    own type. `columns` are (n_samples,), by what they hold: ``id``, ``label`` and
    ``split``. `feature_columns` are the names of the features, where each is a column.
    """

    name: str
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    blocks: Callable[[], Iterator[np.ndarray]]
    columns: Mapping[str, np.ndarray] = field(default_factory=dict)
    feature_columns: Sequence[str] = ()

    def float_blocks(self) -> Iterator[np.ndarray]:
        """Yield consecutive rows as float32; a value that is too large for it is refused."""
        start = 0
        for block in self.blocks():
            with np.errstate(over="ignore"):
                rows = block.astype(np.float32)
            lost = np.isinf(rows) & np.isfinite(block)
            if lost.any():
                row, column = np.argwhere(lost)[0].tolist()
                raise DatasetError(
                    f"{self.name}: row {start + row}, column {column} holds {block[row, column]}, "
                    "which float32 can't hold. Scale the features."
                )
            yield rows
            start += len(rows)


def open_features(path: str | Path, array: str | None = None) -> FeatureTable:
    """Open a file of features.

    Parameters
    ----------
    path : str or Path
        ``.npy``, ``.npz``, ``.parquet`` or a Zarr array or group.
    array : str, optional
        The array of an ``.npz`` or group, or the column of a Parquet file, that holds the
        features; by default the only one that can. ``A*`` names several columns of numbers.

    Raises
    ------
    DatasetNotFoundError
        When there is no such file.
    DatasetError
        When it holds no features, or leaves open which array does.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise DatasetNotFoundError(f"{path} does not exist; give a file of features.")
    readers = {".npy": _npy, ".npz": _npz, ".parquet": _parquet}
    is_zarr = any((path / mark).is_file() for mark in (".zarray", ".zgroup", "zarr.json"))
    read = _zarr if is_zarr else readers.get(path.suffix.lower())
    if read is None or (path.is_dir() and not is_zarr):
        raise DatasetError(
            f"{path} is no file of features; expected .npy, .npz, .parquet or a Zarr folder."
        )
    try:
        return read(path, array)
    except DatasetError:
        raise
    except (OSError, ValueError, KeyError, EOFError, MemoryError) as error:
        raise DatasetError(f"{path} can't be read: {error}") from error


def table_of(X: Any, name: str = "features", **columns: np.ndarray) -> FeatureTable:
    """Return features in memory, (n_samples, n_features)."""
    values = np.asanyarray(X)
    if values.ndim != 2 or values.dtype.kind not in "fiu" or not values.size:
        raise DatasetError(
            f"{name} has the shape {values.shape} and type {values.dtype}; expected numbers of "
            "shape (n_samples, n_features)."
        )
    n_samples, n_features = values.shape
    step = max(1, BLOCK_NBYTES // (n_features * values.dtype.itemsize))

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, n_samples, step):
            yield np.asarray(values[start : start + step])

    return FeatureTable(
        name, (n_samples, n_features), values.dtype, blocks, _fitting(name, columns, n_samples)
    )


def side_by_side(tables: Sequence[FeatureTable]) -> FeatureTable:
    """Return several tables of the same rows as one, their columns side by side."""
    if len({table.shape[0] for table in tables}) > 1:
        counts = " and ".join(f"{table.shape[0]:,} in {table.name}" for table in tables)
        raise DatasetError(f"The files of features have different numbers of rows: {counts}.")
    # Their blocks differ in length.
    X = np.concatenate([np.concatenate([*table.float_blocks()]) for table in tables], axis=1)
    return table_of(X, tables[0].name, **tables[0].columns)


def load_npy(path: Path, cure: str, *, mapped: bool = False) -> np.ndarray:
    """Return the array of a file; `cure` is how to write one without Python objects."""
    with path.open("rb") as file:
        if file.read(6) != b"\x93NUMPY":
            raise DatasetError(f"{path} is no .npy file. Write it with numpy.save.")
    try:
        return np.asanyarray(np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False))
    except ValueError as error:
        if "object" not in str(error).lower():
            raise
        raise DatasetError(f"{path} holds Python objects, which are not read. {cure}") from None


def _npy(path: Path, array: str | None) -> FeatureTable:
    _refuse_array(path, array)
    cure = "Save numbers: np.save(path, np.stack(list(X)))."
    return table_of(load_npy(path, cure, mapped=True), str(path))


def _npz(path: Path, array: str | None) -> FeatureTable:
    with np.load(path, allow_pickle=False) as archive:
        try:
            arrays = {name: archive[name] for name in archive.files}
        except ValueError as error:
            if "object" not in str(error).lower():
                raise
            raise DatasetError(
                f"{path} holds Python objects, which are not read. Save arrays of numbers and of "
                "text, e.g. labels=y.astype(str)."
            ) from None
    matrices = [name for name, values in arrays.items() if values.ndim == 2]
    features = _choose(path, matrices, array)
    columns = {
        kind: arrays[name] for kind, names in COLUMNS.items() for name in names if name in arrays
    }
    return table_of(arrays[features], str(path), **columns)


def _zarr(path: Path, array: str | None) -> FeatureTable:
    opened = open_foreign_array(path, array)
    if isinstance(opened, list):
        raise DatasetError(_unclear(path, opened, array))
    shape, dtype = opened.shape, np.dtype(opened.dtype)
    if len(shape) != 2 or dtype.kind not in "fiu" or not all(shape):
        raise DatasetError(
            f"{path} has the shape {shape} and type {dtype}; expected numbers of shape "
            "(n_samples, n_features)."
        )
    step = max(1, BLOCK_NBYTES // (shape[1] * dtype.itemsize))

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, shape[0], step):
            yield np.asarray(opened[start : start + step])

    return FeatureTable(str(path), (shape[0], shape[1]), dtype, blocks)


def _parquet(path: Path, array: str | None) -> FeatureTable:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DatasetError(f"{path}: Parquet needs pyarrow: pip install pyarrow.") from None
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowException as error:
        raise DatasetError(f"{path} can't be read: {error}") from error
    schema, n_samples = file.schema_arrow, file.metadata.num_rows
    own = {KINDS[name]: name for name in schema.names if name in KINDS}
    lists = [
        name
        for name in schema.names
        if pyarrow.types.is_list(schema.field(name).type)
        or pyarrow.types.is_large_list(schema.field(name).type)
        or pyarrow.types.is_fixed_size_list(schema.field(name).type)
    ]
    floats = [name for name in schema.names if pyarrow.types.is_floating(schema.field(name).type)]
    if array is not None and "*" in array:
        floats = fnmatch.filter(floats, array)
        lists = lists if floats else []
    is_wide = bool(floats) and ("*" in array if array else not lists)
    features = floats if is_wide else [_choose(path, lists, array)]

    def blocks() -> Iterator[np.ndarray]:
        for batch in file.iter_batches(batch_size=8192, columns=features):
            yield _rows_of(path, batch, is_list=features[0] in lists)

    first = next(blocks(), None) if n_samples else None
    if first is None or not first.size:
        raise DatasetError(f"{path} holds no rows.")
    texts = file.read(columns=list(own.values()))
    columns = {kind: np.array(texts[name].to_pylist()) for kind, name in own.items()}
    shape = (n_samples, first.shape[1])
    return FeatureTable(str(path), shape, first.dtype, blocks, columns, floats if is_wide else [])


def _rows_of(path: Path, batch: Any, *, is_list: bool) -> np.ndarray:
    if not is_list:
        return np.stack([column.to_numpy(zero_copy_only=False) for column in batch.columns], axis=1)
    (column,) = batch.columns
    if column.null_count or column.flatten().null_count:
        raise DatasetError(
            f"{path}: some lists of features are missing, or hold missing values. Fill them with "
            "NaN: rows of NaN alone are masked."
        )
    widths = column.value_lengths().to_numpy(zero_copy_only=False)
    if len({*widths.tolist()}) != 1:
        raise DatasetError(
            f"{path}: the lists of features have {min(widths)} to {max(widths)} values; expected "
            "as many in each row."
        )
    values: np.ndarray = column.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(column), -1)


def _choose(path: Path, candidates: list[str], array: str | None) -> str:
    """Return the array that holds the features."""
    if array is not None and array in candidates:
        return array
    usual = [name for name in ("features", "embeddings", "embedding", "X") if name in candidates]
    if array is None and (len(candidates) == 1 or len(usual) == 1):
        return (usual or candidates)[0]
    raise DatasetError(_unclear(path, candidates, array))


def _unclear(path: Path, candidates: list[str], array: str | None) -> str:
    if not candidates:
        return f"{path} holds no array (n_samples, n_features) of numbers."
    wrong = f"no array {array!r} of that kind" if array else "several arrays"
    return f"{path} holds {wrong}: {join_some(candidates)}. Name one with --array."


def _refuse_array(path: Path, array: str | None) -> None:
    if array is not None:
        raise DatasetError(f"{path} holds one array without a name; leave out --array {array}.")


def _fitting(
    name: str, columns: Mapping[str, np.ndarray], n_samples: int
) -> Mapping[str, np.ndarray]:
    for kind, values in columns.items():
        if np.shape(values) != (n_samples,):
            raise DatasetError(
                f"{name}: the array of each sample's {kind} has the shape {np.shape(values)}; "
                f"expected ({n_samples},)."
            )
    return columns
