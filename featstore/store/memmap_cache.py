"""A matrix decoded once to one plain file that all processes map."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Sequence
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
    set_ids: Sequence[str],
) -> np.ndarray:
    """Return a float32 matrix as a read-only memory map of a file that all processes share.

    `fill` writes the rows if the file is missing or damaged; meanwhile the file that `lock` returns
    is locked. The file is removed with any of the sets `set_ids`. Each process compares the file
    with its checksums once, and again after a change. If the cache is read-only, the matrix is
    decoded into memory. Raises SpaceError when the disk can't hold the file.
    """
    while True:
        if not _is_intact(path, shape):
            try:
                with filelock.FileLock(lock()):
                    if not _is_intact(path, shape):
                        _make(path, shape, fill, set_ids)
            except OSError as error:
                if isinstance(error, StoreError):
                    raise
                if error.errno not in READ_ONLY:
                    raise _write_error(error, path, shape) from error
                X = np.empty(shape, np.float32)
                fill(X)
                X.flags.writeable = False
                return X
        # Removing a set deletes its files of the cache; files that are mapped stay readable.
        with suppress(FileNotFoundError):
            mapped: np.ndarray = np.load(path, mmap_mode="r")
            return mapped


def _make(
    path: Path,
    shape: tuple[int, int],
    fill: Callable[[np.ndarray], None],
    set_ids: Sequence[str],
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # This process holds the lock, so a killed process left these.
    for left in path.parent.glob(f".{path.stem}.*.tmp"):
        left.unlink(missing_ok=True)
    notes_path(path).unlink(missing_ok=True)
    nbytes, free_nbytes = 4 * shape[0] * shape[1], shutil.disk_usage(path.parent).free
    if nbytes > free_nbytes:
        raise SpaceError(_space_text(path, shape, f"{nbytes_text(free_nbytes)} are free"))
    # A file that a power loss damages does not have its checksums, and is decoded again.
    with atomic_write(path, is_durable=False) as temporary:
        X = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.float32, shape=shape)
        reserve(temporary, temporary.stat().st_size)
        fill(X)
        del X
        # Before the file has its name: no removal of a set finds a file without notes.
        note_sums(path, sums_of(temporary), sets=list(set_ids))


def _space_text(path: Path, shape: tuple[int, int], cause: str) -> str:
    return (
        f"The decoded copy of {shape[0]:,} x {shape[1]:,} features takes "
        f"{nbytes_text(4 * shape[0] * shape[1])}, and {cause} at {path.parent}. Make room (this "
        "folder is a cache, and may be deleted), then run the same command again."
    )


def _write_error(error: OSError, path: Path, shape: tuple[int, int]) -> StoreError:
    if error.errno in NO_ROOM:
        return SpaceError(_space_text(path, shape, f"there is no room ({error.strerror})"))
    return StoreError(
        f"{error.filename or path} can't be written: {error.strerror or error}. The file is a "
        "cache. Put that right, then run the same command again."
    )


def _is_intact(path: Path, shape: tuple[int, int]) -> bool:
    try:
        return is_intact(path) and bool(np.load(path, mmap_mode="r").shape == shape)
    except (OSError, ValueError):
        return False
