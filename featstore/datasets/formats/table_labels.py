"""Turn the labels of a table into classes, several classes an image, or numbers."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from featstore.config import TASKS
from featstore.errors import DatasetError
from featstore.text import join_some

CLASSIFICATION, MULTILABEL, REGRESSION = TASKS

SEPARATOR = ";"
"""What stands between the classes of an image in a text."""

MANY = 50
"""More classes than this that are whole numbers may be measurements."""

LARGEST = float(np.finfo(np.float32).max)


class Labels(NamedTuple):
    """The labels of all rows.

    `strata` are what a draw keeps the shares of: classes, or an image's rarest class.
    """

    task: str
    class_names: tuple[str, ...]
    labels: NDArray[np.int32]
    targets: NDArray[np.float32] | None
    strata: NDArray[np.int64]


class _EmptyLabelError(ValueError):
    """A label is missing."""

    def __init__(self) -> None:
        super().__init__("its label is empty.")


class LabelReader:
    """Takes the labels of a table, block by block.

    `task` is one of :data:`featstore.config.TASKS`, or None to choose: several classes an image
    where a label is a list or holds a semicolon, else one. With ``multilabel``, an empty text means
    no class. `names` are those of classes that the table numbers from 0. A label that is missing,
    or does not fit the task, is refused by its row.
    """

    def __init__(self, task: str | None, names: Sequence[str]) -> None:
        self._task = task
        self._names = names
        # The first row without a label, if whether that is allowed is not known yet.
        self._unlabelled = ""
        self._codes: dict[Any, int] = {}
        self._code_of_row = array("l")
        self._numbers = array("d")

    def add(self, values: Sequence[Any], row_name: Callable[[int], str]) -> None:
        """Add a block of labels; `row_name` names the rows of the block, from 0."""
        for i, value in enumerate(values):
            try:
                if self._task == REGRESSION:
                    self._numbers.append(_number(value))
                else:
                    key = tuple(value) if isinstance(value, list) else value
                    code = self._codes.get(key)
                    if code is None:
                        self._check(key)
                        code = self._codes[key] = len(self._codes)
                    self._code_of_row.append(code)
            except _EmptyLabelError as error:
                if self._task is not None:
                    raise DatasetError(f"{row_name(i)}: {error}") from None
                self._unlabelled = self._unlabelled or f"{row_name(i)}: {error}"
            except ValueError as error:
                raise DatasetError(f"{row_name(i)}: {error}") from None

    def _check(self, value: Any) -> None:
        """Refuse an empty label; a list may be empty, and with ``multilabel`` a text."""
        if self._task == CLASSIFICATION:
            self._name(value)
        elif not self._split(value) and not (isinstance(value, tuple) or self._task == MULTILABEL):
            raise _EmptyLabelError

    def _split(self, value: Any) -> list[str]:
        if isinstance(value, tuple):
            return [self._name(one) for one in value]
        if isinstance(value, str) and (SEPARATOR in value or self._task == MULTILABEL):
            return [word.strip() for word in value.split(SEPARATOR) if word.strip()]
        return [self._name(value)]

    def _name(self, value: Any) -> str:
        if value is None or value != value or (isinstance(value, str) and not value.strip()):
            raise _EmptyLabelError
        if isinstance(value, tuple):
            raise ValueError("its label is a list; with --task classification it is one class.")
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if self._names and isinstance(value, int):
            if not 0 <= value < len(self._names):
                raise ValueError(
                    f"its label is {value}; the table names classes 0 to {len(self._names) - 1}."
                )
            return self._names[value]
        return str(value).strip()

    def finish(self) -> Labels:
        """Return the labels of all rows."""
        if self._task == REGRESSION:
            numbers = np.array(self._numbers, np.float32)[:, np.newaxis]
            strata = np.zeros(len(numbers), np.int64)
            return Labels(REGRESSION, (), np.full(len(numbers), -1, np.int32), numbers, strata)
        several = any(
            isinstance(value, tuple) or (isinstance(value, str) and SEPARATOR in value)
            for value in self._codes
        )
        if self._unlabelled:
            hint = " If that means an image without a class: --task multilabel." if several else ""
            raise DatasetError(self._unlabelled + hint)
        task = self._task or (MULTILABEL if several else CLASSIFICATION)
        split = self._split if task == MULTILABEL else lambda value: [self._name(value)]
        classes_of_code = [split(value) for value in self._codes]
        names = _sorted({name for own in classes_of_code for name in own})
        # Empty where a name is no number.
        values = zip(names, _floats(names), strict=False)
        fractions = [name for name, value in values if not value.is_integer()]
        if self._task is None and fractions:
            raise DatasetError(
                f"The labels are numbers with fractions, such as {fractions[0]}. For numbers give "
                "--task regression; for classes --task classification."
            )
        place = {name: i for i, name in enumerate(names)}
        codes = np.array(self._code_of_row, np.int64)
        if task == CLASSIFICATION:
            label_of_code = np.array([place[own] for (own,) in classes_of_code], np.int32)
            labels = label_of_code[codes]
            return Labels(task, names, labels, None, labels.astype(np.int64))
        has = np.zeros((len(classes_of_code), len(names)), np.float32)
        for code, own in enumerate(classes_of_code):
            has[code, [place[name] for name in own]] = 1
        n_of_class = np.bincount(codes, minlength=len(has)) @ has
        # An image without a class comes last.
        rarest = np.where(has > 0, n_of_class, np.inf)
        strata = np.where(has.any(axis=1), rarest.argmin(axis=1), len(names))
        labels = np.full(len(codes), -1, np.int32)
        return Labels(task, names, labels, has[codes], strata[codes])


def notes_on_classes(names: Sequence[str], *, is_sure: bool) -> list[str]:
    """Return what in the names of classes may be a slip; `is_sure` that they are classes."""
    notes = []
    if not is_sure and len(names) > MANY and all(map(str.isdecimal, names)):
        notes += [
            f"{len(names):,} whole numbers are taken for classes. If they are measurements, give "
            "--task regression."
        ]
    spellings = Counter(name.casefold() for name in names)
    if alike := [name for name in names if spellings[name.casefold()] > 1]:
        notes += [f"Classes that differ only in capitals: {join_some(alike)}."]
    return notes


def _number(value: Any) -> float:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise _EmptyLabelError
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"its label is {value!r}; expected a number.") from None
    if not abs(number) <= LARGEST:
        raise ValueError(f"its label is {value!r}; expected a finite number.")
    return number


def _floats(names: Sequence[str]) -> list[float]:
    """Return names that are all finite numbers as such; none if one is not."""
    try:
        numbers = list(map(float, names))
    except ValueError:
        return []
    return numbers if all(map(math.isfinite, numbers)) else []


def _sorted(names: set[str]) -> tuple[str, ...]:
    """Return names by Unicode code points; whole numbers by their value."""
    if all(name.isascii() and name.isdecimal() for name in names):
        return tuple(sorted(names, key=int))
    return tuple(sorted(names))
