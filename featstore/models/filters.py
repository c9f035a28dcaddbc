"""Filters for random convolutional features: Gaussian ones, and whitened patches of images."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

import numpy as np

from featstore.datasets.base import Dataset
from featstore.errors import BackboneError, ImageError

MIN_NORM = 1e-8
"""Length from which on a patch, less its mean, is divided by its length."""


ZCA_BIAS = 0.001
"""What whitening adds to each eigenvalue of the patches' covariance, as MOSAIKS does."""


MAX_PATCH_NBYTES = 6 * 2**20
"""Most bytes of patches that a record of features keeps."""


@dataclass(frozen=True)
class Filters:
    """Filters, and what decides them."""

    values: np.ndarray
    """(n_filters, n_bands, kernel_size, kernel_size) float32, for pixels from 0 to 1."""
    sha256: str
    """Of the patches, or of Gaussian filters themselves."""
    patches: str | None = None
    """The patches' bytes in base64; None for Gaussian filters."""


def gaussian_filters(n_filters: int, n_bands: int, kernel_size: int, seed: int) -> Filters:
    """Return filters whose values are drawn from the standard normal distribution."""
    shape = (n_filters, n_bands, kernel_size, kernel_size)
    values = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return Filters(values, _digest("gaussian", values.astype("<f4")))


def patch_filters(patches: np.ndarray) -> Filters:
    """Return the whitened filters of patches, (n_filters, kernel_size, kernel_size, n_bands)."""
    text = base64.b64encode(patches.tobytes()).decode("ascii")
    return Filters(whitened(patches), _digest("patches", patches), text)


def stored_patches(text: str, n_filters: int, n_bands: int, kernel_size: int) -> np.ndarray | None:
    """Return the patches that a record keeps as text; None where they have another size."""
    found = np.frombuffer(base64.b64decode(text), np.uint8)
    shape = (n_filters, kernel_size, kernel_size, n_bands)
    return found.reshape(shape) if found.size == np.prod(shape) else None


def draw_patches(dataset: Dataset, n_patches: int, kernel_size: int, seed: int) -> np.ndarray:
    """Return patches of training images, (n_patches, kernel_size, kernel_size, n_bands) uint8.

    The images come in random order, each as often as the others, and the place in an image is
    random. Images that can't be read, or are smaller than a patch, are passed over; BackboneError
    where all are. Without training images, all images count.
    """
    n_bands = len(dataset.bands)
    if n_patches * n_bands * kernel_size**2 > MAX_PATCH_NBYTES:
        raise BackboneError(
            f"{n_patches:,} patches of {kernel_size} x {kernel_size} pixels and {n_bands} bands "
            "are too many to keep with the features. Use fewer features or smaller filters."
        )
    rng = np.random.default_rng(seed)
    training = np.flatnonzero(dataset.splits == 0)
    order = rng.permutation(training if len(training) else len(dataset)).tolist()
    patches: list[np.ndarray] = []
    while len(patches) < n_patches:
        n_before, cause = len(patches), f"they are smaller than {kernel_size} pixels"
        for row in order:
            try:
                image = dataset.read(row)
            except ImageError as error:
                cause = str(error)
                continue
            height, width = (length - kernel_size + 1 for length in image.shape[:2])
            if min(height, width) < 1:
                continue
            top, left = rng.integers(height), rng.integers(width)
            patches.append(image[top : top + kernel_size, left : left + kernel_size])
            if len(patches) == n_patches:
                break
        if len(patches) == n_before:
            raise BackboneError(f"The images of {dataset.title} give no patches: {cause}")
    return np.stack(patches)


def whitened(patches: np.ndarray) -> np.ndarray:
    """Return filters, (n, n_bands, height, width) float32, of patches (n, height, width, n_bands).

    Each patch, less its mean and of length 1, is whitened twice by ZCA: a whitened patch on
    whitened pixels is such a filter on the pixels themselves.
    """
    planes = np.moveaxis(patches, -1, 1)
    rows = planes.reshape(len(planes), -1) / 255
    rows -= rows.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    rows /= np.where(norms < MIN_NORM, 1, norms)
    values, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
    filters: np.ndarray = rows @ (vectors / (np.maximum(values, 0) + ZCA_BIAS)) @ vectors.T
    return filters.reshape(planes.shape).astype(np.float32)


def _digest(kind: str, values: np.ndarray) -> str:
    return hashlib.sha256(f"{kind} {values.shape} ".encode() + values.tobytes()).hexdigest()
