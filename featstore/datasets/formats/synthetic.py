"""Generate land-cover-like images in SAT-4's own file format, so that everything runs anywhere.

Four classes with SAT-4's names and bands, from noise of several scales, spectra that overlap,
haze, light and mixed pixels: hard enough that no classifier gets all of them right.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import ConfigError, DatasetError
from featstore.progress import SILENT, Progress

CLASS_NAMES = ("barren land", "trees", "grassland", "none")


SIDE = 28


BLOCK = 2048
"""Images made at once, from their own seed."""


MAX_IMAGES = 600_000
"""A variable of a version 5 file holds at most 2 GiB."""


Array = NDArray[np.float32]


# Red, green, blue and near infrared, 0 to 255 as in NAIP's images: vegetation is dark in red and
# bright in near infrared, and dries towards the color of soil.
SOIL = np.array([152, 134, 112, 158], np.float32)


SAND = np.array([196, 180, 152, 192], np.float32)


LUSH = np.array([92, 116, 80, 184], np.float32)


DRY = np.array([150, 142, 106, 160], np.float32)


CROWN = np.array([68, 88, 66, 168], np.float32)


OLIVE = np.array([104, 112, 84, 162], np.float32)


ASPHALT = np.array([126, 126, 124, 108], np.float32)


CONCRETE = np.array([186, 184, 178, 162], np.float32)


TILES = np.array([170, 122, 102, 136], np.float32)


WATER = np.array([58, 74, 78, 32], np.float32)


def demo_file(seed: int) -> str:
    """Return the name of the file for a seed: ``demo-full.mat``, or with the seed unless 0."""
    return f"demo-seed{seed}-full.mat" if seed else "demo-full.mat"


def write_demo(
    folder: Path,
    seed: int = 0,
    n_train: int = 1600,
    n_test: int = 400,
    progress: Progress = SILENT,
) -> Path:
    """Generate a dataset as a MATLAB version 5 file like ``sat-4-full.mat``; return its path.

    The same arguments give the same bytes on the same kind of machine. An existing file is
    replaced once the new one is whole.
    """
    from scipy.io import savemat

    for option, n in (("n_train", n_train), ("n_test", n_test)):
        if not len(CLASS_NAMES) <= n <= MAX_IMAGES:
            raise ConfigError(
                f"{option} is {n}; it must be from {len(CLASS_NAMES)}, one of each class, to "
                f"{MAX_IMAGES:,}."
            )
    path = folder / demo_file(seed)
    variables: dict[str, NDArray[np.generic]] = {}
    progress.start("generating demo images", n_train + n_test, "images")
    for split, (name, n) in enumerate((("train", n_train), ("test", n_test))):
        images = np.empty((n, 4, SIDE, SIDE), np.uint8)
        labels = np.arange(n) % len(CLASS_NAMES)
        np.random.default_rng([seed, split]).shuffle(labels)
        for start in range(0, n, BLOCK):
            block = labels[start : start + BLOCK]
            rng = np.random.default_rng([seed, split, start])
            # MATLAB's first axis is the fastest: the file has the images' axes reversed.
            images[start : start + BLOCK] = land_cover(block, rng).transpose(0, 3, 2, 1)
            progress.advance(len(block))
        variables[f"{name}_x"] = images.T
        variables[f"{name}_y"] = np.eye(len(CLASS_NAMES))[:, labels]
    progress.stop()
    codes = np.eye(len(CLASS_NAMES), dtype=np.uint8)
    annotations = np.empty((len(CLASS_NAMES), 2), object)
    for row, name in enumerate(CLASS_NAMES):
        annotations[row] = f"[{' '.join(map(str, codes[row]))}]", name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=".demo-") as temporary:
            unfinished = Path(temporary) / path.name
            savemat(unfinished, variables | {"annotations": annotations})
            with unfinished.open("r+b") as file:
                # SciPy writes the time of day here, 116 bytes of free text.
                file.write(f"MATLAB 5.0 MAT-file, featstore demo, seed {seed}".ljust(116).encode())
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
    except OSError as error:
        raise DatasetError(f"{path}: can't be written: {error.strerror or error}.") from None
    return path


def land_cover(labels: NDArray[np.integer], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw one image of each label, (n, 28, 28, 4) uint8: red, green, blue and near infrared.

    Labels are positions in :data:`CLASS_NAMES`.
    """
    n = len(labels)
    # A neighbor of another class covers up to two fifths of half of the images.
    neighbors = (labels + rng.integers(1, len(CLASS_NAMES), n)) % len(CLASS_NAMES)
    cover = rng.uniform(0, 0.4, n) * (rng.random(n) < 0.5)
    relief = _noise(rng, n, 3) + 0.3 * _noise(rng, n, 9)
    level = np.sort(relief.reshape(n, -1))[np.arange(n), (cover * (SIDE**2 - 1)).astype(int)]
    share = np.clip((level[:, None, None] - relief) * 4, 0, 1)[..., None]
    scene = _scenes(labels, rng) * (1 - share) + _scenes(neighbors, rng) * share

    scene = _blur(scene)
    light = np.exp(rng.normal(0, 0.22, (n, 1, 1, 1))).astype(np.float32)
    tint = np.exp(rng.normal(0, 0.05, (n, 1, 1, 4))).astype(np.float32)
    haze = rng.uniform(0, 30, (n, 1, 1, 1)).astype(np.float32)
    scene = scene * light * tint * (1 - haze / 255) + haze
    scene += rng.normal(0, 4, scene.shape).astype(np.float32)
    return np.clip(np.rint(scene), 0, 255).astype(np.uint8)


def _scenes(labels: NDArray[np.integer], rng: np.random.Generator) -> Array:
    """Draw scenes of one class each, shape (n, 28, 28, 4)."""
    scenes = np.empty((len(labels), SIDE, SIDE, 4), np.float32)
    for label, draw in enumerate(_DRAW):
        if len(rows := np.flatnonzero(labels == label)):
            scenes[rows] = draw(rng, len(rows))
    return scenes


def _barren(rng: np.random.Generator, n: int) -> Array:
    ground = _between(rng, n, SOIL, SAND, 0.35)
    ground = _dry_out(rng, ground)
    texture = 0.09 * _noise(rng, n, 4) + 0.05 * _noise(rng, n, 10) + 0.03 * _noise(rng, n, 28)
    ground *= (1 + texture + _rows(rng, n, 0.3))[..., None]
    return ground


def _trees(rng: np.random.Generator, n: int) -> Array:
    crowns = _between(rng, n, CROWN, OLIVE, 0.5)
    strength = rng.uniform(0.4, 1.2, (n, 1, 1)).astype(np.float32)
    texture = 0.12 * _noise(rng, n, 7) + 0.22 * _noise(rng, n, 13) + 0.06 * _noise(rng, n, 28)
    # Crowns shade each other: dark is deeper than bright is high.
    trees: Array = (
        crowns * np.exp(strength * (texture - 0.12 * np.abs(_noise(rng, n, 10))))[..., None]
    )
    return trees


def _grassland(rng: np.random.Generator, n: int) -> Array:
    grass = _between(rng, n, LUSH, DRY, 0.5)
    texture = 0.07 * _noise(rng, n, 4) + 0.05 * _noise(rng, n, 9) + 0.03 * _noise(rng, n, 28)
    grass = grass * (1 + texture + _rows(rng, n, 0.4))[..., None]
    bushes = np.clip(_noise(rng, n, 12) - rng.uniform(1, 3, (n, 1, 1)), 0, 1)
    return _lay(grass, CROWN, bushes)


def _none(rng: np.random.Generator, n: int) -> Array:
    """Draw the class ``none``: roads and roofs on open ground, and water."""
    scene = _scenes(rng.integers(0, 3, n), rng)
    is_paved = (rng.random(n) < 0.35)[:, None, None, None]
    paved = _between(rng, n, ASPHALT, CONCRETE, 0.4)
    scene = np.where(is_paved, paved * (1 + 0.05 * _noise(rng, n, 5))[..., None], scene)

    road = _strip(rng, n, rng.uniform(2, 7, n)) * (rng.random(n) < 0.7)[:, None, None]
    scene = _lay(scene, _between(rng, n, ASPHALT, CONCRETE, 0.5), road)
    for chance in (0.6, 0.45, 0.3):
        roof = _box(rng, n) * (rng.random(n) < chance)[:, None, None]
        shadow = np.roll(roof, (1, 1), (1, 2))
        scene = scene * (1 - 0.45 * shadow * (1 - roof))[..., None]
        is_tiled = (rng.random(n) < 0.3)[:, None, None, None]
        roofing = np.where(is_tiled, TILES, _between(rng, n, ASPHALT, CONCRETE, 0.9))
        scene = _lay(scene, roofing, roof)
    ripples = WATER * (1 + 0.05 * _noise(rng, n, 14))[..., None]
    return np.where((rng.random(n) < 0.12)[:, None, None, None], ripples, scene)


_DRAW: tuple[Callable[[np.random.Generator, int], Array], ...] = (
    _barren,
    _trees,
    _grassland,
    _none,
)


def _noise(rng: np.random.Generator, n: int, cells: int) -> Array:
    """Draw smooth noise of unit variance with this many cells a side, shape (n, 28, 28)."""
    grid: Array = rng.standard_normal((n, cells, cells), np.float32)
    spread = _INTERPOLATE[cells]
    noise: Array = np.matmul(np.matmul(spread, grid), spread.T)
    return noise


def _interpolation(cells: int) -> Array:
    """Build the matrix, (28, cells), that blends cells with cosine weights."""
    at = np.linspace(0, cells - 1, SIDE)
    closeness = np.clip(1 - np.abs(at[:, None] - np.arange(cells)), 0, 1)
    weight: NDArray[np.float64] = (1 - np.cos(np.pi * closeness)) / 2
    weight /= np.sqrt((weight**2).sum(axis=1, keepdims=True))
    return weight.astype(np.float32)


_INTERPOLATE = {cells: _interpolation(cells) for cells in (3, 4, 5, 7, 9, 10, 12, 13, 14, 28)}


def _between(rng: np.random.Generator, n: int, a: Array, b: Array, width: float) -> Array:
    """Draw spectra on the line from `a` towards `b`, shape (n, 1, 1, 4)."""
    at = np.abs(rng.normal(0, width, (n, 1, 1, 1))).astype(np.float32)
    spectra: Array = a + np.clip(at, 0, 1.2) * (b - a)
    return spectra


def _dry_out(rng: np.random.Generator, ground: Array) -> Array:
    """Let sparse grass color the ground in patches, shape (n, 28, 28, 4)."""
    n = len(ground)
    cover = np.clip(rng.normal(0, 0.5, (n, 1, 1)) + 0.25 * _noise(rng, n, 5), 0, 1)
    return _lay(ground, DRY, cover)


def _rows(rng: np.random.Generator, n: int, chance: float) -> Array:
    """Draw plough or mowing rows in some of the images, shape (n, 28, 28)."""
    wave = np.sin(2 * np.pi * _across(rng, n) / rng.uniform(2.5, 7, (n, 1, 1)))
    strength = rng.uniform(0.03, 0.11, (n, 1, 1)) * (rng.random((n, 1, 1)) < chance)
    return (strength * wave).astype(np.float32)


def _across(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Return each pixel's distance from a random line through each image, (n, 28, 28)."""
    angle = rng.uniform(0, np.pi, (n, 1, 1))
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    distance: NDArray[np.float64] = x * np.cos(angle) + y * np.sin(angle)
    return distance + rng.uniform(-8, 8, (n, 1, 1))


def _strip(rng: np.random.Generator, n: int, width: NDArray[np.float64]) -> Array:
    """Return the share of each pixel under a straight strip, (n, 28, 28)."""
    inside = width[:, None, None] / 2 + 0.5 - np.abs(_across(rng, n))
    return np.clip(inside, 0, 1).astype(np.float32)


def _box(rng: np.random.Generator, n: int) -> Array:
    """Return the share of each pixel under a turned rectangle, (n, 28, 28)."""
    angle = rng.uniform(0, np.pi, (n, 1, 1))
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    y, x = y + rng.uniform(-12, 12, (n, 1, 1)), x + rng.uniform(-12, 12, (n, 1, 1))
    along = np.abs(x * np.cos(angle) + y * np.sin(angle))
    aside = np.abs(y * np.cos(angle) - x * np.sin(angle))
    length, depth = rng.uniform(2.5, 7, (2, n, 1, 1))
    inside: NDArray[np.float64] = np.minimum(length + 0.5 - along, depth + 0.5 - aside)
    return np.clip(inside, 0, 1).astype(np.float32)


def _lay(scene: Array, spectrum: Array, share: NDArray[Any]) -> Array:
    """Cover the share (n, 28, 28) of each pixel with a spectrum."""
    covered: Array = (scene + share[..., None] * (spectrum - scene)).astype(np.float32)
    return covered


def _blur(scene: Array) -> Array:
    """Mix each pixel with its neighbors, as optics do."""
    mix = np.eye(SIDE) * 0.6 + (np.eye(SIDE, k=1) + np.eye(SIDE, k=-1)) * 0.2
    mix = (mix / mix.sum(axis=1, keepdims=True)).astype(np.float32)
    rows_mixed = np.einsum("ij,njkc->nikc", mix, scene, optimize=True)
    mixed: Array = np.einsum("ij,nkjc->nkic", mix, rows_mixed, optimize=True)
    return mixed
