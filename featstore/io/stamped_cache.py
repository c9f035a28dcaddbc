"""Values that were read from files, each kept until the stamp of its files changes."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import filelock

from featstore.io.files import atomic_write, file_stamp

RECENT_S = 0.02
"""A file that is this young may change and keep its times, which count in milliseconds."""

N_DIGEST = 64
"""Bytes of the digest with which the file of the values begins."""


def stamp_text(path: str | Path) -> str:
    """Return a file's stamp as text; its last number is the time of the file's last change."""
    return " ".join(map(str, file_stamp(path)))


class StampedCache:
    """Values by key, each with the stamp that its files had before they were read.

    A stamp is one line that ends as :func:`stamp_text`, or several. The values are kept in the file
    `place`. If that file is missing, damaged, of another `version` or can't be written, the values
    are read again: it saves time, and decides nothing.
    """

    def __init__(self, place: Path, version: str = "") -> None:
        self._place = place
        self._version = version
        self._known = self._load()
        self._is_saved = True

    def get(self, key: str, stamp: str) -> Any | None:
        """Return the value of a key, if its files still have the stamp; else None."""
        known = self._known.get(key)
        return known[1] if known is not None and known[0] == stamp else None

    def put(self, key: str, stamp: str, value: Any) -> None:
        """Keep a JSON-able value in memory, until :meth:`save` keeps it in the file.

        An empty stamp is that of files that can't be read; their value is not kept.
        """
        if not stamp:
            return
        self._known[key] = stamp, value
        self._is_saved = False

    def save(self, keys: Iterable[str]) -> None:
        """Keep the values of the keys in the file, and drop all others.

        A value of files that changed just now stays in memory alone.
        """
        wanted = {key: self._known[key] for key in keys if key in self._known}
        if self._is_saved and len(wanted) == len(self._known):
            return
        now_ns, recent_ns = time.time_ns(), RECENT_S * 1e9
        # A clock that is set back must not make all files recent.
        kept = [
            (key, *one)
            for key, one in wanted.items()
            if abs(now_ns - _changed_ns(one[0])) > recent_ns
        ]
        self._known, self._is_saved = wanted, len(kept) == len(wanted)
        body = json.dumps([list(column) for column in zip(*kept, strict=True)]).encode()
        # A process that is saving the same values is not waited for.
        with suppress(OSError, filelock.Timeout):
            self._place.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(f"{self._place}.lock", timeout=0):
                for left in self._place.parent.glob(f".{self._place.name}.*.tmp"):
                    left.unlink()
                with atomic_write(self._place) as temporary:
                    temporary.write_bytes(self._digest(body) + body)

    def _load(self) -> dict[str, tuple[str, Any]]:
        # With one wrong bit in a hash, the same files would be another dataset.
        try:
            content = self._place.read_bytes()
            body = content[N_DIGEST:]
            if content[:N_DIGEST] != self._digest(body):
                return {}
            keys, stamps, values = json.loads(body) or ((), (), ())
            return dict(zip(keys, zip(stamps, values, strict=True), strict=True))
        except (OSError, ValueError, TypeError, RecursionError):
            return {}

    def _digest(self, body: bytes) -> bytes:
        return hashlib.sha256(self._version.encode() + body).hexdigest().encode()


def _changed_ns(stamp: str) -> int:
    return max(int(line.rpartition(" ")[2]) for line in stamp.split("\n"))
