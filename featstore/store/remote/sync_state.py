"""Ledgers: what a working folder knows of the store on object storage that it works for.

Each record there by its etag, and the copy of it here by its hash; and what was made here to take
the place of one there. It is kept in ``mirror.json``, and changed by one process at a time.
"""

from __future__ import annotations

import json
import platform
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import filelock

from featstore.errors import CorruptionError
from featstore.io.files import file_sha256, read_json, write_json


class SyncState:
    """What is known of a store at a URL in the folder that works for it.

    Parameters
    ----------
    folder : Path
    url : str
    """

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url

    @property
    def place(self) -> str:
        """Name of the working folder, unlike any other's and that of a copy of it."""
        with self.state() as state:
            token = state.setdefault("place", secrets.token_hex(8))
        # A copied folder brings the token along, and none of the rest.
        own = [token, platform.node(), str(self.folder.resolve()), self.folder.stat().st_ino]
        return sha256(json.dumps(own).encode()).hexdigest()[:16]

    def lock_path(self, name: str) -> Path:
        """Return a lock file of the working folder."""
        path = self.folder / "locks" / f"{name}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def state(self) -> Iterator[dict[str, Any]]:
        """Yield what is kept of the remote, to be changed by one process at a time."""
        with filelock.FileLock(self.lock_path("mirror")):
            state = self._read_state()
            before = json.dumps(state, sort_keys=True)
            yield state
            if json.dumps(state, sort_keys=True) != before:
                write_json(self.folder / "mirror.json", state)

    def _read_state(self) -> dict[str, Any]:
        path = self.folder / "mirror.json"
        try:
            state = read_json(path) if path.is_file() else {}
        except CorruptionError:
            # Everything is then compared anew.
            state = {}
        return {"url": self.url, "records": {}, "copies": {}, "replaced": {}, **state}

    def knows(self, record: str) -> bool:
        """Return whether a record of the working folder is also there."""
        return record in self._read_state()["records"]

    def note(self, records: Mapping[str, str | None], digest: str | None = None) -> None:
        """Note records as they are there now, by etag; None for those that are not.

        `digest` is the sha256 (hex) of what was sent, where that is not simply what lies here.
        """
        with self.state() as state:
            for name, etag in records.items():
                state["replaced"].pop(name, None)
                if etag is None:
                    state["records"].pop(name, None)
                    state["copies"].pop(name, None)
                else:
                    state["records"][name] = etag
                    state["copies"][name] = digest or sha256_of(self.folder / name)

    @contextmanager
    def atomic_write(self, record: str) -> Iterator[str]:
        """Let a record that is written here within take the place of the one known there.

        Nobody fetches that one again meanwhile, nor afterwards, until it is another than now.
        Yields the folder for the new files there, beside those of the old record; nothing
        where there is none.
        """
        path = self.folder / record
        with self.state() as state:
            before = sha256_of(path)
            is_known = record in state["records"] or record in state["replaced"]
            yield secrets.token_hex(4) if is_known else ""
            if is_known and (after := sha256_of(path)) != before:
                state["copies"].pop(record, None)
                known = state["records"].pop(record, None)
                etag = state["replaced"][record][0] if known is None else known
                state["replaced"][record] = [etag, after]

    def replaced(self, record: str) -> str | None:
        """Return the etag of the record there that the one here is to replace, if it is."""
        found = self._read_state()["replaced"].get(record)
        return None if found is None else str(found[0])

    def is_as_it_came(self, name: str, state: Mapping[str, Any]) -> bool:
        """Return whether the copy of a record is as it was fetched or sent.

        Its own digest says no more than that somebody wrote it.
        """
        digest = sha256_of(self.folder / name)
        return digest is not None and state["copies"].get(name) == digest


def sha256_of(path: Path) -> str | None:
    """Return the sha256 (hex) of a file's bytes; None when there is none that can be read."""
    try:
        return file_sha256(path) if path.is_file() else None
    except OSError:
        return None
