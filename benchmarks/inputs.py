"""Generated images in the genuine formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SAT4_CLASSES = ("barren land", "trees", "grassland", "none")
SAT4_SHAPE = (28, 28, 4)


def write_images(
    root: Path,
    n_images: int,
    width: int = 256,
    height: int = 256,
    suffix: str = ".jpg",
) -> None:
    """Write image files of smooth noise, which compresses as photographs do, in two classes."""
    rng = np.random.default_rng(0)
    for i in range(n_images):
        folder = root / f"class{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        options = {"compression": "tiff_lzw"} if suffix.startswith(".lzw") else {}
        image.save(folder / f"{i:05d}{suffix}", **options)


def sat4_pixels(n_images: int) -> np.ndarray:
    """Return noise in the shape of SAT-4's images, (28, 28, 4, n_images) as in MATLAB."""
    pixels = np.random.default_rng(0).integers(0, 256, (n_images, 4, 28, 28), dtype=np.uint8)
    # MATLAB's first axis is the fastest, so the transposed array needs no copy.
    return pixels.T


def write_sat4(path: Path, n_images: int) -> None:
    """Write a MATLAB file of version 5 like SAT-4's; a fifth of its images are for testing."""
    from scipy.io import savemat

    n_test = max(1, n_images // 5)
    cells = np.empty((len(SAT4_CLASSES), 2), object)
    for i, name in enumerate(SAT4_CLASSES):
        code = np.eye(len(SAT4_CLASSES))[i]
        cells[i] = "[" + " ".join(f"{v:.0f}" for v in code) + "]", name
    pixels = sat4_pixels(n_images)
    labels = np.eye(len(SAT4_CLASSES))[:, np.arange(n_images) % len(SAT4_CLASSES)]
    variables = {
        "train_x": pixels[..., n_test:],
        "train_y": labels[:, n_test:],
        "test_x": pixels[..., :n_test],
        "test_y": labels[:, :n_test],
        "annotations": cells,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, variables)
