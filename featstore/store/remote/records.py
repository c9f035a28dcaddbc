"""Bring records from the bucket into the working folder, and drop those that are gone."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from featstore.io.files import atomic_write, file_sha256
from featstore.store.format.fields import named_files
from featstore.store.removal import remove_array, remove_folder, remove_journal, remove_uploads
from featstore.store.set_folder import GROUP, RUNS, SETS, SetFolder

RECORD = re.compile(r"(?!\w+/\.)(runs/[^/\\]+/metrics|sets/[^/\\]+/(set|layers/[^/\\]*))\.json")
"""The name of a record of a set or run; the set's or run's name leads to no other folder."""


def is_record(name: str) -> bool:
    """Return whether an object has the name of a record."""
    # No file system takes longer names.
    is_short = all(len(part.encode()) < 256 for part in name.split("/"))
    return is_short and RECORD.fullmatch(name) is not None


def owner_of(name: str) -> str:
    """Return the set or run that a record belongs to."""
    return name.split("/")[1]


def of_owner(names: Iterable[str], owner: str) -> list[str]:
    """Return the records of one set or run, ``set.json`` last: a set counts only with it."""
    own = [name for name in names if owner_of(name) == owner]
    return sorted(own, key=lambda name: (name.endswith("/set.json"), name))


def install_record(folder: Path, name: str, content: bytes) -> None:
    """Write a record over the local one, and delete local files with other bytes than it names."""
    path = folder / name
    place = path.parent
    if name.startswith(f"{SETS}/"):
        place = folder / SETS / owner_of(name) / GROUP
        place.mkdir(parents=True, exist_ok=True)
    for file, digest in _files_of(content).items():
        if (place / file).is_file() and file_sha256(place / file) != digest:
            (place / file).unlink()
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    if path.parent.name == "layers" and not SetFolder(path.parent.parent).journal():
        remove_journal(SetFolder(path.parent.parent))


def _files_of(content: bytes) -> dict[str, str]:
    """Return a record's files; none if a name is invalid or leads out of the folder."""
    try:
        return named_files(json.loads(content)["files"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}


def drop_record(folder: Path, name: str, known: Mapping[str, str]) -> None:
    """Delete a local record that is gone from the bucket, unless unfinished work needs it.

    `known` are the records that the bucket had. Raises StoreError when others' files stay.
    """
    path = folder / name
    if not path.is_file():
        return
    if name.startswith(f"{RUNS}/"):
        remove_uploads(folder, RUNS, owner_of(name))
        remove_folder(path.parent)
    elif path.name != "set.json":
        feature_set = SetFolder(path.parent.parent)
        path.unlink()
        if path.stem not in feature_set.journal():
            remove_array(feature_set, path.stem)
    else:
        feature_set = SetFolder(path.parent)
        is_begun = any(one.damaged is None for one in feature_set.journal().values())
        layers = map(feature_set.layer_record_name, feature_set.layer_names())
        if not is_begun and all(record in known for record in layers):
            remove_uploads(folder, SETS, owner_of(name))
            remove_folder(path.parent)
