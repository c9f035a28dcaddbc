"""Previews: a scene and the map of its classes, side by side, for people to look at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import Locator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from featstore.figures import STYLE, class_text
from featstore.images import to_bytes
from featstore.legends import Colour

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
