"""A store on object storage, and its working folder on this machine.

The folder is a store like any other, and all computing happens in it. Records are downloaded when
the store is listed, matrices and the files of runs when they are first read. A record is downloaded
again if its etag in the bucket or the hash of its local copy changes, and deleted if it is gone
from the bucket. Work that is not uploaded yet stays.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import filelock
import platformdirs

from featstore.errors import CorruptionError, StoreError
from featstore.io.files import atomic_write, file_sha256
from featstore.io.locks import locked
from featstore.progress import SILENT, Progress
from featstore.store.backend import DIGEST_LENGTH, Kind
from featstore.store.leftovers import SAFE_AGE_S, Leftover
from featstore.store.remote import gc, push
from featstore.store.remote.client import (
    N_AT_A_TIME,
    Entry,
    ObjectStorage,
    open_storage,
)
from featstore.store.remote.lease import hold_lease
from featstore.store.remote.records import (
    drop_record,
    install_record,
    is_record,
    of_owner,
    owner_of,
)
from featstore.store.remote.services import service_of
from featstore.store.remote.sync_state import SyncState, sha256_of
from featstore.store.set_folder import RUNS, SETS, SetFolder, uploaded_to

REFRESH_S = 1.0
"""Seconds for which a listing counts as current."""


class RemoteBackend(SyncState):
    """A store on object storage. Files that are not uploaded yet are only in the working folder.

    `progress` shows large downloads.
    """

    def __init__(self, remote: ObjectStorage, folder: Path, progress: Progress = SILENT) -> None:
        super().__init__(folder, remote.url)
        self.remote = remote
        self._progress = progress
        self._seen_at: dict[str, float] = {}

    def locate(self, place: str = "", upload: str | None = None) -> str:
        """Return the URL of a place."""
        return f"{self.address}/{uploaded_to(place, upload)}" if place else self.address

    def pull(self, kind: Kind, *, now: bool = False, held: str | None = None) -> None:
        """Update the local records of all sets or runs.

        With `now`, the bucket is listed even if the last listing is recent. `held` is the set whose
        lock the caller holds; sets that another process of this machine works on are skipped.
        """
        if not now and time.monotonic() - self._seen_at.get(kind, -math.inf) < REFRESH_S:
            return
        with self.state() as state:
            known, replacing = state["records"], state["replacing"]
            found = self._records(kind)
            for name, etag in list(replacing.items()):
                # Another machine's work comes first.
                if name.startswith(f"{kind}/") and (name not in found or found[name].etag != etag):
                    del replacing[name]
            # The digest in a record does not prove that the local copy is as it came: an editor
            # can compute it again.
            new = [
                name
                for name, entry in found.items()
                if name not in replacing
                and known.get(name) != [entry.etag, sha256_of(self.folder / name)]
            ]
            gone = [n for n in known if n.startswith(f"{kind}/") and n not in found]
            contents = dict(zip(new, self.remote.each(self.remote.get, new), strict=True))
            for owner in sorted({owner_of(name) for name in [*new, *gone]}):
                with suppress(filelock.Timeout), self._lock_of(kind, owner, held):
                    for name in of_owner(new, owner):
                        if (content := contents[name]) is not None:
                            install_record(self.folder, name, content)
                            known[name] = [found[name].etag, sha256(content).hexdigest()]
                    for name in of_owner(gone, owner):
                        try:
                            drop_record(self.folder, name, known)
                        except StoreError as error:
                            self._progress.say(str(error))
                        del known[name]
        self._seen_at[kind] = time.monotonic()

    def _records(self, kind: str) -> dict[str, Entry]:
        found = self.remote.entries(f"{kind}/")
        records = {name: entry for name, entry in found.items() if is_record(name)}
        if kind == RUNS:
            return records
        whole = {owner_of(name) for name in records if name.endswith("/set.json")}
        return {name: entry for name, entry in records.items() if owner_of(name) in whole}

    def _lock_of(self, kind: str, owner: str, held: str | None) -> AbstractContextManager[Any]:
        """Return the lock of a set, which raises Timeout while another process works on the set."""
        if kind == RUNS or (held is not None and _digest(held) == _digest(owner)):
            return nullcontext()
        return filelock.FileLock(self.set_lock(owner), timeout=0)

    def fetch(
        self,
        place: str,
        files: Mapping[str, str],
        *,
        upload: str | None = None,
        strict: bool = True,
    ) -> dict[str, Path]:
        """Download the files that the working folder lacks, and return the paths of all.

        Each file is compared with its sha256. A missing or damaged file is a CorruptionError;
        without `strict` it is skipped.
        """
        # Files that were downloaded lie where they were uploaded to, so none is ever outdated.
        paths = super().fetch(place, files, upload=upload)
        missing = [name for name, path in paths.items() if not path.is_file()]
        passed_over = suppress(*() if strict else (CorruptionError,))

        def bring(name: str) -> None:
            there = f"{uploaded_to(place, upload)}/{name}"
            with passed_over, atomic_write(paths[name]) as temporary:
                digest = self.remote.sha256(there, temporary)
                if digest == files[name]:
                    return
                cause = "its bytes are not those that were written" if digest else "it is missing"
                raise CorruptionError(
                    f"{self.address}/{there} is damaged: {cause}. Run `featstore store verify "
                    f"--store {self.address}`, and then the command again that made it."
                )

        progress = self._progress if len(missing) > N_AT_A_TIME else SILENT
        progress.start(f"Fetching from {self.address}", len(missing), "files")
        try:
            for _ in self.remote.each(bring, missing):
                progress.advance(1)
        finally:
            progress.stop()
        return paths

    def missing(self, place: str, names: Iterable[str], upload: str | None = None) -> list[str]:
        """Return no file: a record is uploaded after its files, so none can be missing."""
        return []

    def sizes(self, record: str, place: str, upload: str | None = None) -> dict[str, int]:
        """Return the bytes of each file of a place, in the bucket if the record is there."""
        if not self.knows(record):
            return super().sizes(record, place, upload)
        prefix = f"{uploaded_to(place, upload)}/"
        found = self.remote.entries(prefix)
        return {name.removeprefix(prefix): entry.nbytes for name, entry in found.items()}

    def problems(
        self, record: str, place: str, files: Mapping[str, str], upload: str | None = None
    ) -> Iterator[tuple[str, str | None]]:
        """Read files, in the bucket if the record is there, and yield what is wrong with each.

        A damaged local copy is deleted, so that it is downloaded again.
        """
        if not self.knows(record):
            yield from super().problems(record, place, files, upload)
            return

        def problem(name: str) -> str | None:
            there = f"{uploaded_to(place, upload)}/{name}"
            for copy in (self.folder / place / name, self.folder / there):
                if copy.is_file() and file_sha256(copy) != files[name]:
                    copy.unlink()
            digest = self.remote.sha256(there)
            if digest is None:
                return "the file is missing"
            return None if digest == files[name] else "its bytes are not those that were written"

        yield from zip(files, self.remote.each(problem, files), strict=True)

    @contextmanager
    def working_on(
        self, set_id: str, progress: Progress = SILENT, *, wait: bool = True
    ) -> Iterator[None]:
        """Hold a set against other processes and other machines."""
        name = f"locks/{_digest(set_id)}.json"
        with (
            super().working_on(set_id, progress, wait=wait),
            hold_lease(self.remote, name, set_id, progress, wait=wait),
        ):
            self.pull("sets", held=set_id, now=True)
            yield

    @contextmanager
    def working_on_run(
        self, run_id: str, progress: Progress = SILENT, *, wait: bool = True
    ) -> Iterator[None]:
        """Hold a run against other processes and other machines."""
        name = f"locks/{run_id}.json"
        with (
            locked(self.lock_path(run_id), run_id, progress, wait=wait),
            hold_lease(self.remote, name, run_id, progress, wait=wait),
        ):
            yield

    def push_set(
        self, feature_set: SetFolder, progress: Progress = SILENT, *, held: bool = False
    ) -> None:
        """Upload the complete layers of a set that the bucket lacks."""
        if not push.unpushed_layers(self, feature_set):
            return
        work = self.working_on(feature_set.set_id, progress)
        with nullcontext() if held else work:
            push.push_set(self, feature_set, progress)

    def push_run(self, run_id: str, progress: Progress = SILENT) -> None:
        """Upload a run that the bucket lacks."""
        if not self.knows(push.run_record(run_id)):
            with self.working_on_run(run_id, progress):
                push.push_run(self, run_id, progress)

    @contextmanager
    def replacing_run(self, run_id: str) -> Iterator[str]:
        """Let the block write a run that may replace an old one; yield its upload's folder."""
        # A run must not be replaced while it is uploaded.
        with locked(self.lock_path(run_id), run_id):
            self.give_way([push.run_record(run_id)])
            yield push.new_folder()

    def unpublish(self, feature_set: SetFolder, chunks: Mapping[str, Sequence[int]]) -> None:
        """Let repaired layers replace those in the bucket, and delete damaged files there.

        Without these files, any machine's extract knows what to make. The caller holds the set.
        """
        shared = self.give_way([feature_set.layer_record_name(layer) for layer in chunks])
        doomed = []
        for layer in chunks:
            if feature_set.layer_record_name(layer) in shared:
                place = uploaded_to(feature_set.place, feature_set.layer(layer).folder)
                files = [f"c/{index}/0" for index in chunks[layer]] or ["zarr.json"]
                doomed += [f"{place}/{layer}/{file}" for file in files]
        self.remote.delete(doomed)

    def remove_set(self, set_id: str) -> None:
        """Delete a set in the bucket and in the working folder; the caller holds it."""
        push.remove(self, f"{SETS}/{set_id}")
        super().remove_set(set_id)

    def remove_run(self, run_id: str) -> None:
        """Delete a run in the bucket and in the working folder."""
        with self.working_on_run(run_id):
            push.remove(self, f"{RUNS}/{run_id}")
        super().remove_run(run_id)

    def collect(
        self, progress: Progress = SILENT, *, dry_run: bool = False, safe_age_s: float = SAFE_AGE_S
    ) -> list[Leftover]:
        """Delete leftovers in the bucket and in the working folder, unless `dry_run`."""
        self.pull("sets", now=True)
        self.pull("runs", now=True)
        found = gc.collect(self, progress, dry_run=dry_run, safe_age_s=safe_age_s)
        return found + super().collect(progress, dry_run=dry_run, safe_age_s=safe_age_s)


def _digest(set_id: str) -> str:
    return set_id[-DIGEST_LENGTH:]


def open_remote(url: str, progress: Progress = SILENT) -> RemoteBackend:
    """Open the store at a URL; neither the store nor its working folder needs to exist yet.

    The folder is in the user's cache, or below the folder in the variable FEATSTORE_CACHE.
    """
    url = url.rstrip("/")
    remote = open_storage(url)
    named = os.environ.get("FEATSTORE_CACHE")
    parent = Path(named) if named else platformdirs.user_cache_path("featstore") / "stores"
    # Two services may have buckets with the same name.
    service = service_of(url)
    name = json.dumps([url, service]) if service else url
    folder = parent.absolute() / sha256(name.encode()).hexdigest()[:16]
    if folder.exists() and not folder.is_dir():
        raise StoreError(f"{folder} is a file; it is to be a folder. Name another FEATSTORE_CACHE.")
    return RemoteBackend(remote, folder, progress)
