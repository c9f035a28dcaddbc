"""Feature sets: what passes of one backbone over one dataset left in the store."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.config import SPLITS
from featstore.errors import CorruptionError, IncompleteError, SelectionError, StoreError
from featstore.io.files import file_sha256, parse_json, write_json
from featstore.store.format import matrix as matrices
from featstore.store.format.schema import checked_record, read_record

if TYPE_CHECKING:
    from featstore.store.remote.mirror import Mirror

FORMAT = 1


VECTORS = ("label", "split", "sample_id", "first_row")
"""Arrays of a set that are no layer's."""


JOURNAL = "journal/journal.json"
"""The one file of a set that can be deleted without losing what is complete."""


@dataclass(frozen=True)
class FeatureSet:
    """What passes of one backbone over one dataset left, complete or not.

    Parameters
    ----------
    path : Path
        The set's folder.
    mirror : Mirror or None
        Where its files are brought from, when its store is on object storage.
    """

    path: Path
    mirror: Mirror | None = field(default=None, compare=False, repr=False)

    @property
    def set_id(self) -> str:
        """Name of the set, unique in its store."""
        return self.path.name

    @property
    def group(self) -> Path:
        """The plain Zarr group, for any Zarr reader."""
        return self.path / "features.zarr"

    @property
    def address(self) -> str:
        """Where any Zarr reader finds the group: its path, or its URL."""
        return f"{self.mirror.url}/{self.place}" if self.mirror else str(self.group)

    @property
    def place(self) -> str:
        """Where the group is in its store."""
        return f"sets/{self.set_id}/features.zarr"

    @property
    def journal_path(self) -> Path:
        """Folder of what is durable of an unfinished pass."""
        return self.path / "journal"

    @cached_property
    def info(self) -> dict[str, Any]:
        """What the set is: ``facets``, ``dataset``, ``backbone``, ``preprocess``, ``request``."""
        info = read_record(self.path / "set.json", "SET")
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

    def _record(self, layer: str) -> dict[str, Any]:
        return read_record(self.layer_path(layer), "LAYER", self.n_samples)

    def layers(self) -> dict[str, dict[str, Any]]:
        """Return each complete layer's record, in the order of their completion."""
        records = {name: self._record(name) for name in self.layer_names()}
        return dict(sorted(records.items(), key=lambda item: (item[1]["completed"], item[0])))

    def layer_names(self) -> list[str]:
        """Return the names of all complete layers, whether or not their records can be read."""
        return sorted(path.stem for path in (self.path / "layers").glob("[!.]*.json"))

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
            return self._record(layer)
        if layer in self.unfinished():
            raise IncompleteError(self.why_unfinished(layer))
        raise SelectionError(
            f"{self.set_id} has no layer {layer!r}; it has {', '.join(self.layers()) or 'none'}."
        )

    def unfinished(self) -> list[str]:
        """Return the layers that were begun and not finished, or are known to be damaged."""
        arrays = {path.name for path in self.group.glob("*") if path.is_dir()}
        # What is damaged on object storage need not have come here.
        arrays |= self.journal().keys()
        return [
            name
            for name in sorted(arrays)
            if name not in VECTORS and not self.layer_path(name).is_file()
        ]

    def why_unfinished(self, layer: str) -> str:
        """Return what keeps a layer from being complete, and the command that completes it."""
        journal = self.journal().get(layer, {})
        command = journal.get("command", self.info["command"])
        if "damaged" in journal:
            chunks = ", ".join(map(str, journal["damaged"])) or "none, but its metadata"
            return (
                f"Layer {layer} of {self.set_id} is damaged (chunks {chunks}). Compute just those "
                f"with: {command}"
            )
        return f"Layer {layer} of {self.set_id} is not finished. Resume it with: {command}"

    def journal(self) -> dict[str, dict[str, Any]]:
        """Return what is durable of each unfinished layer.

        A journal that can't be trusted counts as none: its layers are computed again. One that
        a kill left beside a layer just finished has nothing more to say of it.

        Raises
        ------
        StoreError
            When it is as somebody wrote it, and holds what featstore does not write.
        """
        path = self.path / JOURNAL
        try:
            journal = parse_json(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise StoreError(f"{path} can't be read: {error.strerror or error}.") from error
        if journal is None:
            return {}
        try:
            n_rows = self.n_samples
        except StoreError:
            # Which whoever wants the rest of the set is told.
            n_rows = None
        layers = checked_record(journal, path, "JOURNAL", n_rows)["layers"]
        return {name: own for name, own in layers.items() if not self.layer_path(name).is_file()}

    def begin_layer(
        self, layer: str, n_features: int, attributes: Mapping[str, Any], dtype: str = "float32"
    ) -> None:
        """Make an empty matrix for a layer, unless an earlier pass began it.

        One whose metadata is not what the journal says is not believed: it is made again, and its
        chunks are kept where that gives the metadata that they were written under.
        """
        # The caller holds the set's lock: whoever left one was killed.
        for left in self.path.glob("new-*"):
            shutil.rmtree(left, ignore_errors=True)
        known = self.journal().get(layer, {}).get("metadata")
        path = self.group / layer / "zarr.json"
        if known is not None and path.is_file() and file_sha256(path) == known:
            return
        shape = (self.n_samples, n_features)
        with tempfile.TemporaryDirectory(prefix="new-", dir=self.journal_path.parent) as folder:
            matrices.create_matrix(Path(folder), layer, shape, attributes, dtype)
            made = Path(folder) / layer / "zarr.json"
            if known is not None and file_sha256(made) == known:
                made.replace(path)
                return
        matrices.create_matrix(self.group, layer, shape, attributes, dtype)

    def drop_layers(self, layers: Sequence[str]) -> None:
        """Forget what there is of unfinished layers; the caller holds the set's lock."""
        others = {name: own for name, own in self.journal().items() if name not in layers}
        self.journal_path.mkdir(exist_ok=True)
        write_json(self.path / JOURNAL, {"layers": others})
        for layer in layers:
            shutil.rmtree(self.group / layer)

    def matrix(self, layer: str, *, writable: bool = False) -> matrices.Matrix:
        """Open a layer's matrix; the layer must be complete unless it is to be written.

        Raises
        ------
        CorruptionError
            When its metadata is not what was written.
        IncompleteError
            When the layer is not finished.
        """
        if writable:
            return matrices.Matrix(self.group / layer, writable=True)
        files = self.layer(layer)["files"]
        self._bring(files, files)
        self._check(layer, [f"{layer}/zarr.json"], files)
        return matrices.Matrix(self.group / layer)

    def shape_of(self, layer: str) -> matrices.Matrix:
        """Open a complete layer's matrix for its shape and chunks alone; no row need be here."""
        files = self.layer(layer)["files"]
        self._bring([f"{layer}/zarr.json"], files)
        self._check(layer, [f"{layer}/zarr.json"], files)
        return matrices.Matrix(self.group / layer)

    def missing_chunks(self, layer: str) -> list[int]:
        """Return the chunks of a complete layer that have no file in the store."""
        if not self.is_there(layer):
            return self.shape_of(layer).missing_chunks()
        assert self.mirror is not None
        there = set(self.mirror.names(self.place))
        prefix = f"{layer}/c/"
        return sorted(
            int(name.removeprefix(prefix).split("/")[0])
            for name in self.layer(layer)["files"]
            if name.startswith(prefix) and name not in there
        )

    def bring_intact(self) -> None:
        """Bring what is intact of damaged layers, so that only the rest is computed again."""
        for layer, journal in self.journal().items():
            if self.mirror is None or "damaged" not in journal:
                continue
            files = {f"{layer}/c/{index}/0": sha256 for index, sha256 in journal["chunks"].items()}
            files[f"{layer}/zarr.json"] = journal["metadata"]
            (self.group / layer).mkdir(parents=True, exist_ok=True)
            self.mirror.fetch(self.place, files, strict=False)

    def is_there(self, file: str = "") -> bool:
        """Return whether the set, or what a file of its group belongs to, is on object storage."""
        array = file.partition("/")[0]
        is_vectors = not self.layer_path(array).is_file() or array in VECTORS
        name = "set.json" if is_vectors else f"layers/{array}.json"
        return self.mirror is not None and self.mirror.knows(f"sets/{self.set_id}/{name}")

    def file_names(self) -> list[str]:
        """Return the names of all files of the group, sorted; those of its layers in work too."""
        if self.mirror is not None and self.is_there():
            # What another machine is sending, or left, is no layer's yet.
            arrays = {"zarr.json", *VECTORS, *(n for n in self.layer_names() if self.is_there(n))}
            names = self.mirror.names(self.place)
            return sorted(name for name in names if name.split("/")[0] in arrays)
        return sorted(path.relative_to(self.group).as_posix() for path in _files_in(self.group))

    def _bring(self, names: Iterable[str], files: Mapping[str, str]) -> None:
        if self.mirror is not None:
            self.mirror.fetch(self.place, {name: files[name] for name in names})

    def _check(self, array: str, names: Iterable[str], files: Mapping[str, str]) -> None:
        """Compare small files with their hashes; a matrix's chunks have checksums of their own."""
        for name in names:
            path = self.group / name
            if not path.is_file() or file_sha256(path) != files[name]:
                raise CorruptionError(
                    f"{self.group / array} is damaged: {path.relative_to(self.group)} is not as it "
                    "was written. Run `featstore store verify`, which says how to repair it."
                )

    def _vector(self, name: str, lowest: int | None = None, n_values: int = 0) -> np.ndarray:
        """Return a vector; where a `lowest` value is given, all must lie from it to `n_values`."""
        files = self.info["files"]
        own = [file for file in files if file.startswith(f"{name}/")]
        self._bring(own, files)
        self._check(name, own, files)
        values = matrices.read_vector(self.group, name)
        if values.shape != (self.n_samples,):
            raise self._misfit(f"{values.shape} values of {name} for {self.n_samples} rows")
        if lowest is not None and values.size:
            for value in (values.min(), values.max()):
                if not lowest <= value < n_values:
                    raise self._misfit(f"{name} has {value}; expected {lowest} to {n_values - 1}")
        return values

    def _misfit(self, wrong: str) -> CorruptionError:
        return CorruptionError(
            f"{self.path / 'set.json'} and what lies beside it do not fit: {wrong}. Put back the "
            f"files, or extract again, after: featstore store rm {self.set_id}"
        )

    @cached_property
    def labels(self) -> np.ndarray:
        """Class of each row, (n_samples,) int32; -1 where it has none."""
        return self._vector("label", -1, len(self.class_names))

    @cached_property
    def splits(self) -> np.ndarray:
        """Split of each row, (n_samples,) uint8, a position in :data:`featstore.config.SPLITS`."""
        return self._vector("split", 0, len(SPLITS))

    @cached_property
    def sample_ids(self) -> np.ndarray:
        """Name of each row's sample, (n_samples,) str."""
        return self._vector("sample_id")

    @cached_property
    def first_rows(self) -> np.ndarray | None:
        """First row with the same image as each row, (n_samples,) int64.

        None in a set that was made before featstore looked for identical images. See
        :func:`featstore.datasets.duplicates.find_first_rows`.
        """
        # A vector whose file was written and is gone is damage, which reading it tells.
        if "first_row/zarr.json" not in self.info["files"]:
            return None
        return self._vector("first_row", 0, self.n_samples)

    @property
    def nbytes(self) -> int:
        """Bytes on disk, or on object storage."""
        if self.mirror is not None and self.is_there():
            return self.mirror.nbytes(f"sets/{self.set_id}")
        return _nbytes(self.path)

    def matrix_nbytes(self, layer: str) -> int:
        """Return the bytes of one matrix on disk, or on object storage."""
        if self.mirror is not None and self.is_there(layer):
            return self.mirror.nbytes(f"{self.place}/{layer}")
        return _nbytes(self.group / layer)


def _files_in(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder, of which others may remove some meanwhile."""
    for place, _, names in os.walk(folder):
        yield from (path for name in names if (path := Path(place, name)).is_file())


def _nbytes(folder: Path) -> int:
    nbytes = 0
    for path in _files_in(folder):
        with suppress(FileNotFoundError):
            nbytes += path.stat().st_size
    return nbytes


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
            "metadata": record["files"][f"{layer}/zarr.json"],
            "numerics": record["numerics"],
            "masked": {str(entry["row"]): entry["error"] for entry in record["masked"]},
            "command": record["command"],
            "damaged": sorted(damaged),
        }
    if chunks:
        write_json(feature_set.path / JOURNAL, {"layers": journals})
        if feature_set.mirror is not None:
            feature_set.mirror.unpublish(feature_set, chunks)
    for layer in chunks:
        feature_set.layer_path(layer).unlink()
