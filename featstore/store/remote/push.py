"""Upload finished sets and runs from the working folder to the bucket.

Each upload has a folder of its own, which the record names, so no file is ever written over. The
record is uploaded last, and without it the files do not count. The first record stays; only a run
that is fitted again, or a layer that is repaired, replaces it. After a kill, the next upload sends
the missing files.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from featstore.errors import CorruptionError
from featstore.io.files import file_sha256, parse_json, read_record
from featstore.progress import SILENT, Progress
from featstore.store.feature_set import FeatureSet
from featstore.store.format.layer_schema import LayerRecord
from featstore.store.format.run_schema import RunRecord
from featstore.store.format.set_schema import SetRecord
from featstore.store.remote.client import WHOLE_NBYTES
from featstore.store.remote.records import is_record
from featstore.store.removal import OWN_IN_STORE
from featstore.store.set_folder import RUNS, UPLOADS, SetFolder, uploaded_to

if TYPE_CHECKING:
    from featstore.store.remote.backend import RemoteBackend


def new_folder() -> str:
    """Return a name for the folder of an upload, which no other upload has."""
    return secrets.token_hex(4)


class DamagedFileError(CorruptionError):
    """A local file is damaged, so it is not uploaded."""


def send(
    backend: RemoteBackend,
    place: str,
    files: Mapping[str, str],
    upload: str | None,
    what: str,
    progress: Progress,
    again: Collection[str] = (),
) -> None:
    """Upload the files that the bucket lacks, and those in `again`.

    `files` holds the sha256 by name below the folder `place`; messages call them `what`. A file is
    there if an object has its name, for only this content is ever written to it. A local file with
    another sha256 is not uploaded, and is a DamagedFileError.
    """
    folder, target = backend.folder / place, uploaded_to(place, upload)
    there = backend.remote.entries(f"{target}/")
    missing = [name for name in files if name in again or f"{target}/{name}" not in there]
    sizes = {name: _nbytes(folder, [name]) for name in missing}

    def send_one(name: str) -> None:
        path = folder / name
        data = path.read_bytes() if sizes[name] <= WHOLE_NBYTES else path
        digest = file_sha256(data) if isinstance(data, Path) else hashlib.sha256(data).hexdigest()
        if digest != files[name]:
            raise DamagedFileError(name)
        backend.remote.put(f"{target}/{name}", data)

    progress.start(f"Sending {what}", sum(sizes.values()), "bytes")
    try:
        for name, _ in zip(missing, backend.remote.each(send_one, missing), strict=True):
            progress.advance(sizes[name])
    finally:
        progress.stop()


def _nbytes(folder: Path, names: Collection[str]) -> int:
    total = 0
    for name in names:
        try:
            total += (folder / name).stat().st_size
        except FileNotFoundError:
            raise DamagedFileError(name) from None
    return total


def publish(backend: RemoteBackend, record: str, content: bytes) -> bool:
    """Upload a record whose files are in the bucket; return whether it counts now.

    The files of a record that it replaces stay, for others may read them; gc deletes them.
    """
    replaced = backend.replaced(record)
    if replaced is None:
        etag = backend.remote.create(record, content)
    else:
        etag = backend.remote.replace(record, content, replaced)
    if etag is not None:
        backend.note(record, etag, hashlib.sha256(content).hexdigest())
    return etag is not None


def unpushed_layers(backend: RemoteBackend, feature_set: SetFolder) -> list[str]:
    """Return the complete layers that the bucket lacks."""
    names = feature_set.layer_names()
    return [name for name in names if not backend.knows(feature_set.layer_record_name(name))]


def push_set(backend: RemoteBackend, feature_set: SetFolder, progress: Progress = SILENT) -> None:
    """Upload the complete layers of a set that the bucket lacks; the caller holds the set.

    A damaged local file is not uploaded: its chunk is marked for repair, and a CorruptionError
    names it.
    """
    set_id, place = feature_set.set_id, feature_set.place
    backend.pull("sets", held=set_id, now=True)
    feature_set = SetFolder(feature_set.path)
    _name_folders(backend, feature_set)
    feature_set = SetFolder(feature_set.path)
    if not backend.knows(feature_set.record_name):
        files = feature_set.info.files
        with _damage_explained(backend, feature_set):
            what = f"{set_id}: labels and ids"
            send(backend, place, files, feature_set.info.folder, what, progress)
        content = read_record(feature_set.path / "set.json")
        if not publish(backend, feature_set.record_name, content):
            backend.pull("sets", held=set_id, now=True)
            feature_set = SetFolder(feature_set.path)
    info = feature_set.info
    FeatureSet(feature_set.path, backend).fetch_intact()
    for layer in unpushed_layers(backend, feature_set):
        record = feature_set.layer(layer)
        # Beside the layer lies what makes its group whole.
        beside = info.files if record.folder != info.folder else {}
        small = [*beside, f"{layer}/zarr.json"]
        files = {**beside, **record.files}
        with _damage_explained(backend, feature_set, layer):
            send(backend, place, files, record.folder, f"{set_id}: {layer}", progress, small)
        content = read_record(feature_set.layer_path(layer))
        if not publish(backend, feature_set.layer_record_name(layer), content):
            backend.pull("sets", held=set_id, now=True)


def _name_folders(backend: RemoteBackend, feature_set: SetFolder) -> None:
    """Name the upload's folder in the records that the bucket lacks.

    The records are written before anything is sent, so a killed upload continues in its folder. A
    repaired layer that has its old content lies where it was.
    """
    own: dict[str, SetRecord | LayerRecord] = {
        layer: feature_set.layer(layer) for layer in unpushed_layers(backend, feature_set)
    }
    if not backend.knows(feature_set.record_name):
        own[""] = feature_set.info
    old: dict[str, str | None] = {}
    for layer, record in own.items():
        name = feature_set.layer_record_name(layer)
        if layer and backend.replaced(name):
            there = parse_json(backend.remote.get(name) or b"") or {}
            if there.get("files") == record.files:
                old[layer] = there.get("folder")
    named = [r.folder for layer, r in own.items() if r.folder and layer not in old]
    shared = named[0] if named else new_folder()
    for layer, record in own.items():
        folder = old.get(layer, record.folder or shared)
        if record.folder == folder:
            continue
        with _damage_explained(backend, feature_set, layer):
            nbytes = _nbytes(feature_set.group, record.files)
        path = feature_set.layer_path(layer) if layer else feature_set.path / "set.json"
        record.model_copy(update={"folder": folder, "nbytes": nbytes}).write(path)


@contextmanager
def _damage_explained(
    backend: RemoteBackend, feature_set: SetFolder, layer: str = ""
) -> Iterator[None]:
    """Mark a damaged file of a layer for repair, and raise an error that says what to do."""
    try:
        yield
    except DamagedFileError as error:
        name, set_id = str(error), feature_set.set_id
        said = f"{feature_set.group / name} is damaged: its bytes are not those that were written."
        if name in feature_set.info.files:
            raise CorruptionError(
                f"{said} Nothing was sent. Remove the set with: featstore store rm {set_id} "
                f"--store {backend.address}, and extract again."
            ) from error
        command = feature_set.layer(layer).command
        _, is_chunk, rest = name.partition("/c/")
        chunks = [int(rest.split("/")[0])] if is_chunk else []
        FeatureSet(feature_set.path, backend).mark_damaged({layer: chunks})
        raise CorruptionError(
            f"{said} It was not sent. Compute just that part again with: {command}"
        ) from error


def run_record(run_id: str) -> str:
    """Return the path of a run's record in the store."""
    return f"{RUNS}/{run_id}/metrics.json"


def push_run(backend: RemoteBackend, run_id: str, progress: Progress = SILENT) -> None:
    """Upload a run that the bucket lacks; the caller holds the run.

    If the bucket has a run of that name, it replaces the local one; a run that was fitted again
    replaces the bucket's instead, once all its files are uploaded.
    """
    backend.pull("runs", now=True)
    record = run_record(run_id)
    if backend.knows(record):
        return
    path = backend.folder / record
    content = read_record(path)
    # Read once: a later pull may replace the local run by another machine's.
    run = RunRecord.check(parse_json(content) or {}, path)
    try:
        send(backend, f"{RUNS}/{run_id}", run.files, run.folder, run_id, progress)
    except DamagedFileError as error:
        raise CorruptionError(
            f"{path.parent / str(error)} is damaged: its bytes are not those that were written. It "
            f"was not sent. Make the run again with: {run.command} --refit"
        ) from error
    if not publish(backend, record, content):
        backend.pull("runs", now=True)


def remove(backend: RemoteBackend, place: str) -> None:
    """Delete a set or run in the bucket, which the caller holds: its records first, then the rest.

    Of a set's records, ``set.json`` is the last.
    """
    names = [*backend.remote.entries(f"{place}/"), *backend.remote.entries(f"{UPLOADS}/{place}/")]
    records = sorted(filter(is_record, names))
    for name in records:
        backend.remote.delete([name])
    backend.forget(records)
    backend.remote.delete([n for n in names if OWN_IN_STORE.fullmatch(n) and n not in records])
