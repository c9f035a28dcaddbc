"""File locks that name their holder, and temporary folders that a crash does not leave behind."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock

from featstore.environment import now
from featstore.errors import StoreError
from featstore.io.files import read_record
from featstore.progress import SILENT, Progress

LOOK_S = 1.0
"""Time between two checks of who holds a lock."""


@contextmanager
def locked(
    path: Path, what: str, progress: Progress = SILENT, *, wait: bool = True
) -> Iterator[None]:
    """Hold the lock file `path`, whose folder exists; the system frees it if the process dies.

    Messages call the locked thing `what`. If another process holds the lock, `progress` says which
    one, and this process waits; without `wait` it raises StoreError.
    """
    note = path.with_suffix(".json")
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        if not wait:
            raise StoreError(f"{busy_text(what, _read_note(note))}. {BUSY_CURE}") from None
        _wait(lock, note, what, progress)
    try:
        _leave_note(note)
        yield
    finally:
        lock.release()


def _leave_note(note: Path) -> None:
    """Write who holds a lock, unless the disk is full: removing a set must work then."""
    try:
        # The lock admits one writer, so one name serves, and a note need not outlive its process.
        temporary = note.with_name(f".{note.name}.tmp")
        temporary.write_text(json.dumps(this_holder()), encoding="utf-8")
        temporary.replace(note)
    except OSError:
        # The note of the previous holder would be wrong.
        with suppress(OSError):
            note.unlink(missing_ok=True)


def _wait(lock: filelock.BaseFileLock, note: Path, what: str, progress: Progress) -> None:
    """Wait for a lock; say who holds it, each time that the holder changes."""
    said = ""
    while True:
        if (text := busy_text(what, _read_note(note))) != said:
            progress.say(f"{text}; waiting for it.")
            said = text
        try:
            lock.acquire(timeout=LOOK_S)
        except filelock.Timeout:
            continue
        return


def _read_note(note: Path) -> Any:
    try:
        return json.loads(read_record(note))
    except (OSError, ValueError, RecursionError):
        return None


BUSY_CURE = "Wait for its end, or end it."


def this_holder() -> dict[str, Any]:
    """Return what the note of a lock says about this process."""
    return {"pid": os.getpid(), "host": platform.node(), "since": now()}


def busy_text(what: str, holder: Any, unknown: str = "another process") -> str:
    """Return a message that the process of a :func:`this_holder` note works on something."""
    try:
        named = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (KeyError, TypeError):
        named = unknown
    return f"{what} is being worked on by {named}"


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Make a folder that is deleted at the end, unless it was renamed.

    :func:`sweep_temporary` does not delete it while its process lives.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    place = _draft_lock(path)
    with filelock.FileLock(place):
        try:
            path.mkdir()
            yield path
        finally:
            # Windows keeps files that a process still maps.
            shutil.rmtree(path, ignore_errors=True)
            place.unlink(missing_ok=True)


_joined: dict[Path, filelock.FileLock] = {}


_joining = threading.Lock()


def shared_folder(path: Path) -> Path:
    """Make a folder that processes share until one of them calls :func:`remove_shared`.

    :func:`sweep_temporary` does not delete it while one of them lives.
    """
    with _joining:
        if path not in _joined:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(_draft_lock(path), thread_local=False)
            # Another process may hold it; when that one dies, the next call takes the lock.
            with suppress(filelock.Timeout):
                lock.acquire(timeout=0)
                _joined[path] = lock
        path.mkdir(exist_ok=True)
    return path


def remove_shared(name: str) -> None:
    """Delete the shared folders of a name whose locks this process holds."""
    with _joining:
        for path in [path for path in _joined if path.name == name]:
            shutil.rmtree(path, ignore_errors=True)
            _draft_lock(path).unlink(missing_ok=True)
            _joined.pop(path).release()


def sweep_temporary(folder: Path, prefix: str) -> None:
    """Delete the temporary folders of killed processes: the prefix, a text, and hex digits.

    Their age does not count: clocks jump, and work may take days.
    """
    found = {path.with_name(path.name.removesuffix(".lock")) for path in folder.glob(f"{prefix}*")}
    own = re.compile(rf"{re.escape(prefix)}(.+-)?[0-9a-f]{{8,12}}")
    for path in filter(lambda path: own.fullmatch(path.name), found):
        place = _draft_lock(path)
        try:
            with filelock.FileLock(place).acquire(timeout=0):
                shutil.rmtree(path, ignore_errors=True)
                place.unlink(missing_ok=True)
        except filelock.Timeout:
            continue


def _draft_lock(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")
