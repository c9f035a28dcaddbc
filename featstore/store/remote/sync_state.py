"""The state of a working folder, in ``mirror.json``: which records it shares with the bucket.

It holds the etag of each record in the bucket, the hash of its local copy, and the records made on
this machine to replace one in the bucket. One process at a time changes it.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import filelock

from featstore.errors import CorruptionError
from featstore.io.files import file_sha256, read_json, write_json
from featstore.store.backend import LocalBackend

MACHINE_ID, BOOT_ID = "/etc/machine-id", "/proc/sys/kernel/random/boot_id"
"""Files in which Linux keeps the ids of an installation and of its last start."""


class SyncState(LocalBackend):
    """The working folder of the store at `url`, and its state."""

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder)
        self.address = url

    @property
    def place(self) -> str:
        """Token of the working folder; another folder, or a copy of this one, has another."""
        with self.state() as state:
            token = state.setdefault("place", secrets.token_hex(8))
        # A copy of the folder has the same token; a cloned disk the same name, path and inode, too.
        own = [token, platform.node(), str(self.folder.resolve()), self.folder.stat().st_ino]
        return sha256(json.dumps(own + _system_ids()).encode()).hexdigest()[:16]

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
        return {"url": self.address, "records": {}, "copies": {}, "replaced": {}, **state}

    def knows(self, record: str) -> bool:
        """Return whether a record is also in the bucket, as far as this folder knows."""
        return record in self._read_state()["records"]

    def note(self, records: Mapping[str, str | None], digest: str | None = None) -> None:
        """Note the etags of records in the bucket; None for records that are gone.

        `digest` is the sha256 (hex) of the uploaded record, if it may differ from the local file.
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
        """Let the block write a local record that may replace one in the bucket.

        The record in the bucket is not downloaded again unless it changes. Yields the name of the
        folder for the upload of the new files.
        """
        path = self.folder / record
        with self.state() as state:
            before = sha256_of(path)
            yield new_folder()
            if (after := sha256_of(path)) != before:
                _give_way(state, record, after)

    def give_way(self, records: Iterable[str]) -> list[str]:
        """Let local work replace records in the bucket; return those that the bucket has."""
        with self.state() as state:
            return [record for record in records if _give_way(state, record, None)]

    def replaced(self, record: str) -> str | None:
        """Return the etag of the bucket's record that the local record is to replace, or None."""
        found = self._read_state()["replaced"].get(record)
        return None if found is None else str(found[0])

    def is_as_it_came(self, name: str, state: Mapping[str, Any]) -> bool:
        """Return whether the local copy of a record is as it was downloaded or uploaded.

        The digest in the record itself does not prove that: an editor can recompute it.
        """
        digest = sha256_of(self.folder / name)
        return digest is not None and state["copies"].get(name) == digest


def new_folder() -> str:
    """Return a name for the folder of an upload, which no other upload has."""
    return secrets.token_hex(4)


def _give_way(state: dict[str, Any], record: str, digest: str | None) -> bool:
    known = state["records"].pop(record, None)
    state["copies"].pop(record, None)
    if known is None and record in state["replaced"]:
        known = state["replaced"][record][0]
    if known is not None:
        state["replaced"][record] = [known, digest]
    return known is not None


def _system_ids() -> list[str]:
    """Return the ids of this machine, its last start and its processes' numbering, if any."""
    found = []
    for path in (MACHINE_ID, BOOT_ID):
        with suppress(OSError, ValueError):
            found.append(Path(path).read_text(encoding="utf-8").strip())
    # Two containers of one machine number their processes each for itself.
    with suppress(OSError):
        found.append(os.readlink("/proc/self/ns/pid"))
    return found


def sha256_of(path: Path) -> str | None:
    """Return the sha256 (hex) of a file's bytes; None if it is missing or can't be read."""
    try:
        return file_sha256(path) if path.is_file() else None
    except OSError:
        return None
