"""Find and delete what killed processes left in a store's folder, and uploads that no record names.

Only names that featstore gives are looked at, and nothing that a living process holds is deleted.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import filelock

from featstore.io.files import TEMPORARY, parse_json
from featstore.store.removal import DOOMED, own_files
from featstore.store.set_folder import DIGEST_LENGTH, DRAFT, GROUP, RUNS, SETS, UPLOADS

SAFE_AGE_S = 24 * 3600.0
"""Age from which files that no lock protects count as left."""


UNFINISHED = re.compile(r"\.new-.+-[0-9a-f]{8,12}|fit-[0-9a-f]{12}")
"""Name of a set's, a run's or a fit's unfinished folder."""


_GROUP = rf"{re.escape(GROUP)}/(zarr\.json|[^/]+/(zarr\.json|c/\d+(/\d+)?))"
_RUN = r"(metrics|curves)\.json|predictions\.csv|model\.skops|(confusion|predicted|curves)\.png"


OWN = re.compile(
    rf"sets/[^/]+/(set\.json|layers/[^/]+\.json|journal/journal\.json|{_GROUP})"
    rf"|uploads/sets/[^/]+/[^/]+/{_GROUP}|(uploads/)?runs/[^/]+/([^/]+/)?({_RUN})"
)
"""Name of a file of a set or run that featstore writes to object storage, or once wrote there."""


_DRAFT = re.compile(rf".*/(set\.json|{_GROUP}|{_RUN}|[^/]+/zarr\.json|[^/]+\.(npy|lock|tmp))")
"""Path of a file in an unfinished folder."""


KILLED, UNNAMED = "a killed process left it", "no record names it"


@dataclass(frozen=True)
class Leftover:
    """Files that nothing needs; `name` is their file or folder, below the store."""

    name: str
    why: str
    n_files: int
    nbytes: int


def is_own(name: str) -> bool:
    """Return whether a file of a store, by its path there, has a name that featstore gives."""
    return OWN.fullmatch(name) is not None


def collect_leftovers(folder: Path, *, dry_run: bool, safe_age_s: float) -> list[Leftover]:
    """Delete the leftovers in a store's folder, unless `dry_run`; return them."""
    found = []
    for path, why, lock in [*_drafts(folder), *_old_files(folder, safe_age_s)]:
        with _unlocked(lock) as is_free:
            if not is_free or path.is_symlink():
                continue
            files = _own_files(path)
            if not files and _files(path, bool):
                # What others wrote stays.
                continue
            nbytes = sum(one.lstat().st_size for one in files)
            found.append(Leftover(path.relative_to(folder).as_posix(), why, len(files), nbytes))
            if not dry_run:
                _delete(path, files)
    return found


def _own_files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if DOOMED.fullmatch(path.name):
        return own_files(path)
    return _files(path, lambda name: _DRAFT.fullmatch(name) is not None)


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
        named = named_uploads(p.read_bytes() for p in local_records(folder, kind, owner))
        files = upload_files(folder, path)
        if named is not None and path.name not in named and files and _age_s(files) >= safe_age_s:
            yield path, UNNAMED, None


def upload_files(folder: Path, path: Path) -> list[Path]:
    """Return the files below an uploads' folder of a store that featstore wrote."""
    return _files(path, lambda name: is_own(Path(name).relative_to(folder).as_posix()))


def remove_uploads(folder: Path, kind: str, owner: str) -> None:
    """Delete what was uploaded of a set or run, in a copy of a bucket or a working folder."""
    path = folder / UPLOADS / kind / owner
    _delete(path, upload_files(folder, path))


def _files(folder: Path, is_ours: Callable[[str], bool]) -> list[Path]:
    """Return the files below a folder whose paths are ours; links are not followed."""
    if folder.is_symlink():
        return []
    found = (Path(parent, name) for parent, _, names in os.walk(folder) for name in names)
    return [path for path in found if is_ours(path.as_posix())]


def _delete(folder: Path, files: Iterable[Path]) -> None:
    """Delete files, and the folders that are empty then."""
    for path in files:
        path.unlink(missing_ok=True)
    if folder.is_dir() and not folder.is_symlink():
        for parent, _, _ in os.walk(folder, topdown=False):
            with suppress(OSError):
                os.rmdir(parent)


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
