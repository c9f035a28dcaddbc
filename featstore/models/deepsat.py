"""150 features of an image that need no network, after DeepSat: color, texture, DCT, vegetation.

Basu et al. 2015 (DeepSat, doi:10.1145/2820783.2820816) classify SAT-4 and SAT-6 by 150 such
features. Their exact list could not be had; this one has the same kinds and the same number.
docs/deepsat.md says what follows the paper and what is a guess.

Everything is counted or summed over the pixels, row by row, so that a large image is read in strips
and an image's features do not depend on the other images.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from featstore.models.names import HAND_MODEL
from featstore.models.pixelstats import (
    INDICES,
    PixelExtractor,
    PixelSource,
    Planes,
    Statistics,
    check_images,
)
from featstore.models.texture import N_LEVELS, TEXTURE, count_pairs, texture_features

LAYER = "features"
"""The name of the one layer."""


HSI = ("hue", "saturation", "intensity")
"""What stands in the place of red, green and blue.

Smith 1978, doi:10.1145/965139.807361: hue of the hexcone, saturation and intensity of the triangle,
each as a whole number from 0 to 255. Gray pixels have the hue 0.
"""


FIRST_ORDER = ("mean", "std", "var", "moment2")
"""Statistics of a channel's pixels; `moment2` is the mean of their squares."""


DCT = ((0, 1), (1, 0), (2, 0), (1, 1), (0, 2), (0, 3))
"""Coefficients (down, across) of a channel's discrete cosine transform: the six after the first.

Ahmed et al. 1974, doi:10.1109/T-C.1974.223784, type 2. The first coefficient is the mean. They are
absolute, since aerial images have no up and down, and divided by the root of the number of pixels,
so that they do not grow with the image.
"""


VEGETATION = {
    "ndvi": ("red", "nir"),
    "sr": ("red", "nir"),
    "evi": ("red", "blue", "nir"),
    "arvi": ("red", "blue", "nir"),
}
"""The vegetation indices, with the bands that they need.

ndvi, evi and arvi are those of :data:`featstore.models.pixelstats.INDICES`. sr, the simple ratio
near infrared / red, is Jordan's 1969, doi:10.2307/1936256, with a red of 1 at least.
"""


WITH_DEVIATION = ("ndvi", "sr")
"""Indices whose deviation is a feature beside their mean."""


STEP_PIXELS = 2**18
"""Pixels, of all bands, in one step."""


def feature_names(bands: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the features, in order, such as ``hue_mean`` or ``nir_ccm_entro``."""
    kinds = [*FIRST_ORDER, *(f"ccm_{name}" for name in TEXTURE)]
    kinds += [f"dct_{down}_{across}" for down, across in DCT]
    names = [f"{channel}_{kind}" for channel in channel_names(bands) for kind in kinds]
    for index in _indices(bands):
        names += [f"{index}_mean", f"{index}_std"] if index in WITH_DEVIATION else [f"{index}_mean"]
    return tuple(names)


def channel_names(bands: Sequence[str]) -> tuple[str, ...]:
    """Return hue, saturation and intensity of red, green and blue; other bands are as they are."""
    colors = ("red", "green", "blue")
    if not set(colors) <= set(bands):
        return tuple(bands)
    return (*HSI, *(band for band in bands if band not in colors))


def _indices(bands: Sequence[str]) -> list[str]:
    return [name for name, needed in VEGETATION.items() if set(needed) <= set(bands)]


def hand_features(images: np.ndarray, bands: Sequence[str]) -> np.ndarray:
    """Return the features of each image.

    `images` are (k, height, width, n_bands) uint8. The result is (k, n_features) float32, in the
    order of :func:`feature_names`; an image's features do not depend on the other images. Images
    that are not uint8, have another number of bands, or have no pixels raise ValueError.
    """
    check_images(images, bands)
    n_images, height, width, _ = images.shape
    found = np.empty((n_images, len(feature_names(bands))), np.float32)
    n_in_image = height * width * len(bands)
    n_at_once = max(1, STEP_PIXELS // n_in_image)
    n_rows = height if n_in_image <= STEP_PIXELS else max(1, STEP_PIXELS // (width * len(bands)))
    for start in range(0, n_images, n_at_once):
        block = images[start : start + n_at_once]
        sums = _Sums(block.shape, bands)
        for top in range(0, height, n_rows):
            sums.add(block, top, min(top + n_rows, height))
        found[start : start + n_at_once] = sums.features()
    return found


class _Sums:
    """What is counted and summed over the pixels of some images of one size."""

    def __init__(self, shape: tuple[int, ...], bands: Sequence[str]) -> None:
        self._n, self._height, self._width = shape[:3]
        self._bands = bands
        n_channels = len(channel_names(bands))
        self._total = np.zeros((self._n, n_channels), np.uint64)
        self._squares = np.zeros((self._n, n_channels), np.uint64)
        self._pairs = np.zeros((self._n * n_channels, N_LEVELS**2), np.int64)
        self._waves = np.zeros((self._n, n_channels, 4, 4))
        self._first: dict[str, np.ndarray] = {}
        self._index_sums = {name: np.zeros((2, self._n)) for name in _indices(bands)}

    def add(self, images: np.ndarray, top: int, bottom: int) -> None:
        """Add the rows from `top` to `bottom`, and their pairs with the next row."""
        rows = images[:, top : bottom + 1].transpose(0, 3, 1, 2)
        planes = dict(
            zip(self._bands, (np.ascontiguousarray(p) for p in rows.swapaxes(0, 1)), strict=True)
        )
        channels = _channels(planes)
        self._pairs += count_pairs(channels.reshape(-1, *channels.shape[2:]), bottom - top)
        own = channels[:, :, : bottom - top]
        self._total += own.sum(axis=(2, 3), dtype=np.uint64)
        self._squares += np.multiply(own, own, dtype=np.uint16).sum(axis=(2, 3), dtype=np.uint64)
        down, across = _cosines(self._height)[:, top:bottom], _cosines(self._width)
        # einsum sums each image by itself; a matrix product's last bits depend on the batch.
        partial = np.einsum("nchw,kw->nchk", own.astype(np.float64), across)
        self._waves += np.einsum("nchk,jh->ncjk", partial, down)
        self._add_indices({name: plane[:, : bottom - top] for name, plane in planes.items()})

    def _add_indices(self, planes: dict[str, np.ndarray]) -> None:
        if not self._index_sums:
            return
        floats = {
            name: plane.reshape(self._n, -1).astype(np.float32) for name, plane in planes.items()
        }
        for name, sums in self._index_sums.items():
            values = _vegetation(name, floats)
            # Less the first pixel's, so that the deviation of an even image is 0.
            first = self._first.setdefault(name, values[:, :1].copy())
            values -= first
            sums += values.sum(axis=1), np.square(values).sum(axis=1)

    def features(self) -> np.ndarray:
        """Return the images' features, (n, n_features) float64."""
        n_pixels = self._height * self._width
        mean, moment2 = self._total / n_pixels, self._squares / n_pixels
        variance = np.maximum(moment2 - mean**2, 0)
        first_order = np.stack([mean, np.sqrt(variance), variance, moment2], axis=2)
        texture = texture_features(self._pairs).reshape(*mean.shape, len(TEXTURE))
        waves = np.abs(self._waves) / np.sqrt(n_pixels)
        dct = np.stack([waves[:, :, down, across] for down, across in DCT], axis=2)
        by_channel = np.concatenate([first_order, texture, dct], axis=2).reshape(self._n, -1)
        columns = []
        for name, sums in self._index_sums.items():
            shifted, square = sums / n_pixels
            columns.append(self._first[name][:, 0] + shifted)
            if name in WITH_DEVIATION:
                columns.append(np.sqrt(np.maximum(square - shifted**2, 0)))
        return np.column_stack([by_channel, *columns])


def _channels(planes: Planes) -> np.ndarray:
    """Return the channels of :func:`channel_names`, (n, n_channels, height, width) uint8."""
    names = channel_names(tuple(planes))
    if names[: len(HSI)] != HSI:
        return np.stack(list(planes.values()), axis=1)
    others = [planes[name] for name in names[len(HSI) :]]
    return np.stack([*_hsi(*(planes[c] for c in ("red", "green", "blue"))), *others], axis=1)


def _hsi(red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> tuple[np.ndarray, ...]:
    lowest = np.minimum(np.minimum(red, green), blue)
    highest = np.maximum(np.maximum(red, green), blue)
    r, g, b = (plane.astype(np.int16) for plane in (red, green, blue))
    is_red, is_green = red == highest, green == highest
    ahead = np.where(is_red, g - b, np.where(is_green, b - r, r - g))
    sector = np.where(is_red, np.float32(0), np.where(is_green, np.float32(2), np.float32(4)))
    hue = sector + ahead / np.maximum(highest - lowest, 1).astype(np.float32)
    total = r + g + b
    share = lowest / np.maximum(total, 1).astype(np.float32)
    saturation = np.where(total > 0, np.rint(255 - 765 * share), 0)
    return (
        # The circle has 256 steps: the last one is next to the first.
        np.rint(hue * np.float32(256 / 6)).astype(np.int16).astype(np.uint8),
        saturation.astype(np.uint8),
        ((2 * total + 3) // 6).astype(np.uint8),
    )


@lru_cache(maxsize=64)
def _cosines(n: int) -> np.ndarray:
    """Return the first four waves of the orthonormal DCT over `n` places, (4, n) float64."""
    waves = np.cos(np.pi * np.arange(4)[:, None] * (2 * np.arange(n) + 1) / (2 * n))
    scales = np.where(np.arange(4) == 0, np.sqrt(1 / n), np.sqrt(2 / n))
    # A side of n pixels has n waves.
    return waves * np.where(np.arange(4) < n, scales, 0)[:, None]


def _vegetation(name: str, planes: Planes) -> np.ndarray:
    if name == "sr":
        return (planes["nir"] / np.maximum(planes["red"], 1)).astype(np.float64)
    return INDICES[name][1](planes).astype(np.float64)


class HandExtractor(PixelExtractor):
    """Computes the hand features of each image on all cores, without resizing it."""

    statistics = Statistics(HAND_MODEL, LAYER, feature_names, hand_features)


class HandSource(PixelSource):
    """Opens hand features."""

    extractor = HandExtractor
