"""Find the one picture in a TIFF file, and refuse files whose tags leave its pixels unclear."""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import BinaryIO

from featstore.datasets.image_bytes import ImageItem
from featstore.datasets.raster import CURE
from featstore.errors import ImageError, UnclearImageError

MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""First bytes of TIFF and BigTIFF files, little and big endian."""


NAMES = {
    254: "NewSubfileType",
    255: "SubfileType",
    256: "ImageWidth",
    257: "ImageLength",
    258: "BitsPerSample",
    259: "Compression",
    262: "PhotometricInterpretation",
    266: "FillOrder",
    270: "ImageDescription",
    273: "StripOffsets",
    274: "Orientation",
    277: "SamplesPerPixel",
    279: "StripByteCounts",
    284: "PlanarConfiguration",
    330: "SubIFDs",
    339: "SampleFormat",
    42112: "GDAL_METADATA",
}
"""The tags that are read, by number."""


TYPES = {1: "B", 2: "s", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
"""The types of their values, as :mod:`struct` spells them."""


WHITE_IS_ZERO, RGB, MASK, CMYK, YCBCR, LAB = 0, 2, 4, 5, 6, 8
"""Values of PhotometricInterpretation; 1 is gray and 3 a palette."""


N_COLORS = {WHITE_IS_ZERO: 1, 1: 1, RGB: 3, 3: 1, CMYK: 4, YCBCR: 3, LAB: 3}
"""Bands that hold color, by PhotometricInterpretation; further bands are extra."""


JPEG = 7
"""The value of Compression for JPEG."""


MAX_PAGES = 4096


Tags = dict[str, Sequence[int]]


@dataclass(frozen=True)
class Picture:
    """The one full page of a file: its number from 1, and its orientation, 1 to 8 as in EXIF.

    `white_is_zero` says whether small values are bright. `plain` is, for uncompressed bytes of
    gray or RGB in one piece, where they begin in the file and their shape; else None.
    """

    page: int
    orientation: int
    white_is_zero: bool
    plain: tuple[int, tuple[int, int, int]] | None


def find_picture(path: ImageItem, file: BinaryIO) -> Picture:
    """Return a file's picture, or refuse the file and name the tag that is the reason."""
    picture, tags = _find(path, file)
    if fault := _value_fault(tags):
        raise UnclearImageError(f"{path}: {fault}")
    if fault := _color_fault(tags):
        raise ImageError(f"{path}: {fault}")
    return picture


def find_page(path: ImageItem, file: BinaryIO) -> Picture:
    """Return a file's one full page, whatever its bands and values are."""
    return _find(path, file)[0]


def _find(path: ImageItem, file: BinaryIO) -> tuple[Picture, Tags]:
    try:
        pages = list(_pages(file))
    except struct.error:
        raise ImageError(f"{path}: can't be read: its tags are damaged or cut short.") from None
    full = [number for number, tags in enumerate(pages, 1) if _is_full(tags)]
    if not full and len(pages) == 1 and "SubIFDs" not in pages[0]:
        full = [1]
    if len(full) != 1:
        raise ImageError(f"{path}: {_page_fault([pages[number - 1] for number in full])}")
    tags = pages[full[0] - 1]
    if fault := _description_fault(tags):
        raise ImageError(f"{path}: {fault}")
    plain = _plain(tags, file.seek(0, os.SEEK_END))
    is_white_zero = _photometric(tags) == WHITE_IS_ZERO
    return Picture(full[0], _orientation(tags), is_white_zero, plain), tags


def _pages(file: BinaryIO) -> Iterator[Tags]:
    """Yield the tags of each page."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)

    def read(nbytes: int) -> bytes:
        # A damaged length must not take memory.
        if nbytes > size:
            raise struct.error
        return file.read(nbytes)

    def unpack(form: str) -> int:
        return int(struct.unpack(order + form, read(struct.calcsize(order + form)))[0])

    order = "<" if read(2) == b"II" else ">"
    is_big = unpack("H") == 43
    pointer, count = ("Q", "Q") if is_big else ("I", "H")
    if is_big:
        file.seek(8)
    offset, seen = unpack(pointer), set[int]()
    while offset and offset not in seen and len(seen) < MAX_PAGES:
        seen.add(offset)
        file.seek(offset)
        n_tags = unpack(count)
        entry = struct.Struct(f"{order}HH{pointer}{struct.calcsize(order + pointer)}s")
        content = read(n_tags * entry.size)
        offset = unpack(pointer)
        tags: Tags = {}
        for number, kind, n, value in entry.iter_unpack(content):
            if number in NAMES and kind in TYPES:
                form = f"{order}{n}{TYPES[kind]}"
                nbytes = struct.calcsize(form)
                if nbytes > len(value):
                    file.seek(struct.unpack(order + pointer, value)[0])
                    value = read(nbytes)
                values = struct.unpack(form, value[:nbytes])
                tags[NAMES[number]] = values[0] if kind == 2 else values
        yield tags


def _plain(tags: Tags, size: int) -> tuple[int, tuple[int, int, int]] | None:
    """Return where the pixels are and their shape, if all lie in one piece as numpy has them."""
    n_bands = _first(tags, "SamplesPerPixel", 1)
    shape = (_first(tags, "ImageLength", 0), _first(tags, "ImageWidth", 0), n_bands)
    offsets, lengths = tags.get("StripOffsets", ()), tags.get("StripByteCounts", ())
    ends = [offset + length for offset, length in zip(offsets, lengths, strict=False)]
    is_plain = (
        (_photometric(tags), n_bands) in ((1, 1), (RGB, 3))
        and set(tags.get("BitsPerSample", ())) == {8}
        and all(_first(tags, name, 1) == 1 for name in ("Compression", "FillOrder"))
        and _first(tags, "PlanarConfiguration", 1) == 1
        and "GDAL_METADATA" not in tags
        and len(offsets) == len(lengths) > 0
        and list(offsets[1:]) == ends[:-1]
        and sum(lengths) == prod(shape)
        and ends[-1] <= size
    )
    return (offsets[0], shape) if is_plain else None


def _first(tags: Tags, name: str, default: int) -> int:
    values = tags.get(name)
    return values[0] if values else default


def _photometric(tags: Tags) -> int:
    return _first(tags, "PhotometricInterpretation", 1)


def _orientation(tags: Tags) -> int:
    orientation = _first(tags, "Orientation", 1)
    return orientation if 1 <= orientation <= 8 else 1


def _is_full(tags: Tags) -> bool:
    """Return whether a page is neither an overview or thumbnail nor a mask."""
    kind = _first(tags, "NewSubfileType", 0)
    is_reduced = kind & 1 or _first(tags, "SubfileType", 1) == 2
    return not is_reduced and not kind & 4 and _photometric(tags) != MASK


def _page_fault(full: Sequence[Tags]) -> str:
    if not full:
        return "by NewSubfileType its pages are all reduced ones; expected a full page."
    sizes = [f"{_first(tags, 'ImageWidth', 0)} x {_first(tags, 'ImageLength', 0)}" for tags in full]
    shown = ", ".join(dict.fromkeys(sizes))
    return (
        f"holds {len(full)} full pages (NewSubfileType), of {shown} pixels; expected one picture. "
        "Write bands as one page (tifffile: planarconfig='separate'), or pictures as one file each."
    )


def _description_fault(tags: Tags) -> str | None:
    """Return what is wrong where ImageDescription names planes that the tags do not show."""
    text = bytes(tags.get("ImageDescription", b"")).decode("utf-8", "replace").strip("\0 \n")
    n_planes = 1
    if text.startswith("ImageJ="):
        found = re.search(r"^images=(\d+)", text, re.MULTILINE)
        n_planes = int(found[1]) if found else 1
    elif text.startswith('{"shape":'):
        n_planes = _n_tifffile_planes(text, tags)
    elif "<OME" in text[:2000]:
        pixels = re.search(r"<(?:\w+:)?Pixels\b[^>]*", text)
        sizes = re.findall(r"\bSize[CZT]=\"(\d+)\"", pixels[0]) if pixels else []
        n_planes = prod(map(int, sizes)) // max(1, _first(tags, "SamplesPerPixel", 1))
    if n_planes > 1:
        return (
            f"by ImageDescription it holds {n_planes} planes, and its pages show one; expected one "
            "picture. Write it as one page of bands."
        )
    return None


def _n_tifffile_planes(text: str, tags: Tags) -> int:
    try:
        shape = json.loads(text)["shape"]
        n_shown = prod(
            _first(tags, name, 1) for name in ("ImageWidth", "ImageLength", "SamplesPerPixel")
        )
        return int(prod(shape)) // max(1, n_shown)
    except (ValueError, TypeError, RecursionError):
        return 1


def _value_fault(tags: Tags) -> str | None:
    """Return why it is unknown which values are black and white."""
    bits, forms = tags.get("BitsPerSample", (1,)), tags.get("SampleFormat", (1,))
    if len(set(bits)) > 1:
        return f"BitsPerSample is {', '.join(map(str, bits))}; expected the same in all bands."
    # 4 is "undefined", which readers take for unsigned.
    if unknown := [form for form in forms if form not in (1, 4)]:
        names = {2: "signed integers", 3: "floating point", 5: "complex", 6: "complex"}
        name = names.get(unknown[0], "unknown")
        return f"SampleFormat is {unknown[0]} ({name}), a range without black and white. {CURE}"
    if not bits or not 1 <= bits[0] <= 16:
        return f"BitsPerSample is {', '.join(map(str, bits[:1]))}; expected 1 to 16. {CURE}"
    return None


def _color_fault(tags: Tags) -> str | None:
    """Return why it is unknown what color the bands are."""
    photometric, n_bands = _photometric(tags), _first(tags, "SamplesPerPixel", 1)
    is_jpeg = _first(tags, "Compression", 1) == JPEG
    if photometric not in N_COLORS:
        return f"PhotometricInterpretation is {photometric}; expected gray, RGB or a palette."
    if n_bands < N_COLORS[photometric]:
        return (
            f"PhotometricInterpretation is {photometric}, of {N_COLORS[photometric]} bands, but "
            f"SamplesPerPixel is {n_bands}."
        )
    if photometric == WHITE_IS_ZERO and n_bands > 2:
        return f"PhotometricInterpretation is 0 (white is zero), but SamplesPerPixel is {n_bands}."
    # Where libtiff converts these colors, it turns strips and tiles one by one.
    is_converted = photometric in (CMYK, LAB) or (photometric == YCBCR and not is_jpeg)
    if is_converted and _orientation(tags) != 1:
        return (
            f"Orientation is {_orientation(tags)} and PhotometricInterpretation {photometric}, "
            "which can't be read together; write it as RGB."
        )
    return None
