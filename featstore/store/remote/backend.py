"""A store on object storage, and its working folder on this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from featstore.io.locks import locked
from featstore.progress import SILENT, Progress
from featstore.store.backend import DIGEST_LENGTH, Kind, LocalBackend
from featstore.store.remote import push
from featstore.store.remote.lease import Lease, hold_lease
from featstore.store.remote.mirror import Mirror, open_mirror
from featstore.store.set_folder import RUNS, SetFolder, record_of


class RemoteBackend(LocalBackend):
    """A store on object storage. Files that are not uploaded yet are only in the working folder."""

    def __init__(self, mirror: Mirror) -> None:
        super().__init__(mirror.folder)
        self.mirror = mirror
        self.address = mirror.url
        self._leases: dict[tuple[str, int], Lease | None] = {}

    def locate(self, place: str = "") -> str:
        """Return the URL of a place."""
        return f"{self.address}/{place}" if place else self.address

    def pull(self, kind: Kind, *, now: bool = False) -> None:
        """Update the local records of all sets or runs; with `now`, even if they are recent."""
        self.mirror.pull(kind, now=now)

    def fetch(
        self, place: str, files: Mapping[str, str], *, below: str = "", strict: bool = True
    ) -> dict[str, Path]:
        """Download the files that the working folder lacks, and return the paths of all."""
        self.mirror.fetch(place, files, below=below, strict=strict)
        return super().fetch(place, files, below=below)

    def missing(self, place: str, names: Iterable[str], below: str = "") -> list[str]:
        """Return no file: a record is uploaded after its files, so none can be missing."""
        return []

    def sizes(self, place: str) -> dict[str, int]:
        """Return the bytes of each file of a place, in the bucket if the place was uploaded."""
        if not self.mirror.knows(record_of(place)):
            return super().sizes(place)
        found = self.mirror.sizes(place)
        sent = self._sent(place, found)
        return {name: nbytes for name, nbytes in found.items() if name in sent}

    def _sent(self, place: str, names: Iterable[str]) -> set[str]:
        """Return the files whose records are in the bucket; others may still be on their way."""
        owners: dict[str, list[str]] = {}
        for name in names:
            owners.setdefault(record_of(f"{place}/{name}"), []).append(name)
        return {name for owner, own in owners.items() if self.mirror.knows(owner) for name in own}

    def problems(
        self, place: str, files: Mapping[str, str], below: str = ""
    ) -> Iterator[tuple[str, str | None]]:
        """Read files, from the bucket if they were uploaded, and yield what is wrong with each."""
        sent = self._sent(place, files)
        there = {name: sha256 for name, sha256 in files.items() if name in sent}
        yield from self.mirror.problems(place, there, below)
        here = {name: sha256 for name, sha256 in files.items() if name not in sent}
        yield from super().problems(place, here, below)

    @contextmanager
    def working_on(
        self, set_id: str, progress: Progress = SILENT, *, wait: bool = True
    ) -> Iterator[None]:
        """Hold a set against other processes and other machines."""
        name = f"locks/{set_id[-DIGEST_LENGTH:]}.json"
        with (
            super().working_on(set_id, progress, wait=wait),
            hold_lease(
                self.mirror.remote, name, set_id, self.mirror.place, progress, wait=wait
            ) as lease,
        ):
            self.mirror.pull("sets", held=set_id, now=True)
            held = set_id[-DIGEST_LENGTH:], threading.get_ident()
            self._leases[held] = lease
            try:
                yield
            finally:
                del self._leases[held]

    def push_set(self, feature_set: SetFolder, progress: Progress = SILENT) -> None:
        """Upload the complete layers of a set that the bucket lacks."""
        if not push.unpushed_layers(self.mirror, feature_set):
            return
        held = feature_set.set_id[-DIGEST_LENGTH:], threading.get_ident()
        if held in self._leases:
            push.push_set(self.mirror, feature_set, self._leases[held], progress)
            return
        with self.working_on(feature_set.set_id, progress):
            push.push_set(self.mirror, feature_set, self._leases[held], progress)

    def push_run(self, run_id: str, progress: Progress = SILENT) -> None:
        """Upload a run that the bucket lacks."""
        push.push_run(self.mirror, run_id, progress)

    @contextmanager
    def replacing_run(self, run_id: str) -> Iterator[str]:
        """Let the block write a run that replaces an old one.

        Yields the name of a folder beside the files of the old run, which stay until the new run is
        uploaded.
        """
        # A run must not be replaced while it is uploaded.
        with (
            locked(self.mirror.lock_path(run_id), run_id),
            self.mirror.atomic_write(f"{RUNS}/{run_id}/metrics.json") as below,
        ):
            yield below

    def unpublish(self, feature_set: SetFolder, chunks: Mapping[str, Sequence[int]]) -> None:
        """Make uploaded layers with damaged chunks unfinished; the caller holds the set."""
        self.mirror.unpublish(feature_set, chunks)

    def remove_set(self, set_id: str) -> None:
        """Delete a set in the bucket and in the working folder; the caller holds it."""
        push.remove_set(self.mirror, set_id)
        super().remove_set(set_id)

    def remove_run(self, run_id: str) -> None:
        """Delete a run on object storage and here."""
        push.remove_run(self.mirror, run_id)
        super().remove_run(run_id)


def open_remote(url: str, progress: Progress = SILENT) -> RemoteBackend:
    """Open the store at a URL."""
    return RemoteBackend(open_mirror(url, progress))
