"""Read the pixels that GDAL shows of an image file, as RGB bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.datasets.band_names import MAX_BANDS, numbers_hint
from featstore.datasets.image_bytes import ImageItem
from featstore.errors import ImageError, UnclearImageError
from featstore.io import gdal

MAX_PIXELS = 178_956_970
"""Larger images are refused: 512 MiB of RGB, and Pillow's limit for decompression bombs."""


TOO_LARGE = f"at most {MAX_PIXELS:,} are decoded. Cut it into tiles (gdal_retile.py)."


MIN_MAXIMUM = 2**14
"""16-bit images whose values all lie below this, a quarter of the range, are refused."""


DARK, DARK_SHARE = 2**12, 0.999
"""16-bit images with this share of values below DARK, a sixteenth of the range, are refused."""


CURE = "Say what is black and white: --range LOW,HIGH, or --range percentile:2,98."


def read_rgb(
    path: ImageItem, driver: str, page: int = 1, *, white_is_zero: bool = False
) -> NDArray[np.uint8]:
    """Return a file's pixels as GDAL shows them, (height, width, 3), or refuse the file."""
    try:
        with gdal.open_file(path, driver, page) as raster:
            check_size(path, raster.width, raster.height)
            dtype = np.dtype(raster.dtypes[0])
            bands = color_bands(path, raster)
            if dtype not in (np.uint8, np.uint16):
                raise UnclearImageError(
                    f"{path}: holds {dtype} values, a range without black and white. {CURE}"
                )
            n_bits = int(raster.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 8 * dtype.itemsize))
            has_palette = raster.colorinterp[0].name == "palette" and not white_is_zero
            palette = _palette(raster.colormap(1)) if has_palette else None
            planes = raster.read(bands)
    except gdal.failures() as error:
        raise ImageError(f"{path}: can't be read: {gdal.cause(error)}") from None
    if palette is not None:
        if planes.max() >= len(palette):
            raise ImageError(f"{path}: can't be read: its palette lacks color {planes.max()}.")
        colors: NDArray[np.uint8] = palette[planes[0]]
        return colors
    if fault := unclear_range(planes, n_bits):
        raise UnclearImageError(f"{path}: {fault}")
    pixels = np.empty((*planes.shape[1:], 3), np.uint8)
    for i in range(3):
        # Band by band: three times as fast as a copy of the whole.
        pixels[:, :, i] = scale_bits(planes[i % len(planes)], n_bits)
    return ~pixels if white_is_zero else pixels


def check_size(path: ImageItem, width: int, height: int) -> None:
    """Refuse an image that is too large to decode."""
    if width * height > MAX_PIXELS:
        raise ImageError(f"{path}: has {width} x {height} pixels; {TOO_LARGE}")


def unclear_range(values: NDArray[Any], n_bits: int) -> str | None:
    """Return why it is open which of an image's values are black and white, or None."""
    if values.dtype.kind != "u" or n_bits > 16:
        return f"holds {values.dtype} values, a range without black and white. {CURE}"
    if n_bits < 16 or not values.size or not (maximum := int(values.max())):
        return None
    found = f"its 16-bit values end at {maximum:,} of 65,535"
    if maximum >= MIN_MAXIMUM:
        if np.count_nonzero(values < DARK) < DARK_SHARE * values.size:
            return None
        found = f"{100 * DARK_SHARE:g} % of its 16-bit values lie below {DARK:,} of 65,535"
    return f"{found}, which leaves open what is white. {CURE}"


def color_bands(path: ImageItem, raster: Any) -> list[int]:
    """Return the numbers, from 1, of red, green and blue, or of gray or palette."""
    meanings = [meaning.name for meaning in raster.colorinterp]
    if all(meanings.count(color) == 1 for color in ("red", "green", "blue")):
        return [meanings.index(color) + 1 for color in ("red", "green", "blue")]
    if raster.count > MAX_BANDS:
        values = "" if raster.dtypes[0] == "uint8" else " --range percentile:2,98"
        raise UnclearImageError(
            f"{path}: holds {raster.count} bands of {raster.dtypes[0]}, and "
            "PhotometricInterpretation does not say which are red, green and blue. "
            f"{numbers_hint(values)}"
        )
    # Of two bands the second is no color; of four, the fourth.
    is_gray = raster.count < 3 or meanings[0] == "palette"
    return [1] if is_gray else [1, 2, 3]


def _palette(colors: dict[int, Sequence[int]]) -> NDArray[np.uint8]:
    palette = np.zeros((max(colors) + 1, 3), np.uint8)
    for index, color in colors.items():
        palette[index] = color[:3]
    return palette


def scale_bits(values: NDArray[Any], n_bits: int) -> NDArray[np.uint8]:
    """Bring unsigned integers of 1 to 16 bits to bytes; of more than 8 bits, keep the high 8."""
    if n_bits == 8:
        return values
    if n_bits > 8:
        return (values >> (n_bits - 8)).astype(np.uint8)
    scale = np.rint(np.arange(2**n_bits) * (255 / (2**n_bits - 1))).astype(np.uint8)
    pixels: NDArray[np.uint8] = scale[values]
    return pixels
