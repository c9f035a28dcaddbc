"""Features of an image that need no network: statistics of its bands, and vegetation indices.

They are the mean, deviation, extremes and quantiles of each band, the near infrared too, and the
mean and deviation of vegetation and water indices: a baseline after Basu et al. 2015 (DeepSat,
doi:10.1145/2820783.2820816), who classify SAT-4 and SAT-6 by numbers of this kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from featstore.config import ExtractConfig
from featstore.datasets.base import Dataset
from featstore.datasets.loader import Batch
from featstore.environment import available_cores
from featstore.errors import BackboneError
from featstore.io.fingerprints import FingerprintCache
from featstore.models.base import Layer, Model
from featstore.models.names import PIXEL_MODEL
from featstore.models.network_free import check_bands, records_of, refuse_settings
from featstore.progress import SILENT, Progress
from featstore.store.format.run_schema import FeatureSpec

LAYER = "stats"
"""The name of its one layer."""


QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Nearest-rank quantiles: the ceil(q n)-th smallest of n pixels, which is a pixel's own value."""


BATCH_SIZE = 64
"""Images in a batch, so that a few batches of large photographs fit the memory."""


SHARED_NBYTES = 32 * 2**20
"""Size from which threads share a batch, because memory holds few batches of that size."""


PLANE_NBYTES = 2**20
"""Bytes of float32 planes in one step, to stay in a core's cache."""


LARGE_PIXELS = 2**24
"""Larger images are worked on in blocks of their pixels: else they take 40 bytes a pixel."""


Planes = Mapping[str, np.ndarray]


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Return the quotient, within -1 and 1, and 0 where the denominator is 0."""
    quotient = np.zeros_like(numerator)
    np.divide(numerator, denominator, out=quotient, where=denominator != 0)
    return np.clip(quotient, -1, 1, out=quotient)


def _excess_green(p: Planes) -> np.ndarray:
    # Of chromatic coordinates it lies between -1 and 2; halved, between -0.5 and 1.
    total = p["red"] + p["green"] + p["blue"]
    return _ratio((2 * p["green"] - p["red"] - p["blue"]) / 2, total)


def _ndvi(p: Planes) -> np.ndarray:
    return _ratio(p["nir"] - p["red"], p["nir"] + p["red"])


def _ndwi(p: Planes) -> np.ndarray:
    return _ratio(p["green"] - p["nir"], p["green"] + p["nir"])


def _evi(p: Planes) -> np.ndarray:
    # For brightness from 0 to 1. The denominator crosses zero where blue is far above the rest.
    weighted = p["nir"] + 6 * p["red"] - 7.5 * p["blue"] + 255
    return _ratio(2.5 * (p["nir"] - p["red"]), weighted)


def _arvi(p: Planes) -> np.ndarray:
    corrected = 2 * p["red"] - p["blue"]
    return _ratio(p["nir"] - corrected, p["nir"] + corrected)


INDICES: dict[str, tuple[tuple[str, ...], Callable[[Planes], np.ndarray]]] = {
    "exg": (("red", "green", "blue"), _excess_green),
    "ndvi": (("red", "nir"), _ndvi),
    "ndwi": (("green", "nir"), _ndwi),
    "evi": (("red", "blue", "nir"), _evi),
    "arvi": (("red", "blue", "nir"), _arvi),
}
"""Each index by name: the bands it needs, and its formula.

exg: excess green, Woebbecke et al. 1995, doi:10.13031/2013.27838, halved. ndvi: Tucker 1979,
doi:10.1016/0034-4257(79)90013-0. ndwi: McFeeters 1996, doi:10.1080/01431169608948714. evi: Huete
et al. 2002, doi:10.1016/S0034-4257(02)00096-2. arvi: Kaufman & Tanre 1992, doi:10.1109/36.134076,
gamma 1.
Pixels are brightness, not reflectance, so that values compare within one dataset only. All values
are clipped to -1 and 1, and are 0 where the formula divides by 0.
"""


def feature_names(bands: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the features, in order.

    Parameters
    ----------
    bands : sequence of str
        The images' bands, as of :func:`pixel_statistics`.

    Returns
    -------
    tuple of str
        Such as ``red_mean``, ``nir_q95`` or ``ndvi_std``.
    """
    statistics = ["mean", "std", "min", "max", *(f"q{100 * q:02.0f}" for q in QUANTILES)]
    names = [f"{band}_{statistic}" for band in bands for statistic in statistics]
    indices = [f"{index}_{s}" for index in _indices(bands) for s in ("mean", "std")]
    return (*names, *indices)


def _indices(bands: Sequence[str]) -> list[str]:
    return [name for name, (needed, _) in INDICES.items() if set(needed) <= set(bands)]


def check_images(images: np.ndarray, bands: Sequence[str]) -> int:
    """Return the number of pixels of an image; refuse what is not images of some bands."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != len(bands):
        raise ValueError(
            f"images must be uint8 of shape (k, height, width, {len(bands)}); they are "
            f"{images.dtype} of shape {images.shape}"
        )
    n_pixels = int(images.shape[1]) * int(images.shape[2])
    if not n_pixels:
        raise ValueError(f"images of {images.shape[1]} x {images.shape[2]} have no pixels")
    return n_pixels


def pixel_statistics(images: np.ndarray, bands: Sequence[str]) -> np.ndarray:
    """Return the statistics of each image.

    Parameters
    ----------
    images : ndarray of shape (k, height, width, n_bands)
        uint8.
    bands : sequence of str
        Names of the bands: ``red``, ``green``, ``blue``, ``nir``, or any other.

    Returns
    -------
    ndarray of shape (k, n_features)
        float32, in the order of :func:`feature_names`; bands from 0 to 255, indices from -1 to 1.
        An image's features do not depend on the other images.

    Raises
    ------
    ValueError
        When the images are not uint8, have another number of bands, or have no pixels.
    """
    n_pixels = check_images(images, bands)
    found = np.empty((len(images), len(feature_names(bands))), np.float32)
    if n_pixels > LARGE_PIXELS:
        for image, row in zip(images, found, strict=True):
            _fill_large(image.reshape(n_pixels, len(bands)), bands, row)
        return found
    planes = images.reshape(len(images), n_pixels, len(bands)).transpose(0, 2, 1)
    step = max(1, PLANE_NBYTES // (4 * n_pixels))
    for start in range(0, len(images), step):
        _fill(
            np.ascontiguousarray(planes[start : start + step]), bands, found[start : start + step]
        )
    return found


def _fill(planes: np.ndarray, bands: Sequence[str], found: np.ndarray) -> None:
    """Compute a block's features into `found`; planes is (k, n_bands, n_pixels) uint8."""
    n_pixels = planes.shape[2]
    # The stable sort of bytes is a radix sort, eight times as fast as the default.
    ordered = np.sort(planes, axis=2, kind="stable")
    # Sums of whole numbers are exact in any order.
    total = planes.sum(axis=2, dtype=np.uint64).astype(np.float64)
    squares = np.multiply(planes, planes, dtype=np.uint16).sum(axis=2, dtype=np.uint64)
    mean = total / n_pixels
    variance = squares / n_pixels - mean**2
    ranks = [max(0, int(np.ceil(round(q * n_pixels, 9))) - 1) for q in QUANTILES]
    columns = [mean, np.sqrt(np.maximum(variance, 0)), ordered[:, :, 0], ordered[:, :, -1]]
    columns += [ordered[:, :, rank] for rank in ranks]
    by_band = np.stack(columns, axis=2).reshape(len(planes), -1)
    found[:, : by_band.shape[1]] = by_band
    floats = {band: planes[:, i].astype(np.float32) for i, band in enumerate(bands)}
    column = by_band.shape[1]
    for name in _indices(bands):
        # Summed along each image's own pixels, in float64: the batch can't change the order.
        index = INDICES[name][1](floats).astype(np.float64)
        found[:, column] = index.mean(axis=1)
        found[:, column + 1] = index.std(axis=1)
        column += 2


def _fill_large(pixels: np.ndarray, bands: Sequence[str], found: np.ndarray) -> None:
    """Compute one image's features into `found`, block by block of its (n_pixels, n_bands)."""
    n_pixels = len(pixels)
    counts = np.zeros((len(bands), 256), np.int64)
    sums = np.zeros((len(_indices(bands)), 2))
    for start in range(0, n_pixels, PLANE_NBYTES // 4):
        planes = np.ascontiguousarray(pixels[start : start + PLANE_NBYTES // 4].T)
        for plane, count in zip(planes, counts, strict=True):
            count += np.bincount(plane, minlength=256)
        floats = {band: plane.astype(np.float32) for band, plane in zip(bands, planes, strict=True)}
        for name, total in zip(_indices(bands), sums, strict=True):
            index = INDICES[name][1](floats).astype(np.float64)
            total += index.sum(), np.square(index).sum()
    levels = np.arange(256)
    mean = counts @ levels / n_pixels
    variance = counts @ levels**2 / n_pixels - mean**2
    ordered = counts.cumsum(axis=1)
    ranks = [1, n_pixels, *(max(1, int(np.ceil(round(q * n_pixels, 9)))) for q in QUANTILES)]
    values = [[np.searchsorted(ends, rank) for rank in ranks] for ends in ordered]
    index_mean, index_square = sums.T / n_pixels
    index_std = np.sqrt(np.maximum(index_square - index_mean**2, 0))
    by_band = np.column_stack([mean, np.sqrt(np.maximum(variance, 0)), values])
    found[:] = [*by_band.ravel(), *np.column_stack([index_mean, index_std]).ravel()]


@dataclass(frozen=True)
class Statistics:
    """A model of numbers that are computed of each image by itself, without a network.

    `names` gives their names for some bands, `compute` their values, as :func:`pixel_statistics`.
    """

    model: str
    layer: str
    names: Callable[[Sequence[str]], tuple[str, ...]]
    compute: Callable[[np.ndarray, Sequence[str]], np.ndarray]


class PixelExtractor:
    """Computes the statistics of each image on all cores, without resizing it."""

    statistics: ClassVar[Statistics] = Statistics(
        PIXEL_MODEL, LAYER, feature_names, pixel_statistics
    )
    device_type = "cpu"
    min_size: int | None = None

    def __init__(self, batch_size: int | None, bands: Sequence[str]) -> None:
        self.n_in_flight = available_cores() + 1
        self.device_name = f"cpu ({available_cores()} threads)"
        self._batch_size = batch_size or BATCH_SIZE
        self._bands = tuple(bands)
        self._pool = ThreadPoolExecutor(available_cores(), thread_name_prefix="pixelstats")

    def find(self, nodes: Sequence[str]) -> Sequence[Layer]:
        """Return the model's one layer; any other name raises BackboneError."""
        own = self.statistics
        if unknown := [name for name in nodes if name != own.layer]:
            raise BackboneError(
                f"{own.model} has no layer {unknown[0]!r}; its only layer is {own.layer}."
            )
        n_features = len(own.names(self._bands))
        return (Layer(own.layer, own.layer, (own.layer,), (n_features,), default=True),)

    def use_threads(self, n_threads: int | None) -> int | None:
        """Do nothing: the statistics do not depend on the number of threads."""
        return None

    def open(
        self,
        layers: Sequence[Layer],
        n_images: int,
        numerics: Mapping[str, Any] | None = None,
        progress: Progress = SILENT,
    ) -> dict[str, Any]:
        """Return the batch size, and the names of device and engine."""
        if numerics is not None:
            self._batch_size = int(numerics["batch_size"])
        return {"device": "cpu", "engine": "numpy", "batch_size": self._batch_size}

    def begin(self, batch: Batch) -> Callable[[], dict[str, np.ndarray]]:
        """Begin a batch; the function returned waits for its features, by layer."""
        futures = [self._pool.submit(self._compute, part) for part in _parts(batch)]
        # Each part has zeros in the rows of the others.
        return lambda: {
            self.statistics.layer: np.sum([future.result() for future in futures], axis=0)
        }

    def _compute(self, batch: Batch) -> np.ndarray:
        n_features = len(self.statistics.names(self._bands))
        rows = np.zeros((batch.stop - batch.start, n_features), np.float32)
        for positions, images in batch.groups:
            rows[positions] = self.statistics.compute(images, self._bands)
        return rows


def _parts(batch: Batch) -> list[Batch]:
    """Return a batch as it is, or one part for each core where its images are large."""
    if batch.nbytes < SHARED_NBYTES:
        return [batch]
    n = available_cores()
    groups = [
        [(at[i::n], images[i::n]) for at, images in batch.groups if len(at) > i] for i in range(n)
    ]
    return [replace(batch, groups=own) for own in groups]


class PixelSource:
    """Opens pixel statistics."""

    extractor: ClassVar[type[PixelExtractor]] = PixelExtractor

    def open(
        self,
        config: ExtractConfig,
        dataset: Dataset,
        cache: FingerprintCache,
        progress: Progress = SILENT,
        precision: str | None = None,
    ) -> Model:
        """Open the model; settings for networks raise ConfigError."""
        refuse_settings(config)
        # `--weights imagenet` selects a network's features with these beside them.
        names = ("none", config.weights)
        found = self._model(config.layers, dataset.bands, config.batch_size)
        return replace(found, weights_names=names)

    def reopen(
        self,
        features: Sequence[FeatureSpec],
        bands: Sequence[str],
        device_name: str,
        cache: FingerprintCache,
        progress: Progress = SILENT,
    ) -> Model:
        """Open the model of the recorded bands; other bands raise BackboneError."""
        check_bands(features[0], bands)
        return self._model([feature.node for feature in features], bands, None)

    def _model(self, names: Sequence[str], bands: Sequence[str], batch_size: int | None) -> Model:
        extractor = self.extractor(batch_size, bands)
        layers = {layer: list(names) for layer in extractor.find(names)}
        return Model(extractor, layers, *records_of(extractor.statistics.model, bands))
