"""Typed fields of records, and the base class that refuses invalid records.

A digest shows that a record's bytes have not changed, but an editor can recompute it. These models
check that featstore could have written the content, before it is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

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


Base64 = Annotated[str, StringConstraints(max_length=8 * 2**20, pattern=r"^[A-Za-z0-9+/]*={0,2}$")]


Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


Name = Annotated[str, StringConstraints(max_length=255, pattern=r"^[^./\\\x00][^/\\\x00]*$")]
"""Name of a file or folder that stays in its folder."""


def _not_the_groups_file(name: str) -> str:
    if name == "zarr.json":
        raise ValueError("a layer can't have the name of the group's own file")
    return name


LayerName = Annotated[
    str,
    StringConstraints(max_length=200, pattern=r"^[!-\-0-\[\]-~][!-.0-\[\]-~]*$"),
    AfterValidator(_not_the_groups_file),
]
"""Name of a layer, its folder and its record's file."""


_PART = r"(?:[^./\\\x00-\x1f]|\.[^./\\\x00-\x1f]|\.\.[^/\\\x00-\x1f])[^/\\\x00-\x1f]*"


FileName = Annotated[str, StringConstraints(max_length=1000, pattern=rf"^{_PART}(?:/{_PART})*$")]
"""Name of a file, relative to the folder of its record, that stays in this folder."""


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
"""A JSON object whose keys are numbers of rows or chunks."""


class RecordPart(BaseModel):
    """A frozen part of a record. Unknown fields are kept."""

    model_config = ConfigDict(strict=True, frozen=True, extra="allow", defer_build=True)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-able content."""
        return self.model_dump(mode="json", exclude_unset=True)


class Record(RecordPart):
    """The content of one JSON file; see :func:`featstore.io.files.write_json`."""

    CURE: ClassVar[str] = "Put back the file, or remove what it belongs to and make it again."
    FORMAT_CURE: ClassVar[str] = ""

    @classmethod
    def read(cls, path: Path, n_rows: int | None = None) -> Self:
        """Read a record; `n_rows` is the number of rows of its set, if that is known.

        Raises
        ------
        CorruptionError
            When its digest is wrong, or featstore does not write such content.
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
            wrong = first_problem(error)
        if wrong:
            raise CorruptionError(
                f"{path} holds what featstore does not write: {wrong[:300]}. {cls.CURE}"
            )
        return record

    def _misfit(self, name: str, n_rows: int | None) -> str | None:
        """Return which value contradicts another one, the file's name or the set, or None."""
        return None

    def write(self, path: Path) -> None:
        """Write the record atomically."""
        write_json(path, self.to_dict())


def first_problem(error: ValidationError) -> str:
    """Return where the first invalid value of a file is, and what is wrong with it."""
    first = error.errors(include_url=False)[0]
    place = ".".join(str(part) for part in first["loc"] if part != "[key]")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "missing":
        return f"{place}: {message}"
    return f"{place or 'the file'}: {message}, found {first['input']!r}"


_files = TypeAdapter(Files, config=ConfigDict(strict=True))


def named_files(files: Any) -> dict[str, str]:
    """Return a record's sha256 by file name, if all names lie below the record's folder.

    Raises
    ------
    ValueError
        When they do not, or it is no such mapping.
    """
    return _files.validate_python(files)
