"""Delete the folders of sets and runs: the files that featstore wrote, and no others."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from featstore.errors import StoreError
from featstore.io.files import (
    TEMPORARY,
    parse_json,
    read_record,
    rename_for_deletion,
    sync_folder,
)
from featstore.store.set_folder import DRAFT, GROUP, SETS, UPLOADS, SetFolder, is_foreign

DOOMED = re.compile(r"\.old-.+-[0-9a-f]{8}")
"""Names of folders that were renamed for deletion."""


_PARTIAL = r"(\.[0-9a-f]{32}\.partial)?"
_ARRAY = rf"(zarr\.json|zarr{_PARTIAL}|c/[0-9]+(/0)?{_PARTIAL}|(c/([0-9]+/)?)?)"
_GROUP = rf"{re.escape(GROUP)}/(zarr\.json|zarr{_PARTIAL}|([^/]+/{_ARRAY})?)"
_SET = (
    r"(set\.json|layers/([^/]+\.json)?|journal/((journal|share-[^/]+)\.json|[^/]+\.spool|pass)?"
    rf"|{_GROUP}|{re.escape(DRAFT)}[a-z0-9_]{{8}}/[^/]+/{_ARRAY})"
)
_RUN = (
    r"(([0-9a-f]{8}/)?"
    r"((metrics|curves)\.json|predictions\.csv|model\.skops|(confusion|reliability|predicted|curves)\.png))"
)
# These match folders, too, with a slash at the end, for links in place of folders.


_OWNER = r"[^./\\][^/\\]*"


OWN_IN_STORE = re.compile(
    rf"sets/{_OWNER}/{_SET}|uploads/sets/{_OWNER}/{_OWNER}/{_GROUP}|(uploads/)?runs/{_OWNER}/{_RUN}"
)
"""Paths of files of sets and runs in a store that featstore writes, or once wrote."""


OWN_IN_DRAFT = re.compile(rf"{_SET}|{_RUN}|[^/]+/{_ARRAY}|.+\.(npy|lock|tmp)")
"""Paths of files in an unfinished folder that featstore writes."""


IsOwn = Callable[[str], object]
"""Says whether featstore wrote the file of a path, which is relative to a folder."""


def remove_folder(path: Path) -> None:
    """Delete the folder of a set or run; raise StoreError if files in it stay.

    A link is removed, and what it leads to stays.
    """
    if path.is_symlink():
        target = os.path.realpath(path)
        path.unlink()
        raise StoreError(f"{path.name} is removed. It was a link; the files in {target} stay.")
    doomed = rename_for_deletion(path)
    sync_and_sweep(path.parent)
    if doomed.exists():
        left = sorted(p.relative_to(doomed).as_posix() for p in _files(doomed))
        raise StoreError(
            f"{path.name} is removed. Files that featstore did not write, or can't delete, stay in "
            f"{doomed}: {', '.join(left[:5])}{' ...' if len(left) > 5 else ''}"
        )


def sync_and_sweep(folder: Path) -> None:
    """Make renames in ``sets/`` or ``runs/`` durable, then delete what was renamed for deletion.

    After a power loss, a folder with its old name therefore has all its files.
    """
    sync_folder(folder)
    for path in folder.iterdir():
        if DOOMED.fullmatch(path.name):
            delete(path, own_in_doomed(path))


def own_in_doomed(path: Path) -> IsOwn:
    """Return what says which files are featstore's in a folder that was renamed for deletion."""
    return _own_in_set(path) if path.parent.name == SETS else _own_in_run


def own_files(folder: Path, is_own: IsOwn) -> list[Path]:
    """Return the files of a folder that featstore wrote."""
    return [path for path in _files(folder) if is_own(path.relative_to(folder).as_posix())]


def delete(folder: Path, is_own: IsOwn) -> None:
    """Delete what is featstore's of a folder; links are deleted, and never followed."""
    if folder.is_symlink():
        folder.unlink()
        return
    # Deep paths come first, and so chunks before the metadata that says whose they are.
    for parent, folders, names in os.walk(folder, topdown=False):
        for path in (Path(parent, name) for name in [*names, *folders]):
            with suppress(OSError):
                is_folder = path.is_dir()
                if is_folder and not path.is_symlink():
                    # A folder with others' files stays.
                    path.rmdir()
                elif is_own(path.relative_to(folder).as_posix() + "/" * is_folder):
                    path.unlink()
    with suppress(OSError):
        folder.rmdir()


def remove_uploads(folder: Path, kind: str, owner: str) -> None:
    """Delete what was uploaded of a set or run, in a copy of a bucket or a working folder."""
    place = f"{UPLOADS}/{kind}/{owner}"
    delete(folder / place, lambda name: OWN_IN_STORE.fullmatch(f"{place}/{name}"))


def move_others(old: Path, new: Path) -> None:
    """Move what others wrote into the folder of a run to the folder that takes its place."""
    with suppress(OSError):
        for path in old.iterdir():
            if not os.path.lexists(new / path.name):
                path.rename(new / path.name)
        old.rmdir()


def remove_decoded(cache: Path, set_id: str) -> None:
    """Delete the decoded matrices whose notes name a set; a cache that is a link keeps them."""
    for note in () if cache.is_symlink() else cache.glob(f"{'[0-9a-f]' * 32}.json"):
        with suppress(OSError):
            if set_id in (parse_json(read_record(note)) or {}).get("sets", ()):
                note.with_suffix(".npy").unlink(missing_ok=True)
                note.unlink()


def remove_draft(folder: Path) -> None:
    """Delete the unfinished folder of a set."""
    delete(folder, _own_in_set(folder))


def remove_layers(feature_set: SetFolder, layers: Iterable[str]) -> None:
    """Delete unfinished layers; the caller holds the set."""
    others = {name: own for name, own in feature_set.journal().items() if name not in layers}
    feature_set.write_journal(others)
    for layer in layers:
        remove_array(feature_set, layer)


def remove_array(feature_set: SetFolder, name: str) -> None:
    """Delete an array of a set, unless featstore did not write it."""
    array = feature_set.group / name
    if not is_foreign(array):
        delete(array, lambda file: _is_own(f"{GROUP}/{name}/{file}"))


def remove_journal(feature_set: SetFolder) -> None:
    """Delete the journals of a set without unfinished layers."""
    delete(feature_set.journal_path, lambda name: _is_own(f"journal/{name}"))


def _own_in_run(name: str) -> bool:
    return _is_temporary(name) or re.fullmatch(_RUN, name) is not None


def _own_in_set(folder: Path) -> IsOwn:
    """Return a function that says whether a path in a set's folder is featstore's."""
    arrays = {path.name: is_foreign(path) for path in (folder / GROUP).glob("*") if path.is_dir()}

    def is_own(name: str) -> bool:
        parts = name.split("/")
        if parts[0] == GROUP and len(parts) > 1 and arrays.get(parts[1]):
            return False
        if parts[0] == "layers" and parts[-1] and not _is_temporary(name):
            return parts[1].removesuffix(".json") in arrays or _is_record(folder / name)
        return _is_own(name)

    return is_own


def _is_own(name: str) -> bool:
    return _is_temporary(name) or re.fullmatch(_SET, name) is not None


def _is_temporary(name: str) -> bool:
    return TEMPORARY.fullmatch(name.rpartition("/")[2]) is not None


def _is_record(path: Path) -> bool:
    with suppress(OSError):
        return parse_json(read_record(path)) is not None
    return False


def _files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent, name) for name in names)
