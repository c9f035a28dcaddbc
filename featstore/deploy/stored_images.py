"""Find images to check an exported model with: those of the run, or generated ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featstore.datasets.source import RGB
from featstore.errors import FeatstoreError, ImageError
from featstore.inference.source_images import Originals
from featstore.progress import SILENT, Progress
from featstore.runs.run import Run
from featstore.store.feature_store import FeatureStore

SIZES = ((256, 256), (64, 64), (190, 333), (500, 375))
"""Heights and widths of generated images."""


@dataclass(frozen=True)
class CheckedImages:
    """Some images, each (height, width, n_bands) uint8, their names, bands, and what they are."""

    pixels: Sequence[np.ndarray]
    names: Sequence[str]
    bands: tuple[str, ...]
    are: str
    why_generated: str | None = None


def find_images(
    run: Run, store: FeatureStore, n_images: int, progress: Progress = SILENT
) -> CheckedImages:
    """Return some of a run's images, evenly spread, or generated ones where these are gone."""
    spec = run.selection.features[0]
    try:
        dataset = Originals(store, spec.set_id, progress=progress).dataset
    except FeatstoreError as error:
        reason = str(error)
    else:
        rows = np.unique(np.linspace(0, len(dataset) - 1, n_images).astype(int))
        pixels, names = [], []
        for row in rows.tolist():
            try:
                pixels.append(dataset.read(row))
            except ImageError:
                continue
            names.append(dataset.sample_ids[row])
        if pixels:
            return CheckedImages(pixels, names, tuple(dataset.bands), "stored images")
        reason = "none of the images tried can be read"
    own = spec.preprocess.bands
    reading = spec.preprocess.reading
    bands = RGB if own in ("rgb", "gray") else tuple(own.split(","))
    if reading is not None and reading.names:
        bands = tuple(reading.names)
    pixels = _generate(n_images, len(bands))
    names = [f"generated image {i}" for i in range(len(pixels))]
    return CheckedImages(pixels, names, bands, "generated images", reason)


def _generate(n: int, n_bands: int) -> list[np.ndarray]:
    """Return images of coloured squares and noise, of several sizes."""
    rng = np.random.default_rng(0)
    found = []
    for i in range(n):
        height, width = SIZES[i % len(SIZES)]
        coarse = rng.integers(0, 256, (-(-height // 16), -(-width // 16), n_bands))
        blocks = coarse.repeat(16, axis=0).repeat(16, axis=1)[:height, :width]
        noise = rng.normal(0, 5 * (i % 5), blocks.shape)
        found.append(np.clip(blocks + noise, 0, 255).astype(np.uint8))
    return found
