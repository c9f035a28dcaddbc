"""The files of a store in a folder of this machine; :mod:`.remote` adds object storage."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from featstore.io.files import file_sha256, make_folder
from featstore.io.locks import locked
from featstore.progress import SILENT, Progress
from featstore.store.leftovers import SAFE_AGE_S, Leftover, collect_leftovers
from featstore.store.removal import remove_folder, remove_uploads
from featstore.store.set_folder import DIGEST_LENGTH as DIGEST_LENGTH
from featstore.store.set_folder import RUNS, SETS, SetFolder, uploaded_to
from featstore.text import file_name

Kind = Literal["sets", "runs"]


class Backend:
    """A store that is a folder of this machine.

    A `place` is a folder of the store, such as ``sets/<set_id>/features.zarr`` or
    ``runs/<run_id>``. `files` holds the sha256 (hex) of files by their names in the place, and
    `record` is the path of the record that names them. `upload` is the folder of their upload to
    object storage, which the record names; in a copy of a bucket, the files are there.
    """

    def __init__(self, folder: str | Path) -> None:
        self.address = str(folder)
        """The store as the user named it: a folder or a URL."""
        # The current folder may change while the store is open.
        self.folder = Path(folder).absolute()
        """The folder of this machine in which all work happens."""

    @property
    def cache_dir(self) -> Path:
        """Folder of files that can be made again; may be deleted at any time."""
        return self.folder / "cache"

    def lock_path(self, name: str) -> Path:
        """Return a lock file of the folder."""
        path = self.folder / "locks" / f"{file_name(name, 120)}.lock"
        make_folder(path.parent)
        return path

    def set_lock(self, set_id: str) -> Path:
        """Return the lock file of a set; it does not depend on the dataset's title."""
        return self.lock_path(set_id[-DIGEST_LENGTH:])

    def locate(self, place: str = "", upload: str | None = None) -> str:
        """Return the absolute path, or the URL, of a place."""
        path = self.folder / place
        return str(path if path.exists() else self.folder / uploaded_to(place, upload))

    def pull(self, kind: Kind, *, now: bool = False) -> None:
        """Update the local records of all sets or runs; with `now`, even if they are recent."""

    def fetch(
        self,
        place: str,
        files: Mapping[str, str],
        *,
        upload: str | None = None,
        strict: bool = True,
    ) -> dict[str, Path]:
        """Bring files into this machine's folder, and return their paths.

        All files of an array are in one folder. A damaged download is a CorruptionError; without
        `strict` it is left out.
        """
        here, there = self.folder / place, self.folder / uploaded_to(place, upload)
        lacking = {n.partition("/")[0] for n in files if upload and not (here / n).is_file()}
        return {n: (there if n.partition("/")[0] in lacking else here) / n for n in files}

    def missing(self, place: str, names: Iterable[str], upload: str | None = None) -> list[str]:
        """Return missing files, as far as this machine knows without a request."""
        # Path's own methods would take most of the time of a list of ten thousand runs.
        folders = [f"{self.folder}/{place}"]
        if upload:
            folders.append(f"{self.folder}/{uploaded_to(place, upload)}")
        lacking = list(names)
        for folder in folders:
            lacking = [name for name in lacking if not os.path.isfile(f"{folder}/{name}")]
        return lacking

    def sizes(self, record: str, place: str, upload: str | None = None) -> dict[str, int]:
        """Return the bytes of each file of a place."""
        found: dict[str, int] = {}
        for top in dict.fromkeys((uploaded_to(place, upload), place)):
            folder = os.path.join(self.folder, top)
            for parent, _, names in os.walk(folder):
                for path in (f"{parent}/{name}" for name in names):
                    # Another process may remove files meanwhile.
                    with suppress(FileNotFoundError):
                        found[path[len(folder) + 1 :]] = os.stat(path).st_size
        return found

    def problems(
        self, record: str, place: str, files: Mapping[str, str], upload: str | None = None
    ) -> Iterator[tuple[str, str | None]]:
        """Read files, and yield what is wrong with each, or None."""
        for name, path in Backend.fetch(self, place, files, upload=upload).items():
            yield name, file_problem(path, files[name])

    @contextmanager
    def working_on(
        self, set_id: str, progress: Progress = SILENT, *, wait: bool = True
    ) -> Iterator[None]:
        """Hold a set against all other processes that use the store.

        Without `wait`, a set that another process holds is a StoreError.
        """
        with locked(self.set_lock(set_id), set_id, progress, wait=wait):
            yield

    def push_set(
        self, feature_set: SetFolder, progress: Progress = SILENT, *, held: bool = False
    ) -> None:
        """Upload the complete layers of a set that are not uploaded yet; the caller may hold it."""

    def push_run(self, run_id: str, progress: Progress = SILENT) -> None:
        """Upload a run that is not uploaded yet."""

    @contextmanager
    def replacing_run(self, run_id: str) -> Iterator[str]:
        """Let the block write a run that may replace an old one.

        Yields the folder for the upload of its files; empty if they are not uploaded.
        """
        yield ""

    def unpublish(self, feature_set: SetFolder, chunks: Mapping[str, Sequence[int]]) -> None:
        """Delete damaged chunks of uploaded layers; the caller holds the set."""

    def remove_set(self, set_id: str) -> None:
        """Delete a set; the caller holds it."""
        self._delete(SETS, set_id)

    def remove_run(self, run_id: str) -> None:
        """Delete a run."""
        self._delete(RUNS, run_id)

    def collect(
        self, progress: Progress = SILENT, *, dry_run: bool = False, safe_age_s: float = SAFE_AGE_S
    ) -> list[Leftover]:
        """Delete what no record names and no living process holds, unless `dry_run`; return it.

        What no lock protects must be older than `safe_age_s`.
        """
        return collect_leftovers(self.folder, dry_run=dry_run, safe_age_s=safe_age_s)

    def _delete(self, kind: str, name: str) -> None:
        path = self.folder / kind / name
        if os.path.lexists(path):
            remove_folder(path)
        remove_uploads(self.folder, kind, name)


def file_problem(path: Path, sha256: str) -> str | None:
    """Return what is wrong with a file that should have this sha256, or None."""
    if not path.is_file():
        return "the file is missing"
    try:
        actual = file_sha256(path)
    except OSError as error:
        return f"it can't be read ({error.strerror})"
    return None if actual == sha256 else "its bytes are not those that were written"
