"""The feature store: a folder of feature sets, each keyed by what its features depend on.

``sets/<set_id>/``
    ``features.zarr/``      a plain Zarr v3 group: the vectors ``label``, ``split``, ``sample_id``
    and ``first_row``, and one matrix for each layer. Row i of each is sample i of the dataset.
    ``set.json``            the set's dataset, backbone, preprocessing and fingerprints.
    ``layers/<layer>.json`` the record of a complete layer, with the hashes of its files.
    ``journal/``            the durable chunks of unfinished layers.
``runs/``   the runs of fit.
``cache/``  decoded matrices, hashes of images, an index of the records; may be deleted.
``locks/``  locks of sets, with the processes that hold them.

A store on object storage has such a folder on each machine, see :mod:`featstore.store.backend`.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from featstore._signatures import settings_named, takes
from featstore.config import SET_FACETS
from featstore.environment import default_store
from featstore.errors import CorruptionError, SelectionError, StoreError
from featstore.io.files import json_digest
from featstore.io.stamped_cache import StampedCache
from featstore.progress import Progress
from featstore.progress_bars import IN_NOTEBOOKS
from featstore.store import query
from featstore.store.backend import DIGEST_LENGTH, Backend, Kind
from featstore.store.feature_set import FeatureSet
from featstore.store.record_index import open_index, outline_sets
from featstore.store.removal import remove_decoded
from featstore.store.selection import Selection
from featstore.store.set_folder import SETS
from featstore.store.set_paths import own_set_id, split_set_path
from featstore.text import (
    MAX_LISTED,
    as_list,
    did_you_mean,
    file_name,
    join_some,
    matches,
    refuse_short_name,
)


class FeatureStore:
    """A store of feature sets and runs. Made by :func:`open_store`.

    Parameters
    ----------
    backend : Backend
        Where its files are.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._indexes: dict[Kind, StampedCache] = {}
        self.path = backend.folder
        """Folder of this machine in which all work happens."""

    @property
    def address(self) -> str:
        """The store as the user named it: a folder or a URL."""
        return self.backend.address

    @property
    def runs_dir(self) -> Path:
        """Folder of the runs."""
        return self.path / "runs"

    @property
    def cache_dir(self) -> Path:
        """Folder of files that can be made again; may be deleted at any time."""
        return self.backend.cache_dir

    def __repr__(self) -> str:
        return f"FeatureStore({self.address!r})"

    def index(self, kind: Kind) -> StampedCache:
        """Return what this store knows of its sets or runs until their records change."""
        if kind not in self._indexes:
            self._indexes[kind] = open_index(self.backend, kind)
        return self._indexes[kind]

    def sets(self) -> list[FeatureSet]:
        """Return all feature sets, by name."""
        found = [self._set(name) for name in self._set_ids()]
        outline_sets(found, self.index("sets"))
        return found

    def _set_ids(self) -> list[str]:
        self.backend.pull("sets")
        folder = self.path / SETS
        return [n for n in _folders_in(folder) if os.path.isfile(f"{folder}/{n}/set.json")]

    def _set(self, set_id: str) -> FeatureSet:
        return FeatureSet(self.path / SETS / set_id, self.backend)

    def readable_sets(self) -> list[FeatureSet]:
        """Return the sets whose records are intact; ``featstore store verify`` names the others."""
        return [s for s in self.sets() if query.read_error(s) is None]

    def get(self, set_id: str) -> FeatureSet:
        """Return a feature set by its path, its name, or the beginning or end of its name.

        ``newest`` means the set that was made last.

        Raises
        ------
        SelectionError
            When no set or several sets have such a name.
        """
        if set_id == query.NEWEST and (sets := self.readable_sets()):
            return query.newest(sets)
        known = self._set_ids()
        set_id = own_set_id(self.backend, set_id)
        found = [set_id] if set_id in known else [one for one in known if matches(one, set_id)]
        if len(found) != 1:
            names = found or known
            hint = "" if found else did_you_mean(set_id, names)
            raise SelectionError(
                f"{'Several feature sets are' if found else 'No feature set is'} named "
                f"{set_id!r} in {self.address}.{hint} There {'are' if names else 'is'} "
                f"{join_some(names, MAX_LISTED) or 'none'}."
            )
        return self._set(found[0])

    def set_id(self, identity: Mapping[str, Any]) -> str:
        """Return the name of the set with an identity."""
        facets = identity["facets"]
        readable = file_name(f"{facets['title']}-{facets['model']}", 60)
        return f"{readable}-{json_digest(identity['key'])[:DIGEST_LENGTH]}"

    def find(self, identity: Mapping[str, Any]) -> FeatureSet | None:
        """Return the set with an identity, or None.

        If the dataset's folder was renamed, the set's name begins with the old title. A set with
        that name and another key, such as a copy of another set, is a CorruptionError.
        """
        digest = json_digest(identity["key"])
        ending = f"-{digest[:DIGEST_LENGTH]}"
        name = next((one for one in self._set_ids() if one.endswith(ending)), None)
        if name is None:
            return None
        found = self._set(name)
        if (own := json_digest(found.info.key)) != digest:
            raise CorruptionError(
                f"{found.path} is not the set that its name says: its set.json belongs to "
                f"{own[:DIGEST_LENGTH]}. Remove it with: featstore store rm {found.set_id} "
                f"--store {shlex.quote(self.address)}, and extract again."
            )
        return found

    def remove(self, feature_set: FeatureSet) -> None:
        """Delete a feature set, and its decoded matrices.

        Files that featstore did not write stay, and so does what links lead to.

        Raises
        ------
        StoreError
            When another process works on the set, or when files stay.
        """
        with self.backend.working_on(feature_set.set_id, wait=False):
            try:
                self.backend.remove_set(feature_set.set_id)
            finally:
                remove_decoded(self.cache_dir, feature_set.set_id)

    def run_path(self, run_id: str, *, now: bool = False) -> Path:
        """Return the folder of a run; it holds the run's record if the run exists.

        With `now`, a run that another machine has just made is found, too.
        """
        path = self.runs_dir / run_id
        self.backend.pull("runs", now=now and not path.exists())
        return path

    def run_folders(self) -> list[Path]:
        """Return the folders of all runs, by name."""
        self.backend.pull("runs")
        folder = self.runs_dir
        return [folder / name for name in _folders_in(folder)]

    @takes(*settings_named(SET_FACETS))
    def select(
        self,
        dataset: str | None = None,
        model: str | None = None,
        layers: str | None = None,
        **facets: Any,
    ) -> Selection:
        """Return the features to train one classifier on.

        Parameters
        ----------
        dataset : str, optional
            ``sat4``, ``folder``, ..., or the name of the folder that was extracted.
        model : str, optional
            A network's name, or several with commas to put their features side by side.
        layers : str, optional
            A layer's name, or several with commas to put them side by side;
            ``model:layer`` names one model's. By default the network's feature layer, or the only
            layer.
        **facets
            ``weights``, ``bands``, ``image_size``, ``precision``, ``dtype`` or ``set_id``; the
            ``set_id`` ``newest`` means the set that was made last, of those that fit.

        Raises
        ------
        SelectionError
            When no set fits, or several do; the error lists them and the options that choose.
        IncompleteError
            When all sets that fit are unfinished.
        FormatError
            When the sets of the store were written by another version of featstore.
        """
        if name := facets.get("set_id"):
            facets["set_id"] = own_set_id(self.backend, name)
        return query.select(self.sets(), self.address, dataset, model, layers, facets)

    def check_names(
        self,
        dataset: str | None = None,
        model: str | Sequence[str] | None = None,
        layers: str | Sequence[str] | None = None,
        set_id: str | None = None,
    ) -> None:
        """Refuse names that :meth:`select` would find in no set."""
        models, names = ([one for one in as_list(value) if one] for value in (model, layers))
        set_id = own_set_id(self.backend, set_id) if set_id else None
        query.check_names(self.sets(), self.address, dataset, models, names, set_id)

    def reopen(self, parts: Iterable[tuple[str, str]]) -> Selection:
        """Return the selection of (set_id, layer) pairs."""
        wanted = list(parts)
        sets = {set_id: self.get(set_id) for set_id in dict.fromkeys(name for name, _ in wanted)}
        return Selection(tuple((sets[set_id], layer) for set_id, layer in wanted))


def _folders_in(folder: Path) -> list[str]:
    """Return the names of the visible folders in a folder, sorted; none if it does not exist."""
    try:
        with os.scandir(folder) as entries:
            return sorted(e.name for e in entries if e.name[0] != "." and e.is_dir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def find_set(name: str, store: str | Path | FeatureStore) -> tuple[FeatureStore, FeatureSet]:
    """Return a feature set and its store, which a path names by itself."""
    found = split_set_path(name)
    opened = open_store(store if found is None else found[0])
    return opened, opened.get(name)


def find_set_to_remove(
    name: str, store: str | Path | FeatureStore
) -> tuple[FeatureStore, FeatureSet]:
    """Return a feature set and its store; too short a part of its id is refused."""
    opened, feature_set = find_set(name, store)
    if split_set_path(name) is None:
        refuse_short_name(feature_set.set_id, name)
    return opened, feature_set


def open_store(
    path: str | Path | FeatureStore | None = None, progress: Progress = IN_NOTEBOOKS
) -> FeatureStore:
    """Open the feature store in a folder, or on object storage.

    A folder or prefix that does not exist is an empty store.

    Parameters
    ----------
    path : str, Path or FeatureStore, optional
        A folder; or a URL, such as ``s3://bucket/prefix``. An open store is returned unchanged.
        By default the store that ``FEATSTORE_STORE`` names, or the folder ``feature-store``.
    progress : Progress
        Shows downloads from object storage.

    Raises
    ------
    StoreError
        When `path` is a file or empty, or a URL that can't be opened.
    """
    if isinstance(path, FeatureStore):
        return path
    if path is None:
        path = default_store()
    if isinstance(path, str) and "://" in path:
        from featstore.store.remote.backend import open_remote

        return FeatureStore(open_remote(path, progress))
    if path == "":
        # Path("") is the current folder, which an unset variable does not mean.
        raise StoreError(
            "The store's name is empty; give a folder, '.' for the current one, or a URL such as "
            "s3://bucket/prefix with --store."
        )
    path = Path(path)
    if path.parts and re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]+:", path.parts[0]):
        raise StoreError(f"{path} was a URL before it became a Path; give it as a str.")
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path} is a file; a feature store is a folder. Name another --store.")
    return FeatureStore(Backend(path))
