"""Decode image files of any common format to RGB bytes."""

from __future__ import annotations

import io
import logging
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from featstore.datasets import jpeg, tiff
from featstore.datasets.image_bytes import ImageItem
from featstore.datasets.raster import MAX_PIXELS, TOO_LARGE, check_size, read_rgb, scale_bits
from featstore.errors import ConfigError, ImageError
from featstore.io.gdal import no_warnings

IMAGE_SUFFIXES = frozenset(
    (
        *(".bmp", ".dib", ".gif", ".webp"),
        *(".btf", ".tf8", ".tif", ".tiff"),
        *(".jfif", ".jpe", ".jpeg", ".jpg", ".mpo"),
        *(".apng", ".avif", ".avifs", ".png"),
        *(".j2c", ".j2k", ".jp2", ".jpc", ".jpf", ".jpx"),
    )
)
"""Endings, in lower case, of the files taken for images."""


DECODING = "2"
"""Version of the pixels: raised when the same file gives other ones."""


PILLOW_FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "WEBP", "AVIF")
"""What Pillow decodes; GDAL decodes TIFF, JPEG 2000 and PNG of 16 bits."""


PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


JPEG_2000_MAGICS = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")


ORIENTATION = 0x0112


ORIENTED = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")
"""What Pillow reads of a JPEG that may tell the orientation."""


STRIP_PIXELS = 2**24
"""Pixels that are copied from Pillow at a time: its own copy takes twice the image's memory."""


SMALL_NBYTES = 2**22
"""Smaller JPEG files are read by one call."""


# Keeps Pillow's remarks on odd files off the console.
logging.getLogger("PIL").addHandler(logging.NullHandler())


def decode(path: ImageItem, min_size: int | None = None) -> NDArray[np.uint8]:
    """Decode one image file to RGB, (height, width, 3) bytes, C-contiguous, perhaps read-only.

    The pixels are those that GDAL shows, turned as the file's orientation says. Gray is repeated
    and alpha dropped; of an animation the first frame is read. Of samples of 9 to 16 bits the
    high 8 bits are kept, which maps the full range to 0..255 and undoes an expansion by 257. No
    image is stretched by its own range: brightness tells classes apart.

    A JPEG is decoded at the smallest of 1/1, 1/2, 1/4 and 1/8 of its size at which neither side
    falls below `min_size` pixels; without `min_size`, and of all other files, the full image is
    decoded. A reduced side of n pixels is ``ceil(n / 2)`` and so on. Reducing takes a fraction of
    the time and the memory, and is a little sharper: of aerial photographs, measured after
    Pillow's antialiased bilinear resizing to `min_size`, pixels differ from those of the full
    image by 0.6 to 1.5 grey levels on average where the reduced side is 2 to 1.1 times as long,
    and by 2.4 where it is as long.

    Raises ImageError, with path and cause, when the file is missing, damaged, no image, or too
    large, or its tags leave open what its pixels mean.
    """
    with named_errors(path):
        return np.ascontiguousarray(_decode(path, min_size))


def image_shape(path: ImageItem) -> tuple[int, int]:
    """Return the height and width that :func:`decode` gives; of a JPEG, read the head alone."""
    with named_errors(path), path.open("rb") as file:
        if file.read(2) == jpeg.MAGIC:
            file.seek(0)
            image = _open(path, file)
            is_turned = _orientation(image) in (5, 6, 7, 8)
            return (image.width, image.height) if is_turned else (image.height, image.width)
    height, width, _ = decode(path).shape
    return height, width


@contextmanager
def named_errors(path: ImageItem) -> Iterator[None]:
    """Turn whatever a damaged file makes a decoder raise into an ImageError that names it."""
    try:
        yield
    except (ConfigError, ImageError):
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{path}: {_what_it_is(path)}.") from None
    except Image.DecompressionBombError:
        raise ImageError(f"{path}: has more than {2 * MAX_PIXELS:,} pixels; {TOO_LARGE}") from None
    except Exception as error:
        # Damaged files raise anything from SyntaxError to struct.error.
        cause = (error.strerror if isinstance(error, OSError) else None) or str(error)
        cause = " ".join(cause.split()) or type(error).__name__
        raise ImageError(f"{path}: can't be read: {cause.rstrip('.')}.") from None


def orientation_of(path: ImageItem, file: BinaryIO) -> int:
    """Return the orientation, 1 to 8, of a file that Pillow opens."""
    return _orientation(_open(path, file))


def _decode(path: ImageItem, min_size: int | None) -> NDArray[np.uint8]:
    with path.open("rb") as file:
        start = file.read(25)
        file.seek(0)
        if start.startswith(tiff.MAGICS):
            return _decode_tiff(path, file)
        if start.startswith(JPEG_2000_MAGICS):
            return read_rgb(path, "JP2OpenJPEG")
        if start.startswith(PNG_MAGIC):
            return _decode_png(path, file, n_bits=start[24] if len(start) == 25 else 8)
        if start.startswith(jpeg.MAGIC):
            content = file.read(SMALL_NBYTES)
            if (pixels := _decode_plain_jpeg(content, min_size)) is not None:
                return pixels
            file.seek(0)
        image = _open(path, file)
        if min_size is not None:
            # Other decoders than JPEG's ignore it.
            image.draft(None, (min_size, min_size))
        return _pixels(image)


def _decode_plain_jpeg(content: bytes, min_size: int | None) -> NDArray[np.uint8] | None:
    """Return the pixels of a small JPEG that is not reduced, None for any other."""
    size = jpeg.plain_size(content) if len(content) < SMALL_NBYTES else None
    if size is None or not 0 < prod(size) <= MAX_PIXELS:
        return None
    is_reduced = min_size is not None and min(size) >= 2 * min_size
    return None if is_reduced else jpeg.decode_plain(content)


def _open(path: ImageItem, file: BinaryIO) -> Image.Image:
    with no_warnings():
        image = Image.open(file, formats=PILLOW_FORMATS)
    check_size(path, image.width, image.height)
    return image


def _pixels(image: Image.Image) -> NDArray[np.uint8]:
    image.load()
    orientation = _orientation(image)
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA")
    return turned(_array(image if image.mode == "RGB" else image.convert("RGB")), orientation)


def _decode_png(path: ImageItem, file: BinaryIO, n_bits: int) -> NDArray[np.uint8]:
    try:
        image = _open(path, file)
        pixels = _pixels(image)
    except (ImageError, Image.DecompressionBombError, MemoryError):
        raise
    except Exception:
        image = _open(path, _without_remarks(file))
        pixels = _pixels(image)
    if n_bits < 16:
        return pixels
    # Pillow keeps 8 bits of each value.
    return turned(read_rgb(path, "PNG"), _orientation(image))


def _without_remarks(file: BinaryIO) -> BinaryIO:
    """Return a PNG file of the chunks that hold pixels, and its orientation if that is intact."""
    file.seek(len(PNG_MAGIC))
    kept = [PNG_MAGIC]
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        content = file.read(length + 4)
        is_intact = zlib.crc32(kind + content[:-4]).to_bytes(4) == content[-4:]
        if kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND") or (kind == b"eXIf" and is_intact):
            kept += [head, content]
    return io.BytesIO(b"".join(kept))


def _decode_tiff(path: ImageItem, file: BinaryIO) -> NDArray[np.uint8]:
    picture = tiff.find_picture(path, file)
    if picture.plain is None:
        pixels = read_rgb(path, "GTiff", picture.page, white_is_zero=picture.white_is_zero)
    else:
        # Most small tiles are plain, and GDAL takes several times as long.
        offset, shape = picture.plain
        check_size(path, shape[1], shape[0])
        file.seek(offset)
        content = bytearray(file.read(prod(shape)))
        pixels = np.frombuffer(content, np.uint8).reshape(shape)
        pixels = pixels if shape[2] == 3 else np.repeat(pixels, 3, axis=2)
    return turned(pixels, picture.orientation)


def _orientation(image: Image.Image) -> int:
    """Return the orientation, 1 to 8; 1 where damage hides it."""
    if image.format in ("JPEG", "MPO") and not any(name in image.info for name in ORIENTED):
        return 1
    try:
        with no_warnings():
            return int(image.getexif().get(ORIENTATION, 1))
    except Exception:
        return 1


def _array(image: Image.Image) -> NDArray[np.uint8]:
    if image.width * image.height <= STRIP_PIXELS:
        return np.asarray(image)
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    step = max(1, STRIP_PIXELS // image.width)
    for top in range(0, image.height, step):
        box = (0, top, image.width, min(top + step, image.height))
        pixels[top : top + step] = np.asarray(image.crop(box))
    return pixels


def turned(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Return an image turned and mirrored as its EXIF orientation, 1 to 8, says."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def to_bytes(
    values: NDArray[Any], value_range: tuple[Any, Any] | None = None, n_bits: int | None = None
) -> NDArray[np.uint8]:
    """Bring pixels of any type and shape to bytes.

    The ends of `value_range`, numbers or arrays of them, become 0 and 255, values beyond them the
    nearer one, NaN 0. Without
    a range, pixels are unsigned integers of `n_bits` (by default the bits of their type), scaled
    as :func:`decode` does.
    """
    if value_range is None:
        return scale_bits(values, n_bits or 8 * values.dtype.itemsize)
    low, high = value_range
    scaled: NDArray[Any] = values.astype(np.result_type(values.dtype, np.float32))
    scaled -= low
    scaled *= 255 / (high - low)
    np.nan_to_num(scaled, copy=False, nan=0.0, posinf=255.0, neginf=0.0)
    rounded: NDArray[np.uint8] = np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
    return rounded


def _what_it_is(path: ImageItem) -> str:
    with path.open("rb") as file:
        start = file.read(8)
    if not start:
        return "is empty (0 bytes)"
    return f"is not an image that can be read (it begins with {start!r})"
