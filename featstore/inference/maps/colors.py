"""Choose a colour for each class of a map, by land-cover convention and apart for all eyes."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from numpy.typing import NDArray

from featstore.errors import ConfigError
from featstore.plotting import PALETTE
from featstore.text import join_some

Color = tuple[int, int, int]
"""Red, green and blue, 0 to 255."""


GROUPS: dict[str, tuple[str, tuple[float, float, float, float], str]] = {
    # Name: its colour; the span of hue (degrees in Oklab) and of lightness of its further classes;
    # words in the names of its classes.
    "snow": ("#e2f0fa", (180, 290, 0.76, 0.98), "snow ice glacier snowberg iceberg cloud"),
    "wetland": ("#00a09d", (165, 218, 0.4, 0.92), "wetland marsh swamp bog mangrove peat"),
    "water": (
        "#1c69c6",
        (218, 264, 0.3, 0.85),
        "water river lake sea ocean pond reservoir stream creek canal lagoon bay",
    ),
    "road": (
        "#5a5f62",
        (0, 360, 0.25, 0.75),
        "road highway freeway motorway street intersection crossroads overpass bridge viaduct "
        "roundabout runway parking railway airport pavement asphalt impervious",
    ),
    "crops": (
        "#e9d524",
        (92, 112, 0.7, 0.95),
        "crop farm agricultur cultivated orchard vineyard plantation paddy arable greenhouse "
        "terrace",
    ),
    "grass": (
        "#b1e4a4",
        (115, 145, 0.74, 0.95),
        "grass meadow pasture lawn golf park savanna herbaceous baseball track",
    ),
    "shrub": ("#835d04", (72, 105, 0.4, 0.68), "shrub scrub chaparral heath bush"),
    "trees": (
        "#16491c",
        (130, 160, 0.28, 0.65),
        "forest tree wood jungle rainforest broadleaf conifer",
    ),
    "built": (
        "#de6458",
        (12, 40, 0.35, 0.78),
        "urban built building residential city town village house commercial industrial factory "
        "settlement mobilehome church palace school stadium storage power downtown center",
    ),
    "bare": (
        "#daa66d",
        (50, 85, 0.6, 0.9),
        "bare barren desert sand beach soil rock dune mountain quarry mine cliff gravel",
    ),
    "none": ("#b0afdb", (280, 310, 0.65, 0.9), "none other unknown unclassified background"),
}
"""Land covers in their usual colours. Any two are 0.1 or more apart in Oklab, as people with normal
vision see them, and as those without one kind of cones do."""


GRAYS = ("road", "snow")
"""Land covers whose colours are gray or nearly so."""


OTHER_HUES = (285.0, 370.0)
"""Hues of classes of no land cover: purple to pink, which no land cover has."""


MIN_CHROMA, MAX_GRAY_CHROMA = 0.05, 0.05


MIN_GAP = 0.08
"""Distance in Oklab from which on a colour is apart from others."""


LIGHTNESS = (0.35, 0.9)
"""Lightness of the colours of other classes, 0 (black) to 1 (white): neither ink nor paper."""


N_CHOSEN = 256
"""Colours that are chosen for their distance; further ones merely differ."""


# Red, green and blue light as people with normal vision see it, and those without the cones for
# long, medium or short waves: Machado, Oliveira and Fernandes 2009 (doi:10.1109/TVCG.2009.113),
# severity 1.
VISIONS = np.array(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ],
    ]
)


# Light to cone signals to Oklab, whose distances are as people see them: Ottosson 2020.
CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)


OKLAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


PUBLISHED = (*PALETTE, *(to_hex(color) for color in colormaps["tab20"](range(20))))
"""The figures' palette, and matplotlib's 20 colours for categories."""


def class_colors(
    class_names: Sequence[str], given: Mapping[str, Color] | None = None
) -> list[Color]:
    """Return a colour for each class, by its name; all differ, apart from given ones.

    The first class of a land cover has its usual colour, its further classes kindred ones that are
    apart from all others, then those published for categories, and then any that look like no other
    land cover. Other classes have the figures' palette and then any colours, but none that looks
    like a land cover while there are others. Each colour is the farthest from those before it, for
    those of four kinds of colour vision who tell it worst from the nearest.
    """
    chosen = dict(given or {})
    groups = {name: group_of(name) for name in class_names}
    usual = {group: hex_color(GROUPS[group][0]) for group in groups.values() if group}
    for name, group in groups.items():
        if group in usual and name not in chosen and usual[group] not in chosen.values():
            chosen[name] = usual.pop(group)
    grid = _color_grid(len(class_names))
    seen = seen_colors(grid)
    gaps = _least_gaps(seen, seen_colors(np.array(list(chosen.values()) or [(255, 255, 255)])))
    free = ~(grid[:, None] == np.array([*chosen.values(), (0, 0, 0)])).all(axis=2).any(axis=1)
    members = {group: _members(seen[0], group) for group in GROUPS}
    lightness = (seen[0, :, 0] > LIGHTNESS[0]) & (seen[0, :, 0] < LIGHTNESS[1])
    unlike = lightness & _in_hues(seen[0], *OTHER_HUES)
    is_palette = np.arange(len(grid)) < len(PALETTE)
    is_published = np.arange(len(grid)) < len(PUBLISHED)
    for name in sorted(class_names, key=lambda name: groups[name] is None):
        if name in chosen:
            continue
        apart = gaps > MIN_GAP
        if group := groups[name]:
            # Of two tans or reds that are near, one is taken for the other.
            others = {other for other in groups.values() if other and other != group}
            taken = [members[other] for other in others]
            free_of = apart & ~np.any([*taken, np.zeros(len(grid), bool)], axis=0)
            wanted = [members[group] & apart, is_published & free_of, lightness & free_of]
            wanted += [lightness & apart, lightness]
        else:
            if any(groups.values()):
                wanted = [unlike & apart & is_palette, unlike & apart, lightness & apart, lightness]
            else:
                wanted = [is_palette, lightness]
        allowed = next((free & mask for mask in wanted if (free & mask).any()), free)
        # The palette in its order, all else by distance.
        by_order = allowed[: len(PALETTE)].any() and not allowed[len(PALETTE) :].any()
        at = int((allowed if by_order else np.where(allowed, gaps, -1)).argmax())
        free[at] = False
        chosen[name] = _as_color(grid[at])
        if len(chosen) <= N_CHOSEN:
            gaps = np.minimum(gaps, _least_gaps(seen, seen[:, [at]]))
    return [chosen[name] for name in class_names]


def _color_grid(n_classes: int) -> NDArray[np.int64]:
    """Return the published colours, and further ones to choose from, (n, 3)."""
    levels = max(18, int(np.ceil((4 * n_classes) ** (1 / 3))))
    axis = np.rint(np.linspace(0, 255, levels)).astype(np.int64)
    grid = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3)
    first = np.array([hex_color(color) for color in PUBLISHED])
    return np.concatenate([first, grid[~(grid[:, None] == first).all(axis=2).any(axis=1)]])


def group_of(class_name: str) -> str | None:
    """Return the land cover that a class's name speaks of: the longest of its words, or None."""
    # AnnualCrop and dense_residential are two words each.
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|[^A-Za-z]+", " ", class_name).lower()
    words, whole = spaced.split(), spaced.replace(" ", "")
    best, found = 0, None
    for group, (*_, keys) in GROUPS.items():
        for key in keys.split():
            # Short keys hide in other words: ice in service, tree in street.
            hit = key in whole if len(key) > 4 else any(_is_word(word, key) for word in words)
            if hit and len(key) > best:
                best, found = len(key), group
    return found


def _is_word(word: str, key: str) -> bool:
    return word in (key, f"{key}s") or (len(key) == 4 and word.startswith(key))


def read_colors(
    colors: str | Path | Mapping[str, str], class_names: Sequence[str]
) -> dict[str, Color]:
    """Return the colours of classes from a mapping, or from a CSV or JSON file.

    A CSV file has lines such as ``forest,#1b6e2e``; a JSON file is an object of such pairs.
    """
    if isinstance(colors, Mapping):
        source, pairs = "The colours", list(colors.items())
    else:
        source, pairs = str(colors), _read_pairs(Path(colors))
    found: dict[str, Color] = {}
    for name, text in pairs:
        if name not in class_names:
            raise ConfigError(
                f"{source} has a colour for {name!r}, which is none of the classes "
                f"{join_some(class_names, 12)}."
            )
        if name in found:
            raise ConfigError(f"{source} has two colours for {name!r}; give one.")
        if not re.fullmatch(r"#[0-9a-fA-F]{6}", text if isinstance(text, str) else ""):
            raise ConfigError(
                f"{source} gives {name!r} the colour {text!r}; write it as #rrggbb, e.g. #1f6fc4."
            )
        found[name] = hex_color(text)
    return found


def _read_pairs(path: Path) -> list[tuple[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        cause = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(f"{path} can't be read as a file of colours: {cause}.") from error
    example = "lines such as forest,#1b6e2e"
    if path.suffix.lower() == ".json":
        try:
            value = json.loads(text, object_pairs_hook=list)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ConfigError(f"{path} is not valid JSON: {error}.") from error
        if not isinstance(value, list) or not all(isinstance(pair, tuple) for pair in value):
            raise ConfigError(f'{path} must be an object such as {{"forest": "#1b6e2e"}}.')
        return value
    rows = [row for row in csv.reader(text.splitlines(), skipinitialspace=True) if row]
    if rows and not rows[0][-1].startswith("#") and rows[0][0].lower() == "class":
        rows = rows[1:]
    for row in rows:
        if len(row) != 2:
            raise ConfigError(f"{path} has the line {','.join(row)!r}; it must have {example}.")
    if not rows:
        raise ConfigError(f"{path} is empty; it must have {example}.")
    return [(row[0].strip(), row[1].strip()) for row in rows]


def hex_color(text: str) -> Color:
    """Return red, green and blue of ``#rrggbb``."""
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue


def color_hex(color: Color) -> str:
    """Return a colour as ``#rrggbb``."""
    return "#" + bytes(color).hex()


def seen_colors(colors: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return colours in Oklab for each kind of vision, (4, n, 3): lightness, and two of hue."""
    level = colors / 255
    light = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    cones = np.clip(light @ VISIONS.transpose(0, 2, 1), 0, 1) @ CONES.T
    return np.asarray(np.cbrt(cones) @ OKLAB.T)


def _least_gaps(seen: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each colour's distance to the nearest of others, for the vision that sees it least."""
    gaps = np.full(seen.shape[1], np.inf)
    for at in range(others.shape[1]):
        gap = np.linalg.norm(seen - others[:, [at]], axis=2).min(axis=0)
        gaps = np.minimum(gaps, gap)
    return gaps


def _members(seen: NDArray[np.float64], group: str) -> NDArray[np.bool]:
    """Return which colours, in Oklab, a land cover's further classes may have."""
    lightness, chroma = seen[:, 0], np.hypot(seen[:, 1], seen[:, 2])
    low_hue, high_hue, low, high = GROUPS[group][1]
    if group in GRAYS:
        is_kindred = _in_hues(seen, low_hue, high_hue, 0) & (chroma < MAX_GRAY_CHROMA)
    else:
        is_kindred = _in_hues(seen, low_hue, high_hue)
    return is_kindred & (lightness >= low) & (lightness <= high)


def _in_hues(
    seen: NDArray[np.float64], low: float, high: float, min_chroma: float = MIN_CHROMA
) -> NDArray[np.bool]:
    """Return which colours, in Oklab, have a hue (degrees) and more than a minimum of chroma."""
    hue = np.degrees(np.arctan2(seen[:, 2], seen[:, 1])) % 360
    inside = ((hue >= low) & (hue <= high)) | (hue + 360 <= high)
    found: NDArray[np.bool] = inside & (np.hypot(seen[:, 1], seen[:, 2]) >= min_chroma)
    return found


def _as_color(values: NDArray[np.int64]) -> Color:
    red, green, blue = values.tolist()
    return red, green, blue
