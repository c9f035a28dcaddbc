"""Read scenes of any size in parts."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featstore.datasets.band_names import choose_bands
from featstore.datasets.decode import to_bytes
from featstore.datasets.georeference import Georeference
from featstore.errors import ConfigError, DatasetError, DatasetNotFoundError, ImageError
from featstore.io import gdal

DARK = 2**14
"""16-bit value below which all of a scene is called dark: a quarter of the range."""


SAMPLE_SIDE = 256
"""Side in pixels of each of the 5 x 5 places that sample an unknown range of values."""


class Scene:
    """An open raster.

    `path` is anything that GDAL opens; a file whose ending is of :data:`.DRIVERS` must be of that
    kind. `names` are the bands to read, such as ``("red", "green",
    "blue")``, and `bands` their numbers in the scene, from 1, by default the first ones. The values
    of `ranges`, one pair for all bands or one for each, become 0 and 255; without one, bytes stay
    as they are, and 16-bit values give their high byte, as in training images. Pixels of the value
    `nodata` have no data, beside those that the file itself tells.
    """

    def __init__(
        self,
        path: str,
        names: Sequence[str],
        bands: Sequence[int] | None = None,
        ranges: Sequence[tuple[float, float]] = (),
        nodata: float | None = None,
    ) -> None:
        self.path, self.names, self._nodata = path, tuple(names), nodata
        self.value_range: tuple[NDArray[Any], NDArray[Any]] | None = None
        if ranges:
            if len(ranges) not in (1, len(names)):
                raise ConfigError(f"{len(ranges)} ranges are given for {len(names)} bands.")
            low, high = np.array(ranges, np.float64).T.reshape(2, -1, 1, 1)
            self.value_range = low, high
        self.bands_text = ""
        # GDAL allows one thread at a time to use a handle.
        self._lock = threading.Lock()
        self._raster = open_raster(path)
        try:
            self.height, self.width = self._raster.shape
            self.georeference = Georeference.of(self._raster)
            self.bands = self._find_bands(bands)
            self._types = [self._raster.dtypes[band - 1] for band in self.bands]
            self.dtype = np.result_type(*self._types)
            shown = self._raster.tags(self.bands[0], ns="IMAGE_STRUCTURE")
            self._n_bits = int(shown["NBITS"]) if "NBITS" in shown else None
            self._alpha = self._find_alpha()
            self._is_masked = self._find_mask()
            self._check_values()
        except gdal.failures() as error:
            self._raster.close()
            raise DatasetError(f"{path} can't be read: {gdal.cause(error)}") from error
        except BaseException:
            self._raster.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._raster.close()

    def _find_bands(self, asked: Sequence[int] | None) -> tuple[int, ...]:
        raster, n = self._raster, len(self.names)
        has = f"{self.path} has {raster.count} band{'s' if raster.count != 1 else ''}" + (
            f", {self._describe_bands()}" if raster.count else ""
        )
        wanted = f"needed are {n} ({', '.join(self.names)})"
        meanings = [meaning.name for meaning in raster.colorinterp]
        if asked is None and n > raster.count:
            raise ConfigError(
                f"{has}; {wanted}. Give their numbers; one may stand for several: "
                f"--bands {','.join(['1'] * n)}"
            )
        if asked is not None:
            bands = tuple(asked)
        elif "palette" in meanings:
            bands = tuple(range(1, n + 1))
        else:
            bands, self.bands_text = choose_bands(
                self.path, self.names, raster.descriptions, meanings
            )
        if wrong := [band for band in bands if not 1 <= band <= raster.count]:
            raise ConfigError(f"Band {wrong[0]} does not exist: {has}.")
        if len(bands) != n:
            raise ConfigError(f"{len(bands)} bands are given, and {wanted}: {has}.")
        if any(meanings[band - 1] == "palette" for band in bands):
            raise ConfigError(
                f"{self.path} holds a palette's numbers in place of colors. Expand it first: "
                "gdal_translate -expand rgb"
            )
        return bands

    def _describe_bands(self) -> str:
        given = zip(self._raster.descriptions, self._raster.colorinterp, strict=True)
        names = [described or meaning.name for described, meaning in given]
        return ", ".join(f"{i} ({name})" for i, name in enumerate(names, 1))

    def _check_values(self) -> None:
        if self.dtype.kind == "c":
            raise ConfigError(f"{self.path} holds complex numbers. Map their magnitude instead.")
        if self.value_range is not None:
            lows, highs = self.value_range
            if not (np.isfinite([lows, highs]).all() and (lows < highs).all()):
                ends = f"{lows.flat[0]:g} to {highs.flat[0]:g}"
                raise ConfigError(f"The range is {ends}; it must go from low to high.")
        elif len(set(self._types)) > 1:
            raise ConfigError(
                f"{self.path} has bands of different types, {', '.join(self._types)}: their values "
                "of black and white are unknown. If they are the same in all bands, give "
                "--range LOW,HIGH; or else make a scene of one type first, with gdal_translate -ot."
            )
        elif self.dtype not in (np.uint8, np.uint16):
            low, high = self.sampled_range()
            found = "has no data" if np.isnan(low) else f"goes from {low:.6g} to {high:.6g}"
            raise ConfigError(
                f"{self.path} holds {self.dtype} values of an unknown range; a sample {found}. "
                "Give the values of black and white in the training images: --range LOW,HIGH"
            )

    @property
    def is_dark(self) -> bool:
        """Whether it has 16-bit values, no range, and a sample of low values alone."""
        if self.dtype != np.uint16 or self.value_range is not None:
            return False
        return self.sampled_range()[1] < DARK

    def sampled_range(self) -> tuple[float, float]:
        """Return the least and the largest value of a sample; NaN if it has no data."""
        low, high = np.inf, -np.inf
        for values in self.samples():
            if values.size:
                low, high = min(low, float(values.min())), max(high, float(values.max()))
        return (low, high) if low <= high else (np.nan, np.nan)

    def samples(self) -> Iterator[NDArray[Any]]:
        """Yield the values of the pixels with data, (n_bands, n_pixels), of 5 x 5 places.

        Places that can't be read are left out, unless all are.
        """
        failed, n_read = None, 0
        height, width = min(self.height, SAMPLE_SIDE), min(self.width, SAMPLE_SIDE)
        for top in np.unique(np.linspace(0, self.height - height, 5).astype(int)).tolist():
            for left in np.unique(np.linspace(0, self.width - width, 5).astype(int)).tolist():
                try:
                    values, present = self._read(top, left, height, width)
                except ImageError as error:
                    failed = error
                    continue
                n_read += 1
                yield values.reshape(len(values), -1) if present is None else values[:, present]
        if failed is not None and not n_read:
            raise failed

    @property
    def may_lack_pixels(self) -> bool:
        """Whether any pixel can be without data: by nodata value, mask, alpha or NaN."""
        has_gaps = self._is_masked or self._alpha is not None or self._nodata is not None
        return has_gaps or self.dtype.kind == "f"

    def _find_alpha(self) -> int | None:
        """Return the alpha band that GDAL does not count as a mask, if there is one.

        GDAL counts only those of two or four bands. A band that is read as data is no mask: many
        files call any fourth band alpha.
        """
        meanings = [meaning.name for meaning in self._raster.colorinterp]
        alphas = [band for band, name in enumerate(meanings, 1) if name == "alpha"]
        if len(alphas) != 1 or alphas[0] in self.bands or self._raster.count in (2, 4):
            return None
        return alphas[0]

    def _find_mask(self) -> bool:
        flags = {
            flag.name for band in self.bands for flag in self._raster.mask_flag_enums[band - 1]
        }
        if any(self._raster.colorinterp[band - 1].name == "alpha" for band in self.bands):
            # A user who asks for that band means data: many files call any fourth band alpha.
            flags -= {"alpha", "per_dataset"}
        return bool(flags - {"all_valid"})

    def _read(
        self, top: int, left: int, height: int, width: int
    ) -> tuple[NDArray[Any], NDArray[np.bool] | None]:
        """Return a part's values, (bands, height, width), and which pixels have data; None: all."""
        rasterio = gdal.rasterio()
        part = rasterio.windows.Window(left, top, width, height)
        place = f" at rows {top} to {top + height - 1}, columns {left} to {left + width - 1}"
        with self._reading(place):
            values = self._values(window=part)
            present = np.ones((height, width), dtype=bool)
            if self._is_masked:
                # As GDAL masks a dataset: a pixel with data in any band has data.
                present = self._raster.read_masks(self.bands, window=part).any(axis=0)
            if self._alpha is not None:
                present &= self._raster.read(self._alpha, window=part) > 0
        if self._nodata is not None:
            present &= (values != self._nodata).any(axis=0)
        if values.dtype.kind == "f":
            present &= np.isfinite(values).all(axis=0)
        return values, None if present.all() else present

    @contextmanager
    def _reading(self, place: str = "") -> Iterator[None]:
        """Hold the raster for reading; raise an ImageError that names the place."""
        with self._lock:
            try:
                yield
            except gdal.failures() as error:
                # GDAL's threads keep blocks that can't be read as blank ones, and would give them.
                self._raster.close()
                self._raster = open_raster(self.path)
                cause = gdal.cause(error)
                raise ImageError(f"{self.path} can't be read{place}: {cause}") from error

    def _values(self, **how: Any) -> NDArray[Any]:
        """Return the bands as rasterio reads them; the caller holds the lock."""
        if len(set(self._types)) == 1:
            values: NDArray[Any] = self._raster.read(self.bands, **how)
            return values
        # rasterio reads bands of one type at a time.
        parts = [self._raster.read(band, out_dtype=self.dtype, **how) for band in self.bands]
        return np.ma.stack(parts) if how.get("masked") else np.stack(parts)

    def read(
        self, top: int, left: int, height: int, width: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.bool] | None]:
        """Return a part's pixels, (bands, height, width) uint8, and which have data; None: all.

        Several threads may call it; they read in turn.
        """
        values, present = self._read(top, left, height, width)
        return to_bytes(values, self.value_range, self._n_bits), present

    def thumbnail(self, side: int) -> NDArray[np.uint8]:
        """Return the scene averaged to at most `side` pixels, (height, width, bands).

        Pixels without data are black.
        """
        rasterio = gdal.rasterio()
        shrink = max(1.0, self.height / side, self.width / side)
        shape = (max(1, round(self.height / shrink)), max(1, round(self.width / shrink)))
        with self._reading():
            values = self._values(
                out_shape=shape,
                resampling=rasterio.enums.Resampling.average,
                masked=True,
            )
            lacks = np.ma.getmaskarray(values)
            if self._alpha is not None:
                lacks = lacks | (self._raster.read(self._alpha, out_shape=shape) == 0)
        pixels = to_bytes(np.ma.getdata(values), self.value_range, self._n_bits)
        # After the range, which may make 0 another shade than black.
        pixels[lacks] = 0
        return np.moveaxis(pixels, 0, -1)


def open_raster(path: str) -> Any:
    """Open a raster with rasterio, as the kind that its ending says."""
    rasterio = gdal.rasterio()
    driver = gdal.DRIVERS.get(Path(path).suffix.lower())
    kind = f" of the kind that its ending says ({driver})" if driver else ""
    try:
        with without_warnings(), rasterio.Env(GDAL_NUM_THREADS="ALL_CPUS"):
            return rasterio.open(path, driver=driver)
    except gdal.failures() as error:
        if not Path(path).exists() and ":" not in path and not path.startswith("/vsi"):
            raise DatasetNotFoundError(f"{path} does not exist. Name a scene.") from None
        raise DatasetError(
            f"GDAL can't read {path} as a raster{kind}: {gdal.cause(error)}"
        ) from error


@contextmanager
def without_warnings() -> Iterator[None]:
    """Allow scenes without georeference; only one thread may open files meanwhile."""
    kind = gdal.rasterio().errors.NotGeoreferencedWarning
    with warnings.catch_warnings(action="ignore", category=kind):
        yield
