"""Read the columns of a table, CSV, TSV or Parquet, block by block, and images in Parquet."""

from __future__ import annotations

import csv
import json
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from featstore.errors import ConfigError, DatasetError, DatasetNotFoundError, ImageError
from featstore.text import nbytes_text

SEPARATORS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}

PARQUET = (".parquet", ".geoparquet", ".pq")

TABLE_SUFFIXES = (*SEPARATORS, *PARQUET)
"""Endings, in lower case, of the files taken for tables."""

MARKS = tuple(f"{name}{ending}" for name in ("labels", "metadata") for ending in TABLE_SUFFIXES)
"""Tables that are found in a folder, in this order; else all its Parquet files are one table."""

BLOCK_ROWS = 16_384
"""Rows that are read at a time."""

GROUPS_KEPT = 2
"""Row groups in memory: a batch may begin in one and end in the next."""

MAX_GROUP_NBYTES = 4 * 2**30
"""Larger row groups of images are refused."""


class Table(ABC):
    """The columns of one file; rows are counted from 0 here, and from 1 in messages."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    @abstractmethod
    def columns(self) -> list[str]:
        """Names of the columns."""

    @abstractmethod
    def blocks(self, columns: Sequence[str]) -> Iterator[list[Sequence[Any]]]:
        """Yield the values of some columns, some rows at a time; images are not read."""

    def holds_images(self, _column: str) -> bool:
        """Return whether a column holds the bytes of images."""
        return False

    def class_names(self, _column: str) -> list[str]:
        """Return the names of the classes that a column of numbers means, if the file has them."""
        return []

    def row_name(self, row: int) -> str:
        """Return what messages call a row."""
        return f"{self.path}, row {row + 1:,}"


class TextTable(Table):
    """A CSV or TSV file with a header, UTF-8.

    A CSV file may have semicolons for commas, as spreadsheets of many countries write them.
    """

    def _rows(self) -> Iterator[list[str]]:
        with self.path.open(encoding="utf-8-sig", newline="") as file:
            try:
                separator = _separator(self.path, file.readline())
                file.seek(0)
                reader = csv.reader(file, delimiter=separator, strict=True)
                yield from (row for row in reader if row)
            except UnicodeDecodeError:
                raise DatasetError(f"{self.path}: is not UTF-8; save it as UTF-8.") from None
            except csv.Error as error:
                raise DatasetError(f"{self.path}, line {reader.line_num:,}: {error}.") from None

    @cached_property
    def columns(self) -> list[str]:
        """Names of the columns."""
        header = next(self._rows(), None)
        if header is None:
            raise DatasetError(f"{self.path}: is empty; expected a header and rows.")
        return [name.strip() for name in header]

    def blocks(self, columns: Sequence[str]) -> Iterator[list[Sequence[Any]]]:
        """Yield the values of some columns, as text, some rows at a time."""
        places = [self.columns.index(name) for name in columns]
        rows = self._rows()
        next(rows)
        n_before = 0
        while block := list(islice(rows, BLOCK_ROWS)):
            for row, values in enumerate(block, n_before):
                if len(values) != len(self.columns):
                    raise DatasetError(
                        f"{self.row_name(row)}: has {len(values)} values; the header has "
                        f"{len(self.columns)}."
                    )
            n_before += len(block)
            yield [[values[place] for values in block] for place in places]


def _separator(path: Path, header: str) -> str:
    """Return what separates the columns of a text file."""
    usual = SEPARATORS[path.suffix.lower()]
    # Spreadsheets separate by semicolons where a decimal has a comma.
    return next((sign for sign in ";\t" if sign in header and usual not in header), usual)


class ParquetTable(Table):
    """A Parquet or GeoParquet file; the only class that reads them."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._kept: OrderedDict[tuple[int, str], Any] = OrderedDict()
        self._lock = threading.Lock()

    @cached_property
    def _file(self) -> Any:
        try:
            import pyarrow.parquet
        except ImportError:
            raise ConfigError(
                f"{self.path}: Parquet needs pyarrow: pip install pyarrow. Or save it as CSV."
            ) from None
        try:
            return pyarrow.parquet.ParquetFile(self.path)
        except (pyarrow.ArrowException, OSError) as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: Exception) -> DatasetError:
        return DatasetError(f"{self.path}: can't be read: {' '.join(str(error).split())}")

    @cached_property
    def columns(self) -> list[str]:
        """Names of the columns."""
        return list(self._file.schema_arrow.names)

    def _bytes_of(self, column: str) -> str | None:
        """Return the path of the values that are an image's bytes; None for another column."""
        import pyarrow.types as kinds

        kind = self._file.schema_arrow.field(column).type
        if kinds.is_binary(kind) or kinds.is_large_binary(kind):
            return column
        # As Hugging Face writes images.
        is_image = kinds.is_struct(kind) and {"bytes", "path"} <= {field.name for field in kind}
        return f"{column}.bytes" if is_image else None

    def holds_images(self, column: str) -> bool:
        """Return whether a column holds the bytes of images."""
        return self._bytes_of(column) is not None

    def check_groups(self) -> None:
        """Refuse row groups that are too large to be read in one piece."""
        metadata = self._file.metadata
        sizes = (metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
        if (nbytes := max(sizes, default=0)) > MAX_GROUP_NBYTES:
            raise DatasetError(
                f"{self.path}: a row group holds {nbytes_text(nbytes)}, and is read in one piece; "
                f"at most {nbytes_text(MAX_GROUP_NBYTES)} are. Write the file again with smaller "
                "ones, such as df.to_parquet(path, row_group_size=1000)."
            )

    def class_names(self, column: str) -> list[str]:
        """Return the names that Hugging Face gives to the numbers of classes."""
        about = (self._file.schema_arrow.metadata or {}).get(b"huggingface", b"{}")
        try:
            feature = json.loads(about)["info"]["features"][column]
            names = feature.get("names") or feature["feature"]["names"]
        except (ValueError, LookupError, TypeError, AttributeError):
            return []
        return list(map(str, names))

    def blocks(self, columns: Sequence[str]) -> Iterator[list[Sequence[Any]]]:
        """Yield the values of some columns; of images, the paths that they came from."""
        leaves = []
        for name in columns:
            place = self._bytes_of(name)
            if place is None:
                self._check_plain(name)
            if place != name:
                leaves.append(f"{name}.path" if place else name)
        try:
            for batch in self._file.iter_batches(BLOCK_ROWS, columns=list(dict.fromkeys(leaves))):
                yield [self._values(batch, name) for name in columns]
        except OSError as error:
            raise self._unreadable(error) from None

    def _check_plain(self, name: str) -> None:
        """Refuse a column whose values are neither texts nor numbers, nor lists of these."""
        import pyarrow.types as kinds

        kind = self._file.schema_arrow.field(name).type
        if kinds.is_nested(kind.value_type if kinds.is_list(kind) else kind):
            raise DatasetError(
                f"{self.path}: the column {name} holds {kind}; expected text or numbers."
            )

    def _values(self, batch: Any, name: str) -> Sequence[Any]:
        if name not in batch.schema.names:
            return [None] * batch.num_rows
        values = batch.column(name).to_pylist()
        if self._bytes_of(name):
            return [value and value["path"] for value in values]
        return list(values)

    def image(self, row: int, column: str) -> bytes:
        """Return the bytes of an image; the row groups read last are kept in memory."""
        group = int(np.searchsorted(self._group_ends, row, side="right"))
        first = int(self._group_ends[group - 1]) if group else 0
        # Whoever waits for the lock finds the row group.
        with self._lock:
            values = self._group(group, column)
        content = values[row - first].as_py()
        content = content["bytes"] if isinstance(content, dict) else content
        if not content:
            raise ImageError(f"{self.row_name(row)}: {column} holds no image.")
        return bytes(content)

    @cached_property
    def _group_ends(self) -> np.ndarray:
        metadata = self._file.metadata
        n_rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        return np.cumsum(n_rows)

    def _group(self, group: int, column: str) -> Any:
        key = group, column
        if key not in self._kept:
            while len(self._kept) >= GROUPS_KEPT:
                self._kept.popitem(last=False)
            try:
                read = self._file.read_row_group(group, columns=[self._bytes_of(column)])
            except OSError as error:
                raise self._unreadable(error) from None
            self._kept[key] = read.column(0)
        self._kept.move_to_end(key)
        return self._kept[key]


def open_table(path: Path) -> Table:
    """Return the table in a file, by the file's ending."""
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise DatasetError(f"{path}: is no table; expected {', '.join(TABLE_SUFFIXES)}.")
    return TextTable(path) if suffix in SEPARATORS else ParquetTable(path)


def find_tables(place: Path) -> tuple[Path, list[Table]]:
    """Return a folder, and the tables in it that a path means."""
    if place.is_file():
        return place.parent, [open_table(place)]
    if not place.exists():
        raise DatasetNotFoundError(f"table: {place} does not exist; name a table with --root.")
    if found := next((place / mark for mark in MARKS if (place / mark).is_file()), None):
        return place, [open_table(found)]
    shards = list(_parquet_files(place)) or list(_parquet_files(place / "data"))
    if not shards:
        raise DatasetNotFoundError(
            f"table: {place} holds no table; expected labels.csv, labels.parquet or other Parquet "
            "files. Name the table itself with --root."
        )
    return place, [open_table(path) for path in shards]


def _parquet_files(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield from sorted(p for p in folder.iterdir() if p.suffix.lower() in PARQUET)
