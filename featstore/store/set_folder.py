"""The folder of one feature set: its paths, records and journal."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from featstore.errors import CorruptionError, IncompleteError, SelectionError, StoreError
from featstore.io.files import file_sha256, parse_json, read_record, sync_folder
from featstore.store.format.array_schema import ARRAY_TYPES
from featstore.store.format.layer_schema import Journal, LayerJournal, LayerRecord
from featstore.store.format.matrix import Matrix, create_matrix
from featstore.store.format.set_schema import Facets, SetRecord

DIGEST_LENGTH = 12
"""Hex digits of the content key in a set's name."""


SETS, RUNS = "sets", "runs"
"""Folders of a store."""


GROUP = "features.zarr"
"""The Zarr group in a set's folder."""


UPLOADS = "uploads"
"""The folder of object storage in which each upload has a folder of its own."""


JOURNAL_FILE = "journal/journal.json"
"""The one file of a set that can be deleted without losing a complete layer."""


def uploaded_to(place: str, folder: str | None) -> str:
    """Return where object storage has the files of a place that an upload's `folder` holds."""
    if not folder:
        return place
    kind, owner, *rest = place.split("/")
    return "/".join([UPLOADS, kind, owner, folder, *rest])


DRAFT = ".new-layer-"
"""Beginning of the names of a set's temporary folders."""


def is_foreign(array: Path) -> bool:
    """Return whether an array of a group has other dimensions than those that featstore names."""
    try:
        names = json.loads(read_record(array / "zarr.json"))["dimension_names"]
    except (OSError, ValueError):
        # The metadata is damaged: every array is written with it.
        return False
    except (KeyError, TypeError, RecursionError):
        return True
    return names not in (["sample"], ["sample", "target"], ["sample", f"{array.name}.feature"])


@dataclass(frozen=True)
class SetFolder:
    """The folder of one feature set, complete or not.

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
        """The plain Zarr group on this machine, for any Zarr reader."""
        return self.path / GROUP

    @property
    def place(self) -> str:
        """Path of the group in the store."""
        return f"{SETS}/{self.set_id}/{GROUP}"

    @property
    def journal_path(self) -> Path:
        """Folder of the journals of an unfinished pass."""
        return self.path / "journal"

    @cached_property
    def info(self) -> SetRecord:
        """The set's record: ``facets``, ``dataset``, ``backbone``, ``preprocess``."""
        return SetRecord.read(self.path / "set.json")

    @property
    def facets(self) -> Facets:
        """The settings by which a user tells sets apart."""
        return self.info.facets

    @property
    def n_samples(self) -> int:
        """Number of rows of every matrix."""
        return self.info.dataset.n_samples

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, by label."""
        return self.info.dataset.class_names

    @property
    def record_name(self) -> str:
        """Path of the set's record in the store."""
        return f"{SETS}/{self.set_id}/set.json"

    def layer_record_name(self, layer: str) -> str:
        """Return the path of the record of `layer` in the store."""
        return f"{SETS}/{self.set_id}/layers/{layer}.json"

    def layer_path(self, layer: str) -> Path:
        """Return the path of the record of `layer`; the layer is complete if the record exists."""
        return self.path / "layers" / f"{layer}.json"

    def _record(self, layer: str) -> LayerRecord:
        return LayerRecord.read(self.layer_path(layer), self.n_samples)

    def layers(self) -> dict[str, LayerRecord]:
        """Return each complete layer's record, in the order of completion."""
        records = {name: self._record(name) for name in self.layer_names()}
        return dict(sorted(records.items(), key=lambda item: (item[1].completed, item[0])))

    def layer_names(self) -> list[str]:
        """Return the names of all complete layers; their records may be damaged."""
        return sorted(path.stem for path in (self.path / "layers").glob("[!.]*.json"))

    def layer(self, layer: str) -> LayerRecord:
        """Return the record of a complete layer.

        Raises
        ------
        IncompleteError
            When the layer is begun and not finished.
        SelectionError
            When the set has no such layer.
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
        # A damaged layer on object storage may have no file in this folder.
        arrays |= self.journal().keys()
        return [
            name
            for name in sorted(arrays)
            if name not in ARRAY_TYPES and not self.layer_path(name).is_file()
        ]

    def emptied(self, *, damaged: bool = False) -> list[str]:
        """Return the unfinished layers that have no files left; a pass begins them again.

        With `damaged`, also layers that are known to be damaged, whose intact chunks may be on
        object storage alone.
        """
        return [
            layer
            for layer, own in self.journal().items()
            if (damaged or own.damaged is None)
            and not self.layer_path(layer).is_file()
            and not self._has_files(layer, own)
        ]

    def _has_files(self, layer: str, journal: LayerJournal) -> bool:
        folder = self.group / layer
        return any(folder.glob("c/*/*")) if journal.chunks else folder.is_dir()

    def why_unfinished(self, layer: str) -> str:
        """Return why a layer is not complete, and the command that completes it."""
        journal = self.journal().get(layer)
        command = journal.command if journal else self.info.command
        if layer in self.emptied():
            return (
                f"Layer {layer} of {self.set_id} is not finished, and its files are missing. Begin "
                f"it again with: {command}"
            )
        if journal and journal.damaged is not None:
            chunks = ", ".join(map(str, journal.damaged)) or "none, but its metadata"
            return (
                f"Layer {layer} of {self.set_id} is damaged (chunks {chunks}). Compute just those "
                f"with: {command}"
            )
        return f"Layer {layer} of {self.set_id} is not finished. Resume it with: {command}"

    def journal(self) -> dict[str, LayerJournal]:
        """Return the durable chunks of each unfinished layer.

        A journal whose digest does not fit counts as empty: its layers are computed again. A kill
        may leave a journal beside the record of a layer; the record then counts.

        Raises
        ------
        StoreError
            When the digest fits, but featstore does not write such content.
        """
        path = self.path / JOURNAL_FILE
        try:
            content = parse_json(read_record(path))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except CorruptionError:
            raise
        except OSError as error:
            raise StoreError(f"{path} can't be read: {error.strerror or error}.") from error
        if content is None:
            return {}
        try:
            n_rows = self.n_samples
        except StoreError:
            # Reading the set's record reports this.
            n_rows = None
        layers = Journal.check(content, path, n_rows).layers
        return {name: own for name, own in layers.items() if not self.layer_path(name).is_file()}

    def write_journal(self, layers: Mapping[str, LayerJournal]) -> None:
        """Write the durable chunks of each unfinished layer."""
        Journal(layers=dict(layers)).write(self.path / JOURNAL_FILE)

    def begin_layer(
        self, layer: str, n_features: int, attributes: Mapping[str, Any], dtype: str = "float32"
    ) -> None:
        """Make an empty matrix for a layer, unless an earlier pass began it.

        Metadata that differs from the journal's hash is made again. The chunks of the layer are
        kept if that gives the metadata under which they were written.
        """
        # The caller holds the set's lock, so a killed process left these.
        for left in self.path.glob(f"{DRAFT}????????"):
            shutil.rmtree(left, ignore_errors=True)
        journal = self.journal().get(layer)
        known = journal.metadata if journal else None
        path = self.group / layer / "zarr.json"
        if known is not None and path.is_file() and file_sha256(path) == known:
            return
        shape = (self.n_samples, n_features)
        with tempfile.TemporaryDirectory(prefix=DRAFT, dir=self.path) as folder:
            create_matrix(Path(folder), layer, shape, attributes, dtype)
            made = Path(folder) / layer / "zarr.json"
            if known is not None and file_sha256(made) == known:
                path.parent.mkdir(exist_ok=True)
                made.replace(path)
                return
        if is_foreign(self.group / layer):
            raise StoreError(
                f"{self.group / layer} is an array that featstore did not write, and has the name "
                f"of a layer. Rename it, and extract again."
            )
        create_matrix(self.group, layer, shape, attributes, dtype)

    def writable_matrix(self, layer: str) -> Matrix:
        """Open the matrix of an unfinished layer to write its chunks."""
        return Matrix(self.group / layer, self.n_samples)

    def journal_damage(self, chunks: Mapping[str, Sequence[int]]) -> None:
        """Write damaged chunks of complete layers into the journal; the caller holds the lock.

        The layers stay complete until :meth:`reopen_layers`.
        """
        journals = self.journal()
        for layer, damaged in chunks.items():
            record = self.layer(layer)
            hashes = record.chunk_hashes()
            journals[layer] = LayerJournal(
                chunks={index: h for index, h in hashes.items() if index not in damaged},
                spool=None,
                metadata=record.files[f"{layer}/zarr.json"],
                numerics=record.numerics,
                masked={one.row: one.error for one in record.masked},
                command=record.command,
                folder=record.folder,
                damaged=tuple(sorted(damaged)),
            )
        self.write_journal(journals)

    def reopen_layers(self, layers: Sequence[str]) -> None:
        """Make complete layers unfinished; the journal already names their intact chunks."""
        for layer in layers:
            self.layer_path(layer).unlink()
        # Otherwise a record could come back after a power loss, with chunks half written.
        sync_folder(self.path / "layers")
