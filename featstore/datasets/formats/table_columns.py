"""Read the columns of a table that hold splits, groups and ids."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.config import SPLITS
from featstore.datasets.formats.layout import split_of
from featstore.datasets.text_column import TextColumn
from featstore.errors import DatasetError


class Codes:
    """The values of a column as numbers in the order of their appearance.

    `what` is what messages call the column; `read` returns what a value means, None for nothing.
    """

    def __init__(self, what: str, read: Callable[[str], Any]) -> None:
        self._what = what
        self._read = read
        self._known: dict[Any, int] = {}
        self._of_row = array("l")

    def add(self, values: Sequence[Any], row_name: Callable[[int], str]) -> None:
        """Add a block of values; `row_name` names the rows of the block, from 0."""
        for i, value in enumerate(values):
            value = str(value) if isinstance(value, list) else value
            code = self._known.get(value)
            if code is None:
                text = "" if value is None or value != value else str(value).strip()
                if not text or self._read(text) is None:
                    found = f"is {text!r}; expected train, test or val" if text else "is empty"
                    raise DatasetError(f"{row_name(i)}: its {self._what} {found}.")
                code = self._known[value] = len(self._known)
            self._of_row.append(code)

    def _values(self) -> list[Any]:
        return [self._read(str(value).strip()) for value in self._known]

    def codes(self) -> NDArray[np.uint8]:
        """Return the meaning of each row, where meanings are numbers."""
        return np.array(self._values(), np.uint8)[np.array(self._of_row, np.int64)]

    def sorted(self) -> tuple[NDArray[np.int32], list[str]]:
        """Return the meaning of each row as a position among the sorted meanings, and these."""
        values = self._values()
        names = sorted(set(values))
        place = {name: i for i, name in enumerate(names)}
        codes = np.array([place[value] for value in values], np.int32)
        return codes[np.array(self._of_row, np.int64)], names


def split_code(text: str) -> int | None:
    """Return the position of a split in :data:`featstore.config.SPLITS`, or None."""
    split = split_of(text)
    return None if split is None else SPLITS.index(split)


def group_name(text: str) -> str:
    """Return the name of a group."""
    return text


def add_ids(ids: TextColumn, values: Sequence[Any], row_name: Callable[[int], str]) -> None:
    """Add a block of sample ids; an empty one is refused by its row."""
    for i, value in enumerate(values):
        text = "" if value is None or value != value else str(value).strip()
        if not text:
            raise DatasetError(f"{row_name(i)}: its id is empty.")
        ids.append(text)
