"""What a process does to files below one folder, numbered; and what goes wrong at a number.

Each opening to write, write, sync, renaming, unlinking and making of a folder counts. A process
that is to die at the n-th writes half of it, where it is a write, and kills itself by SIGKILL; one
that is to find no room writes half of it and gets the error that the system would give.
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

GROWING = ("create", "write", "allocate", "mkdir", "rename", "sync")
"""What takes room on a disk, or may find out late that there was none."""


class Operations:
    """Numbers operations, and lets one of them go wrong.

    Parameters
    ----------
    store : str
        Folder below which operations count.
    report : str
        File that says, in the end or at the kill, what was done.
    at : int or None
        Number of the operation that goes wrong, from 1; None to count alone.
    error : str or None
        Name of an errno that it gives; None for a kill.
    lasting : bool
        Whether all that come after give it as well.
    kinds : sequence of str
        Kinds of operations that count; none for all.
    """

    def __init__(
        self,
        store: str,
        report: str,
        at: int | None = None,
        error: str | None = None,
        lasting: bool = True,
        kinds: Sequence[str] = (),
    ) -> None:
        self._store = os.path.realpath(store)
        self._report, self._at, self._error = report, at, error
        self._lasting, self._kinds = lasting, kinds
        self._done: list[tuple[str, str, str]] = []
        self._lock = threading.RLock()
        self._real_open, self._real = io.open, {}
        self._first_chunk = self._first_journal = self._final = False

    def install(self) -> None:
        """Put the counting in the place of what is counted."""
        io.open = builtins.open = self._open
        for name, kind in (
            ("rename", "rename"),
            ("replace", "rename"),
            ("unlink", "remove"),
            ("remove", "remove"),
            ("rmdir", "remove"),
            ("mkdir", "mkdir"),
            ("fsync", "sync"),
            ("open", "create"),
            ("posix_fallocate", "allocate"),
        ):
            self._real[name] = getattr(os, name)
            setattr(os, name, self._counting(name, kind))

    def _counting(self, name: str, kind: str) -> Callable[..., Any]:
        real = self._real[name]

        def call(path: Any, *args: Any, **options: Any) -> Any:
            if name == "open" and not args[0] & os.O_CREAT:
                return real(path, *args, **options)
            where = self._place(path, options.get("dir_fd"))
            with self._lock:
                if where is not None:
                    self._count(kind, where)
                return real(path, *args, **options)

        return call

    def _place(self, path: Any, folder: int | None = None) -> str | None:
        """Return a path relative to the store; None where it is not below it."""
        if isinstance(path, int):
            path = os.readlink(f"/proc/self/fd/{path}")
        elif folder is not None:
            path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), os.fspath(path))
        path = os.fsdecode(path)
        # The path itself, were it a link, and not what it leads to.
        path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        if not path.startswith(self._store + os.sep):
            return None
        return path.removeprefix(self._store + os.sep)

    def _open(self, file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        writes = set(mode) & set("wxa+")
        where = None
        if writes and not isinstance(file, int):
            where = self._place(file)
        with self._lock:
            if where is not None:
                self._count("create", where)
            stream = self._real_open(file, mode, *args, **options)
        return stream if where is None else _Written(stream, where, self)

    def write(self, stream: Any, where: str, data: Any) -> int:
        """Write to a stream, unless that goes wrong half way."""
        half = data[: len(data) // 2] if isinstance(data, str) else bytes(data)[: len(data) // 2]

        def torn() -> None:
            stream.write(half)
            stream.flush()

        with self._lock:
            self._count("write", where, torn)
            return int(stream.write(data))

    def _count(self, kind: str, where: str, torn: Callable[[], None] = lambda: None) -> None:
        if self._kinds and kind not in self._kinds:
            return
        self._done.append((kind, self._phase(kind, where), where))
        n = len(self._done)
        if self._at is None:
            with self._real_open(self._report, "w") as stream:
                json.dump(self._done, stream)
            return
        if n < self._at or (n > self._at and not self._lasting):
            return
        if self._error is None:
            torn()
            with self._real_open(self._report, "w") as stream:
                json.dump({"phase": self._done[-1][1], "kind": kind, "where": where}, stream)
            os.kill(os.getpid(), signal.SIGKILL)
        code = getattr(errno, self._error)
        no_room = code in (errno.ENOSPC, errno.EDQUOT)
        if kind in GROWING or (not no_room and kind == "remove"):
            if n == self._at:
                with self._real_open(self._report, "w") as stream:
                    json.dump({"phase": self._done[-1][1], "kind": kind, "where": where}, stream)
            if no_room:
                torn()
            raise OSError(code, os.strerror(code), str(Path(self._store) / where))

    def _phase(self, kind: str, where: str) -> str:
        """Return which part of an extraction, or of a fit, an operation belongs to."""
        if where.startswith("runs"):
            return "run"
        if where.startswith("cache/scratch"):
            return "scratch"
        if where.startswith("cache/") and ".npy" in where:
            return "decode"
        parts = where.split("/")
        if "layers" in parts:
            self._final = True
        if "c" in parts[:-1] and not any(part.startswith(".new-") for part in parts):
            self._first_chunk = True
        if self._final:
            return "finalise"
        if not self._first_chunk:
            return "open"
        in_journal = "journal" in parts
        if not self._first_journal:
            # Where the journal that names it is in place, the first chunk is over.
            self._first_journal = in_journal and kind == "rename"
            return "first chunk"
        return "journal" if in_journal else "mid-write"


class _Written:
    """A stream whose writes are counted."""

    def __init__(self, stream: Any, where: str, operations: Operations) -> None:
        self._stream, self._where, self._operations = stream, where, operations

    def write(self, data: Any) -> int:
        return self._operations.write(self._stream, self._where, data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> _Written:
        self._stream.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stream.__exit__(*error)

    def __iter__(self) -> Any:
        return iter(self._stream)
