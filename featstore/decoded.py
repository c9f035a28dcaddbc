"""Decoded: a matrix as one plain file in the store's cache, made again where a bit is wrong."""

from __future__ import annotations

import errno
import shutil
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import filelock
import numpy as np

from featstore.errors import SpaceError, StoreError
from featstore.files import NO_ROOM, read_json, replacing, reserve, write_json
from featstore.progress import nbytes_text
from featstore.provenance import available_cores, file_stamp

BLOCK_NBYTES = 16 * 2**20
"""Bytes that one checksum is of."""

READ_NBYTES = 2**20
"""Bytes of it that are in memory at a time."""

READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}

_checked: dict[Path, list[int]] = {}
"""Files that this process has found to be intact, and what they looked like then."""


def decoded(
    path: Path,
    lock: Callable[[], Path],
    shape: tuple[int, int],
    fill: Callable[[np.ndarray], None],
) -> np.ndarray:
    """Return a matrix as a read-only memory map of a file that all processes share.

    The file is compared with its checksums once in each process, and again when it has changed.

    Parameters
    ----------
    path : Path
        The file; made if it is not there.
    lock : callable
        Returns the file that is locked while it is made.
    shape : tuple of int
        Rows and columns.
    fill : callable
        Writes the rows, float32, into an array of that shape.

    Returns
    -------
    ndarray of shape `shape`, float32
        In memory, and no map, where the cache may not be written.

    Raises
    ------
    SpaceError
        When the disk can't hold it.
    StoreError
        When the file can't be written for another cause.
    """
    if not _is_intact(path, shape):
        try:
            with filelock.FileLock(lock()):
                if not _is_intact(path, shape):
                    _make(path, shape, fill)
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            if error.errno not in READ_ONLY:
                raise _refusal(error, path, shape) from error
            X = np.empty(shape, np.float32)
            fill(X)
            X.flags.writeable = False
            return X
    mapped: np.ndarray = np.load(path, mmap_mode="r")
    return mapped


def _make(path: Path, shape: tuple[int, int], fill: Callable[[np.ndarray], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Whoever left one was killed, or would hold the lock.
    for left in path.parent.glob(f".{path.stem}.*.tmp"):
        left.unlink(missing_ok=True)
    notes = _notes(path)
    notes.unlink(missing_ok=True)
    nbytes, free_nbytes = 4 * shape[0] * shape[1], shutil.disk_usage(path.parent).free
    if nbytes > free_nbytes:
        raise SpaceError(_wanted(path, shape, f"{nbytes_text(free_nbytes)} are free"))
    with replacing(path) as temporary:
        X = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
        reserve(temporary, temporary.stat().st_size)
        fill(X)
        X.flush()
        del X
        sums = _sums(temporary)
    write_json(notes, {"sums": sums})


def _wanted(path: Path, shape: tuple[int, int], cause: str) -> str:
    return (
        f"The decoded copy of {shape[0]:,} x {shape[1]:,} features takes "
        f"{nbytes_text(4 * shape[0] * shape[1])}, and {cause} at {path.parent}. Make room there "
        "(all that this folder holds can be made again, and may be deleted), then do the same "
        "again."
    )


def _refusal(error: OSError, path: Path, shape: tuple[int, int]) -> StoreError:
    if error.errno in NO_ROOM:
        return SpaceError(_wanted(path, shape, f"there is no room ({error.strerror})"))
    return StoreError(
        f"{error.filename or path} can't be written: {error.strerror or error}. When that is put "
        "right, do the same again; what it holds can be made again at any time."
    )


def _notes(path: Path) -> Path:
    return path.with_suffix(".json")


def _is_intact(path: Path, shape: tuple[int, int]) -> bool:
    try:
        stamp = file_stamp(path)
        if _checked.get(path) == stamp:
            return True
        sums = read_json(_notes(path))["sums"]
        intact = bool(sums == _sums(path)) and np.load(path, mmap_mode="r").shape == shape
    except (OSError, ValueError, KeyError):
        return False
    if intact:
        _checked[path] = stamp
    return intact


def _sums(path: Path) -> list[int]:
    """Return the CRC-32 of each block of a file."""

    def crc32(start: int) -> int:
        with path.open("rb") as stream:
            stream.seek(start)
            crc = 0
            for _ in range(BLOCK_NBYTES // READ_NBYTES):
                crc = zlib.crc32(stream.read(READ_NBYTES), crc)
            return crc

    with ThreadPoolExecutor(min(8, available_cores())) as pool:
        return list(pool.map(crc32, range(0, path.stat().st_size, BLOCK_NBYTES)))
