"""Decode image files of any common kind to RGB bytes."""

from __future__ import annotations

import logging
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from featstore.errors import ImageError

IMAGE_SUFFIXES = frozenset(
    (".bmp", ".gif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
)
"""Endings, in lower case, of the files taken for images."""


MAX_PIXELS = 178_956_970
"""Larger images are refused as decompression bombs: Pillow's own limit, 512 MiB of RGB."""


TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


ORIENTATION = 0x0112


BITS_PER_SAMPLE = 258


PLANAR_CONFIGURATION = 284


SAMPLES_PER_PIXEL = 277


# Warnings can only be silenced for the whole process at once; one thread at a time does so,
# and only while it reads a header.
_opening = threading.Lock()


# Without a handler, the decoders' remarks on odd files would go to the console.
for _decoder in ("PIL", "tifffile"):
    logging.getLogger(_decoder).addHandler(logging.NullHandler())


def decode(path: Path, min_size: int | None = None) -> NDArray[np.uint8]:
    """Decode one image file.

    Of animations and multi-page files the first frame is read, alpha is dropped, gray is
    repeated, of more than three bands the first three are taken, and EXIF orientation is
    applied. Of 16-bit values the high byte is kept: that maps the full range 0..65535 to 0..255
    and undoes an expansion by 257, and it is what Pillow does for 16-bit color, so that gray and
    color agree. No image is stretched by its own range: brightness tells classes apart.

    A JPEG that is to be shrunk anyway can be decoded at 1/2, 1/4 or 1/8 of its size, from the low
    frequencies of its blocks alone, which takes a fraction of the time and the memory. It is a
    little sharper: of aerial photographs, measured after Pillow's antialiased bilinear resizing to
    the wanted side, pixels differ from those of the full image by 0.6 to 1.5 grey levels on
    average where the reduced side is 2 to 1.1 times the wanted one, and by 2.4 where it equals it.

    Parameters
    ----------
    path : Path
        A JPEG, PNG, TIFF, WebP, BMP or GIF file.
    min_size : int, optional
        Decode a JPEG at the smallest of those sizes at which neither its height nor its width, in
        pixels, is less than this; at least 1. Without it, and of all other files, the full image
        is decoded.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3)
        Red, green, blue; C-contiguous. A reduced side of n pixels is ``ceil(n / 2)``,
        ``ceil(n / 4)`` or ``ceil(n / 8)`` long.

    Raises
    ------
    ImageError
        When the file is missing, cut short, no image, of a float or 32-bit type, or too large;
        names the path and the cause.
    """
    # Whatever a damaged file makes a decoder raise, from SyntaxError to struct.error, it means
    # that this file can't be read.
    try:
        return np.ascontiguousarray(_decode(path, min_size))
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{path}: {_what_it_is(path)}.") from None
    except Exception as error:
        cause = (error.strerror if isinstance(error, OSError) else None) or str(error)
        cause = " ".join(cause.split()) or type(error).__name__
        raise ImageError(f"{path}: can't be read: {cause.rstrip('.')}.") from None


def _decode(path: Path, min_size: int | None) -> NDArray[np.uint8]:
    with path.open("rb") as file:
        is_tiff = file.read(4) in TIFF_MAGICS
        try:
            with _opening, warnings.catch_warnings(action="ignore"):
                image: Image.Image = Image.open(file)
                orientation = image.getexif().get(ORIENTATION, 1)
        except UnidentifiedImageError:
            if is_tiff:
                return _decode_tiff(path)
            raise
        if image.width * image.height > MAX_PIXELS:
            raise ImageError(_too_large(path, image.width, image.height))
        if image.mode == "F" or (image.mode == "I" and is_tiff):
            held = "float" if image.mode == "F" else "signed or 32-bit"
            raise ImageError(_wrong_dtype(path, held))
        if isinstance(image, TiffImageFile) and _is_misread(image):
            return _decode_tiff(path)
        if min_size is not None:
            # Other decoders than JPEG's ignore it.
            image.draft(None, (min_size, min_size))
        # Both this and the conversion at the end would copy an image that needs neither.
        if orientation != 1:
            image = ImageOps.exif_transpose(image)
        # Pillow opened 16-bit gray PNG files as I before release 11.
        if image.mode == "I" or image.mode.startswith("I;16"):
            return _rgb(np.asarray(image).astype(np.uint16))
        if image.mode in ("P", "PA"):
            image = image.convert("RGBA")
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _is_misread(image: TiffImageFile) -> bool:
    """Tell the TIFF files that Pillow opens but decodes wrongly (seen in 13.0).

    Of those that are stored band by band: the ones of 16 bits, and those of more bands than it
    makes of them, whose first band it shows as gray.
    """
    tags = image.tag_v2
    n_bands = tags.get(SAMPLES_PER_PIXEL, 1)
    is_deep = max(tags.get(BITS_PER_SAMPLE, (1,))) == 16
    by_band = tags.get(PLANAR_CONFIGURATION) == 2 and n_bands > 1
    return by_band and (is_deep or n_bands > len(image.getbands()))


def _decode_tiff(path: Path) -> NDArray[np.uint8]:
    """Decode a TIFF file that Pillow doesn't know, such as one of many bands."""
    from tifffile import TiffFile

    with TiffFile(path) as tiff:
        page: Any = tiff.pages[0]
        if page.imagewidth * page.imagelength > MAX_PIXELS:
            raise ImageError(_too_large(path, page.imagewidth, page.imagelength))
        if page.dtype not in (np.uint8, np.uint16):
            raise ImageError(_wrong_dtype(path, str(page.dtype)))
        if page.axes not in ("YX", "YXS", "SYX"):
            raise ImageError(f"{path}: has axes {page.axes}; expected rows, columns and bands.")
        try:
            pixels = page.asarray()
        except (ValueError, ImportError) as error:
            if "imagecodecs" not in str(error) and not isinstance(error, ImportError):
                raise
            raise ImageError(
                f"{path}: is compressed by {page.compression.name}, for which another package is "
                "needed: pip install imagecodecs. Or write it anew: gdal_translate -co "
                "COMPRESS=DEFLATE."
            ) from error
    return _rgb(np.moveaxis(pixels, 0, -1) if page.axes == "SYX" else pixels)


def _rgb(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """Bring 8 or 16-bit pixels, (H, W) or (H, W, bands), to three bands of bytes."""
    if pixels.dtype == np.uint16:
        pixels = pixels >> 8
    pixels = pixels.astype(np.uint8)
    if pixels.ndim == 3 and pixels.shape[2] >= 3:
        return pixels[:, :, :3]
    gray = pixels if pixels.ndim == 2 else pixels[:, :, 0]
    return np.repeat(gray[:, :, np.newaxis], 3, axis=2)


def to_bytes(
    values: NDArray[Any], value_range: tuple[float, float] | None = None
) -> NDArray[np.uint8]:
    """Bring pixels of any type and shape to bytes.

    Parameters
    ----------
    values : ndarray
        Real numbers; without a range uint8, which stay as they are, or uint16, whose high byte is
        kept as :func:`decode` does.
    value_range : tuple of float, optional
        Values that become 0 and 255, those between them in proportion, those beyond them the
        nearer one. NaN becomes 0.
    """
    if value_range is None:
        high_bytes = values >> 8 if values.dtype == np.uint16 else values
        return high_bytes.astype(np.uint8, copy=False)
    low, high = value_range
    scaled: NDArray[Any] = values.astype(np.result_type(values.dtype, np.float32))
    scaled -= low
    scaled *= 255 / (high - low)
    np.nan_to_num(scaled, copy=False, nan=0.0, posinf=255.0, neginf=0.0)
    rounded: NDArray[np.uint8] = np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)
    return rounded


def _what_it_is(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(8)
    if not start:
        return "is empty (0 bytes)"
    return f"is not an image that can be read (it begins with {start!r})"


def _too_large(path: Path, width: int, height: int) -> str:
    return f"{path}: has {width} x {height} pixels; at most {MAX_PIXELS:,} are decoded. Tile it."


def _wrong_dtype(path: Path, dtype: str) -> str:
    return (
        f"{path}: holds {dtype} values, whose range is unknown; expected 8 or 16-bit unsigned "
        "integers. Scale it to uint8."
    )
