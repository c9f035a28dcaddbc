"""The records of a store as typed models, refused when they do not fit.

The digest of a record shows that its bytes are as somebody wrote them. These models make sure that
featstore could have written the content, before anything is done with it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)

from featstore.errors import CorruptionError, FormatError
from featstore.io.files import read_json, write_json

FORMAT = 3
"""Format of the records of sets and runs that this featstore writes and reads."""


MAX_COUNT = 2**53
"""Largest integer that every JSON reader keeps exact."""


T = TypeVar("T")


Items = Annotated[tuple[T, ...], Strict(False)]
"""A list of the JSON file as a tuple."""


Count = Annotated[int, Field(ge=0, le=MAX_COUNT)]


Width = Annotated[int, Field(ge=1, le=2**31)]


Seconds = Annotated[float, Field(allow_inf_nan=False)]


Fraction = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]


Text = Annotated[str, StringConstraints(max_length=10_000, pattern=r"^[^\x00]*$")]


Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


Name = Annotated[str, StringConstraints(max_length=255, pattern=r"^[^./\\\x00][^/\\\x00]*$")]
"""Name of a file or folder; it does not lead out of its folder."""


def _not_the_groups_file(name: str) -> str:
    if name == "zarr.json":
        raise ValueError("a layer can't have the name of the group's own file")
    return name


LayerName = Annotated[
    str,
    StringConstraints(max_length=200, pattern=r"^[!-\-0-\[\]-~][!-.0-\[\]-~]*$"),
    AfterValidator(_not_the_groups_file),
]
"""Name of a layer, its folder and its record."""


_PART = r"(?:[^./\\\x00-\x1f]|\.[^./\\\x00-\x1f]|\.\.[^/\\\x00-\x1f])[^/\\\x00-\x1f]*"


FileName = Annotated[str, StringConstraints(max_length=1000, pattern=rf"^{_PART}(?:/{_PART})*$")]
"""Name of a file, relative to the folder of its record; it does not lead out of that."""


Files = dict[FileName, Sha256]


def _numbered(value: Any) -> Any:
    """Turn the keys of a JSON object, which are text, into numbers."""
    if not isinstance(value, Mapping):
        return value
    for key in value:
        if type(key) is not int and re.fullmatch("0|[1-9][0-9]{0,11}", key) is None:
            raise ValueError(f"{key!r} is not the number of a row or chunk")
    return {int(key): one for key, one in value.items()}


Numbered = Annotated[dict[int, T], BeforeValidator(_numbered)]
"""A JSON object whose names are numbers of rows or chunks."""


class Model(BaseModel):
    """A frozen part of a record. Fields that this featstore does not know are kept."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow", defer_build=True)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-able content."""
        return self.model_dump(mode="json", exclude_unset=True)


class Record(Model):
    """The content of one file, which :func:`featstore.io.files.write_json` writes."""

    CURE: ClassVar[str] = "Put back the file, or remove what it belongs to and make it again."
    FORMAT_CURE: ClassVar[str] = ""

    @classmethod
    def read(cls, path: Path, n_rows: int | None = None) -> Self:
        """Read a record; `n_rows` is the number of rows of its set, if that is known.

        Raises
        ------
        CorruptionError
            When its digest does not fit, or it is not what featstore writes.
        FormatError
            When it has another format.
        StoreError
            When it can't be read.
        """
        return cls.check(read_json(path), path, n_rows)

    @classmethod
    def check(cls, content: Mapping[str, Any], path: Path, n_rows: int | None = None) -> Self:
        """Return the record with the content of the file at `path`; see :meth:`read`."""
        found = content.get("format")
        if cls.FORMAT_CURE and type(found) is int and found != FORMAT:
            raise FormatError(
                f"{path.parent} has format {found}; this featstore reads format {FORMAT}. "
                f"{cls.FORMAT_CURE.format(name=path.parent.name)}"
            )
        try:
            record = cls.model_validate(content)
            wrong = record._misfit(path.stem, n_rows)
        except ValidationError as error:
            wrong = _first(error)
        if wrong:
            raise CorruptionError(
                f"{path} holds what featstore does not write: {wrong[:300]}. {cls.CURE}"
            )
        return record

    def _misfit(self, name: str, n_rows: int | None) -> str | None:
        """Return which parts of the record do not fit each other, its file's name or its set."""
        return None

    def write(self, path: Path) -> None:
        """Write the record atomically."""
        write_json(path, self.to_dict())


def _first(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"] if part != "[key]")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"{place}: {message}"
    return f"{place or 'the file'}: {message}, found {first['input']!r}"


def _row_beyond(place: str, rows: list[int], n_rows: int | None) -> str | None:
    if n_rows is not None and (beyond := max(rows, default=0)) >= n_rows:
        return f"{place}: row {beyond} of {n_rows} rows, which are numbered from 0"
    return None


class Facets(Model):
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


class DatasetInfo(Model):
    """The images of a set."""

    n_samples: Width
    class_names: Items[Text]
    fingerprint: Text
    identity: dict[str, Any]
    bands: Items[Text] = ()
    root: Text | None = None
    image_shape: Items[Width] | None = None


class BackboneInfo(Model):
    """The network of a set, and its weights."""

    model: Text
    weights: Text
    weights_name: Text
    weights_path: Text | None
    weights_sha256: Text
    precision: Text


class PreprocessInfo(Model):
    """How images became the network's input."""

    image_size: Width | None
    bands: Text
    resize: Text
    mean: Items[float] = ()
    std: Items[float] = ()
    decode: Text = ""


class SetRecord(Record):
    """``set.json``: what a feature set is."""

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
    files: Files


class Numerics(Model):
    """What the last bits of features depend on."""

    device: Text
    engine: Text
    batch_size: Width
    nodes: Items[Text] = ()
    n_threads: Width | None = None


class MaskedRow(Model):
    """A row whose image can't be read."""

    row: Count
    sample_id: Text
    error: Text


class LayerRecord(Record):
    """``layers/<layer>.json``: a complete matrix."""

    layer: Text
    node: Text
    names: Items[Text]
    default: bool
    pool: Text | None
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
    files: Files

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
        own = re.compile(rf"{re.escape(name)}/(zarr\.json|c/[0-9]{{1,12}}/0)")
        if others := [file for file in self.files if own.fullmatch(file) is None]:
            return f"files: {others[0]} is not a file of {name}"
        return _row_beyond("masked", self.masked_rows, n_rows)


class Spool(Model):
    """Rows of a chunk that is not whole yet."""

    chunk: Count
    n_rows: Width
    crc32: Count


class LayerJournal(Model):
    """What is durable of one unfinished layer; `damaged` names the chunks of a damaged one."""

    chunks: Numbered[Sha256]
    spool: Spool | None
    metadata: Sha256
    numerics: Numerics
    masked: Numbered[Text]
    command: Text
    damaged: Items[Count] | None = None


class Journal(Record):
    """``journal/journal.json``, and those of shares: what is durable of unfinished layers."""

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


class FitSettings(Model):
    """The settings of a fit, as :meth:`featstore.config.FitConfig.to_dict` returns them."""

    clf: Text
    params: dict[str, Any]
    seed: Count
    search: Text | None
    cv: Count
    n_candidates: Count
    grid: dict[str, Any]
    n_epochs: Count | None
    split_seed: Count | None
    drop_leaks: bool
    device: Text
    intelex: bool


class SearchResult(Model):
    """What a search for parameters tried and found."""

    kind: Text
    cv: Count
    seed: Count
    best: dict[str, Any]
    accuracy: Fraction
    deviation: Fraction
    candidates: Items[dict[str, Any]]


class FeatureSpec(Model):
    """All that is needed to compute the features of one layer for other images."""

    set_id: Name
    layer: Name
    node: Text
    pool: Text | None
    batch_size: Width
    n_features: Width
    backbone: BackboneInfo
    preprocess: PreprocessInfo


class SelectionInfo(Model):
    """The features of a selection; `digest` changes when the features do."""

    dataset: Text
    title: Text
    model: Text
    layers: Items[Text]
    weights: Text
    precision: Text
    n_samples: Width
    n_features: Width
    fingerprint: Text
    set_ids: Annotated[Items[Name], Field(min_length=1)]
    features: Annotated[Items[FeatureSpec], Field(min_length=1)]
    digest: Text


class RowCounts(Model):
    """How many rows a run was fitted to and judged on."""

    n_train: Count
    n_test: Count
    n_val: Count
    test_split: Literal["train", "test", "val"]
    n_masked: Count
    n_unlabelled: Count
    n_leaked: Count
    n_dropped: Count
    n_train_of_class: Annotated[Items[Count], Field(min_length=1)]


class ClassScores(Model):
    """The scores of one class."""

    name: Text
    precision: Fraction
    recall: Fraction | None
    f1: Fraction
    support: Count


class Scores(Model):
    """The scores of one split, as :func:`featstore.fitting.evaluate.score` returns them."""

    n_samples: Count
    accuracy: Fraction
    average_accuracy: Fraction
    kappa: Fraction | None
    majority_accuracy: Fraction
    per_class: Items[ClassScores]
    confusion: Items[Items[Count]]


class TrainScores(Model):
    """The accuracy on training rows."""

    accuracy: Fraction
    n_samples: Count


class Metrics(Model):
    """The scores of test, validation and training rows."""

    test: Scores
    val: Scores | None
    train: TrainScores


class Machine(Model):
    """The machine of a fit."""

    processor: Text
    n_cores: Count


class Provenance(Model):
    """The versions and the machine of a fit."""

    versions: dict[str, Text]
    machine: Machine


class RunRecord(Record):
    """``metrics.json``: a run."""

    FORMAT_CURE: ClassVar[str] = (
        "Remove the folder and fit again, or install the featstore that wrote it."
    )

    format: Count
    key: Text
    created: Text
    command: Text
    fit: FitSettings
    params: dict[str, Any]
    search: SearchResult | None
    selection: SelectionInfo
    class_names: Annotated[Items[Text], Field(min_length=1)]
    rows: RowCounts
    n_constant_features: Count
    metrics: Metrics
    score_kind: Text
    source: Text | None = None
    converged: bool
    solver: Text
    notes: Items[Text]
    duration_s: dict[str, Seconds]
    peak_rss_nbytes: Count
    provenance: Provenance
    folder: Name | None = None
    files: Files

    def _misfit(self, name: str, n_rows: int | None) -> str | None:
        for place, values, needed in (
            ("duration_s", self.duration_s, ["total"]),
            ("provenance.versions", self.provenance.versions, ["scikit-learn"]),
            ("files", self.files, ["model.skops", "predictions.csv"]),
        ):
            if lacking := [one for one in needed if one not in values]:
                return f"{place}: {lacking[0]} is missing"
        n_classes = len(self.class_names)
        lengths = {"rows.n_train_of_class": len(self.rows.n_train_of_class)}
        for split, scores in (("test", self.metrics.test), ("val", self.metrics.val)):
            if scores is not None:
                lengths[f"metrics.{split}.per_class"] = len(scores.per_class)
                lengths[f"metrics.{split}.confusion"] = len(scores.confusion)
                for i, row in enumerate(scores.confusion):
                    lengths[f"metrics.{split}.confusion.{i}"] = len(row)
        for place, length in lengths.items():
            if length != n_classes:
                return f"{place}: {length} values of {n_classes} classes"
        return None


_files = TypeAdapter(Files, config=ConfigDict(strict=True))


def named_files(files: Any) -> dict[str, str]:
    """Return a record's sha256 by file name, if all names lie below the record's folder.

    Raises
    ------
    ValueError
        When they do not, or it is no such mapping.
    """
    return _files.validate_python(files)
