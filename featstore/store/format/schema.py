"""The records of feature sets as typed models: sets, layers and journals."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from featstore.store.format.array_schema import MORE_VECTORS, VECTORS, vector_rows
from featstore.store.format.fields import (
    Base64,
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


def _row_beyond(place: str, rows: list[int], n_rows: int | None) -> str | None:
    if n_rows is not None and (beyond := max(rows, default=0)) >= n_rows:
        return f"{place}: row {beyond} of {n_rows} rows, which are numbered from 0"
    return None


IMPORTED = "imported"
"""Dataset and weights of features that were computed elsewhere."""


class Facets(RecordPart):
    """The settings by which a user tells sets apart."""

    dataset: Text
    title: Text
    model: Text
    weights: Text
    weights_names: Items[Text]
    bands: Text
    image_size: Width | None
    precision: Text
    dtype: Literal["float32", "float16"]
    limit: Count | None
    seed: Count


Number = Annotated[float, Field(allow_inf_nan=False)]


def _is_transform(values: tuple[float, ...]) -> tuple[float, ...]:
    if len(values) not in (0, 6):
        raise ValueError("a transform has six numbers")
    return values


class SceneInfo(RecordPart):
    """A scene whose windows are rows, and where it lies; see :class:`.Georeference`."""

    name: Text
    path: Text
    bands: Items[Width]
    height: Width
    width: Width
    crs: Text
    transform: Annotated[Items[Number], AfterValidator(_is_transform)]
    gcps: Items[tuple[Number, Number, Number, Number, Number]]
    rpcs: dict[str, Text]


class WindowsInfo(RecordPart):
    """The scenes of a set, and their division into windows.

    A row of the array ``place`` is a window's scene, and the row and column of its cell; cells are
    `stride` pixels wide, and windows `window`. `fingerprint` is the digest of the windows without
    their labels.
    """

    fingerprint: Text
    window: Width
    stride: Width
    scenes: Annotated[Items[SceneInfo], Field(min_length=1)]


class TrainedInfo(RecordPart):
    """Which images of a set trained the weights, where featstore trained them.

    `rows` is a bit for each row, in base64, the first row's highest; `weights` names the file, and
    `options` are those of ``extract`` that give the images and split of the training.
    """

    rows: Base64
    weights: Text
    options: Text


class DatasetInfo(RecordPart):
    """The images of a set."""

    n_samples: Width
    class_names: Items[Text]
    fingerprint: Text
    identity: dict[str, Any]
    bands: Items[Text] = ()
    root: Text | None = None
    image_shape: Items[Width] | None = None
    task: Literal["classification", "multilabel", "regression"] = "classification"
    target_names: Items[Text] = ()
    group_by: Text = ""
    options: dict[str, Any] = {}
    windows: WindowsInfo | None = None
    trained: TrainedInfo | None = None

    @property
    def has_official_split(self) -> bool:
        """Whether the split is the dataset's own or a published one, and not drawn."""
        return "split" not in self.identity

    def split_text(self, *, is_drawn: bool = False) -> str:
        """Return how the images are divided, for people; `is_drawn` says that a fit drew anew."""
        if is_drawn or not self.has_official_split:
            return f"grouped by {self.group_by}" if self.group_by else "random split"
        return "published split" if "published_split" in self.identity else "official split"

    @property
    def vectors(self) -> tuple[str, ...]:
        """Names of the set's arrays that belong to no layer."""
        has = {
            "group": bool(self.group_by),
            "target": self.task != "classification",
            "place": self.windows is not None,
        }
        return (*VECTORS, *(name for name in MORE_VECTORS if has[name]))

    def vector_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of one of these arrays."""
        n_columns = {"target": len(self.target_names), "place": 3}
        return (self.n_samples, *([n_columns[name]] if name in n_columns else []))


class BackboneInfo(RecordPart):
    """The network of a set, and its weights; of imported features, their file."""

    model: Text
    weights: Text
    weights_name: Text
    weights_path: Text | None
    weights_sha256: Text
    precision: Text
    patches: Base64 | None = None
    """Patches of training images, in base64; the filters are computed from them."""

    @property
    def is_imported(self) -> bool:
        """Whether the features were computed elsewhere."""
        return self.weights == IMPORTED


class ReadingInfo(RecordPart):
    """Bands, range and missing data that were chosen; see :mod:`featstore.datasets.reading`."""

    bands: Items[Text]
    value_range: Items[Items[float]]
    nodata: Text | None
    names: Items[Text] = ()
    """The bands' own names, in the order of `bands`."""


class PreprocessInfo(RecordPart):
    """The preprocessing of the images."""

    image_size: Width | None
    bands: Text
    resize: Text
    mean: Items[float] = ()
    std: Items[float] = ()
    decode: Text = ""
    reading: ReadingInfo | None = None
    interpolation: Text = "bilinear"
    crop_pct: float | None = None
    squash: bool = False


class SetRecord(Record):
    """The record of a feature set, in ``set.json``.

    Parameters
    ----------
    format : int
        Format of the store's records.
    facets : Facets
        The settings by which a user tells sets apart: ``dataset``, ``title``, ``model``,
        ``weights``, ``bands``, ``image_size``, ``precision``, ``dtype``, ``limit``, ``seed``.
    key : dict
        What the features depend on.
    dataset : DatasetInfo
        ``n_samples``, ``class_names``, ``fingerprint``, ``bands``, ``root``, ``image_shape``,
        ``task``, ``target_names``, ``group_by``, ``options``, of scenes ``windows``, and
        ``trained`` where images trained the weights.
    backbone : BackboneInfo
        ``model``, ``weights``, ``weights_sha256``, ``precision``.
    preprocess : PreprocessInfo
        ``image_size``, ``bands``, ``resize``, ``mean``, ``std``.
    command : str
        The command that made the set.
    created : str
        Time, UTC, ISO 8601.
    folder : str or None
        Folder of the files' upload to object storage.
    nbytes : int or None
        Bytes of the files there.
    files : dict of str to str
        sha256 (hex) of the files of labels, splits, ids and the group, by name.
    """

    FORMAT_CURE: ClassVar[str] = (
        "Remove the set with `featstore store rm {name}` and extract again, or install the "
        "featstore that wrote it."
    )

    format: Count
    facets: Facets
    key: dict[str, Any]
    dataset: DatasetInfo
    backbone: BackboneInfo
    preprocess: PreprocessInfo
    command: Text
    created: Text
    folder: Name | None = None
    nbytes: Count | None = None
    files: Files

    def _misfit(self, name: str, n_rows: int | None) -> str | None:
        own = ["zarr.json"]
        for vector in self.dataset.vectors:
            n, *n_targets = self.dataset.vector_shape(vector)
            chunks = range(-(-n // vector_rows(n, *n_targets)))
            own.append(f"{vector}/zarr.json")
            own += [f"{vector}/c/{index}" + "/0" * len(n_targets) for index in chunks]
        if missing := [file for file in own if file not in self.files]:
            return f"files: {missing[0]} is missing"
        if others := self.files.keys() - set(own):
            return f"files: {min(others)} is not a file of the set"
        return None


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
