from __future__ import annotations

import json

import numpy as np
import pytest

from featstore.errors import ConfigError
from featstore.inference.maps.colors import (
    GROUPS,
    class_colors,
    color_hex,
    group_of,
    hex_color,
    read_colors,
    seen_colors,
)
from featstore.plotting import PALETTE

SAT6 = ["building", "barren land", "trees", "grassland", "road", "water"]
# fmt: off
EUROSAT = [
    "AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture",
    "PermanentCrop", "Residential", "River", "SeaLake",
]
UCMERCED = [
    "agricultural", "airplane", "baseballdiamond", "beach", "buildings", "chaparral",
    "denseresidential", "forest", "freeway", "golfcourse", "harbor", "intersection",
    "mediumresidential", "mobilehomepark", "overpass", "parkinglot", "river", "runway",
    "sparseresidential", "storagetanks", "tenniscourt",
]
NWPU12 = [
    "beach", "commercial_area", "desert", "farmland", "forest", "industrial_area", "island",
    "lake", "mountain", "residential", "river", "wetland",
]
# fmt: on
DEUTERANOPE = 2


def hues(names):
    """Return hue in degrees, lightness and chroma of each class's colour."""
    lab = seen_colors(np.array(class_colors(names)))[0]
    hue = np.degrees(np.arctan2(lab[:, 2], lab[:, 1])) % 360
    return dict(zip(names, zip(hue, lab[:, 0], np.hypot(*lab[:, 1:].T), strict=True), strict=True))


def least_gap(colors, vision):
    """Return the distance of the two colours that a kind of eyes tells apart worst."""
    seen = seen_colors(np.array(colors))[vision]
    gaps = np.linalg.norm(seen[:, None] - seen, axis=2) + 9 * np.eye(len(colors))
    return gaps.min()


@pytest.mark.parametrize("names", [SAT6, EUROSAT, UCMERCED, NWPU12], ids=len)
def test_colors_follow_land_cover_convention(names):
    seen = set()
    for name, (hue, lightness, chroma) in hues(names).items():
        group = group_of(name)
        # Its further classes have kindred colours, or any that are apart.
        if group in seen:
            continue
        seen |= {group} - {None}
        if group == "water":
            assert 215 < hue < 275, name
        elif group == "trees":
            assert 130 < hue < 160 and lightness < 0.65, name  # noqa: PT018
        elif group == "grass":
            assert 110 < hue < 150 and lightness > 0.7, name  # noqa: PT018
        elif group == "built":
            assert 10 < hue < 45, name
        elif group == "road":
            assert chroma < 0.06, name
        elif group == "crops":
            assert 90 < hue < 115, name
        elif group == "bare":
            assert 50 < hue < 90, name
        elif group is None:
            # Nothing that looks like a land cover.
            assert hue > 280 or hue < 12, name


@pytest.mark.parametrize(
    ("names", "gap"), [(SAT6, 0.1), (EUROSAT, 0.08), (NWPU12, 0.08), (UCMERCED, 0.065)]
)
@pytest.mark.parametrize("vision", range(4), ids=["normal", "protan", "deutan", "tritan"])
def test_all_kinds_of_eyes_tell_classes_apart(names, gap, vision):
    # A just noticeable difference is 0.02.
    assert least_gap(class_colors(names), vision) > gap


def test_classes_of_one_land_cover_are_apart_for_deuteranopes():
    names = ["river", "lake", "forest", "tree plantation", "dense_residential", "residential"]
    assert least_gap(class_colors(names), DEUTERANOPE) > 0.08


def test_the_usual_colors_are_apart():
    usual = [hex_color(color) for color, *_ in GROUPS.values()]
    assert min(least_gap(usual, vision) for vision in range(4)) > 0.08


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("SeaLake", "water"),
        ("sea_ice", "snow"),
        ("street", "road"),
        ("treecover", "trees"),
        ("greenhouse", "crops"),
        ("parkinglot", "road"),
        ("city park", "grass"),
        ("service", None),
        ("airplane", None),
        ("mobilehomepark", "built"),
        ("none", "none"),
        ("Mangroves", "wetland"),
        ("水域", None),
    ],
)
def test_the_longest_word_tells_the_land_cover(name, group):
    assert group_of(name) == group


@pytest.mark.parametrize("n_classes", [1, 7, 8, 45, 254, 2000])
def test_classes_of_unknown_names_have_colors_of_their_own(n_classes):
    colors = class_colors([f"class {i}" for i in range(n_classes)])
    assert len(set(colors)) == len(colors) == n_classes
    assert all(0 <= value <= 255 for color in colors for value in color)
    shown = [color_hex(color) for color in colors[:7]]
    assert shown == list(PALETTE[: len(shown)])


def test_twenty_unknown_classes_are_apart_from_each_other_ink_and_paper():
    colors = class_colors([f"class {i}" for i in range(20)])
    assert least_gap(colors, 0) > 0.08
    lightness = seen_colors(np.array(colors))[0, :, 0]
    assert lightness.min() > 0.3
    assert lightness.max() < 0.95


def test_given_colors_stay_and_others_keep_away():
    given = {"forest": (255, 0, 0), "airplane": (255, 0, 0)}
    colors = dict(zip(UCMERCED, class_colors(UCMERCED, given), strict=True))
    assert colors["forest"] == colors["airplane"] == (255, 0, 0)
    assert color_hex(colors["river"]) == GROUPS["water"][0]
    others = {color for name, color in colors.items() if name not in given}
    assert len(others) == len(UCMERCED) - 2
    assert (255, 0, 0) not in others


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.csv", "class,color\nforest,#00FF00\nriver, #0000ff\n"),
        ("c.csv", "\ufeffforest,#00ff00\r\nriver,#0000ff"),
        ("c.json", json.dumps({"forest": "#00ff00", "river": "#0000FF"})),
    ],
)
def test_files_of_colors_are_read(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = read_colors(tmp_path / name, ["forest", "river", "sand"])
    assert found == {"forest": (0, 255, 0), "river": (0, 0, 255)}
    assert read_colors({"sand": "#010203"}, ["sand"]) == {"sand": (1, 2, 3)}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "c.csv",
            "lava,#ff0000",
            "a colour for 'lava', which is none of the classes forest, r",
        ),
        ("c.csv", "forest,green", "gives 'forest' the colour 'green'; write it as #rrggbb"),
        ("c.csv", "forest,#0f0", "write it as #rrggbb"),
        ("c.csv", "forest,#00ff00\nforest,#00ff01", "two colours for 'forest'; give one"),
        ("c.csv", "forest", "has the line 'forest'; it must have lines such as"),
        ("c.csv", "", "is empty; it must have lines such as forest,#1b6e2e"),
        ("c.json", "{", "is not valid JSON"),
        ("c.json", '["forest"]', "must be an object"),
        ("c.json", '{"forest": 1}', "the colour 1; write"),
        ("c.json", '{"forest": "#00ff00", "forest": "#00ff00"}', "two colours for 'forest'"),
        ("none.csv", None, r"none\.csv can't be read as a file of colours: No such file"),
        ("c.csv", b"\xff\xfe", "it is not UTF-8 text"),
    ],
)
def test_bad_files_of_colors_are_refused_in_a_sentence(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError, match=message) as caught:
        read_colors(tmp_path / name, ["forest", "river"])
    assert str(tmp_path / name) in str(caught.value)
