"""Atomic, durable writes; JSON with its hash; checksums of large files."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import re
import secrets
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from featstore.environment import available_cores
from featstore.errors import CorruptionError, DatasetError, FeatstoreError, SpaceError, StoreError
from featstore.text import nbytes_text


def json_digest(value: Any) -> str:
    """Return the sha256 (hex) of a value that JSON can hold; equal values have the same."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


NO_ROOM = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)}
"""Error numbers of a full disk (blocks or inodes), a quota, or a limit on file sizes."""


def sync_folder(path: Path) -> None:
    """Make renames in a folder durable. Platforms that can't open folders need no call."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Make a file's bytes durable."""
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def sync_tree(folder: Path) -> None:
    """Make a folder with all its files and folders durable, but not its own name."""
    for parent, _, names in os.walk(folder):
        for name in names:
            sync_file(Path(parent, name))
        sync_folder(Path(parent))


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents, durably."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        # A new file is lost with its folder, however often the file is synced.
        sync_folder(path.parent)


TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
"""Names of the temporary files of :func:`atomic_write`."""


@contextmanager
def atomic_write(path: Path, *, is_durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path; if no error occurs, its file durably replaces the one at `path`.

    Without `is_durable`, a power loss may damage the new file: one that can be made again.
    """
    make_folder(path.parent)
    # File systems count bytes, and a letter may take four.
    name = path.name.encode(errors="ignore")[:100].decode(errors="ignore")
    temporary = path.with_name(f".{name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        if is_durable:
            sync_file(temporary)
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def resolve_link(path: Path) -> Path:
    """Return the target of a link that a user named as the output, so that it is replaced.

    Don't call it for links within a store: somebody may have made them to lead out of it.
    """
    target = Path(os.path.realpath(path))
    is_followed = path.is_symlink() and (target.is_file() or not target.exists())
    return target if is_followed else path


def write_output(path: Path, content: bytes) -> None:
    """Write a file that a user named, whole or not at all."""
    try:
        with atomic_write(resolve_link(path)) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise StoreError(f"{path} can't be written: {error.strerror or error}.") from error


def rename_for_deletion(path: Path) -> Path:
    """Rename a folder that is to be deleted, so that its name is free at once; return its path.

    :func:`featstore.store.removal.sync_and_sweep` deletes it, also after a kill.
    """
    return path.rename(path.with_name(f".old-{path.name}-{secrets.token_hex(4)}"))


def exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two folders in one step; return False where that is impossible.

    Linux and macOS have a call for it, which Python does not offer. Not every file system has it.
    """
    libc, names = ctypes.CDLL(None), (os.fsencode(one), os.fsencode(other))
    if hasattr(libc, "renameat2"):
        return bool(libc.renameat2(_HERE, names[0], _HERE, names[1], _EXCHANGE) == 0)
    return hasattr(libc, "renamex_np") and bool(libc.renamex_np(*names, _EXCHANGE) == 0)


_HERE, _EXCHANGE = -100, 2
"""Linux's AT_FDCWD; its RENAME_EXCHANGE, and macOS's RENAME_SWAP."""


def json_bytes(value: dict[str, Any]) -> bytes:
    """Return `value` as the bytes of a JSON file, with its digest."""
    body = value | {"digest": json_digest(value)}
    return json.dumps(body, indent=1, ensure_ascii=False).encode()


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write `value` atomically as JSON, with its digest."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(json_bytes(value))


def parse_json(content: bytes) -> dict[str, Any] | None:
    """Return the value that :func:`json_bytes` wrote; None if its digest does not fit."""
    try:
        value = json.loads(content.decode())
        digest = value.pop("digest")
        return dict(value) if digest == json_digest(value) else None
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None


MAX_RECORD_NBYTES = 2**30
"""Larger records are not read.

A layer's record, the largest, has some 100 bytes for each chunk of 4 MiB: at this size, the layer
has 45 TB.
"""


def check_record_size(name: object, nbytes: int) -> None:
    """Refuse a record that is too large to be one of featstore."""
    if nbytes > MAX_RECORD_NBYTES:
        raise CorruptionError(
            f"{name} has {nbytes_text(nbytes)}; a record of featstore has at most "
            f"{nbytes_text(MAX_RECORD_NBYTES)}. Put back the file, or delete it and make again "
            "what it belongs to."
        )


def read_record(path: Path) -> bytes:
    """Return the bytes of a JSON record, or of ``zarr.json``, unless it is too large."""
    with path.open("rb") as stream:
        nbytes = os.fstat(stream.fileno()).st_size
        check_record_size(path, nbytes)
        return stream.read(nbytes)


def read_json(path: Path) -> dict[str, Any]:
    """Return the value that :func:`write_json` wrote; refuse one whose digest is wrong."""
    try:
        value = parse_json(read_record(path))
    except CorruptionError:
        raise
    except OSError as error:
        raise StoreError(f"{path} can't be read: {error.strerror or error}.") from error
    if value is None:
        raise CorruptionError(
            f"{path} is not as it was written: its digest does not fit. Put back the file, or "
            "remove the feature set that it belongs to and extract again."
        )
    return value


def file_sha256(path: Path) -> str:
    """Return the sha256 (hex) of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_error(error: OSError, place: Path, command: str) -> StoreError:
    """Return the error of a failed write, with the command that resumes.

    `place` is named if the system's error names no file.
    """
    said = (
        f"{error.filename or place} can't be written: {error.strerror or error}. What was finished "
        "is kept; when "
    )
    if error.errno in NO_ROOM:
        return SpaceError(f"{said}there is room, go on with: {command}")
    return StoreError(f"{said}that is put right, go on with: {command}")


@contextmanager
def with_resume_hint(place: Path, command: str) -> Iterator[None]:
    """Turn a failed write into an error that names the command that resumes."""
    try:
        yield
    except OSError as error:
        # Errors without a number are not the file system's.
        if isinstance(error, FeatstoreError | ConnectionError) or error.errno is None:
            raise
        raise write_error(error, place, command) from error


def reserve(path: Path, nbytes: int) -> None:
    """Reserve a file's space on the disk.

    Without it, a write to a memory map on a full disk would end the process by a signal.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("rb+") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, nbytes)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise OSError(error.errno, error.strerror, str(path)) from error


def file_stamp(path: str | Path) -> list[int]:
    """Return the numbers that change when a file does: size, modification time, inode, ctime.

    A program can set the modification time, but not the ctime.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        raise DatasetError(f"{path} can't be read: {error.strerror}.") from error
    return [found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns]


CHECKSUM_NBYTES = 16 * 2**20
"""Bytes of a block, which has one checksum."""


READ_NBYTES = 2**20
"""Bytes of a block that are in memory at a time."""


_checked: dict[Path, list[int]] = {}
"""Files that this process found intact, with their stamps at that time."""


def notes_path(path: Path) -> Path:
    """Return the path of a file's checksums."""
    return path.with_suffix(".json")


def note_sums(path: Path, sums: list[int], **facts: Any) -> None:
    """Write a file's checksums, which :func:`sums_of` returned before the file got its name."""
    write_json(notes_path(path), {"sums": sums, **facts})


def is_intact(path: Path) -> bool:
    """Return whether a file exists and has its checksums.

    Each process compares a file once, and again when its stamp changes.
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
            for _ in range(CHECKSUM_NBYTES // READ_NBYTES):
                crc = zlib.crc32(stream.read(READ_NBYTES), crc)
            return crc

    with ThreadPoolExecutor(min(8, available_cores())) as pool:
        return list(pool.map(crc32, range(0, path.stat().st_size, CHECKSUM_NBYTES)))
