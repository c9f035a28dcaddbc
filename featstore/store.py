"""The feature store: a folder of feature sets, each keyed by what its features depend on.

``sets/<set_id>/``
    ``features.zarr/``      a plain Zarr v3 group: ``label``, ``split``, ``sample_id`` and one
    matrix a layer, row i of all of them being sample i of the dataset.
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
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore import matrices
from featstore.config import SPLITS, json_digest
from featstore.errors import CorruptionError, IncompleteError, SelectionError, StoreError
from featstore.files import file_sha256, read_json, sync_file, sync_folder, write_json
from featstore.provenance import command, now

if TYPE_CHECKING:
    from featstore.selection import Selection

FORMAT = 1
DIGEST_LENGTH = 12
"""Hex digits of the content key in a set's name."""

VECTORS = ("label", "split", "sample_id")


def file_name(text: str, limit: int = 80) -> str:
    """Return `text` as a name that every file system takes."""
    return re.sub(r"[^\w.@+=-]+", "-", text, flags=re.ASCII).strip("-.")[:limit] or "unnamed"


@dataclass(frozen=True)
class FeatureSet:
    """What passes of one backbone over one dataset left, complete or not.

    Parameters
    ----------
    path : Path
        The set's folder.
    """

    path: Path

    @property
    def set_id(self) -> str:
        """Name of the set, unique in its store."""
        return self.path.name

    @property
    def group(self) -> Path:
        """The plain Zarr group, for any Zarr reader."""
        return self.path / "features.zarr"

    @property
    def journal_path(self) -> Path:
        """Folder of what is durable of an unfinished pass."""
        return self.path / "journal"

    @cached_property
    def info(self) -> dict[str, Any]:
        """What the set is: ``facets``, ``dataset``, ``backbone``, ``preprocess``, ``request``."""
        info = read_json(self.path / "set.json")
        if info.get("format") != FORMAT:
            raise StoreError(
                f"{self.path} has format {info.get('format')!r}; this featstore reads format "
                f"{FORMAT}. Install the version that wrote it, or extract again."
            )
        return info

    @property
    def facets(self) -> dict[str, Any]:
        """Return the settings by which a user tells sets apart."""
        return dict(self.info["facets"])

    @property
    def n_samples(self) -> int:
        """Number of rows of every matrix."""
        return int(self.info["dataset"]["n_samples"])

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, by label."""
        return tuple(self.info["dataset"]["class_names"])

    def layer_path(self, layer: str) -> Path:
        """Return the file whose presence says that `layer` is complete."""
        return self.path / "layers" / f"{layer}.json"

    def layers(self) -> dict[str, dict[str, Any]]:
        """Return each complete layer's record, in the order of their completion."""
        records = {path.stem: read_json(path) for path in self._layer_files()}
        return dict(sorted(records.items(), key=lambda item: (item[1]["completed"], item[0])))

    def _layer_files(self) -> Iterable[Path]:
        folder = self.path / "layers"
        return sorted(folder.glob("*.json")) if folder.is_dir() else ()

    def find_layer(self, name: str | None) -> str | None:
        """Return the complete layer that goes by `name` (None: the default one), if any."""
        for layer, record in self.layers().items():
            if record["default"] if name is None else name in (layer, *record["names"]):
                return layer
        return None

    def layer(self, layer: str) -> dict[str, Any]:
        """Return the record of a complete layer.

        Raises
        ------
        IncompleteError
            When the layer is begun and not finished.
        SelectionError
            When there is no such layer.
        """
        if self.layer_path(layer).is_file():
            return read_json(self.layer_path(layer))
        if layer in self.unfinished():
            raise IncompleteError(
                f"Layer {layer} of {self.set_id} is not finished. Resume it with: "
                f"{self.info['command']}"
            )
        raise SelectionError(
            f"{self.set_id} has no layer {layer!r}; it has {', '.join(self.layers()) or 'none'}."
        )

    def unfinished(self) -> list[str]:
        """Return the layers that were begun and not finished, or are known to be damaged."""
        arrays = (path.name for path in sorted(self.group.iterdir()) if path.is_dir())
        return [
            name for name in arrays if name not in VECTORS and not self.layer_path(name).is_file()
        ]

    def journal(self) -> dict[str, dict[str, Any]]:
        """Return what is durable of each unfinished layer.

        A journal that can't be trusted counts as none: its layers are computed again. One that
        a kill left beside a layer just finished has nothing more to say of it.
        """
        path = self.journal_path / "journal.json"
        if not path.is_file():
            return {}
        try:
            layers = read_json(path)["layers"]
        except CorruptionError:
            return {}
        return {name: own for name, own in layers.items() if not self.layer_path(name).is_file()}

    def begin_layer(self, layer: str, n_features: int, attributes: Mapping[str, Any]) -> None:
        """Make an empty matrix for a layer, unless an earlier pass began it."""
        if not (self.group / layer / "zarr.json").is_file():
            matrices.create_matrix(self.group, layer, (self.n_samples, n_features), attributes)

    def matrix(self, layer: str, *, writable: bool = False) -> matrices.Matrix:
        """Open a layer's matrix; the layer must be complete unless it is to be written.

        Raises
        ------
        CorruptionError
            When a chunk's file is missing.
        IncompleteError
            When the layer is not finished.
        """
        if writable:
            return matrices.Matrix(self.group / layer, writable=True)
        self.layer(layer)
        return matrices.Matrix(self.group / layer)

    @cached_property
    def labels(self) -> np.ndarray:
        """Class of each row, (n_samples,) int32; -1 where it has none."""
        return matrices.read_vector(self.group, "label")

    @cached_property
    def splits(self) -> np.ndarray:
        """Split of each row, (n_samples,) uint8, a position in :data:`featstore.config.SPLITS`."""
        return matrices.read_vector(self.group, "split")

    @cached_property
    def sample_ids(self) -> np.ndarray:
        """Name of each row's sample, (n_samples,) str."""
        return matrices.read_vector(self.group, "sample_id")

    @property
    def nbytes(self) -> int:
        """Bytes on disk."""
        return sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())


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
    ) -> FeatureSet:
        """Create a feature set without layers, whole or not at all; the caller holds its lock.

        Parameters
        ----------
        info : mapping
            What the set is; ``info["identity"]`` names it.
        labels : ndarray of shape (n_samples,), int32
        splits : ndarray of shape (n_samples,), uint8
        sample_ids : sequence of str
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
                "command": command(),
                "files": {p.relative_to(draft.group).as_posix(): file_sha256(p) for p in files},
            },
        )
        final = FeatureSet(self._sets_dir / set_id)
        draft.path.rename(final.path)
        sync_folder(self._sets_dir)
        return final

    def remove(self, feature_set: FeatureSet) -> None:
        """Delete a feature set and all that was decoded from any."""
        doomed = feature_set.path.with_name(f".old-{feature_set.set_id}")
        shutil.rmtree(doomed, ignore_errors=True)
        feature_set.path.rename(doomed)
        shutil.rmtree(doomed)
        for decoded in self.cache_dir.glob("*.npy"):
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
            ``weights``, ``bands``, ``image_size``, ``precision`` or ``set_id``.

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


def mark_damaged(feature_set: FeatureSet, chunks: Mapping[str, list[int]]) -> None:
    """Turn complete layers into ones whose named chunks are to be computed again.

    Parameters
    ----------
    feature_set : FeatureSet
        The set; the caller holds its lock.
    chunks : mapping of str to list of int
        Numbers of the damaged chunks, by layer.
    """
    journals = feature_set.journal()
    for layer, damaged in chunks.items():
        record = feature_set.layer(layer)
        prefix = f"{layer}/c/"
        hashes = {
            name.removeprefix(prefix).removesuffix("/0"): sha256
            for name, sha256 in record["files"].items()
            if name.startswith(prefix)
        }
        journals[layer] = {
            "chunks": {index: h for index, h in hashes.items() if int(index) not in damaged},
            "spool": None,
            "conditions": record["conditions"],
            "masked": {str(entry["row"]): entry["error"] for entry in record["masked"]},
        }
    if chunks:
        write_json(feature_set.journal_path / "journal.json", {"layers": journals})
    for layer in chunks:
        feature_set.layer_path(layer).unlink()
