"""Previews: a scene and the map of its classes, side by side, for people to look at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import Locator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from featstore.datasets.decode import to_bytes
from featstore.plotting import PALETTE, STYLE, class_text

LONG_SIDE = 4.6
"""Inches of the longer side of a panel."""


MAX_SHOWN = 40
"""Classes that a legend names, the most frequent ones."""


ROWS_OF_LEGEND = 20


STRETCH = (2, 98)
"""Percentiles of a scene's pixels that are shown black and white."""


Axes = tuple[tuple[float, float, float, float] | None, str, str]
"""Left, right, bottom and top of a scene, or None for pixels; what x and y are."""


def draw_map(
    classes: NDArray[Any],
    covered: tuple[int, int],
    class_names: Sequence[str],
    colours: Sequence[Colour],
    counts: NDArray[np.int64],
    thumbnail: NDArray[np.uint8],
    size: tuple[int, int],
    axes: Axes,
) -> Figure:
    """Draw a scene and its classes.

    Parameters
    ----------
    classes : ndarray of shape (rows, columns)
        Labels; others than those of the classes stay white.
    covered : tuple of int
        Height and width of what the cells cover, in pixels of the scene.
    class_names : sequence of str
        Names of the classes, by label.
    colours : sequence of (int, int, int)
        Red, green and blue of each class, 0 to 255.
    counts : ndarray of shape (n_classes,), int64
        Cells of each class.
    thumbnail : ndarray of shape (height, width, bands), uint8
        The scene, of any size; three bands or more are taken for red, green and blue first.
    size : tuple of int
        Height and width of the scene in pixels.
    axes : tuple
        Left, right, bottom and top of the scene in map coordinates, or None to count pixels; and
        what x and y are.

    Returns
    -------
    matplotlib.figure.Figure
        The scene on the left, the classes on the right, the legend beyond them with each class's
        share of the area.
    """
    bounds, x_label, y_label = axes
    height, width = size
    left, right, bottom, top = bounds or (0.0, float(width), float(height), 0.0)
    # The cells cover whole multiples of a stride.
    beyond = (
        left,
        left + (right - left) * covered[1] / width,
        top + (bottom - top) * covered[0] / height,
        top,
    )
    with mpl.rc_context(STYLE):
        aspect = _aspect(axes)
        tall = abs((top - bottom) * aspect / (right - left))
        panel = np.array([1.0, tall]) * LONG_SIDE / max(1.0, tall)
        fig = Figure(
            figsize=(2 * max(panel[0], 1.6) + 3.2, max(panel[1], 1.6) + 0.9), layout="constrained"
        )
        before, after = fig.subplots(1, 2, sharex=True, sharey=True)
        before.imshow(_stretched(thumbnail), extent=(left, right, bottom, top), cmap="gray")
        before.set_title("scene")
        table = ListedColormap([tuple(value / 255 for value in colour) for colour in colours])
        after.imshow(
            np.ma.masked_greater_equal(classes, len(colours)),
            extent=beyond,
            cmap=table,
            vmin=-0.5,
            vmax=len(colours) - 0.5,
            interpolation="nearest",
        )
        after.set_title("classes")
        for ax in (before, after):
            ax.set_aspect(aspect)
            ax.set_xlim(left, right)
            ax.set_ylim(bottom, top)
            ax.xaxis.set_major_locator(_ticks(panel[0], 1.2))
            ax.yaxis.set_major_locator(_ticks(panel[1], 0.7))
            ax.ticklabel_format(useOffset=False, style="plain")
            ax.set_xlabel(x_label)
        before.set_ylabel(y_label)
        patches = _patches(class_names, colours, counts)
        fig.legend(
            handles=patches,
            loc="outside right center",
            ncols=-(-len(patches) // ROWS_OF_LEGEND),
            title="share of the area",
            alignment="left",
        )
    return fig


def _ticks(length: float, apart: float) -> Locator:
    """Return where labels stand on an axis of so many inches, so many apart or more."""
    return MaxNLocator(nbins=int(length / apart)) if length > apart else NullLocator()


def _aspect(axes: Axes) -> float:
    """Return how much longer a unit of y is drawn than one of x."""
    bounds, x_label, _ = axes
    if bounds is None or not x_label.startswith("longitude"):
        return 1.0
    # A degree of longitude is the shorter, the farther from the equator.
    latitude = min(abs(bounds[2] + bounds[3]) / 2, 85.0)
    return 1 / math.cos(math.radians(latitude))


def _stretched(thumbnail: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return red, green and blue, or one band, in the contrast that shows most."""
    pixels = thumbnail[:, :, :3] if thumbnail.shape[2] >= 3 else thumbnail[:, :, 0]
    # Black is mostly the absence of data.
    found = pixels[pixels > 0] if pixels.any() else pixels
    low, high = np.percentile(found, STRETCH).tolist()
    return to_bytes(pixels, (low, max(high, low + 1)))


def _patches(
    class_names: Sequence[str], colours: Sequence[Colour], counts: NDArray[np.int64]
) -> list[Patch]:
    """Return what the legend names: the classes that there are, the most frequent first."""
    order = [i for i in np.argsort(-counts, kind="stable").tolist() if counts[i]]
    patches = []
    for i in order[:MAX_SHOWN]:
        name = class_text(class_names[i], 28)
        share = 100 * counts[i] / counts.sum()
        text = f"{share:.1f} %" if share >= 0.05 else "< 0.1 %"
        colour = tuple(value / 255 for value in colours[i])
        patches.append(Patch(facecolor=colour, label=f"{name}, {text}"))
    if left := len(order) - len(patches):
        share = 100 * counts[order[MAX_SHOWN:]].sum() / counts.sum()
        patches.append(Patch(facecolor="none", label=f"{left} others, {share:.1f} %"))
    return patches


Colour = tuple[int, int, int]


LIGHTNESS = (0.35, 0.9)
"""Of further colours, 0 (black) to 1 (white): neither ink nor paper."""


N_CHOSEN = 256
"""Colours that are chosen for their distance; further ones merely differ."""


# Red, green and blue light as those see it who lack the cones for long, medium or short waves:
# Machado, Oliveira and Fernandes 2009 (doi:10.1109/TVCG.2009.113), severity 1.
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


# Light to cones' signals to Oklab, in which distances are as they are seen: Ottosson 2020.
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


def class_colours(n_classes: int) -> list[Colour]:
    """Return as many colours as there are classes, red, green and blue from 0 to 255; all differ.

    The first are the figures' palette. Each further one is that which is farthest from all before,
    as seen by those of four kinds of colour vision who tell it worst from the nearest.
    """
    first = np.array([np.rint(255 * np.array(to_rgb(name))) for name in PALETTE], np.int64)
    if n_classes <= len(first):
        return _as_tuples(first[:n_classes])
    levels = max(16, int(np.ceil((4 * n_classes) ** (1 / 3))))
    axis = np.rint(np.linspace(0, 255, levels)).astype(np.int64)
    others = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3)
    lightness = _seen(others)[0, :, 0]
    others = others[(lightness > LIGHTNESS[0]) & (lightness < LIGHTNESS[1])]
    others = others[~(others[:, None] == first).all(axis=2).any(axis=1)]
    seen, chosen = _seen(np.concatenate([first, others])), list(range(len(first)))
    distance = np.min([_distance(seen, at) for at in chosen], axis=0)
    while len(chosen) < min(n_classes, N_CHOSEN):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, _distance(seen, chosen[-1]))
    # Those after them are the farthest from the chosen ones.
    rest = np.setdiff1d(np.argsort(-distance, kind="stable"), chosen, assume_unique=True)
    every = np.concatenate([chosen, rest]).astype(np.int64)[:n_classes]
    return _as_tuples(np.concatenate([first, others])[every])


def _seen(colours: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return colours in Oklab, (visions, n, 3): lightness, green to red, blue to yellow."""
    level = colours / 255
    light = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    cones = np.clip(light @ VISIONS.transpose(0, 2, 1), 0, 1) @ CONES.T
    return np.asarray(np.cbrt(cones) @ OKLAB.T)


def _distance(seen: NDArray[np.float64], at: int) -> NDArray[np.float64]:
    """Return how far each colour is from one, for whom they are the nearest, (n,)."""
    distance: NDArray[np.float64] = np.linalg.norm(seen - seen[:, [at]], axis=2).min(axis=0)
    return distance


def _as_tuples(colours: NDArray[np.int64]) -> list[Colour]:
    return [(red, green, blue) for red, green, blue in colours.tolist()]


def write_names(path: Path, class_names: Sequence[str], colours: Sequence[Colour]) -> None:
    """Write the sidecar from which GDAL reads what a map's labels are called.

    GeoTIFF has no place for that. It holds both the names by label and a table of attributes.
    """
    root = ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(root, "PAMRasterBand", band="1")
    names = ElementTree.SubElement(band, "CategoryNames")
    for name in class_names:
        ElementTree.SubElement(names, "Category").text = name
    table = ElementTree.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    # Types and usages by GDAL's numbers: integers and text; value, name, red, green, blue.
    columns = [("Value", 0, 5), ("Class", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8)]
    for i, (title, kind, usage) in enumerate(columns):
        column = ElementTree.SubElement(table, "FieldDefn", index=str(i))
        ElementTree.SubElement(column, "Name").text = title
        ElementTree.SubElement(column, "Type").text = str(kind)
        ElementTree.SubElement(column, "Usage").text = str(usage)
    for label, (name, colour) in enumerate(zip(class_names, colours, strict=True)):
        row = ElementTree.SubElement(table, "Row", index=str(label))
        for value in (label, name, *colour):
            ElementTree.SubElement(row, "F").text = str(value)
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(path, encoding="utf-8")
