"""The records of a set's layers as typed models, complete ones and journals of the others."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from featstore.store.format.fields import (
    Count,
    Files,
    Items,
    LayerName,
    Name,
    Numbered,
    Record,
    RecordPart,
    Seconds,
    Sha256,
    Text,
    Width,
)


class Numerics(RecordPart):
    """The settings on which the last bits of features depend."""

    device: Text
    engine: Text
    batch_size: Width
    nodes: Items[Text] = ()
    n_threads: Width | None = None


class MaskedRow(RecordPart):
    """A row whose image can't be read."""

    row: Count
    sample_id: Text
    error: Text


class LayerRecord(Record):
    """The record of a complete layer, in ``layers/<layer>.json``.

    Parameters
    ----------
    layer, node : str
        The layer by its name and by torchvision's.
    names : tuple of str
        All names by which it can be selected.
    default : bool
        Whether it is the network's feature layer.
    pool : str or None
        The pooling of a map or of tokens to a vector.
    is_own_pool : bool or None
        Whether it is the pooling that ``auto`` means for the layer; None in older records.
    shape : tuple of int
        Shape of the layer's output for one image.
    n_features : int
        Columns of the matrix.
    dtype : str
        ``float32`` or ``float16``.
    numerics : Numerics
        What the last bits depend on: ``device``, ``engine``, ``batch_size``, ``nodes``.
    request : dict
        The requested settings.
    masked : tuple of MaskedRow
        Rows whose images can't be read: ``row``, ``sample_id``, ``error``.
    command : str
        The command that made it.
    completed : str
        Time, UTC, ISO 8601.
    n_computed : int
        Images computed by the last pass.
    duration_s : float
        Duration of the last pass.
    device : str
        Name of the device.
    versions : dict of str to str
        Versions of packages.
    machine : dict
        The machine.
    folder : str or None
        Folder of the files' upload to object storage.
    nbytes : int or None
        Bytes of the files there.
    files : dict of str to str
        sha256 (hex) of its files, by name.
    """

    layer: Text
    node: Text
    names: Items[Text]
    default: bool
    pool: Text | None
    is_own_pool: bool | None = None
    shape: Items[Width]
    n_features: Width
    dtype: Literal["float32", "float16"]
    numerics: Numerics
    request: dict[str, Any]
    masked: Items[MaskedRow]
    command: Text
    completed: Text
    n_computed: Count
    duration_s: Seconds
    device: Text
    versions: dict[str, Text] = {}
    machine: dict[str, Any] = {}
    folder: Name | None = None
    nbytes: Count | None = None
    files: Files

    def is_pooled_by(self, pool: str) -> bool:
        """Return whether a request for a pooling, such as ``auto``, means this one."""
        if self.pool is None or pool == self.pool:
            return True
        if self.is_own_pool is None:
            # Older featstores averaged the class token in, where a layer has one.
            return pool == "auto" and self.pool == "avg" and len(self.shape) == 3
        return pool == "auto" and self.is_own_pool

    @property
    def masked_rows(self) -> list[int]:
        """Rows whose images can't be read."""
        return [one.row for one in self.masked]

    def chunk_hashes(self) -> dict[int, str]:
        """Return the sha256 of each chunk's file, by the chunk's number."""
        parts = {name: name.split("/") for name in self.files}
        return {int(p[2]): self.files[name] for name, p in parts.items() if p[1] == "c"}

    def _misfit(self, name: str, n_rows: int | None) -> str | None:
        if f"{name}/zarr.json" not in self.files:
            return f"files: {name}/zarr.json is missing"
        own = re.compile(rf"{re.escape(name)}/(zarr\.json|c/(0|[1-9][0-9]{{0,11}})/0)")
        if others := [file for file in self.files if own.fullmatch(file) is None]:
            return f"files: {others[0]} is not a file of {name}"
        return _row_beyond("masked", self.masked_rows, n_rows)


class Spool(RecordPart):
    """The durable rows of an unfinished chunk."""

    chunk: Count
    n_rows: Width
    crc32: Count


class LayerJournal(RecordPart):
    """The durable chunks of one unfinished layer; `damaged` names damaged chunks.

    `folder` is the upload on object storage that holds the intact chunks of a damaged layer.
    """

    chunks: Numbered[Sha256]
    spool: Spool | None
    metadata: Sha256
    numerics: Numerics
    masked: Numbered[Text]
    command: Text
    folder: Name | None = None
    damaged: Items[Count] | None = None


class Journal(Record):
    """The durable chunks of unfinished layers, in ``journal/journal.json`` or a share's journal."""

    CURE: ClassVar[str] = (
        "Delete the file: extract computes its layers again, and complete layers stay."
    )

    layers: dict[LayerName, LayerJournal]

    def _misfit(self, name: str, n_rows: int | None) -> str | None:
        found = (
            _row_beyond(f"layers.{layer}.masked", list(own.masked), n_rows)
            for layer, own in self.layers.items()
        )
        return next(filter(None, found), None)


def _row_beyond(place: str, rows: list[int], n_rows: int | None) -> str | None:
    if n_rows is not None and (beyond := max(rows, default=0)) >= n_rows:
        return f"{place}: row {beyond} of {n_rows} rows, which are numbered from 0"
    return None
