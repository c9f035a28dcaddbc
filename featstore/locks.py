"""Locks: one process at a time changes a feature set, and the others know whom they wait for."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from featstore.errors import StoreError
from featstore.progress import SILENT, Progress
from featstore.provenance import now


@contextmanager
def held(
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
            raise StoreError(
                f"{what} is being worked on by {_holder(note)}. Wait for its end, or end it."
            ) from None
        progress.say(f"{what} is being worked on by {_holder(note)}; waiting for it.")
        lock.acquire()
    try:
        holder = {"pid": os.getpid(), "host": platform.node(), "since": now()}
        note.write_text(json.dumps(holder), encoding="utf-8")
        yield
    finally:
        lock.release()


def _holder(note: Path) -> str:
    try:
        holder = json.loads(note.read_text(encoding="utf-8"))
        return f"process {holder['pid']} on {holder['host']} since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
