"""An image within a larger file, which opens like a file of its own."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO


@dataclass(frozen=True)
class ImageBytes:
    """An image whose bytes lie within a larger file.

    Attributes
    ----------
    name : str
        What messages call it, such as ``train.parquet, row 7``.
    file : Path
        The file that holds it.
    read : callable
        Returns the bytes.
    """

    name: str
    file: Path
    read: Callable[[], bytes] = field(repr=False, compare=False)

    def __str__(self) -> str:
        return self.name

    def open(self, _mode: str = "rb") -> BinaryIO:
        """Return the bytes as an open file."""
        return io.BytesIO(self.read())


ImageItem = Path | ImageBytes
"""One image: a file, or bytes within one."""
