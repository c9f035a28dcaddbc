"""Locks: one process at a time changes a feature set, and the others know whom they wait for."""

from __future__ import annotations

import json
import os
import platform
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import filelock

from featstore.environment import now
from featstore.errors import StoreError
from featstore.io.files import atomic_write
from featstore.progress import SILENT, Progress

LOOK_S = 1.0
"""Time between two looks at who holds a lock that is waited for."""


@contextmanager
def locked(
    path: Path, what: str, progress: Progress = SILENT, *, wait: bool = True
) -> Iterator[None]:
    """Hold a lock, which the system gives back when this process ends in whatever way.

    Parameters
    ----------
    path : Path
        The lock file; its folder exists.
    what : str
        What it locks, for people.
    progress : Progress
        Told whom this waits for.
    wait : bool
        Whether to wait while another process holds it.

    Raises
    ------
    StoreError
        When another process holds it and `wait` is false.
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
    """Write who holds a lock, where there is room: removing a set must work on a full disk."""
    try:
        with atomic_write(note) as temporary:
            temporary.write_text(json.dumps(this_holder()), encoding="utf-8")
    except OSError:
        # The note of whoever held it before would be wrong.
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
        return json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


BUSY_CURE = "Wait for its end, or end it."


def this_holder() -> dict[str, Any]:
    """Return what others are told of this process while it holds a lock."""
    return {"pid": os.getpid(), "host": platform.node(), "since": now()}


def busy_text(what: str, holder: Any, unknown: str = "another process") -> str:
    """Return that a holder, as :func:`this_holder` described itself, works on something."""
    try:
        named = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (KeyError, TypeError):
        named = unknown
    return f"{what} is being worked on by {named}"


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Make a folder that is gone in the end, unless it was renamed.

    As long as its process lives, :func:`sweep_temporary` leaves it alone.
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

    As long as one that joined lives, :func:`sweep_temporary` leaves it alone.
    """
    with _joining:
        if path not in _joined:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(_draft_lock(path), thread_local=False)
            # Another process may hold it; when that dies, the next call makes up for it.
            with suppress(filelock.Timeout):
                lock.acquire(timeout=0)
                _joined[path] = lock
        path.mkdir(exist_ok=True)
    return path


def remove_shared(name: str) -> None:
    """Delete the shared folders of a name that this process holds; others' are left to them."""
    with _joining:
        for path in [path for path in _joined if path.name == name]:
            shutil.rmtree(path, ignore_errors=True)
            _draft_lock(path).unlink(missing_ok=True)
            _joined.pop(path).release()


def sweep_temporary(folder: Path, prefix: str) -> None:
    """Delete the drafts in a folder that killed processes left.

    Their age says nothing: clocks are set, and work may take days.
    """
    found = folder.glob(f"{prefix}*")
    for path in {path.with_name(path.name.removesuffix(".lock")) for path in found}:
        place = _draft_lock(path)
        try:
            with filelock.FileLock(place).acquire(timeout=0):
                shutil.rmtree(path, ignore_errors=True)
                place.unlink(missing_ok=True)
        except filelock.Timeout:
            continue


def _draft_lock(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")
