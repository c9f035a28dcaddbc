"""The state of a working folder, in ``mirror.json``: which records it shares with the bucket.

It holds the etag of each record in the bucket with the hash of its local copy, and the etags of
records that work of this machine is to replace. One process at a time changes it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import filelock

from featstore.errors import CorruptionError
from featstore.io.files import file_sha256, read_json, write_json
from featstore.store.backend import Backend


class SyncState(Backend):
    """The working folder of the store at `url`, and its state."""

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder)
        self.address = url

    @contextmanager
    def state(self) -> Iterator[dict[str, Any]]:
        """Yield the state under a lock; changes to it are written."""
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
            # Everything is then compared again.
            state = {}
        return {"url": self.address, "records": {}, "replacing": {}, **state}

    def knows(self, record: str) -> bool:
        """Return whether a record is also in the bucket, as far as this folder knows."""
        return record in self._read_state()["records"]

    def note(self, record: str, etag: str, digest: str) -> None:
        """Note the etag of an uploaded record, and the sha256 (hex) of its bytes."""
        with self.state() as state:
            state["replacing"].pop(record, None)
            state["records"][record] = [etag, digest]

    def forget(self, records: Iterable[str]) -> None:
        """Note that records are gone from the bucket."""
        with self.state() as state:
            for record in records:
                state["replacing"].pop(record, None)
                state["records"].pop(record, None)

    def give_way(self, records: Sequence[str]) -> list[str]:
        """Let local work replace records in the bucket; return those that the bucket has.

        They are not downloaded again unless they change there.
        """
        with self.state() as state:
            for record in state["records"].keys() & set(records):
                state["replacing"][record] = state["records"].pop(record)[0]
            return [record for record in records if record in state["replacing"]]

    def replaced(self, record: str) -> str | None:
        """Return the etag of the bucket's record that the local record is to replace, or None."""
        etag: str | None = self._read_state()["replacing"].get(record)
        return etag


def sha256_of(path: Path) -> str | None:
    """Return the sha256 (hex) of a file's bytes; None if it is missing or can't be read."""
    try:
        return file_sha256(path) if path.is_file() else None
    except OSError:
        return None
