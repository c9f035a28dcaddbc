"""Upload finished sets and runs from the working folder to the bucket.

The record is uploaded last, and without it the files do not count. After a kill, the next upload
sends the missing files. A record that the bucket already has stays, and replaces the local one. If
the local run was fitted again, its files are uploaded to a new folder, and its record replaces the
old one.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from featstore.errors import CorruptionError, StoreError
from featstore.io.files import file_sha256, json_bytes, parse_json, read_json, write_json
from featstore.io.locks import locked
from featstore.progress import SILENT, Progress
from featstore.store.format.run_schema import RunRecord
from featstore.store.format.schema import Journal
from featstore.store.remote.client import WHOLE_NBYTES, Entry
from featstore.store.remote.lease import Lease, hold_lease
from featstore.store.remote.mirror import Mirror, journal_of, object_name
from featstore.store.set_folder import JOURNAL_FILE, RUNS, SETS, SetFolder
from featstore.text import RESUME_HINT

NOTES_S = 1.0
"""Shortest time between two writes of the list of uploaded files."""


class Upload:
    """The upload of one set or run.

    `place` is its folder. In the bucket the files may be in a folder `below` it. `lease` is checked
    before each write; it is None if the service has no conditional writes.
    """

    def __init__(
        self,
        mirror: Mirror,
        place: str,
        lease: Lease | None,
        progress: Progress = SILENT,
        below: str = "",
    ) -> None:
        self._mirror, self._remote, self._progress = mirror, mirror.remote, progress
        self._place, self._lease = place, lease
        self._there = object_name(place, "", below)
        self._notes = mirror.folder / "outbox" / f"{place.rpartition('/')[2]}.json"
        self._sent: dict[str, str] = {}
        with suppress(StoreError):
            self._sent = dict(read_json(self._notes)["sent"])
        self._etags: dict[str, str | None] = {}

    def _check(self) -> None:
        if self._lease is not None:
            self._lease.check()

    def send(self, files: Mapping[str, str], what: str) -> None:
        """Upload the files that the bucket lacks, or has otherwise.

        `files` holds the sha256 by name below the folder; messages call them `what`. A local file
        with another sha256 is not uploaded, and is a DamagedFileError.
        """
        there = self._remote.entries(self._there)
        missing = []
        for name in files:
            entry = there.get(f"{self._there}{name}")
            if not self._path(name).is_file():
                raise DamagedFileError(name)
            if entry is not None and self._is_same(name, entry):
                self._etags[name] = entry.etag
            else:
                missing.append(name)
        nbytes = {name: self._path(name).stat().st_size for name in missing}

        def send_one(name: str) -> str | None:
            path = self._path(name)
            data = path.read_bytes() if nbytes[name] <= WHOLE_NBYTES else path
            digest = (
                file_sha256(data) if isinstance(data, Path) else hashlib.sha256(data).hexdigest()
            )
            if digest != files[name]:
                raise DamagedFileError(name)
            self._check()
            return self._remote.put(f"{self._there}{name}", data)

        self._progress.start(f"Sending {what}", sum(nbytes.values()), "bytes")
        noted_at = time.monotonic()
        try:
            done = self._remote.each(send_one, missing)
            for name, etag in zip(missing, done, strict=True):
                self._etags[name] = etag
                self._sent[name] = f"{files[name]} {etag}"
                self._progress.advance(nbytes[name])
                if time.monotonic() - noted_at > NOTES_S:
                    self._note()
                    noted_at = time.monotonic()
        finally:
            self._progress.stop()
            self._note()

    def _path(self, name: str) -> Path:
        return self._mirror.folder / self._place / name

    def _note(self) -> None:
        if self._sent:
            write_json(self._notes, {"sent": self._sent})

    def _is_same(self, name: str, entry: Entry) -> bool:
        """Return whether an object is certainly the local file.

        It is if this machine uploaded it, or if its etag is the file's MD5.
        """
        path = self._path(name)
        # Metadata is small, and may be uploaded to repair it. Damaged chunks were deleted before.
        if path.name == "zarr.json":
            return False
        if entry.nbytes != path.stat().st_size:
            return False
        if entry.etag == _md5(path):
            return True
        return self._sent.get(name) == f"{file_sha256(path)} {entry.etag}"

    def publish(
        self, record: str, content: bytes, files: Mapping[str, str], replaces: str | None = None
    ) -> bool:
        """Upload a record after checking that the bucket has its files; return if it was written.

        `content` is the record's bytes, `files` the files that it names. With `replaces`, the
        record replaces the one with this etag. If another machine has overwritten a file, this
        raises StoreError.
        """
        there = self._remote.entries(self._there)
        for name in files:
            entry = there.get(f"{self._there}{name}")
            if entry is not None and entry.etag == self._etags[name]:
                continue
            if entry is None or self._remote.sha256(f"{self._there}{name}") != files[name]:
                raise StoreError(
                    f"{self._mirror.url}/{self._there}{name} was changed by another machine while "
                    f"it was sent. {RESUME_HINT}"
                )
        self._check()
        name = f"{self._place}/{record}"
        if replaces is None:
            etag = self._remote.create(name, content)
        else:
            etag = self._remote.replace(name, content, replaces)
        if etag is None:
            return False
        entry = self._remote.entry(name)
        self._mirror.note(
            {name: entry.etag if entry else etag}, hashlib.sha256(content).hexdigest()
        )
        return True

    def sweep(self, folder: str, names: Collection[str]) -> None:
        """Delete all objects of a folder in the bucket but the named ones."""
        kept = set(names)
        strays = [name for name in self._remote.entries(f"{folder}/") if name not in kept]
        if strays:
            self._check()
            self._remote.delete(strays)

    def close(self) -> None:
        """Delete the list of uploaded files, because the record now names them."""
        self._notes.unlink(missing_ok=True)


class DamagedFileError(CorruptionError):
    """A local file is damaged, so it is not uploaded."""


def _md5(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def unpushed_layers(mirror: Mirror, feature_set: SetFolder) -> list[str]:
    """Return the complete layers that the bucket lacks."""
    place = f"{SETS}/{feature_set.set_id}"
    return [n for n in feature_set.layer_names() if not mirror.knows(f"{place}/layers/{n}.json")]


def push_set(
    mirror: Mirror, feature_set: SetFolder, lease: Lease | None, progress: Progress = SILENT
) -> None:
    """Upload the complete layers of a set that the bucket lacks.

    The caller holds the set's lock, and its lease if the service has conditional writes. A damaged
    local file is not uploaded: its chunk is marked for repair, and a CorruptionError names it.
    """
    layers = unpushed_layers(mirror, feature_set)
    if not layers:
        return
    set_id = feature_set.set_id
    place = f"{SETS}/{set_id}"
    delivery = Upload(mirror, place, lease, progress)
    mirror.pull(SETS, held=set_id, now=True)
    feature_set = SetFolder(feature_set.path)
    if not mirror.knows(f"{place}/set.json"):
        files = {f"features.zarr/{n}": sha256 for n, sha256 in feature_set.info.files.items()}
        try:
            delivery.send(files, f"{set_id}: labels and ids")
        except DamagedFileError as error:
            raise CorruptionError(
                f"{feature_set.path / str(error)} is damaged: its bytes are not those that were "
                f"written. Nothing was sent. Remove the set with: featstore store rm {set_id} "
                f"--store {mirror.url}, and extract again."
            ) from error
        content = (feature_set.path / "set.json").read_bytes()
        if not delivery.publish("set.json", content, files):
            mirror.pull(SETS, held=set_id, now=True)
    for layer in unpushed_layers(mirror, feature_set):
        record = feature_set.layer(layer)
        files = {f"features.zarr/{name}": sha256 for name, sha256 in record.files.items()}
        try:
            delivery.send(files, f"{set_id}: {layer}")
        except DamagedFileError as error:
            _mark(feature_set, layer, str(error))
            raise CorruptionError(
                f"{feature_set.path / str(error)} is damaged: its bytes are not those that were "
                f"written. It was not sent. Compute just that part again with: {record.command}"
            ) from error
        delivery.sweep(f"{place}/features.zarr/{layer}", [f"{place}/{name}" for name in files])
        content = feature_set.layer_path(layer).read_bytes()
        if not delivery.publish(f"layers/{layer}.json", content, files):
            mirror.pull(SETS, held=set_id, now=True)
        _close_journal(mirror, place, layer)
    delivery.close()


def _mark(feature_set: SetFolder, layer: str, name: str) -> None:
    _, _, rest = name.partition("/c/")
    if rest:
        feature_set.journal_damage({layer: [int(rest.split("/")[0])]})
        feature_set.reopen_layers([layer])
    else:
        feature_set.layer_path(layer).unlink()
        feature_set.drop_layers([layer])


def _close_journal(mirror: Mirror, place: str, layer: str) -> None:
    """Remove a repaired layer from the bucket's journal."""
    name = f"{place}/{JOURNAL_FILE}"
    if not mirror.knows(name):
        return
    layers = journal_of(mirror.remote.get(name))
    layers.pop(layer, None)
    if layers:
        mirror.note({name: mirror.remote.put(name, json_bytes(Journal(layers=layers).to_dict()))})
    else:
        mirror.remote.delete([name])
        mirror.note({name: None})


def remove_set(mirror: Mirror, set_id: str) -> None:
    """Delete a set in the bucket: its records first, then its other files.

    The caller holds the set's lock, and its lease if the service has conditional writes.
    """
    place = f"{SETS}/{set_id}"
    names = list(mirror.remote.entries(f"{place}/"))
    layers = [name for name in names if name.startswith(f"{place}/layers/")]
    mirror.remote.delete(layers)
    mirror.remote.delete([f"{place}/set.json"])
    mirror.remote.delete([n for n in names if n not in layers and n != f"{place}/set.json"])
    mirror.note(dict.fromkeys([*layers, f"{place}/set.json", f"{place}/{JOURNAL_FILE}"]))


def push_run(mirror: Mirror, run_id: str, progress: Progress = SILENT) -> None:
    """Upload a run that the bucket lacks.

    If the bucket has a run of that name, it replaces the local one; a run that was fitted again
    replaces the bucket's instead, once all its files are uploaded.
    """
    place = f"{RUNS}/{run_id}"
    record = f"{place}/metrics.json"
    if mirror.knows(record):
        return
    with _run_lease(mirror, run_id, progress) as lease:
        mirror.pull(RUNS, now=True)
        if mirror.knows(record):
            return
        path = mirror.folder / record
        content = path.read_bytes()
        # Read once: a later pull may replace the local run by another machine's.
        run = RunRecord.check(parse_json(content) or {}, path)
        files, below = run.files, run.folder or ""
        delivery = Upload(mirror, place, lease, progress, below)
        delivery.send(files, run_id)
        if delivery.publish("metrics.json", content, files, mirror.replaced(record)):
            delivery.sweep(place, [record, *(object_name(place, name, below) for name in files)])
        else:
            mirror.pull(RUNS, now=True)
        delivery.close()


def remove_run(mirror: Mirror, run_id: str) -> None:
    """Delete a run there: its record first, by which it counts, then all else."""
    place = f"{RUNS}/{run_id}"
    record = f"{place}/metrics.json"
    with _run_lease(mirror, run_id, SILENT) as lease:
        if lease is not None:
            lease.check()
        mirror.remote.delete([record])
        mirror.remote.delete([name for name in mirror.remote.entries(f"{place}/")])
        mirror.note({record: None})


@contextmanager
def _run_lease(mirror: Mirror, run_id: str, progress: Progress) -> Iterator[Lease | None]:
    """Hold a run against other processes and other machines."""
    with (
        locked(mirror.lock_path(run_id), run_id, progress),
        hold_lease(mirror.remote, f"locks/{run_id}.json", run_id, mirror.place, progress) as lease,
    ):
        yield lease
