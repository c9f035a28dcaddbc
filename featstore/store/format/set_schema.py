"""The record of a feature set as a typed model: its facets, images, network and preprocessing."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from featstore.store.format.array_schema import MORE_VECTORS, VECTORS, vector_rows
from featstore.store.format.fields import (
    Base64,
    Count,
    Files,
    Items,
    Name,
    Record,
    RecordPart,
    Text,
    Width,
)

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
