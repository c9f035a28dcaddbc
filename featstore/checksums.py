"""Checksums: files that can be made again, and are, where a bit of them is wrong."""

from __future__ import annotations

import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from featstore.files import read_json, write_json
from featstore.provenance import available_cores, file_stamp

BLOCK_NBYTES = 16 * 2**20
"""Bytes that one checksum is of."""

READ_NBYTES = 2**20
"""Bytes of it that are in memory at a time."""

_checked: dict[Path, list[int]] = {}
"""Files that this process has found to be intact, and what they looked like then."""


def notes_path(path: Path) -> Path:
    """Return where the checksums of a file are."""
    return path.with_suffix(".json")


def note_sums(path: Path, sums: list[int]) -> None:
    """Write a file's checksums, as :func:`sums_of` returned them before it got its name."""
    write_json(notes_path(path), {"sums": sums})


def is_intact(path: Path) -> bool:
    """Return whether a file is there as it was written.

    It is compared with its checksums once in each process, and again when it has changed.
    """
    try:
        stamp = file_stamp(path)
        if _checked.get(path) == stamp:
            return True
        intact = bool(read_json(notes_path(path))["sums"] == sums_of(path))
    except (OSError, ValueError, KeyError):
        return False
    if intact:
        _checked[path] = stamp
    return intact


def sums_of(path: Path) -> list[int]:
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
