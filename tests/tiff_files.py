"""Write TIFF files of any layout from their pixels, byte by byte, without an imaging library."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

NONE, DEFLATE = 1, 8
"""Values of Compression."""
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, MASK, CMYK, YCBCR, LAB = 0, 1, 2, 3, 4, 5, 6, 8
"""Values of PhotometricInterpretation."""


@dataclass(frozen=True)
class Page:
    """One page of a TIFF file: pixels of shape (height, width, bands), and how to store them."""

    pixels: np.ndarray
    photometric: int = BLACK_IS_ZERO
    bits: int = 8
    planar: bool = False
    tile: int | None = None
    rows_per_strip: int | None = None
    compression: int = NONE
    predictor: bool = False
    tags: dict[int, Any] = field(default_factory=dict)
    """Further tags: bytes are text, whole numbers SHORT, or LONG where they are large."""


def write_tiff(path: Path, *pages: Page, order: str = "<", big: bool = False) -> Path:
    """Write pages as a TIFF file, little (<) or big (>) endian, classic or BigTIFF."""
    mark = b"II" if order == "<" else b"MM"
    pointer, count = ("Q", "Q") if big else ("I", "H")
    size = struct.calcsize(f"{order}{pointer}")
    head = struct.pack(f"{order}HHH", 43, 8, 0) if big else struct.pack(f"{order}H", 42)
    data = bytearray(mark + head)
    link = len(data)
    data += bytes(size)
    for page in pages:
        tags = _tags(page)
        offsets, lengths = [], []
        for segment in _segments(page, order):
            offsets.append(len(data))
            lengths.append(len(segment))
            data += segment + b"\0" * (len(segment) % 2)
        names = (324, 325) if page.tile else (273, 279)
        tags |= dict(zip(names, (_long(offsets), _long(lengths)), strict=True)) | page.tags
        entries = bytearray()
        for tag, value in sorted(tags.items()):
            kind, n, content = _value(value, order)
            if len(content) > size:
                content, place = struct.pack(f"{order}{pointer}", len(data)), content
                data += place + b"\0" * (len(place) % 2)
            entries += struct.pack(f"{order}HH{pointer}", tag, kind, n) + content.ljust(size, b"\0")
        data[link : link + size] = struct.pack(f"{order}{pointer}", len(data))
        data += struct.pack(f"{order}{count}", len(tags)) + entries
        link = len(data)
        data += bytes(size)
    path.write_bytes(data)
    return path


class _long(list[int]):  # noqa: N801
    """Values to be stored as LONG whatever their size."""


def _value(value: Any, order: str) -> tuple[int, int, bytes]:
    if isinstance(value, bytes):
        return 2, len(value) + 1, value + b"\0"
    values = [value] if isinstance(value, int) else list(value)
    is_long = isinstance(value, _long) or max(values, default=0) > 65535
    return (
        4 if is_long else 3,
        len(values),
        struct.pack(f"{order}{len(values)}{'I' if is_long else 'H'}", *values),
    )


def _tags(page: Page) -> dict[int, Any]:
    height, width, n_bands = page.pixels.shape
    n_colours = {RGB: 3, CMYK: 4, YCBCR: 3, LAB: 3}.get(page.photometric, 1)
    sample_format = {"u": 1, "b": 1, "i": 2, "f": 3, "c": 6}[page.pixels.dtype.kind]
    tags = {
        256: width,
        257: height,
        258: [page.bits] * n_bands,
        259: page.compression,
        262: page.photometric,
        277: n_bands,
        284: 2 if page.planar else 1,
        339: [sample_format] * n_bands,
    }
    if n_bands > n_colours:
        tags[338] = [0] * (n_bands - n_colours)
    if page.predictor:
        tags[317] = 2
    if page.tile:
        return tags | {322: page.tile, 323: page.tile}
    return tags | {278: page.rows_per_strip or height}


def _segments(page: Page, order: str) -> Sequence[bytes]:
    """Return the strips or tiles in the order of their offsets."""
    pixels = page.pixels
    planes = np.split(pixels, pixels.shape[2], axis=2) if page.planar else [pixels]
    found = []
    for plane in planes:
        if page.tile:
            side = page.tile
            missing = [(0, -n % side) for n in plane.shape[:2]]
            padded = np.pad(plane, [*missing, (0, 0)], "edge")
            parts = [
                padded[top : top + side, left : left + side]
                for top in range(0, padded.shape[0], side)
                for left in range(0, padded.shape[1], side)
            ]
        else:
            step = page.rows_per_strip or len(plane)
            parts = [plane[top : top + step] for top in range(0, len(plane), step)]
        found += [_packed(part, page, order) for part in parts]
    return found


def _packed(part: np.ndarray, page: Page, order: str) -> bytes:
    if page.predictor:
        part = np.concatenate([part[:, :1], np.diff(part, axis=1)], axis=1)
    rows = part.reshape(len(part), -1)
    if page.bits % 8:
        shifts = np.arange(page.bits - 1, -1, -1)
        ones = (rows.astype(np.int64)[..., None] >> shifts) & 1
        content = np.packbits(ones.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()
    else:
        content = rows.astype(part.dtype.newbyteorder(order)).tobytes()
    return zlib.compress(content) if page.compression == DEFLATE else content
