"""Read the bands of image files that a user chooses, and bring their values to bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featstore.datasets import tiff
from featstore.datasets.band_names import color_of
from featstore.datasets.decode import (
    JPEG_2000_MAGICS,
    PNG_MAGIC,
    decode,
    named_errors,
    orientation_of,
    to_bytes,
    turned,
)
from featstore.datasets.image_bytes import ImageItem
from featstore.datasets.raster import check_size, color_bands, scale_bits, unclear_range
from featstore.errors import ConfigError, ImageError, UnclearImageError
from featstore.io import gdal

ALL = "all"
"""All bands of a file, in its order."""


Range = tuple[float, float]
"""The values that become 0 and 255."""


@dataclass(frozen=True)
class Reading:
    """Which bands of image files are read, and how their values become bytes.

    Parameters
    ----------
    bands : tuple of str
        Numbers from 1, or the names that files give their bands; ``("all",)`` for all bands.
        Empty for red, green and blue.
    value_range : tuple of (float, float)
        The values that become 0 and 255: one pair for all bands, or one for each. Empty where
        bytes stay as they are, and values of 16 bits give their high byte.
    nodata : float or None
        The value of pixels without data. They, and NaN, get the mean of their band in their image.
        None refuses images with such pixels; NaN fills NaN alone.
    """

    bands: tuple[str, ...] = ()
    value_range: tuple[Range, ...] = ()
    nodata: float | None = None

    @classmethod
    def parse(cls, bands: str, value_range: str | None, nodata: str | None) -> Self:
        """Read the settings of an extraction; a percentile is not yet a range."""
        words = () if bands in ("rgb", "gray") else tuple(map(str.strip, bands.split(",")))
        is_percentile = value_range is not None and value_range.startswith("percentile:")
        pairs = value_range.split(";") if value_range and not is_percentile else []
        ends = [tuple(map(float, pair.split(","))) for pair in pairs]
        found = tuple((low, high) for low, high in ends)
        return cls(words, found, None if nodata is None else float(nodata))

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        """Build from :meth:`to_record`'s result."""
        nodata = record.get("nodata")
        return cls(
            tuple(record["bands"]),
            tuple((float(low), float(high)) for low, high in record["value_range"]),
            None if nodata is None else float(nodata),
        )

    def to_record(self) -> dict[str, Any]:
        """Return the settings as JSON-able values."""
        nodata = None if self.nodata is None else str(self.nodata)
        ranges = [list(pair) for pair in self.value_range]
        return asdict(self) | {"bands": list(self.bands), "value_range": ranges, "nodata": nodata}

    def numbered(self, names: Sequence[Sequence[str]]) -> Self:
        """Return the same reading with numbers in place of names; `names` are those of each band.

        A band that does not exist raises ConfigError.
        """
        if not names or not self.bands or self.bands == (ALL,):
            return self
        places = {name.lower(): i for i, own in enumerate(names, 1) for name in own}
        found = [places.get(word.lower(), word) for word in self.bands]
        for word in map(str, found):
            if not word.isdecimal() or not 1 <= int(word) <= len(names):
                shown = ", ".join(f"{i} ({' or '.join(own)})" for i, own in enumerate(names, 1))
                raise ConfigError(f"There is no band {word!r}; the bands are {shown}.")
        return replace(self, bands=tuple(map(str, found)))

    @property
    def is_default(self) -> bool:
        """Whether files are read as pictures: see :func:`featstore.datasets.decode.decode`."""
        return self == Reading()

    def band_names(self, path: ImageItem) -> tuple[str, ...]:
        """Return the names of the bands that are read of a file.

        They are a colour where the file or the user says so, else the file's description, else
        ``b`` and the number.
        """
        if not self.bands:
            return "red", "green", "blue"
        with named_errors(path), _opened(path) as (raster, _):
            if raster is None:
                names = ["red", "green", "blue"]
                return tuple(names[i - 1] for i in self._numbers(path, names))
            return self.choose(path, raster)[1]

    def choose(self, path: ImageItem, raster: Any) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """Return the numbers, from 1, and the names of the bands of an open raster."""
        own = _names(path, raster)
        numbers = self._numbers(path, own)
        return tuple(numbers), tuple(own[i - 1] or f"b{i}" for i in numbers)

    def shape(self, path: ImageItem) -> tuple[int, int]:
        """Return the height and width of a file's image."""
        with named_errors(path), _opened(path) as (raster, orientation):
            if raster is None:
                height, width, _ = decode(path).shape
                return height, width
            turns = orientation in (5, 6, 7, 8)
            return (raster.width, raster.height) if turns else (raster.height, raster.width)

    def read(self, path: ImageItem) -> NDArray[np.uint8]:
        """Return a file's image, (height, width, n_bands), C-contiguous.

        Raises ImageError where it can't be read, a band is missing, pixels have no data and
        `nodata` is None, or its values need a range.
        """
        with named_errors(path):
            values, n_bits, orientation = self._values(path)
            pixels = self._to_bytes(path, values, n_bits)
            if not self.bands and len(pixels) == 1:
                pixels = np.repeat(pixels, 3, axis=0)
            return np.ascontiguousarray(turned(np.moveaxis(pixels, 0, -1), orientation))

    def values(self, path: ImageItem) -> NDArray[Any]:
        """Return the values of a file's bands, (n_bands, height, width), filled and not scaled."""
        with named_errors(path):
            return self._values(path)[0]

    def _values(self, path: ImageItem) -> tuple[NDArray[Any], int, int]:
        """Return values, the bits of each, and the orientation."""
        with _opened(path) as (raster, orientation):
            if raster is None:
                pixels = np.moveaxis(decode(path), -1, 0)
                numbers = self._numbers(path, ["red", "green", "blue"])
                return pixels[[i - 1 for i in numbers]], 8, 1
            check_size(path, raster.width, raster.height)
            bands = self._numbers(path, _names(path, raster)) if self.bands else None
            numbers = bands or color_bands(path, raster)
            dtype = np.result_type(*(raster.dtypes[i - 1] for i in numbers))
            if dtype.kind == "c":
                raise ImageError(f"{path}: holds complex numbers. Take their magnitude.")
            # rasterio reads bands of one type at a time.
            is_uniform = len({raster.dtypes[i - 1] for i in numbers}) == 1
            one_by_one = (raster.read(i, out_dtype=dtype) for i in numbers)
            planes = raster.read(numbers) if is_uniform else np.stack(list(one_by_one))
            shown = raster.tags(numbers[0], ns="IMAGE_STRUCTURE").get("NBITS")
            n_bits = int(shown) if shown else 8 * dtype.itemsize
            return self._filled(path, planes, raster.nodata), n_bits, orientation

    def _numbers(self, path: ImageItem, names: Sequence[str | None]) -> list[int]:
        """Return the numbers, from 1, of the bands in a file whose bands have these names."""
        if not self.bands or self.bands == (ALL,):
            return list(range(1, len(names) + 1))
        found = []
        for word in self.bands:
            if word.isdecimal() and 1 <= int(word) <= len(names):
                found.append(int(word))
                continue
            hits = [i for i, name in enumerate(names, 1) if (name or "").lower() == word.lower()]
            if len(hits) != 1:
                own = ", ".join(
                    f"{i} ({name})" if name else f"{i}" for i, name in enumerate(names, 1)
                )
                what = "several bands" if hits else "no band"
                raise ImageError(f"{path}: has {what} {word!r}; its bands are {own}.")
            found += hits
        return found

    def _filled(
        self, path: ImageItem, planes: NDArray[Any], declared: float | None
    ) -> NDArray[Any]:
        """Return values without gaps; `declared` is the file's own value of missing data."""
        lacks = np.isnan(planes) if planes.dtype.kind == "f" else np.zeros(planes.shape, bool)
        missing = self.nodata if self.nodata is not None else declared
        if missing is not None and not math.isnan(missing):
            lacks |= planes == missing
        if not lacks.any():
            return planes
        if self.nodata is None:
            value = "nan" if missing is None else f"{missing:g}"
            raise ImageError(
                f"{path}: {lacks.any(axis=0).sum():,} of its {lacks[0].size:,} pixels have no data "
                f"({'NaN' if missing is None else f'nodata {value}'}). To give them the mean of "
                f"their band: --nodata {value}"
            )
        filled = planes.copy()
        for number, (plane, gaps) in enumerate(zip(filled, lacks, strict=True), 1):
            if gaps.all():
                raise ImageError(f"{path}: band {number} of those chosen has no data at all.")
            mean = plane[~gaps].mean(dtype=np.float64)
            plane[gaps] = np.rint(mean) if plane.dtype.kind in "iu" else mean
        return filled

    def _to_bytes(self, path: ImageItem, values: NDArray[Any], n_bits: int) -> NDArray[np.uint8]:
        if not self.value_range:
            if fault := unclear_range(values, n_bits):
                raise UnclearImageError(f"{path}: {fault}")
            return scale_bits(values, n_bits)
        if len(self.value_range) not in (1, len(values)):
            raise UnclearImageError(
                f"{path}: holds {len(values)} bands of those chosen, and there are "
                f"{len(self.value_range)} ranges. Give one for all bands, or one for each."
            )
        low, high = np.array(self.value_range).T.reshape(2, -1, 1, 1)
        return to_bytes(values, (low, high))


def center(path: ImageItem) -> tuple[float, float, str]:
    """Return the centre of a raster in map units, and its coordinate system.

    Raises ImageError where the file can't be read, or has no place on a map.
    """
    with named_errors(path), _opened(path) as (raster, _):
        if raster is None or raster.transform.is_identity:
            raise ImageError(f"{path}: has no place on a map (no georeference).")
        left, bottom, right, top = raster.bounds
        return (left + right) / 2, (bottom + top) / 2, str(raster.crs or "")


N_SAMPLED = 256
"""Images whose values tell a percentile."""


N_VALUES = 4096
"""Most values that are taken of each band of each of them."""


def sampled_range(
    paths: Sequence[ImageItem], reading: Reading, low: float, high: float
) -> tuple[Range, ...]:
    """Return, for each band, the values at two percentiles (0 to 100) of evenly spread images.

    Images that can't be read are passed over; ImageError where none can.
    """
    rows = np.unique(np.linspace(0, len(paths) - 1, min(N_SAMPLED, len(paths))).astype(int))
    found: list[NDArray[Any]] = []
    first_error: ImageError | None = None
    for path in (paths[row] for row in rows.tolist()):
        try:
            planes = reading.values(path)
        except ImageError as error:
            first_error = first_error or error
            continue
        found.append(thinned(planes.reshape(len(planes), -1)))
    if not found:
        raise first_error or ImageError("There are no images to take percentiles of.")
    if len({len(planes) for planes in found}) > 1:
        raise ImageError("The images have different numbers of bands. Choose some: --bands 1,2,3")
    return percentiles(found, low, high)


def thinned(sample: NDArray[Any]) -> NDArray[Any]:
    """Return at most :data:`N_VALUES` pixels, evenly spread, of a sample (n_bands, n_pixels)."""
    return sample[:, :: max(1, -(-sample.shape[1] // N_VALUES))]


def percentiles(samples: Sequence[NDArray[Any]], low: float, high: float) -> tuple[Range, ...]:
    """Return, for each band, the values at two percentiles of samples, (n_bands, n_pixels) each."""
    ends = np.percentile(np.concatenate(samples, axis=1), (low, high), axis=1).T
    # A band of one value becomes black.
    return tuple((float(one), float(other if other > one else one + 1)) for one, other in ends)


@contextmanager
def _opened(path: ImageItem) -> Iterator[tuple[Any, int]]:
    """Open a file with GDAL; yield raster and orientation, or None where it is read as a picture.

    Pillow reads the formats that hold nothing but 8-bit pictures, and palettes need their colors.
    """
    with path.open("rb") as file:
        start = file.read(12)
        file.seek(0)
        driver, page, orientation = None, 1, 1
        if start.startswith(tiff.MAGICS):
            found = tiff.find_page(path, file)
            driver, page, orientation = "GTiff", found.page, found.orientation
            if found.white_is_zero:
                raise ImageError(
                    f"{path}: PhotometricInterpretation is 0 (white is zero), which is read only "
                    "without --bands, --range and --nodata."
                )
        elif start.startswith(JPEG_2000_MAGICS):
            driver = "JP2OpenJPEG"
        elif start.startswith(PNG_MAGIC):
            driver, orientation = "PNG", orientation_of(path, file)
    if driver is None:
        yield None, 1
        return
    try:
        with gdal.open_file(path, driver, page) as raster:
            is_palette = any(meaning.name == "palette" for meaning in raster.colorinterp)
            yield (None, 1) if is_palette else (raster, orientation)
    except gdal.failures() as error:
        raise ImageError(f"{path}: can't be read: {gdal.cause(error)}") from None


def _names(path: ImageItem, raster: Any) -> list[str | None]:
    """Return the name of each band: its colour, else its description, else None."""
    given = zip(raster.descriptions, raster.colorinterp, strict=True)
    return [
        color_of(str(path), band, description, meaning.name) or description
        for band, (description, meaning) in enumerate(given, 1)
    ]
