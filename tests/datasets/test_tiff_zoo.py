"""TIFF files of every kind: the pixels that GDAL shows, as their tags say, or a refusal."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from tiff_zoo import Case, all_cases

from featstore.datasets.decode import decode
from featstore.datasets.image_bytes import ImageBytes
from featstore.errors import ImageError

STEP = 13
"""One case of so many is part of the quick tests; it is prime to the sizes of the lattice."""


def shown_by_gdal(path: Path) -> np.ndarray:
    with warnings.catch_warnings(action="ignore"), rasterio.open(path) as raster:
        return np.moveaxis(raster.read(), 0, -1)


def fault(case: Case, path: Path) -> str | None:
    """Return what is wrong with how a case is decoded."""
    case.write(path)
    try:
        found = decode(path)
    except ImageError as error:
        if case.refused is None:
            return f"refused: {error}"
        told = str(error)
        is_clear = case.refused in told and told.startswith(f"{path}: ") and told.endswith(".")
        return None if is_clear else f"refused with other words: {error}"
    if case.refused is not None:
        return "read"
    if case.stored is not None and not np.array_equal(shown_by_gdal(path), case.stored):
        return "GDAL shows other pixels than were stored"
    expected = case.expected
    if case.is_lossy:
        bands = shown_by_gdal(path)
        near, expected = expected, bands[..., :3] if bands.shape[2] > 2 else bands.repeat(3, axis=2)
        if np.abs(near.astype(int) - expected).mean() > 4:
            return "GDAL shows another picture"
    if found.shape != expected.shape or found.dtype != np.uint8 or not found.flags.c_contiguous:
        return f"{found.dtype} of shape {found.shape}, expected {expected.shape}"
    if not np.array_equal(decode(ImageBytes("bytes", path, path.read_bytes)), found):
        return "its bytes are decoded to other pixels"
    difference = np.abs(found.astype(int) - expected).max()
    return f"differs by {difference}" if difference else None


def faults(cases: list[Case], folder: Path) -> list[str]:
    found = [(case.name, fault(case, folder / "picture.tif")) for case in cases]
    return [f"{name}: {what}" for name, what in found if what]


def test_a_sample_of_the_zoo_is_what_gdal_shows_or_is_refused(tmp_path: Path) -> None:
    cases = list(all_cases())
    names = [case.name for case in cases]
    assert len(set(names)) > 0.9 * len(names)
    assert faults(cases[::STEP], tmp_path) == []


@pytest.mark.soak
def test_the_whole_zoo_is_what_gdal_shows_or_is_refused(tmp_path: Path) -> None:
    cases = list(all_cases())
    assert len(cases) > 4000
    assert faults(cases, tmp_path) == []
