"""Read images that a table names, or holds, with their labels, splits and groups."""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from featstore.config import COLUMN_ROLES, SPLITS, DatasetOptions
from featstore.datasets.drawing import (
    TRAIN_FRACTION,
    draw_rows_or_groups,
    notes_on_groups,
)
from featstore.datasets.formats.layout import split_of
from featstore.datasets.formats.table_columns import Codes, add_ids, group_name, split_code
from featstore.datasets.formats.table_files import MARKS, ParquetTable, Table, find_tables
from featstore.datasets.formats.table_labels import (
    MULTILABEL,
    REGRESSION,
    LabelReader,
    Labels,
    notes_on_classes,
)
from featstore.datasets.image_bytes import ImageBytes, ImageItem
from featstore.datasets.source import RGB, FileSource
from featstore.datasets.text_column import TextColumn
from featstore.errors import ConfigError, DatasetError
from featstore.text import did_you_mean, join_some

ODD = re.compile(r"^[~/]|\./|//|/$|\.$")
"""Paths that Path may write in another way."""


class _Rows(NamedTuple):
    """What the rows say; `origins` are the images' paths, as the table has them.

    `starts` are the first row of each file, and the number of all rows.
    """

    labels: Labels
    origins: TextColumn
    ids: TextColumn
    splits: NDArray[np.uint8] | None
    groups: NDArray[np.int32] | None
    group_names: list[str]
    starts: list[int]


class TableSource(FileSource):
    """Images that a table names by their paths, or holds as bytes; in the table's order.

    `place` is the table, or a folder that holds it. Parquet files of one folder are one table.
    """

    name = "table"
    bands = RGB

    def __init__(self, place: Path, options: DatasetOptions) -> None:
        self._options = options
        self.folder, self._tables = find_tables(place)
        self._prefix = "" if self.folder == Path() else f"{str(self.folder).rstrip('/')}/"
        first = self._tables[0].path
        is_usual = len(self._tables) > 1 or first.name.lower() in MARKS
        self.title = Path(os.path.abspath(self.folder)).name if is_usual else first.stem

    @cached_property
    def _columns(self) -> dict[str, str]:
        """The columns that are read, by role; one that is missing is refused."""
        known = self._tables[0].columns
        for table in self._tables[1:]:
            if missing := [name for name in known if name not in table.columns]:
                raise DatasetError(f"{table.path}: has no column {missing[0]}, as the others have.")
        given = dict(word.split("=", 1) for word in self._options.columns)
        columns = {role: given.get(role, role) for role in COLUMN_ROLES}
        if (groups_from := self._options.groups_from) and ":" not in groups_from:
            columns["group"] = given["group"] = groups_from
        elif groups_from:
            del columns["group"]
        for role in {"label": "label", **given}:
            if columns.get(role, known[0]) not in known:
                raise self._missing(role, columns[role])
        columns = {role: column for role, column in columns.items() if column in known}
        if twice := [column for column in columns.values() if known.count(column) > 1]:
            raise DatasetError(f"{self._tables[0].path}: two columns are named {twice[0]}.")
        self._choose_images(columns, given)
        return columns

    def _choose_images(self, columns: dict[str, str], given: dict[str, str]) -> None:
        """Keep the one column that names or holds the images, as `image`."""
        found = {role: columns.pop(role) for role in ("path", "image") if role in columns}
        asked = [column for role, column in found.items() if role in given]
        held = [column for column in found.values() if self._tables[0].holds_images(column)]
        chosen = asked or held or list(found.values())
        if not chosen:
            raise self._missing("path", "path")
        if len(chosen) > 1:
            raise ConfigError(
                f"{self._tables[0].path}: both {chosen[0]} and {chosen[1]} may name the images; "
                f"choose one: --columns path={chosen[0]}"
            )
        columns["image"] = chosen[0]

    def _missing(self, role: str, column: str) -> DatasetError:
        table = self._tables[0]
        guess = did_you_mean(column, table.columns)
        return DatasetError(
            f"{table.path}: has no column {column}; it has {join_some(table.columns, 12)}.{guess} "
            f"Name the {role} column: --columns {role}=COLUMN"
        )

    @cached_property
    def _holds_images(self) -> bool:
        return self._tables[0].holds_images(self._columns["image"])

    @cached_property
    def _rows(self) -> _Rows:
        columns, options = self._columns, self._options
        labels = LabelReader(options.task, self._tables[0].class_names(columns["label"]))
        origins, ids = TextColumn(), TextColumn()
        splits, groups = Codes("split", split_code), Codes("group", group_name)
        takers: dict[str, Callable[..., None]] = {
            "image": self._taker(origins),
            "label": labels.add,
            "split": splits.add,
            "group": groups.add,
            "id": lambda values, row_name: add_ids(ids, values, row_name),
        }
        starts = [0]
        for table in self._tables:
            n_rows = 0
            if isinstance(table, ParquetTable) and self._holds_images:
                table.check_groups()
            for block in table.blocks(list(columns.values())):

                def row_name(i: int, table: Table = table, before: int = n_rows) -> str:
                    return table.row_name(before + i)

                for role, values in zip(columns, block, strict=True):
                    takers[role](values, row_name)
                n_rows += len(block[0])
            starts.append(starts[-1] + n_rows)
        if not len(origins):
            raise DatasetError(f"{self._tables[0].path}: has no rows.")
        split_codes = None
        if "split" in columns:
            split_codes = splits.codes()
        elif self._splits_of_files:
            split_codes = np.repeat(np.array(self._splits_of_files, np.uint8), np.diff(starts))
        codes, names = groups.sorted()
        return _Rows(
            labels.finish(),
            origins,
            self._checked_ids(ids, origins, starts),
            split_codes,
            codes if "group" in columns else None,
            names,
            starts,
        )

    def _taker(self, origins: TextColumn) -> Callable[..., None]:
        holds = self._holds_images

        def add(values: Sequence[Any], row_name: Callable[[int], str]) -> None:
            for i, value in enumerate(values):
                text = "" if value is None else str(value).strip()
                if not holds:
                    if not text:
                        raise DatasetError(f"{row_name(i)}: its path is empty.")
                    if not os.path.isfile(path := self._path(text)):
                        raise DatasetError(f"{row_name(i)}: the file {path} does not exist.")
                origins.append(text)

        return add

    def _path(self, origin: str) -> str:
        """Return the path of a file as Path writes it."""
        if ODD.search(origin):
            return str(self.folder / Path(origin).expanduser())
        # Path takes most of the time of a million rows.
        return self._prefix + origin

    def _checked_ids(
        self, ids: TextColumn, origins: TextColumn, starts: Sequence[int]
    ) -> TextColumn:
        """Return the samples' names; refuse one that two rows have."""
        if "id" not in self._columns:
            ids = origins
            if self._holds_images and (not all(ids) or ids.find_twice()):
                width = len(str(len(origins)))
                return TextColumn(f"{row:0{width}d}" for row in range(1, len(origins) + 1))
        if twice := ids.find_twice():
            first, second = (self._row_name(row, starts) for row in twice)
            raise DatasetError(
                f"{second}: its id {ids[twice[0]]!r} is that of {first} too. Remove one of the "
                "rows, or name a column of ids: --columns id=COLUMN"
            )
        return ids

    @cached_property
    def _splits_of_files(self) -> list[int]:
        """The splits that the names of all files mean, as train-0-of-2.parquet; else none."""
        found = [_split_of_file(table.path) for table in self._tables]
        codes = [SPLITS.index(split) for split in found if split]
        return codes if len(codes) == len(found) > 1 and 0 in codes else []

    def _at(self, row: int, starts: Sequence[int]) -> tuple[Table, int]:
        """Return the file of a row, and the row in it."""
        number = bisect_right(starts, row) - 1
        return self._tables[number], row - starts[number]

    def _row_name(self, row: int, starts: Sequence[int]) -> str:
        table, own = self._at(row, starts)
        return table.row_name(own)

    @property
    def task(self) -> str:  # type: ignore[override]
        """What a label is, one of :data:`featstore.config.TASKS`."""
        return self._rows.labels.task

    @property
    def notes(self) -> list[str]:
        """What people should know of the labels and the groups."""
        notes = []
        if self._options.task is None and self.task == MULTILABEL:
            notes += ["The table names several classes an image: --task multilabel."]
        notes += notes_on_classes(self.class_names, is_sure=self._options.task is not None)
        if (groups := self.groups) is not None:
            notes += notes_on_groups(
                groups, self.group_by, self.labels, self.splits, self.class_names
            )
        return notes

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, sorted."""
        return self._rows.labels.class_names

    @property
    def target_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """The name of the column of numbers; none of classes."""
        return (self._columns["label"],) if self.task == REGRESSION else ()

    @property
    def labels(self) -> NDArray[np.int32]:
        """Labels, shape (n_samples,); -1 where a label is not one class."""
        return self._rows.labels.labels

    @property
    def targets(self) -> NDArray[np.float32] | None:
        """Several classes or a number for each sample, (n_samples, n_targets), or None."""
        return self._rows.labels.targets

    @property
    def strata(self) -> NDArray[np.integer[Any]]:
        """What a draw keeps the shares of, (n_samples,)."""
        return self._rows.labels.strata

    @property
    def groups(self) -> NDArray[np.int32] | None:
        """Group of each sample, shape (n_samples,), or None."""
        return self._rows.groups

    @property
    def group_by(self) -> str:  # type: ignore[override]
        """The column of the groups."""
        return f"column {self._columns['group']}" if "group" in self._columns else ""

    @property
    def _is_drawn(self) -> bool:
        return "split" not in self._columns and not self._splits_of_files

    @cached_property
    def splits(self) -> NDArray[np.uint8]:
        """Splits, shape (n_samples,), as positions in :data:`featstore.config.SPLITS`."""
        rows, seed = self._rows, self._options.seed
        if rows.splits is not None:
            return rows.splits
        strata, names = rows.labels.strata, rows.group_names
        return draw_rows_or_groups(rows.ids, strata, rows.groups, names, seed, self.group_by)

    @property
    def sample_ids(self) -> Sequence[str]:
        """The column of ids; without one, the paths as the table has them, or numbers."""
        return self._rows.ids

    @property
    def paths(self) -> Sequence[ImageItem]:
        """Files of the samples, or their bytes in the table."""
        return _Images(self)

    def image(self, row: int) -> ImageItem:
        """Return the image of one row."""
        if not self._holds_images:
            return Path(self._path(self._rows.origins[row]))
        table, own = self._at(row, self._rows.starts)
        assert isinstance(table, ParquetTable)
        column = self._columns["image"]
        return ImageBytes(table.row_name(own), table.path, lambda: table.image(own, column))

    def files(self) -> list[tuple[str, str | Path]]:
        """Return the table, and the images that it names."""
        tables = [(f"table-{i}{t.path.suffix}", str(t.path)) for i, t in enumerate(self._tables)]
        if self._holds_images:
            return [*tables]
        named = {origin: self._path(origin) for origin in self._rows.origins}
        return [*tables, *sorted(named.items())]

    def identity(self) -> dict[str, Any]:
        """Return what tells the dataset apart beside its files: how they are read."""
        options = self._options
        identity: dict[str, Any] = {"dataset": self.name, "format": 1, "columns": self._columns}
        if options.task is not None:
            identity["task"] = options.task
        if self._is_drawn:
            identity["split"] = {"train_fraction": TRAIN_FRACTION, "seed": options.seed}
        return identity


class _Images(Sequence[ImageItem]):
    """The images of a table, made when they are asked for."""

    def __init__(self, source: TableSource) -> None:
        self._source = source

    def __len__(self) -> int:
        return len(self._source.sample_ids)

    @overload
    def __getitem__(self, index: int) -> ImageItem: ...

    @overload
    def __getitem__(self, index: slice) -> list[ImageItem]: ...

    def __getitem__(self, index: int | slice) -> ImageItem | list[ImageItem]:
        rows = range(len(self))[index]
        if isinstance(rows, range):
            return [self._source.image(row) for row in rows]
        return self._source.image(rows)


def _split_of_file(path: Path) -> str | None:
    return split_of(path.stem) or split_of(path.stem.split("-")[0])
