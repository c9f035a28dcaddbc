from __future__ import annotations

import numpy as np
import pytest

from featstore.inference.maps.colors import class_colors
from featstore.inference.maps.preview import MAX_SHOWN, SceneView, draw_map
from featstore.plotting import to_png

PIXELS = (None, "column (pixels)", "row (pixels)")


def draw(classes, n_classes=3, *, size=(20, 30), axes=PIXELS, n_bands=3, names=None):
    names = names or [f"class {i}" for i in range(n_classes)]
    counts = np.bincount(classes[classes < n_classes], minlength=n_classes)
    thumbnail = np.random.default_rng(0).integers(0, 256, (*size, n_bands)).astype(np.uint8)
    covered = (classes.shape[0] * 10, classes.shape[1] * 10)
    colors = class_colors(names)
    view = SceneView(covered, size, axes, thumbnail)
    return draw_map(classes, view, names, colors, counts)


def legend_of(fig):
    return [text.get_text() for text in fig.legends[0].get_texts()]


def test_the_legend_names_classes_by_share_and_covers_nothing():
    fig = draw(np.array([[2, 2, 255], [0, 2, 2]], np.uint8), names=["sand", "mud", "water" * 9])
    assert legend_of(fig) == [f"{('water' * 9)[:27]}…, 80.0 %", "sand, 20.0 %"]
    fig.draw_without_rendering()
    legend = fig.legends[0].get_window_extent()
    assert not any(legend.overlaps(ax.get_tightbbox()) for ax in fig.axes)


def test_names_that_look_like_formulas_are_drawn_as_they_are():
    fig = draw(np.array([[0, 0, 1]], np.uint8), names=[r"a $\z$", "_b", "c"])
    to_png(fig)
    assert legend_of(fig) == [r"a \$\z\$, 66.7 %", " _b, 33.3 %"]


def test_panels_show_the_same_place():
    fig = draw(
        np.zeros((3, 3), np.uint8),
        size=(25, 30),
        axes=((500, 800, 100, 350), "easting (m)", "northing (m)"),
    )
    scene, classes = fig.axes
    assert scene.get_xlim() == classes.get_xlim() == (500, 800)
    assert scene.get_ylim() == classes.get_ylim() == (100, 350)
    # The last row of cells reaches beyond the scene.
    assert classes.images[0].get_extent() == [500, 800, 50, 350]
    assert (classes.get_xlabel(), scene.get_ylabel()) == ("easting (m)", "northing (m)")


def test_degrees_of_longitude_are_shorter_than_those_of_latitude():
    axes = ((10.0, 11.0, 59.5, 60.5), "longitude (°)", "latitude (°)")
    fig = draw(np.zeros((2, 3), np.uint8), axes=axes)
    assert fig.axes[0].get_aspect() == pytest.approx(2.0)


@pytest.mark.parametrize(("n_bands", "size"), [(1, (3, 300)), (4, (300, 3))])
def test_any_number_of_bands_and_any_shape_is_drawn(n_bands, size):
    shape = (-(-size[0] // 10), -(-size[1] // 10))
    assert to_png(draw(np.zeros(shape, np.uint8), size=size, n_bands=n_bands)).startswith(
        b"\x89PNG"
    )


def test_of_many_classes_the_most_frequent_are_named():
    classes = np.arange(100, dtype=np.uint16).reshape(10, 10)
    classes[0] = 7
    named = legend_of(draw(classes, 100, size=(100, 100)))
    assert len(named) == MAX_SHOWN + 1
    assert named[0] == "class 7, 10.0 %"
    assert named[-1] == "51 others, 51.0 %"


def test_a_black_scene_is_drawn():
    fig = draw_map(
        np.zeros((2, 3), np.uint8),
        SceneView((20, 30), (20, 30), PIXELS, np.zeros((20, 30, 3), np.uint8)),
        ["only"],
        class_colors(["only"]),
        np.array([6]),
    )
    assert legend_of(fig) == ["only, 100.0 %"]
