"""Files that are there whole or not at all, and what their bytes are."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from featstore.environment import available_cores
from featstore.errors import CorruptionError, DatasetError, FeatstoreError, SpaceError, StoreError


def json_digest(value: Any) -> str:
    """Return the sha256 (hex) of a JSON-able value, the same for equal values."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


NO_ROOM = {getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)}
"""What the system says when there is no room: disk or inodes, quota, limit of a file's size."""


def sync_folder(path: Path) -> None:
    """Make renames in a folder durable; a platform that can't open folders does so itself."""
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


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which replaces it durably if no error comes up."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # File systems count bytes, of which a letter may take four.
    name = path.name.encode(errors="ignore")[:100].decode(errors="ignore")
    temporary = path.with_name(f".{name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        sync_file(temporary)
        temporary.replace(path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def resolve_link(path: Path) -> Path:
    """Return the file that is to be replaced where a user's own path is a link to a file.

    Links within a store are not followed: they may have been put there to lead out of it.
    """
    target = Path(os.path.realpath(path))
    is_followed = path.is_symlink() and (target.is_file() or not target.exists())
    return target if is_followed else path


def rename_for_deletion(path: Path) -> Path:
    """Take a folder's name away at once, for it to be deleted; return where it is now.

    What a killed process does not get to delete, :func:`sweep_deleted` does.
    """
    return path.rename(path.with_name(f".old-{path.name}-{secrets.token_hex(4)}"))


def sweep_deleted(folder: Path) -> None:
    """Delete all that :func:`rename_for_deletion` left in a folder."""
    for path in folder.glob(".old-*"):
        shutil.rmtree(path, ignore_errors=True)


def json_bytes(value: dict[str, Any]) -> bytes:
    """Return `value` as a file's content, with a digest of itself."""
    body = value | {"digest": json_digest(value)}
    return json.dumps(body, indent=1, ensure_ascii=False).encode()


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write `value` atomically, with a digest of itself."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(json_bytes(value))


def parse_json(content: bytes) -> dict[str, Any] | None:
    """Return what :func:`json_bytes` made `content` of; None if its digest does not fit."""
    try:
        value = json.loads(content.decode())
        digest = value.pop("digest")
        return dict(value) if digest == json_digest(value) else None
    except (ValueError, KeyError, AttributeError, TypeError):
        return None


def read_json(path: Path) -> dict[str, Any]:
    """Return what :func:`write_json` wrote.

    Raises
    ------
    CorruptionError
        When the file's content does not fit its digest.
    StoreError
        When it can't be read.
    """
    try:
        value = parse_json(path.read_bytes())
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
    """Return the error that says what the system would not do, and how to go on.

    Parameters
    ----------
    error : OSError
        The system's.
    place : Path
        Where it was, if the error names no file.
    command : str
        What to type to go on.
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
    """Turn what the system refuses into an error that says how to go on."""
    try:
        yield
    except OSError as error:
        # What has no number is no answer of the file system.
        if isinstance(error, FeatstoreError | ConnectionError) or error.errno is None:
            raise
        raise write_error(error, place, command) from error


def reserve(path: Path, nbytes: int) -> None:
    """Take a file's room on the disk.

    A memory map whose file has none would end the process, by a signal, where it is written to.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    with path.open("rb+") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, nbytes)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise OSError(error.errno, error.strerror, str(path)) from error


def file_stamp(path: Path) -> list[int]:
    """Return what changes with a file: its size, times and place.

    The time of its last change of any kind can't be set, other than that of its content.

    Raises
    ------
    DatasetError
        When it can't be found.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise DatasetError(f"{path} can't be read: {error.strerror}.") from error
    return [found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns]


CHECKSUM_NBYTES = 16 * 2**20
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
            for _ in range(CHECKSUM_NBYTES // READ_NBYTES):
                crc = zlib.crc32(stream.read(READ_NBYTES), crc)
            return crc

    with ThreadPoolExecutor(min(8, available_cores())) as pool:
        return list(pool.map(crc32, range(0, path.stat().st_size, CHECKSUM_NBYTES)))
