"""The feature store: a folder of feature sets, each keyed by what its features depend on.

``sets/<set_id>/``
    ``features.zarr/``      a plain Zarr v3 group: ``label``, ``split``, ``sample_id``,
    ``first_row`` and one matrix a layer, row i of all of them being sample i of the dataset.
    ``set.json``            what the set is: dataset, backbone, preprocessing, fingerprints.
    ``layers/<layer>.json`` written last: the layer is complete, and these are its files' hashes.
    ``journal/``            while a layer is incomplete: what of it is durable.
``runs/``   what fit leaves.
``cache/``  matrices decoded for fit; may be deleted at any time.
``locks/``  who works on which set.

A store on object storage is such a folder with a mirror, see :mod:`featstore.store.remote.mirror`.
"""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import numpy as np

from featstore.config import SPLITS
from featstore.environment import now
from featstore.errors import CorruptionError, SelectionError, StoreError
from featstore.io.files import (
    file_sha256,
    json_digest,
    rename_for_deletion,
    sweep_deleted,
    sync_file,
    sync_folder,
    write_json,
)
from featstore.io.locks import locked
from featstore.progress import SILENT, Progress
from featstore.store.feature_set import FORMAT, FeatureSet
from featstore.store.format import matrix
from featstore.text import file_name, matches

if TYPE_CHECKING:
    from featstore.store.remote.lease import Lease
    from featstore.store.remote.mirror import Mirror
    from featstore.store.selection import Selection

DIGEST_LENGTH = 12
"""Hex digits of the content key in a set's name."""


class FeatureStore:
    """A folder of feature sets and runs. Made by :func:`open_store`.

    Parameters
    ----------
    path : Path
        The folder, in which all work is done.
    mirror : Mirror or None
        When the store is on object storage, what brings and sends what is in the folder.
    """

    def __init__(self, path: Path, mirror: Mirror | None = None) -> None:
        self._named = str(path)
        # A program may go to another folder while it is open.
        self.path = Path(path).absolute()
        self.mirror = mirror

    @property
    def address(self) -> str:
        """What ``--store`` is to name for this store: its folder, or its URL."""
        return self.mirror.url if self.mirror else self._named

    @property
    def place(self) -> str:
        """The same, right from any folder, for processes that are to open the store."""
        return self.mirror.url if self.mirror else str(self.path)

    @property
    def runs_dir(self) -> Path:
        """Folder of the runs."""
        return self.path / "runs"

    @property
    def cache_dir(self) -> Path:
        """Folder of what can be made again at any time."""
        return self.path / "cache"

    @property
    def _sets_dir(self) -> Path:
        return self.path / "sets"

    def __repr__(self) -> str:
        return f"FeatureStore({self.address!r})"

    def sets(self) -> list[FeatureSet]:
        """Return all feature sets, by name."""
        if self.mirror is not None:
            self.mirror.pull("sets")
        if not self._sets_dir.is_dir():
            return []
        return [
            FeatureSet(path, self.mirror)
            for path in sorted(self._sets_dir.iterdir())
            if not path.name.startswith(".") and (path / "set.json").is_file()
        ]

    def lost_sets(self) -> list[str]:
        """Return the names of folders that have lost the record without which they are no sets."""
        if self.mirror is not None:
            return []
        return [
            path.name
            for path in sorted(self._sets_dir.glob("[!.]*"))
            if path.is_dir() and not (path / "set.json").is_file()
        ]

    def readable_sets(self) -> list[FeatureSet]:
        """Return the sets whose records are as they were written.

        A damaged one must not stand in the way of the others; ``featstore store verify`` names it.
        """
        return [s for s in self.sets() if _is_readable(s)]

    def get(self, set_id: str) -> FeatureSet:
        """Return a feature set by its name or the only one whose name begins or ends so.

        Raises
        ------
        SelectionError
            When none or several have such a name.
        """
        sets = self.sets()
        found = [s for s in sets if s.set_id == set_id] or [
            s for s in sets if matches(s.set_id, set_id)
        ]
        if len(found) != 1:
            names = [s.set_id for s in (found or sets)]
            raise SelectionError(
                f"{'Several feature sets are' if found else 'No feature set is'} named "
                f"{set_id!r} in {self.address}; there {'are' if names else 'is'} "
                f"{', '.join(names) or 'none'}."
            )
        return found[0]

    def set_id(self, identity: Mapping[str, Any]) -> str:
        """Return the name of the set whose features depend on just what `identity` holds."""
        facets = identity["facets"]
        readable = file_name(f"{facets['title']}-{facets['model']}", 60)
        return f"{readable}-{json_digest(identity['key'])[:DIGEST_LENGTH]}"

    def find(self, identity: Mapping[str, Any]) -> FeatureSet | None:
        """Return the set whose features depend on just what `identity` holds, if there is one.

        Its name may begin otherwise, where the dataset's folder was renamed.

        Raises
        ------
        CorruptionError
            When a set of that name holds other features, such as a copy of another set.
        """
        digest = json_digest(identity["key"])
        ending = f"-{digest[:DIGEST_LENGTH]}"
        found = next((s for s in self.sets() if s.set_id.endswith(ending)), None)
        if found is not None and (own := json_digest(found.info["key"])) != digest:
            raise CorruptionError(
                f"{found.path} is not the set that its name says: its set.json is of "
                f"{own[:DIGEST_LENGTH]}. Remove it with: featstore store rm {found.set_id} "
                f"--store {shlex.quote(self.address)}, and extract again."
            )
        return found

    def set_lock(self, set_id: str) -> Path:
        """Return the lock file of a set, the same whatever the dataset's folder is called."""
        return self.lock_path(set_id[-DIGEST_LENGTH:])

    def lock_path(self, name: str) -> Path:
        """Return the lock file of a set or a cached file."""
        path = self.path / "locks" / f"{file_name(name, 120)}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def create(
        self,
        info: Mapping[str, Any],
        labels: np.ndarray,
        splits: np.ndarray,
        sample_ids: Sequence[str],
        first_rows: np.ndarray,
    ) -> FeatureSet:
        """Create a feature set without layers, whole or not at all; the caller holds its lock.

        Parameters
        ----------
        info : mapping
            What the set is, and the ``command`` that asked for it; ``info["identity"]`` names it.
        labels : ndarray of shape (n_samples,), int32
        splits : ndarray of shape (n_samples,), uint8
        sample_ids : sequence of str
        first_rows : ndarray of shape (n_samples,), int64
            First row with the same image as each row.
        """
        set_id = self.set_id(info["identity"])
        sweep_deleted(self._sets_dir)
        self._sweep_drafts(set_id)
        draft = FeatureSet(self._sets_dir / f".new-{set_id}")
        shutil.rmtree(draft.path, ignore_errors=True)
        draft.path.mkdir(parents=True)
        facets, dataset = info["identity"]["facets"], info["dataset"]
        matrix.create_group(draft.group, {"featstore": {"format": FORMAT, **facets}})
        names = list(dataset["class_names"])
        matrix.create_vector(draft.group, "label", labels, {"class_names": names})
        matrix.create_vector(draft.group, "split", splits, {"split_names": list(SPLITS)})
        matrix.create_vector(draft.group, "sample_id", np.array(sample_ids, dtype=str), {})
        matrix.create_vector(draft.group, "first_row", first_rows, {})
        files = sorted(path for path in draft.group.rglob("*") if path.is_file())
        for path in files:
            sync_file(path)
        write_json(
            draft.path / "set.json",
            {
                "format": FORMAT,
                "facets": facets,
                "key": info["identity"]["key"],
                **{k: v for k, v in info.items() if k != "identity"},
                "created": now(),
                "files": {p.relative_to(draft.group).as_posix(): file_sha256(p) for p in files},
            },
        )
        final = FeatureSet(self._sets_dir / set_id, self.mirror)
        draft.path.rename(final.path)
        sync_folder(self._sets_dir)
        return final

    def _sweep_drafts(self, set_id: str) -> None:
        """Delete what killed creations of other sets left; who creates one holds its lock."""
        for left in self._sets_dir.glob(".new-*"):
            if self.set_lock(left.name) == self.set_lock(set_id):
                continue
            with suppress(filelock.Timeout), filelock.FileLock(self.set_lock(left.name), timeout=0):
                shutil.rmtree(left, ignore_errors=True)

    def remove(self, feature_set: FeatureSet) -> None:
        """Delete a feature set and all that was decoded from any.

        Raises
        ------
        StoreError
            When another process works on the set.
        """
        with self.working_on(feature_set.set_id, wait=False):
            if self.mirror is not None:
                from featstore.store.remote.push import remove_set

                remove_set(self.mirror, feature_set.set_id)
            if feature_set.path.exists():
                self._delete(feature_set)

    @contextmanager
    def working_on(
        self, set_id: str, progress: Progress = SILENT, *, wait: bool = True
    ) -> Iterator[Lease | None]:
        """Hold a set, against the other processes of this machine and against other machines.

        Yields the lease for :meth:`deliver`; None for a folder, and where a service can keep none.

        Raises
        ------
        StoreError
            When another process holds it and `wait` is false.
        """
        with locked(self.set_lock(set_id), set_id, progress, wait=wait):
            if self.mirror is None:
                yield None
                return
            from featstore.store.remote.lease import hold_lease

            name, mirror = f"locks/{set_id[-DIGEST_LENGTH:]}.json", self.mirror
            with hold_lease(
                mirror.remote, name, set_id, mirror.place, progress, wait=wait
            ) as lease:
                mirror.pull("sets", held=set_id, now=True)
                yield lease

    def push(
        self, feature_set: FeatureSet, lease: Lease | None, progress: Progress = SILENT
    ) -> None:
        """Send what is complete of a set to where the store is; nothing to do for a folder.

        The caller holds the set by :meth:`working_on`, which gave it the lease.
        """
        if self.mirror is not None:
            from featstore.store.remote.push import push_set

            push_set(self.mirror, feature_set, lease, progress)

    def is_pushed(self, feature_set: FeatureSet) -> bool:
        """Return whether all complete layers of a set are where the store is."""
        if self.mirror is None:
            return True
        from featstore.store.remote.push import unpushed_layers

        return not unpushed_layers(self.mirror, feature_set)

    def run_path(self, run_id: str, *, now: bool = False) -> Path:
        """Return the folder of a run, which has its record if there is such a run.

        `now` says that one that is not known here may have been made a moment ago.
        """
        path = self.runs_dir / run_id
        if self.mirror is not None:
            self.mirror.pull("runs", now=now and not path.exists())
        return path

    def push_run(self, run_id: str, progress: Progress = SILENT) -> None:
        """Send a run to where the store is, if it is not there; nothing to do for a folder."""
        if self.mirror is not None:
            from featstore.store.remote.push import push_run

            push_run(self.mirror, run_id, progress)

    @contextmanager
    def replacing_run(self, run_id: str) -> Iterator[str]:
        """Let a run that is written within be sent in the place of the one that is there.

        Yields the folder below the run's that its files are to go to there, so that those of the
        other stay whole until they are not needed; nothing for a first run, and in a folder.
        """
        if self.mirror is None:
            yield ""
            return
        # A run that is being sent is not replaced under it.
        with (
            locked(self.mirror.lock_path(run_id), run_id),
            self.mirror.atomic_write(f"runs/{run_id}/metrics.json") as below,
        ):
            yield below

    def _delete(self, feature_set: FeatureSet) -> None:
        doomed = rename_for_deletion(feature_set.path)
        sweep_deleted(self._sets_dir)
        if doomed.exists():
            raise StoreError(
                f"{feature_set.set_id} is removed, but not all of its files: see {doomed}."
            )
        for decoded in [*self.cache_dir.glob("*.npy"), *self.cache_dir.glob("*.json")]:
            decoded.unlink(missing_ok=True)

    def select(
        self,
        dataset: str | None = None,
        model: str | None = None,
        layers: str | None = None,
        **facets: Any,
    ) -> Selection:
        """Return the features that one classifier is to be trained on.

        Parameters
        ----------
        dataset : str, optional
            ``sat4``, ``folder``, ..., or the name of the folder that was extracted.
        model : str, optional
            A network's name, or several with commas to put their features side by side.
        layers : str, optional
            A layer's name, or several with commas to put them side by side;
            ``model:layer`` names one model's.
        **facets
            ``weights``, ``bands``, ``image_size``, ``precision``, ``dtype`` or ``set_id``.

        Raises
        ------
        SelectionError
            When nothing fits, or several sets do; it lists them and what tells them apart.
        IncompleteError
            When all that fits is not finished.
        """
        from featstore.store.query import select

        return select(self, dataset, model, layers, facets)

    def reopen(self, parts: Iterable[tuple[str, str]]) -> Selection:
        """Return the selection that has just these (set_id, layer) pairs."""
        from featstore.store.selection import Selection

        return Selection(self, tuple((set_id, layer) for set_id, layer in parts))


def _is_readable(feature_set: FeatureSet) -> bool:
    try:
        return bool(feature_set.info) and feature_set.layers() is not None
    except StoreError:
        return False


def open_store(
    path: str | Path | FeatureStore = "feature-store", progress: Progress = SILENT
) -> FeatureStore:
    """Open the feature store in a folder, or on object storage.

    A folder or prefix that is not there yet is an empty store.

    Parameters
    ----------
    path : str, Path or FeatureStore
        A folder; or a URL, such as ``s3://bucket/prefix``. A store that is open is returned as it
        is.
    progress : Progress
        Told of matrices that are fetched from there.

    Raises
    ------
    StoreError
        When `path` is a file or empty, or a URL that can't be opened.
    """
    if isinstance(path, FeatureStore):
        return path
    if isinstance(path, str) and "://" in path:
        from featstore.store.remote.mirror import open_mirror

        mirror = open_mirror(path, progress)
        return FeatureStore(mirror.folder, mirror)
    if path == "":
        # A Path would make the current folder of it, which a variable that is not set never means.
        raise StoreError(
            "The store's name is empty; it is to be a folder, '.' for the current one, or a URL "
            "such as s3://bucket/prefix. Name another --store."
        )
    path = Path(path)
    if path.parts and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]+:", path.parts[0]):
        raise StoreError(f"{path} was a URL before it became a Path; give it as a str.")
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path} is a file; a feature store is a folder. Name another --store.")
    return FeatureStore(path)
