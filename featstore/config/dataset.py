"""How a dataset's files are opened, as a frozen value."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from featstore.config.checks import NUMBER, check_choice, check_integer
from featstore.config.choices import LABEL_BY, TASKS
from featstore.errors import ConfigError

MAX_WINDOW = 2**20


COLUMN_ROLES = ("path", "image", "label", "split", "group", "id")
"""The columns of a table that are read, by their usual names."""


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """Settings that decide which samples a dataset has, and their labels and splits.

    :class:`.ExtractConfig` has them too, and describes each. A feature set records them, so that
    its images can be opened again.
    """

    seed: int = 0
    limit: int | None = None
    follow_links: bool = False
    columns: tuple[str, ...] = ()
    task: str | None = None
    split_files: tuple[str, ...] = ()
    groups_from: str | None = None
    window: int | None = None
    stride: int | None = None
    labels: str | None = None
    label_column: str | None = None
    label_by: str = LABEL_BY[0]

    def __post_init__(self) -> None:
        for name in ("columns", "split_files"):
            object.__setattr__(self, name, as_words(getattr(self, name)))
        _check_columns(self.columns)
        check_integer("seed", self.seed, 0, 2**32 - 1)
        if self.limit is not None:
            check_integer("limit", self.limit, 1, 2**40)
        if self.task is not None:
            check_choice("task", self.task, TASKS)
        if self.split_files and len(self.split_files) not in (2, 3):
            raise ConfigError(
                f"split_files names {len(self.split_files)}; give two or three lists of images: "
                "TRAIN,TEST or TRAIN,TEST,VAL."
            )
        if self.groups_from is not None:
            _check_groups_from(self.groups_from)
        for name in ("window", "stride"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), 1, MAX_WINDOW)
        check_choice("label_by", self.label_by, LABEL_BY)
        if (self.labels is None) != (self.label_column is None):
            raise ConfigError(
                "labels is a file of polygons, and label_column names the column of their classes: "
                "give both, e.g. --labels fields.gpkg --label-column class."
            )

    def to_record(self) -> dict[str, Any]:
        """Return the settings that are not the defaults, JSON-able; paths are absolute."""
        values = asdict(self)
        lists = list(map(os.path.abspath, self.split_files))
        values |= {"columns": list(self.columns), "split_files": lists}
        values["labels"] = None if self.labels is None else os.path.abspath(self.labels)
        return {
            field.name: values[field.name]
            for field in fields(self)
            if getattr(self, field.name) != field.default
        }


def as_words(value: str | Sequence[str] | Mapping[str, str]) -> tuple[str, ...]:
    """Return the words of a setting that is one text with commas, a list, or a mapping."""
    if isinstance(value, Mapping):
        return tuple(f"{name}={word}" for name, word in value.items())
    words = value.split(",") if isinstance(value, str) else value
    return tuple(str(word).strip() for word in words)


def _check_columns(columns: Sequence[str]) -> None:
    roles = [word.partition("=")[0] for word in columns]
    for word, role in zip(columns, roles, strict=True):
        if role not in COLUMN_ROLES or "=" not in word or word.endswith("="):
            raise ConfigError(
                f"columns holds {word!r}; give NAME=COLUMN with one of the names "
                f"{', '.join(COLUMN_ROLES)}, such as path=file,label=class."
            )
        if roles.count(role) > 1:
            raise ConfigError(f"columns names {role} twice.")


def _check_groups_from(text: str) -> None:
    kind, _, rest = text.partition(":")
    if kind == "regex":
        try:
            re.compile(rest)
        except re.error as error:
            raise ConfigError(f"groups_from is {text!r}, no regular expression: {error}.") from None
    if not rest and kind in ("regex", "grid", ""):
        raise ConfigError(
            f"groups_from is {text!r}; give a column, regex:PATTERN, or grid:SIZE in map units."
        )
    if kind == "grid" and not (re.fullmatch(NUMBER, rest) and float(rest) > 0):
        raise ConfigError(f"groups_from is {text!r}; the size of the grid must be above 0.")
