"""Decoded: a matrix as one plain file in the store's cache, made again where a bit is wrong."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import filelock
import numpy as np

from featstore.errors import SpaceError, StoreError
from featstore.io.files import (
    NO_ROOM,
    atomic_write,
    is_intact,
    note_sums,
    notes_path,
    reserve,
    sums_of,
)
from featstore.text import nbytes_text

READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}


def cached_memmap(
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
    while True:
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
        # Removing any set deletes what was decoded of all; what is mapped by then stays.
        with suppress(FileNotFoundError):
            mapped: np.ndarray = np.load(path, mmap_mode="r")
            return mapped


def _make(path: Path, shape: tuple[int, int], fill: Callable[[np.ndarray], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Whoever left one was killed, or would hold the lock.
    for left in path.parent.glob(f".{path.stem}.*.tmp"):
        left.unlink(missing_ok=True)
    notes_path(path).unlink(missing_ok=True)
    nbytes, free_nbytes = 4 * shape[0] * shape[1], shutil.disk_usage(path.parent).free
    if nbytes > free_nbytes:
        raise SpaceError(_wanted(path, shape, f"{nbytes_text(free_nbytes)} are free"))
    with atomic_write(path) as temporary:
        X = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
        reserve(temporary, temporary.stat().st_size)
        fill(X)
        X.flush()
        del X
        sums = sums_of(temporary)
    note_sums(path, sums)


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


def _is_intact(path: Path, shape: tuple[int, int]) -> bool:
    try:
        return is_intact(path) and bool(np.load(path, mmap_mode="r").shape == shape)
    except (OSError, ValueError):
        return False
