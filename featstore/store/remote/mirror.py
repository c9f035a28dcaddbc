"""The working folder of a store on object storage: update its records, download its files.

The folder is a store like any other, and all computing happens in it. Records are downloaded when
the store is listed, matrices and the files of runs when they are first read. A record is downloaded
again if its etag in the bucket or the hash of its local copy changes, and deleted if it is gone
from the bucket. Work that is not uploaded yet stays.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import filelock
import platformdirs

from featstore.errors import CorruptionError, StoreError
from featstore.io.files import (
    atomic_write,
    file_sha256,
    json_bytes,
    parse_json,
    rename_for_deletion,
)
from featstore.progress import SILENT, Progress
from featstore.store.format.fields import named_files
from featstore.store.format.schema import Journal, LayerJournal
from featstore.store.remote.client import (
    N_AT_A_TIME,
    Entry,
    ObjectStorage,
    open_storage,
    service_of,
)
from featstore.store.remote.sync_state import SyncState, sha256_of
from featstore.store.set_folder import GROUP, JOURNAL_FILE, RUNS, SETS, SetFolder

REFRESH_S = 1.0
"""Seconds for which a listing counts as current."""


RECORD = re.compile(
    r"(?!\w+/\.)"
    r"(runs/[^/\\]+/metrics|sets/[^/\\]+/(set|journal/journal|layers/[^/\\]*))\.json"
)
"""The name of a record of a set or run; the set's or run's name leads to no other folder."""


class Mirror(SyncState):
    """A working folder and its bucket. Made by :func:`open_mirror`.

    `progress` shows large downloads.
    """

    def __init__(self, remote: ObjectStorage, folder: Path, progress: Progress = SILENT) -> None:
        super().__init__(folder, remote.url)
        self.remote = remote
        self._progress = progress
        self._seen_at: dict[str, float] = {}
        self._told: set[str] = set()

    def pull(self, kind: str, *, held: str | None = None, now: bool = False) -> None:
        """Update the local records of all sets or runs.

        `held` is the set whose lock the caller holds; sets that another process of this machine
        works on are skipped. With `now`, the bucket is listed even if the last listing is recent.
        """
        if not now and time.monotonic() - self._seen_at.get(kind, -math.inf) < REFRESH_S:
            return
        with self.state() as state:
            known: dict[str, str] = state["records"]
            found = self._records(kind)
            if kind == RUNS:
                # A replacement is void if the bucket's record or the local one has changed.
                for name, (etag, digest) in list(state["replaced"].items()):
                    is_same = name in found and found[name].etag == etag
                    if not is_same or sha256_of(self.folder / name) != digest:
                        del state["replaced"][name]
            new = [
                name
                for name, entry in found.items()
                if name not in state["replaced"]
                and not (
                    known.get(name) == entry.etag
                    and (name.endswith(JOURNAL_FILE) or self.is_as_it_came(name, state))
                )
            ]
            gone = [n for n in known if n.startswith(f"{kind}/") and n not in found]
            contents = dict(zip(new, self.remote.each(self.remote.get, new), strict=True))
            for owner in sorted({name.split("/")[1] for name in [*new, *gone]}):
                with self._unless_busy(kind, owner, held) as is_free:
                    if not is_free:
                        continue
                    for name in _in_order(new, owner):
                        content = contents[name]
                        if content is not None:
                            self._install(name, content)
                            known[name] = found[name].etag
                            state["copies"][name] = sha256(content).hexdigest()
                    for name in _in_order(gone, owner):
                        self._drop(name, known)
                        del known[name]
                        state["copies"].pop(name, None)
        self._seen_at[kind] = time.monotonic()
        for name in sorted(self.remote.foreign - self._told):
            self._progress.say(
                f"Passed over: {self.url} holds {name!r}, which featstore did not write."
            )
        self._told |= self.remote.foreign

    def _records(self, kind: str) -> dict[str, Entry]:
        found = self.remote.entries(f"{kind}/")
        records = {name: entry for name, entry in found.items() if _is_record(name)}
        if kind == RUNS:
            return records
        whole = {name.split("/")[1] for name in records if name.endswith("/set.json")}
        return {name: entry for name, entry in records.items() if name.split("/")[1] in whole}

    @contextmanager
    def _unless_busy(self, kind: str, owner: str, held: str | None) -> Iterator[bool]:
        if kind == RUNS or (held is not None and _digest(held) == _digest(owner)):
            yield True
            return
        lock = filelock.FileLock(self.lock_path(_digest(owner)))
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def _install(self, name: str, content: bytes) -> None:
        """Write a record over the local one, and delete local files that it does not name."""
        path = self.folder / name
        if name.endswith(JOURNAL_FILE):
            _merge_journal(SetFolder(path.parent.parent), content)
            return
        folder = path.parent
        if name.startswith(f"{SETS}/"):
            folder = self.folder / SETS / name.split("/")[1] / GROUP
            folder.mkdir(parents=True, exist_ok=True)
        before = _files_of(path.read_bytes()) if path.is_file() else {}
        for file, digest in _files_of(content).items():
            own = folder / file
            if own.is_file() and before.get(file) != digest and file_sha256(own) != digest:
                own.unlink()
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
        if path.parent.name == "layers" and not SetFolder(path.parent.parent).journal():
            shutil.rmtree(SetFolder(path.parent.parent).journal_path, ignore_errors=True)

    def _drop(self, name: str, known: Mapping[str, str]) -> None:
        """Delete a local record that is gone from the bucket, unless unfinished work needs it."""
        path = self.folder / name
        if name.endswith(JOURNAL_FILE) or not path.is_file():
            return
        if name.startswith(f"{RUNS}/"):
            shutil.rmtree(path.parent)
        elif path.name != "set.json":
            feature_set = SetFolder(path.parent.parent)
            path.unlink()
            if path.stem not in feature_set.journal():
                shutil.rmtree(feature_set.group / path.stem, ignore_errors=True)
        else:
            feature_set = SetFolder(path.parent)
            own = [
                f"{SETS}/{feature_set.set_id}/layers/{n}.json" for n in feature_set.layer_names()
            ]
            is_begun = any(one.damaged is None for one in feature_set.journal().values())
            if is_begun or any(record not in known for record in own):
                return
            shutil.rmtree(rename_for_deletion(path.parent))

    def fetch(
        self, place: str, files: Mapping[str, str], *, below: str = "", strict: bool = True
    ) -> None:
        """Download the files that the working folder lacks, and compare each with its sha256.

        `files` holds the sha256 by name below the folder `place`. In the bucket the files may be in
        a folder `below` it. A missing or damaged file is a CorruptionError; without `strict` it is
        skipped.
        """
        folder = self.folder / place
        missing = [name for name in files if not (folder / name).is_file()]

        def bring(name: str) -> None:
            there = object_name(place, name, below)
            with atomic_write(folder / name) as temporary:
                digest = self.remote.sha256(there, temporary)
                if digest == files[name]:
                    return
                cause = "its bytes are not those that were written" if digest else "it is missing"
                raise CorruptionError(
                    f"{self.url}/{there} is damaged: {cause}. Run `featstore store verify "
                    f"--store {self.url}`, and then the command again that made it."
                )

        def try_to(name: str) -> None:
            try:
                bring(name)
            except CorruptionError:
                if strict:
                    raise

        progress = self._progress if len(missing) > N_AT_A_TIME else SILENT
        progress.start(f"Fetching from {self.url}", len(missing), "files")
        try:
            for _ in self.remote.each(try_to, missing):
                progress.advance(1)
        finally:
            progress.stop()

    def problems(
        self, place: str, files: Mapping[str, str], below: str = ""
    ) -> Iterator[tuple[str, str | None]]:
        """Read each file in the bucket, and yield what is wrong with it, or None.

        A damaged local copy is deleted, so that it is downloaded again.
        """

        def problem(name: str) -> str | None:
            copy = self.folder / place / name
            if copy.is_file() and file_sha256(copy) != files[name]:
                copy.unlink()
            digest = self.remote.sha256(object_name(place, name, below))
            if digest is None:
                return "the file is missing"
            return None if digest == files[name] else "its bytes are not those that were written"

        yield from zip(files, self.remote.each(problem, files), strict=True)

    def sizes(self, place: str) -> dict[str, int]:
        """Return the bytes of each file of a folder in the bucket."""
        found = self.remote.entries(f"{place}/")
        return {name.removeprefix(f"{place}/"): entry.nbytes for name, entry in found.items()}

    def unpublish(self, feature_set: SetFolder, chunks: Mapping[str, Sequence[int]]) -> None:
        """Make layers with damaged chunks unfinished in the bucket, too.

        The bucket gets a journal of them, so that any machine can repair them. The caller holds the
        set's lock, and the local journal already names the chunks.
        """
        place = f"{SETS}/{feature_set.set_id}"
        records = {layer: f"{place}/layers/{layer}.json" for layer in chunks}
        shared = {layer: name for layer, name in records.items() if self.knows(name)}
        if not shared:
            return
        journal = Journal.read(feature_set.path / JOURNAL_FILE).layers
        layers = journal_of(self.remote.get(f"{place}/{JOURNAL_FILE}"))
        layers |= {layer: journal[layer] for layer in shared}
        content = json_bytes(Journal(layers=layers).to_dict())
        etag = self.remote.put(f"{place}/{JOURNAL_FILE}", content)
        self.remote.delete(list(shared.values()))
        self.note({f"{place}/{JOURNAL_FILE}": etag, **dict.fromkeys(shared.values())})
        self.remote.delete(
            [
                f"{place}/features.zarr/{layer}/c/{index}/0"
                for layer in shared
                for index in chunks[layer]
            ]
        )


def object_name(place: str, name: str, below: str = "") -> str:
    """Return the name in the bucket of a file of a set or run, see :meth:`Mirror.fetch`."""
    return f"{place}/{below}/{name}" if below else f"{place}/{name}"


def _is_record(name: str) -> bool:
    # No file system takes longer names.
    is_short = all(len(part.encode()) < 256 for part in name.split("/"))
    return is_short and RECORD.fullmatch(name) is not None


def _digest(set_id: str) -> str:
    return set_id.rpartition("-")[2]


def _in_order(names: Iterable[str], owner: str) -> list[str]:
    """Return the records of one set or run, ``set.json`` last: a set counts only with it."""
    own = [name for name in names if name.split("/")[1] == owner]
    return sorted(own, key=lambda name: (name.endswith("/set.json"), name))


def _files_of(content: bytes) -> dict[str, str]:
    """Return a record's files; none if a name is invalid or leads out of the folder."""
    try:
        return named_files(json.loads(content)["files"])
    except (ValueError, KeyError, TypeError):
        return {}


def journal_of(content: bytes | None) -> dict[str, LayerJournal]:
    """Return the layers of a journal; a missing, damaged or edited journal has none."""
    try:
        return Journal.model_validate(parse_json(content or b"")).layers
    except ValueError:
        return {}


def _merge_journal(feature_set: SetFolder, content: bytes) -> None:
    own = feature_set.journal()
    # Layers that this machine computes stay; the damage of others may have changed.
    news = {
        name: journal
        for name, journal in journal_of(content).items()
        if name not in own or own[name].damaged is not None
    }
    feature_set.write_journal(own | news)


def open_mirror(url: str, progress: Progress = SILENT) -> Mirror:
    """Open the working folder of the store at a URL; neither needs to exist yet.

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
    return Mirror(remote, folder, progress)
