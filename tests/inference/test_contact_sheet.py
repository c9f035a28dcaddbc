from __future__ import annotations

import numpy as np
import pytest
from makers import write_images
from PIL import Image

from featstore.datasets.registry import open_dataset
from featstore.errors import ConfigError, StoreError
from featstore.inference import contact_sheet
from featstore.inference.contact_sheet import (
    GRAY,
    N_COLUMNS,
    OTHER,
    SAME,
    SIDE_PX,
    SMALL_SIDE_PX,
    Strip,
    Tile,
    draw_sheet,
    write_class_sheet,
)
from featstore.plotting import INK

RED, BLUE = (255, 0, 0), (0, 0, 255)


def picture(height=28, width=28, color=RED):
    return np.full((height, width, 3), color, np.uint8)


def tile(name="train/a.png", same=None, image=None, title="lake"):
    return Tile(picture() if image is None else image, title, name, "0.250", same)


def pixels(sheet, color):
    """Return where a sheet has a color, given as hex digits or as numbers."""
    rgb = tuple(bytes.fromhex(color[1:])) if isinstance(color, str) else color
    return (np.asarray(sheet) == rgb).all(axis=2)


def extent(mask):
    """Return top, bottom, left and right of what is set."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return rows[0], rows[-1], columns[0], columns[-1]


@pytest.fixture
def texts(monkeypatch):
    """Return the texts that are drawn, with their width and place."""
    drawn = []
    draw = contact_sheet.ImageDraw.ImageDraw.text

    def text(self, at, text, fill, font, **more):
        drawn.append((text, at, font.getlength(text)))
        draw(self, at, text, fill, font, **more)

    monkeypatch.setattr(contact_sheet.ImageDraw.ImageDraw, "text", text)
    return drawn


def test_color_and_mark_tell_the_same_class(texts):
    tiles = [tile(same=True), tile(same=False), tile(same=None)]
    sheet = draw_sheet([Strip(Tile(picture(), "Query: lake", "new.jpg"), tiles)])
    places = [extent(pixels(sheet, color))[2] for color in (INK, SAME, OTHER)]
    assert places == sorted(places)
    shown = [text for text, *_ in texts if text]
    assert shown[::2] == ["Query: lake", "✓ lake", "✗ lake", "lake"]
    assert shown[1::2] == ["new", *["0.250  train/a"] * 3]


@pytest.mark.parametrize("n", [1, N_COLUMNS, N_COLUMNS + 3])
def test_long_names_stay_in_their_cells(n, texts):
    long = "train/a folder of a long name/" + "x" * 60 + "_0123.png"
    title = "medium density residential area"
    tiles = [tile(long, same=i % 2 == 0, title=title) for i in range(n)]
    sheet = draw_sheet([Strip(tile(long, title=title), tiles), Strip(tile(long), tiles[:1])])
    lefts = sorted({at[0] for text, at, _ in texts if text} | {sheet.width})
    for text, (left, _), width in texts:
        if text:
            assert left + width <= lefts[lefts.index(left) + 1]
    assert {text[-5:] for text, *_ in texts if text.startswith("0.250")} == {"_0123"}
    # Nothing touches the sheet's edges.
    edges = np.asarray(sheet)[[0, -1]], np.asarray(sheet)[:, [0, -1]]
    assert all((edge == 255).all() for edge in edges)


def test_many_tiles_make_lines_of_the_same_length(texts):
    draw_sheet([Strip(tile(), [tile()] * (N_COLUMNS + 2))])
    tops = [at[1] for text, at, _ in texts if text == "lake"][1:]
    assert [tops.count(top) for top in sorted(set(tops))] == [6, 6]


def test_a_missing_picture_is_gray_and_named(texts):
    missing = Tile(None, "lake", "train/lake/lake_012.png", "0.1", same=True)
    sheet = draw_sheet([Strip(tile(), [missing])])
    assert [text for text, *_ in texts if "train" in text or "png" in text][1:3] == [
        "train/lake/",
        "lake_012.png",
    ]
    assert pixels(sheet, GRAY).sum() > SIDE_PX**2 // 2


@pytest.mark.parametrize(("height", "width"), [(20, 80), (90, 30), (500, 1000)])
def test_pictures_keep_their_shape(height, width):
    sheet = draw_sheet([Strip("head", [Tile(picture(height, width, BLUE))])])
    top, bottom, left, right = extent(pixels(sheet, BLUE))
    shape = (bottom + 1 - top, right + 1 - left)
    assert max(shape) == SMALL_SIDE_PX
    assert shape[1] / shape[0] == pytest.approx(width / height, rel=0.02)


def test_names_that_are_not_utf_8_are_drawn(texts):
    draw_sheet([Strip(tile(), [tile("a\udcff.png")])])
    assert "0.250  a�" in [text for text, *_ in texts]


def test_each_class_has_its_row_of_images(tmp_path, texts):
    for name, color in (("lake", BLUE), ("sand_of_a_very_long_name", RED)):
        (tmp_path / "root" / name).mkdir(parents=True)
        for i in range(5):
            Image.new("RGB", (20, 20), color).save(tmp_path / "root" / name / f"{i}.png")
    dataset = open_dataset("folder", tmp_path / "root")
    path = write_class_sheet(dataset, tmp_path / "new" / "sheet.png", n_per_class=3)
    with Image.open(path) as opened:
        assert (opened.format, opened.mode) == ("PNG", "RGB")
        blue, red = extent(pixels(opened, BLUE)), extent(pixels(opened, RED))
        assert pixels(opened, BLUE).sum() == 3 * SMALL_SIDE_PX**2
    shown = [text for text, *_ in texts]
    assert shown == [
        "root: 10 images, 2 classes",
        "lake",
        "5 images",
        "sand_of_a_very_",
        "long_name",
        "5 images",
    ]
    tops = {text: at[1] for text, at, _ in texts}
    assert blue[0] < tops["lake"] < blue[1] < red[0] < tops["long_name"] < red[1]
    assert blue[2:] == red[2:]


def test_four_bands_are_shown_as_three(tmp_path):
    dataset = open_dataset("demo", tmp_path, limit=12)
    with Image.open(write_class_sheet(dataset, tmp_path / "sheet.png")) as sheet:
        assert sheet.mode == "RGB"
        assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 1000


def test_an_unreadable_image_does_not_spoil_the_sheet(tmp_path, texts):
    (tmp_path / "root" / "a").mkdir(parents=True)
    Image.new("RGB", (20, 20), RED).save(tmp_path / "root" / "a" / "0.png")
    (tmp_path / "root" / "a" / "1.png").write_bytes(b"")
    path = write_class_sheet(open_dataset("folder", tmp_path / "root"), tmp_path / "sheet.png")
    with Image.open(path) as sheet:
        assert pixels(sheet, RED).sum() == SMALL_SIDE_PX**2
    assert "unreadable" in [text for text, *_ in texts]


def test_a_place_that_can_not_be_written_is_named(tmp_path):
    write_images(tmp_path / "root", 2)
    dataset = open_dataset("folder", tmp_path / "root")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match=r"does not end in \.png"):
        write_class_sheet(dataset, tmp_path / "sheet.xyz")
    with pytest.raises(StoreError, match="file is a file, not a folder"):
        write_class_sheet(dataset, tmp_path / "file" / "sheet.png")
