from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from featstore.datasets.registry import open_dataset
from featstore.errors import ConfigError
from featstore.inference.class_sheet import CELL, GAP, contact_sheet


def plant(root: Path, name: str, color: tuple[int, int, int], size: tuple[int, int]) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(root / name)


def test_each_class_has_its_row_of_images(tmp_path: Path) -> None:
    for i in range(5):
        plant(tmp_path / "root", f"red/{i}.png", (255, 0, 0), (20, 20))
    plant(tmp_path / "root", "blue_sky_over_a_very_long_name/0.png", (0, 0, 255), (400, 200))
    dataset = open_dataset("folder", tmp_path / "root")
    path = contact_sheet(dataset, tmp_path / "new" / "sheet.png", n_per_class=3)
    sheet = np.asarray(Image.open(path).convert("RGB")).astype(int)
    is_red = (sheet == (255, 0, 0)).all(axis=2)
    is_blue = (sheet == (0, 0, 255)).all(axis=2)
    assert is_red.sum() == 3 * CELL * CELL
    assert is_blue.sum() == CELL * CELL // 2
    assert np.flatnonzero(is_red.any(axis=1))[0] - np.flatnonzero(is_blue.any(axis=1))[-1] > GAP
    # The names are left of the images.
    left = sheet[60:, : np.flatnonzero(is_red.any(axis=0))[0]]
    assert (left < 100).all(axis=2).sum() > 100


def test_four_bands_are_shown_as_three(tmp_path: Path) -> None:
    dataset = open_dataset("demo", tmp_path, limit=40)
    sheet = Image.open(contact_sheet(dataset, tmp_path / "sheet.png"))
    assert sheet.mode == "RGB"
    assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 1000


def test_an_unreadable_image_does_not_spoil_the_sheet(tmp_path: Path) -> None:
    plant(tmp_path / "root", "a/0.png", (255, 0, 0), (20, 20))
    (tmp_path / "root" / "a" / "1.png").write_bytes(b"")
    path = contact_sheet(open_dataset("folder", tmp_path / "root"), tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(path))
    assert (sheet == (255, 0, 0)).all(axis=2).sum() == CELL * CELL


@pytest.mark.parametrize("name", ["sheet.xyz", "file/sheet.png"])
def test_a_place_that_cant_be_written(tmp_path: Path, name: str) -> None:
    plant(tmp_path / "root", "a/0.png", (255, 0, 0), (20, 20))
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="contact sheet can't be written"):
        contact_sheet(open_dataset("folder", tmp_path / "root"), tmp_path / name)
