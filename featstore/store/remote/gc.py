"""Delete what no record in the bucket names, and leases whose holders are dead."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from featstore.errors import StoreError
from featstore.io.files import read_record
from featstore.progress import Progress
from featstore.store.leftovers import (
    KILLED,
    UNNAMED,
    Leftover,
    local_records,
    named_uploads,
)
from featstore.store.remote.client import Entry
from featstore.store.remote.lease import hold_lease
from featstore.store.remote.records import is_record
from featstore.store.removal import OWN_IN_STORE
from featstore.store.set_folder import RUNS, SETS, UPLOADS

if TYPE_CHECKING:
    from featstore.store.remote.backend import RemoteBackend

OWN_LEASE = "locks/gc.json"


def collect(
    backend: RemoteBackend, progress: Progress, *, dry_run: bool, safe_age_s: float
) -> list[Leftover]:
    """Delete the bucket's leftovers older than an age, unless `dry_run`; return them.

    Each set or run is held meanwhile; one that another process works on is left alone.
    """
    with hold_lease(backend.remote, OWN_LEASE, "gc", progress, wait=False):
        born = _now(backend) - timedelta(seconds=safe_age_s)
        found: list[Leftover] = []
        for (kind, owner), folders in sorted(_candidates(backend, born).items()):
            try:
                with _holding(backend, kind, owner, dry_run):
                    found += _delete_unnamed(backend, kind, owner, folders, dry_run)
            except StoreError as error:
                progress.say(f"Left alone: {error}")
        return found + _leases(backend, dry_run, born)


def _now(backend: RemoteBackend) -> datetime:
    """Return the time by the service's clock, which has just written this process's lease."""
    own = backend.remote.entry(OWN_LEASE)
    return datetime.now(UTC) if own is None else own.modified


def _candidates(
    backend: RemoteBackend, born: datetime
) -> dict[tuple[str, str], dict[str, dict[str, Entry]]]:
    """Return old uploads by set or run and folder, and what lies beside no record of either."""
    listed: dict[str, Entry] = {}
    for kind in (SETS, RUNS, UPLOADS):
        listed |= backend.remote.entries(f"{kind}/")
    own = {name: entry for name, entry in listed.items() if OWN_IN_STORE.fullmatch(name)}
    whole = {
        tuple(name.split("/")[:2])
        for name in own
        if is_record(name) and name.endswith(("/set.json", "/metrics.json"))
    }
    found: dict[tuple[str, str], dict[str, dict[str, Entry]]] = {}
    for name, entry in own.items():
        parts = name.split("/")
        is_upload = parts[0] == UPLOADS
        kind, owner = parts[1:3] if is_upload else parts[:2]
        if is_upload or (kind, owner) not in whole:
            folder = "/".join(parts[: 4 if is_upload else 2])
            found.setdefault((kind, owner), {}).setdefault(folder, {})[name] = entry
    old = {
        key: {f: own for f, own in folders.items() if _are_old(own.values(), born)}
        for key, folders in found.items()
    }
    return {key: folders for key, folders in old.items() if folders}


def _are_old(entries: Iterable[Entry], born: datetime) -> bool:
    return all(entry.modified <= born for entry in entries)


def _delete_unnamed(
    backend: RemoteBackend,
    kind: str,
    owner: str,
    folders: Mapping[str, Mapping[str, Entry]],
    dry_run: bool,
) -> Iterator[Leftover]:
    named = _named(backend, kind, owner)
    for folder, entries in sorted(folders.items()):
        if named is not None and folder not in named:
            if not dry_run:
                backend.remote.delete(list(entries))
            nbytes = sum(entry.nbytes for entry in entries.values())
            yield Leftover(folder, UNNAMED, len(entries), nbytes)


@contextmanager
def _holding(backend: RemoteBackend, kind: str, owner: str, dry_run: bool) -> Iterator[None]:
    if dry_run:
        yield
        return
    work = backend.working_on if kind == SETS else backend.working_on_run
    with work(owner, wait=False):
        yield


def _named(backend: RemoteBackend, kind: str, owner: str) -> set[str] | None:
    """Return the folders that the records of a set or run name, in the bucket and here.

    None if a record is damaged. An upload that was interrupted here is named here.
    """
    names = [name for name in backend.remote.entries(f"{kind}/{owner}/") if is_record(name)]
    main = f"{kind}/{owner}/{'set' if kind == SETS else 'metrics'}.json"
    there = list(backend.remote.each(backend.remote.get, names)) if main in names else []
    here = [read_record(path) for path in local_records(backend.folder, kind, owner)]
    named = named_uploads([content for content in [*there, *here] if content is not None])
    if named is None:
        return None
    beside = {f"{kind}/{owner}"} if main in names else set()
    return beside | {f"{UPLOADS}/{kind}/{owner}/{folder}" for folder in named}


def _leases(backend: RemoteBackend, dry_run: bool, born: datetime) -> list[Leftover]:
    """Delete leases that were not renewed for a long time; their holders renew them every 10 s."""
    found = []
    for name, entry in backend.remote.entries("locks/").items():
        is_lease = name.endswith(".json") and name != OWN_LEASE
        if not is_lease or not _are_old([entry], born):
            continue
        # Nobody may have taken it over meanwhile.
        if not dry_run and backend.remote.replace(name, b"{}", entry.etag) is None:
            continue
        found.append(Leftover(name, KILLED, 1, entry.nbytes))
        if not dry_run:
            backend.remote.delete([name])
    return found
