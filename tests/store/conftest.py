"""What tests of the store share: extracted features."""

from __future__ import annotations

from pathlib import Path

import pytest
from makers import of_pixels, tiny, write_images

from featstore.extraction.extract import extract
from featstore.store.format import matrix

PIXEL_FEATURES = 29
"""Pixel statistics of an RGB image."""


@pytest.fixture(autouse=True)
def _no_drawings(blank_pictures: None) -> None:
    """Spare the drawings of runs, which take longer than the fits."""


@pytest.fixture
def five_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let chunks of pixel statistics hold five rows, no multiple of the batch of four."""
    monkeypatch.setattr(matrix, "CHUNK_NBYTES", 4 * PIXEL_FEATURES * 5)


@pytest.fixture(scope="session")
def shared_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tree of 27 images that no test changes."""
    return write_images(tmp_path_factory.mktemp("shared") / "images")


@pytest.fixture(scope="session")
def shared_pixels(shared_images: Path) -> Path:
    """Return a store of the images' pixel statistics that no test changes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matrix, "CHUNK_NBYTES", 4 * PIXEL_FEATURES * 5)
        store = shared_images.parent / "pixels"
        extract(store=store, **of_pixels(shared_images, batch_size=4))
    return store


@pytest.fixture(scope="session")
def shared_network(shared_images: Path) -> Path:
    """Return a store of two layers of a network that no test changes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matrix, "CHUNK_NBYTES", 4 * 1000 * 5)
        store = shared_images.parent / "network"
        extract(store=store, **tiny(shared_images, layers="conv1,fc"))
    return store
