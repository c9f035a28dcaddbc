"""Read SAT-4 and SAT-6 from CSV files without a header, as Kaggle has them.

An image is a row of 3,136 numbers: pixels row by row, the four bands of a pixel side by side (28,
28, 4). SAT-4's training images are several gigabytes of text: they are converted once, in blocks,
to an array beside the CSV that is opened as a memory map.
"""

from __future__ import annotations

import codecs
import glob
import gzip
import math
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, cast

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from platformdirs import user_cache_path

from featstore.datasets.formats.sat import IMAGE_SHAPE, Pixels, SatSource, class_order, from_one_hot
from featstore.errors import DatasetError, DatasetNotFoundError, SpaceError
from featstore.io.files import file_stamp, is_intact, json_digest, note_sums, notes_path, sums_of
from featstore.progress import SILENT, Progress
from featstore.text import nbytes_text

PARSED_NBYTES = 8 * 2**20
"""Text parsed at once; parsing takes about ten times this in memory."""


CACHE_FOLDER = ".featstore"


class CsvSource(SatSource):
    """A SAT dataset in a folder with ``X_train_sat4.csv`` (or ``.csv.gz``) and its companions."""

    def __init__(self, name: str, folder: Path, progress: Progress = SILENT) -> None:
        super().__init__(name)
        self.folder = folder
        self._progress = progress

    @staticmethod
    def names(name: str) -> tuple[str, ...]:
        """Return the names of the files: images and labels of train and test, annotations."""
        parts = ("X_train_{}", "y_train_{}", "X_test_{}", "y_test_{}", "{}annotations")
        return tuple(f"{part.format(name)}.csv" for part in parts)

    def _where(self) -> Path:
        return self.folder

    def _file(self, name: str) -> Path:
        for path in (self.folder / name, self.folder / f"{name}.gz"):
            if path.is_file():
                return path
        raise DatasetNotFoundError(
            f"{self.folder}: {name} (or {name}.gz) is missing; expected it beside "
            f"{self.names(self.name)[0]}."
        )

    def files(self) -> list[tuple[str, Path]]:
        """Return the five files."""
        return sorted((path.name, path) for path in map(self._file, self.names(self.name)))

    def _read_labels(self) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        _, y_train, _, y_test, _ = self.names(self.name)
        return self._read_one_hot(self._file(y_train)), self._read_one_hot(self._file(y_test))

    def _read_one_hot(self, path: Path) -> NDArray[np.int32]:
        blocks = list(read_csv(path, self._n_classes))
        if not blocks:
            raise DatasetError(f"{path}: holds no labels.")
        return from_one_hot(np.concatenate(blocks), str(path))

    def _read_class_names(self) -> tuple[str, ...]:
        path = self._file(self.names(self.name)[4])
        with _open_bytes(path) as (file, _):
            text = file.read().decode("utf-8-sig", errors="replace")
        rows = []
        for line in text.splitlines():
            cells = [cell.strip().strip('"') for cell in line.split(",")]
            if any(cells):
                rows.append(cells)
        return class_order(rows, self._n_classes, str(path))

    def _open_pixels(self) -> tuple[Pixels, Pixels]:
        x_train, _, x_test, _, _ = self.names(self.name)
        train, test = (
            as_memory_map(self._file(name), len(labels), self._progress)
            for name, labels in zip((x_train, x_test), self._labels, strict=True)
        )
        return train, test

    @staticmethod
    def _to_images(pixels: Any) -> Any:
        return pixels.reshape(-1, *IMAGE_SHAPE)


@contextmanager
def _open_bytes(path: Path) -> Iterator[tuple[BinaryIO, BinaryIO]]:
    """Open a file, gzip or not, as (its text, the file on disk, whose position shows progress)."""
    with path.open("rb") as raw:
        try:
            yield (cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw), raw
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DatasetError(f"{path}: can't be decompressed: {error}.") from None


def as_memory_map(path: Path, n_rows: int, progress: Progress = SILENT) -> NDArray[np.uint8]:
    """Convert a CSV file of `n_rows` images to an array on disk, or open an earlier conversion.

    The array, (n_rows, 3136) uint8, lies in a folder ``.featstore`` beside the CSV or, where that
    can't be written, in the user's cache. It is made again when the CSV was changed or moved, or
    the array was damaged. Progress counts bytes of the CSV file.
    """
    key = json_digest([path.name, *file_stamp(path), n_rows])[:16]
    folders = (
        path.parent / CACHE_FOLDER,
        user_cache_path("featstore") / json_digest(str(path.parent.resolve()))[:16],
    )
    for folder in folders:
        if is_intact(converted := folder / f"{path.name}-{key}.npy"):
            return _map(converted)
    folder = next(filter(_is_writable, folders), folders[0])
    with FileLock(folder / f"{path.name}.lock"):
        converted = folder / f"{path.name}-{key}.npy"
        if not is_intact(converted):
            _convert(path, n_rows, converted, progress)
            kept = {converted, notes_path(converted)}
            own = f"{glob.escape(path.name)}-{'[0-9a-f]' * 16}"
            for stale in {*folder.glob(f"{own}.npy"), *folder.glob(f"{own}.json")} - kept:
                stale.unlink()
    return _map(converted)


def _map(path: Path) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return pixels


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _convert(path: Path, n_rows: int, converted: Path, progress: Progress) -> None:
    n_columns = math.prod(IMAGE_SHAPE)
    nbytes = n_rows * n_columns
    if nbytes > (free := shutil.disk_usage(converted.parent).free):
        raise SpaceError(
            f"Converting {path} takes {nbytes_text(nbytes)} in {converted.parent}, where "
            f"{nbytes_text(free)} are free."
        )
    # The lock admits one writer, so one name serves: the next writer overwrites a killed one's.
    unfinished = converted.parent / f"{path.name}.tmp"
    found = 0
    progress.start(f"converting {path.name}", path.stat().st_size, "bytes")
    try:
        with unfinished.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": (n_rows, n_columns)}
            np.lib.format.write_array_header_1_0(file, header)
            for rows in read_csv(path, n_columns, progress):
                found += len(rows)
                file.write(rows.data)
            file.flush()
            os.fsync(file.fileno())
        if found != n_rows:
            raise DatasetError(f"{path}: holds {found} images; its labels are {n_rows}.")
        sums = sums_of(unfinished)
        unfinished.replace(converted)
        note_sums(converted, sums)
    finally:
        progress.stop()
        unfinished.unlink(missing_ok=True)


def read_csv(
    path: Path, n_columns: int, progress: Progress = SILENT
) -> Iterator[NDArray[np.uint8]]:
    """Yield blocks, (n, n_columns) uint8, of a CSV file without a header, gzip or not.

    Progress counts bytes of the file on disk. A DatasetError names the line and what is wrong in
    it.
    """
    line, done, rest = 1, 0, b""
    with _open_bytes(path) as (file, raw):
        while True:
            block = file.read(PARSED_NBYTES)
            progress.advance(raw.tell() - done)
            done = raw.tell()
            text = rest + block
            if block:
                # The last line waits for the next block: only blank lines may follow it.
                end = text.rstrip().rfind(b"\n") + 1
                text, rest = text[:end], text[end:]
                if len(rest) > 2 * PARSED_NBYTES:
                    raise DatasetError(f"{path}: {_fault(rest, n_columns, line)}.")
            elif text := text.rstrip():
                text += b"\n"
            if text:
                if line == 1:
                    text = text.removeprefix(codecs.BOM_UTF8)
                text = text.replace(b"\r\n", b"\n").replace(b", ", b",")
                rows = _parse(text, n_columns)
                if rows is None:
                    raise DatasetError(f"{path}: {_fault(text, n_columns, line)}.")
                line += len(rows)
                yield rows
            if not block:
                return


def _parse(text: bytes, n_columns: int) -> NDArray[np.uint8] | None:
    """Parse whole lines of numbers, or return None when any of it is something else."""
    characters = np.frombuffer(text, np.uint8)
    digits = characters - np.uint8(ord("0"))
    ends = np.flatnonzero(digits > 9)
    lengths = np.diff(ends, prepend=-1) - 1
    if len(ends) % n_columns or lengths.min() < 1 or lengths.max() > 3:
        return None
    separators = characters[ends].reshape(-1, n_columns)
    if (separators[:, :-1] != ord(",")).any() or (separators[:, -1] != ord("\n")).any():
        return None
    values = digits[ends - 1].astype(np.uint16)
    values += 10 * digits[ends - 2].astype(np.uint16) * (lengths > 1)
    values += 100 * digits[ends - 3].astype(np.uint16) * (lengths > 2)
    if values.max() > 255:
        return None
    return values.astype(np.uint8).reshape(-1, n_columns)


def _fault(text: bytes, n_columns: int, first_line: int) -> str:
    """Describe the first line that is wrong."""
    for number, line in enumerate(text.splitlines(), first_line):
        cells = line.split(b",")
        if len(cells) != n_columns:
            return f"line {number} has {len(cells)} columns; expected {n_columns}"
        for column, cell in enumerate(cells, 1):
            if not (cell.isdigit() and len(cell) <= 3 and int(cell) <= 255):
                value = cell[:20].decode(errors="replace")
                return (
                    f"line {number}, column {column} is {value!r}; expected a whole number from "
                    "0 to 255 (and no header)"
                )
    return f"line {first_line} does not end"
