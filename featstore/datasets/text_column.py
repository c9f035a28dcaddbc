"""Keep millions of texts in two arrays, without an object for each."""

from __future__ import annotations

import operator
from array import array
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np


class TextColumn(Sequence[str]):
    """Texts in a row, such as the paths of a table; they can be appended to."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._content = bytearray()
        self._ends = array("q", [0])
        self._hashes = array("q")
        for text in texts:
            self.append(text)

    def append(self, text: str) -> None:
        """Add a text."""
        # Names of files that are not valid Unicode keep their bytes.
        self._content += text.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._content))
        self._hashes.append(hash(text))

    def __len__(self) -> int:
        return len(self._hashes)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = range(len(self))[operator.index(index)]
        content = self._content[self._ends[row] : self._ends[row + 1]]
        return content.decode("utf-8", "surrogateescape")

    def find_twice(self) -> tuple[int, int] | None:
        """Return the first two positions that hold the same text, or None."""
        hashes = np.frombuffer(self._hashes, np.int64)
        order = np.argsort(hashes, kind="stable")
        alike = np.flatnonzero(np.diff(hashes[order]) == 0)
        pairs = [(int(order[at]), int(order[at + 1])) for at in alike]
        return min((pair for pair in pairs if self[pair[0]] == self[pair[1]]), default=None)
