from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from PIL import Image

from featstore.inference.contact_sheet import GRAY, N_COLUMNS, OTHER, SAME, Strip, Tile, draw_sheet
from featstore.plotting import INK, to_png


def picture(height=28, width=28):
    return np.full((height, width, 3), 90, np.uint8)


def tile(name="train/a.png", same=None, image=None, title="lake"):
    return Tile(picture() if image is None else image, title, name, "0.250", same)


def texts(fig):
    return [text.get_text() for text in fig.texts]


def boxes(artists, fig):
    canvas = fig.canvas.get_renderer()
    return [artist.get_window_extent(canvas) for artist in artists]


def test_what_is_alike_is_told_by_color_and_by_mark():
    tiles = [tile(same=True), tile(same=False), tile(same=None)]
    fig = draw_sheet([Strip(Tile(picture(), "Query: lake", "new.jpg"), tiles)])
    colors = [ax.spines["left"].get_edgecolor() for ax in fig.axes]
    from matplotlib.colors import to_rgba

    assert colors == [to_rgba(c) for c in (INK, SAME, OTHER, INK)]
    assert texts(fig)[::2] == ["Query: lake", "✓ lake", "✗ lake", "lake"]
    assert texts(fig)[1::2] == ["new", *["0.250  train/a"] * 3]


@pytest.mark.parametrize("n", [1, N_COLUMNS, N_COLUMNS + 3])
def test_nothing_overlaps(n):
    long = "train/a folder of a long name/" + "x" * 60 + "_0123.png"
    title = "medium density residential area"
    tiles = [tile(long, same=i % 2 == 0, title=title) for i in range(n)]
    strips = [Strip(tile(long, title=title), tiles), Strip(tile(long), tiles[:1])]
    fig = draw_sheet(strips)
    to_png(fig)
    found = boxes([*fig.axes, *fig.texts], fig)
    for i, one in enumerate(found):
        for other in found[i + 1 :]:
            assert not one.overlaps(other)
    assert all(fig.bbox.padded(1).contains(*corner) for box in found for corner in box.corners())
    assert {text[-5:] for text in texts(fig)[1::2]} == {"_0123"}


def test_many_go_on_in_lines_of_the_same_length():
    fig = draw_sheet([Strip(tile(), [tile()] * (N_COLUMNS + 2))])
    tops = [round(ax.get_position().y1, 4) for ax in fig.axes[1:]]
    assert [tops.count(top) for top in sorted(set(tops))] == [6, 6]


def test_a_picture_that_is_not_there_is_gray_and_named():
    missing = Tile(None, "lake", "train/lake/lake_012.png", "0.1", same=True)
    fig = draw_sheet([Strip(tile(), [missing])])
    ax = fig.axes[1]
    assert not ax.images
    assert ax.texts[0].get_text() == "train/\nlake/\nlake_012.png"
    image = np.asarray(Image.open(io.BytesIO(to_png(fig))).convert("RGB"))
    gray = tuple(bytes.fromhex(GRAY[1:]))
    assert (image == gray).all(axis=2).sum() > 10_000


def test_pictures_of_any_shape_keep_it():
    fig = draw_sheet([Strip(tile(), [tile(image=picture(20, 80)), tile(image=picture(90, 30))])])
    to_png(fig)
    wide, high = boxes(fig.axes[1:], fig)
    assert wide.width / wide.height == pytest.approx(4, rel=0.01)
    assert high.height / high.width == pytest.approx(3, rel=0.01)


def test_names_are_no_formulas():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_png(draw_sheet([Strip(tile("a$x_1$"), [tile("$\\frac$", title="$^$")])]))
