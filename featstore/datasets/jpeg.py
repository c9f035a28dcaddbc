"""Decode plain JPEG files with simplejpeg; the only module that imports it.

It takes half of Pillow's time for a small image, and lets the other threads run meanwhile. Pillow
holds Python's lock for almost half of its time.
"""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

MAGIC = b"\xff\xd8"


_TABLES = (0xC4, 0xDB, 0xDD, 0xFE)
"""Huffman and quantisation tables, restart interval, comment."""


_REMARKS = {0xE0: b"JFIF\0", 0xE2: b"ICC_PROFILE\0"}
"""Application segments that change no pixel, and how they begin."""


_FRAMES = (0xC0, 0xC1, 0xC2)
"""Baseline, extended and progressive frames, coded by Huffman."""


_LAYOUTS = tuple(
    b"".join(bytes((i, sampling)) for i, sampling in enumerate(samplings, 1))
    for samplings in (b"\x11", b"\x11\x11\x11", b"\x21\x11\x11", b"\x22\x11\x11")
)
"""Numbers and sampling of the components: gray, and YCbCr in 4:4:4, 4:2:2 and 4:2:0."""


def plain_size(content: bytes) -> tuple[int, int] | None:
    """Return the width and height of a plain JPEG, None of any other.

    A plain one is gray or YCbCr of 8 bits in common sampling. Its head has nothing that may turn
    it, change what its components mean, or make Pillow refuse it.
    """
    size = None
    at = len(MAGIC)
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        nbytes = int.from_bytes(content[at + 2 : at + 4])
        segment = content[at + 4 : at + 2 + nbytes]
        if len(segment) != nbytes - 2:
            return None
        if marker == 0xDA:
            return size
        if marker in _FRAMES and size is None:
            layout = b"".join(segment[i : i + 2] for i in range(6, len(segment), 3))
            if layout not in _LAYOUTS or segment[0] != 8 or len(layout) != 2 * segment[5]:
                return None
            size = int.from_bytes(segment[3:5]), int.from_bytes(segment[1:3])
        elif marker not in _TABLES:
            start = _REMARKS.get(marker)
            # Pillow reads 14 bytes of these.
            if start is None or not segment.startswith(start) or len(segment) < 14:
                return None
        at += 2 + nbytes
    return None


def decode_plain(content: bytes) -> NDArray[np.uint8] | None:
    """Return the pixels of a plain JPEG, (height, width, 3); None where Pillow has to say more.

    The pixels are Pillow's.
    """
    if not _gives_pillows_pixels():
        return None
    try:
        return _decode(content)
    except ValueError:
        # Pillow decides whether the image is damaged.
        return None


def _decode(content: bytes) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(content)
    return pixels


@cache
def _gives_pillows_pixels() -> bool:
    """Return whether both are built with JPEG libraries that decode alike."""
    noise = np.random.default_rng(0).integers(0, 256, (37, 43, 3), dtype=np.uint8)
    for mode, subsampling in (("L", 0), ("RGB", 0), ("RGB", 1), ("RGB", 2)):
        for progressive in (False, True):
            file = io.BytesIO()
            image = Image.fromarray(noise).convert(mode)
            image.save(file, "JPEG", subsampling=subsampling, progressive=progressive)
            pixels = np.asarray(Image.open(file).convert("RGB"))
            if not np.array_equal(_decode(file.getvalue()), pixels):
                return False
    return True
