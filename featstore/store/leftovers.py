"""Find and delete what killed processes left in a store's folder, and uploads that no record names.

Only names that featstore gives are looked at, and nothing that a living process holds is deleted.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import filelock

from featstore.io.files import TEMPORARY, parse_json, read_record
from featstore.store.removal import (
    DOOMED,
    OWN_IN_DRAFT,
    OWN_IN_STORE,
    IsOwn,
    delete,
    own_files,
    own_in_doomed,
)
from featstore.store.set_folder import DIGEST_LENGTH, DRAFT, RUNS, SETS, UPLOADS

SAFE_AGE_S = 24 * 3600.0
"""Age from which files that no lock protects count as left."""


UNFINISHED = re.compile(r"\.new-.+-[0-9a-f]{8,12}|fit-[0-9a-f]{12}")
"""Name of a set's, a run's or a fit's unfinished folder."""


KILLED, UNNAMED = "a killed process left it", "no record names it"


@dataclass(frozen=True)
class Leftover:
    """Files that nothing needs; `name` is their file or folder, below the store."""

    name: str
    why: str
    n_files: int
    nbytes: int


def collect_leftovers(folder: Path, *, dry_run: bool, safe_age_s: float) -> list[Leftover]:
    """Delete the leftovers in a store's folder, unless `dry_run`; return them."""
    found = []
    for path, why, lock in [*_drafts(folder), *_old_files(folder, safe_age_s)]:
        with _unlocked(lock) as is_free:
            if not is_free or path.is_symlink():
                continue
            is_own = _own_in(folder, path)
            files = [path] if path.is_file() else own_files(path, is_own)
            if not files and own_files(path, bool):
                # What others wrote stays.
                continue
            nbytes = sum(one.lstat().st_size for one in files)
            found.append(Leftover(path.relative_to(folder).as_posix(), why, len(files), nbytes))
            if not dry_run:
                path.unlink() if path.is_file() else delete(path, is_own)
    return found


def _own_in(folder: Path, path: Path) -> IsOwn:
    """Return what says which files of a leftover in a store's folder are featstore's."""
    if DOOMED.fullmatch(path.name):
        return own_in_doomed(path)
    place = path.relative_to(folder).as_posix()
    if place.startswith(f"{UPLOADS}/"):
        return lambda name: OWN_IN_STORE.fullmatch(f"{place}/{name}")
    return OWN_IN_DRAFT.fullmatch


def _drafts(folder: Path) -> Iterator[tuple[Path, str, Path | None]]:
    """Yield unfinished folders, with the lock that a process holds while it works on one."""
    for place in (SETS, RUNS, "cache/scratch"):
        for path in (folder / place).glob("*"):
            if DOOMED.fullmatch(path.name):
                yield path, KILLED, None
            elif UNFINISHED.fullmatch(path.name):
                own = path.with_name(f"{path.name}.lock")
                yield path, KILLED, _set_lock(folder, path.name) if place == SETS else own
    for record in folder.glob(f"{SETS}/*/set.json"):
        for path in record.parent.glob(f"{DRAFT}????????"):
            yield path, KILLED, _set_lock(folder, record.parent.name)


def _set_lock(folder: Path, set_id: str) -> Path:
    return folder / "locks" / f"{set_id[-DIGEST_LENGTH:]}.lock"


def _old_files(folder: Path, safe_age_s: float) -> Iterator[tuple[Path, str, Path | None]]:
    """Yield temporary files, and uploads that no record names, if they are older than the age."""
    places = [folder / one for one in (SETS, RUNS, UPLOADS, "cache", "locks")]
    for parent, _, names in (found for place in places for found in os.walk(place)):
        for path in (Path(parent, name) for name in names if TEMPORARY.fullmatch(name)):
            if _age_s([path]) >= safe_age_s:
                yield path, KILLED, None
    for path in folder.glob(f"{UPLOADS}/*/*/*"):
        kind, owner = path.relative_to(folder).parts[1:3]
        named = named_uploads(read_record(p) for p in local_records(folder, kind, owner))
        files = own_files(path, _own_in(folder, path))
        if named is not None and path.name not in named and files and _age_s(files) >= safe_age_s:
            yield path, UNNAMED, None


def _age_s(paths: Iterable[Path]) -> float:
    """Return the seconds since the newest file was written."""
    return time.time() - max((path.lstat().st_mtime for path in paths), default=0.0)


def local_records(folder: Path, kind: str, owner: str) -> list[Path]:
    """Return the records of a set or run in a store's folder."""
    names = ("set.json", "layers/[!.]*.json", "metrics.json")
    return [path for name in names for path in (folder / kind / owner).glob(name)]


def named_uploads(records: Iterable[bytes]) -> set[str] | None:
    """Return the uploads' folders that records name; None if one of the records is damaged."""
    found = [parse_json(content) for content in records]
    if None in found:
        return None
    return {str(record.get("folder")) for record in found if record is not None}


@contextmanager
def _unlocked(lock: Path | None) -> Iterator[bool]:
    """Hold a lock, and yield whether it was free."""
    if lock is None:
        yield True
        return
    lock.parent.mkdir(exist_ok=True)
    held = filelock.FileLock(lock)
    try:
        held.acquire(timeout=0)
    except filelock.Timeout:
        yield False
        return
    try:
        yield True
    finally:
        if UNFINISHED.fullmatch(lock.stem):
            lock.unlink(missing_ok=True)
        held.release()
