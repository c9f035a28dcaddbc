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
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore import matrices
from featstore.config import SPLITS, json_digest
from featstore.errors import SelectionError, StoreError
from featstore.featureset import FORMAT, FeatureSet
from featstore.files import file_sha256, sync_file, sync_folder, write_json
from featstore.locks import held
from featstore.provenance import now

if TYPE_CHECKING:
    from featstore.selection import Selection

DIGEST_LENGTH = 12
"""Hex digits of the content key in a set's name."""


def file_name(text: str, limit: int = 80) -> str:
    """Return `text` as a name that every file system takes."""
    return re.sub(r"[^\w.@+=-]+", "-", text, flags=re.ASCII).strip("-.")[:limit] or "unnamed"


class FeatureStore:
    """A folder of feature sets and runs. Made by :func:`open_store`."""

    def __init__(self, path: Path) -> None:
        self.path = path

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
        return f"FeatureStore({str(self.path)!r})"

    def sets(self) -> list[FeatureSet]:
        """Return all feature sets, by name."""
        if not self._sets_dir.is_dir():
            return []
        return [
            FeatureSet(path)
            for path in sorted(self._sets_dir.iterdir())
            if not path.name.startswith(".") and (path / "set.json").is_file()
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
            s for s in sets if s.set_id.startswith(set_id) or s.set_id.endswith(set_id)
        ]
        if len(found) != 1:
            names = [s.set_id for s in (found or sets)]
            raise SelectionError(
                f"{'Several feature sets are' if found else 'No feature set is'} named "
                f"{set_id!r} in {self.path}; there {'are' if names else 'is'} "
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
        """
        digest = self.set_id(identity)[-DIGEST_LENGTH:]
        return next((s for s in self.sets() if s.set_id.endswith(f"-{digest}")), None)

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
        draft = FeatureSet(self._sets_dir / f".new-{set_id}")
        shutil.rmtree(draft.path, ignore_errors=True)
        draft.path.mkdir(parents=True)
        facets, dataset = info["identity"]["facets"], info["dataset"]
        matrices.create_group(draft.group, {"featstore": {"format": FORMAT, **facets}})
        names = list(dataset["class_names"])
        matrices.create_vector(draft.group, "label", labels, {"class_names": names})
        matrices.create_vector(draft.group, "split", splits, {"split_names": list(SPLITS)})
        matrices.create_vector(draft.group, "sample_id", np.array(sample_ids, dtype=str), {})
        matrices.create_vector(draft.group, "first_row", first_rows, {})
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
        final = FeatureSet(self._sets_dir / set_id)
        draft.path.rename(final.path)
        sync_folder(self._sets_dir)
        return final

    def remove(self, feature_set: FeatureSet) -> None:
        """Delete a feature set and all that was decoded from any.

        Raises
        ------
        StoreError
            When another process works on the set.
        """
        with held(self.set_lock(feature_set.set_id), feature_set.set_id, wait=False):
            self._delete(feature_set)

    def _delete(self, feature_set: FeatureSet) -> None:
        doomed = feature_set.path.with_name(f".old-{feature_set.set_id}")
        shutil.rmtree(doomed, ignore_errors=True)
        feature_set.path.rename(doomed)
        shutil.rmtree(doomed)
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
        from featstore.selection import select

        return select(self, dataset, model, layers, facets)

    def reopen(self, parts: Iterable[tuple[str, str]]) -> Selection:
        """Return the selection that has just these (set_id, layer) pairs."""
        from featstore.selection import Selection

        return Selection(self, tuple((set_id, layer) for set_id, layer in parts))


def _is_readable(feature_set: FeatureSet) -> bool:
    try:
        return bool(feature_set.info) and feature_set.layers() is not None
    except StoreError:
        return False


def open_store(path: str | Path = "feature-store") -> FeatureStore:
    """Open the feature store in a folder; a folder that is not there yet is an empty store.

    Raises
    ------
    StoreError
        When `path` is a file, or a folder of something else.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path} is a file; a feature store is a folder. Name another --store.")
    return FeatureStore(path)
