"""Draw a scene and the map of its classes, or numbers, side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import Locator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from featstore.datasets.decode import to_bytes
from featstore.datasets.georeference import Axes
from featstore.inference.maps.colors import Color
from featstore.plotting import INK, STYLE, class_text

LONG_SIDE = 4.6
"""Inches of the longer side of a panel."""


MAX_SHOWN = 40
"""Most frequent classes that a legend names."""


ROWS_OF_LEGEND = 20


HATCHED_SIDE = 600
"""Points of the longer side of the grid that hatches cells."""


STRETCH = (2, 98)
"""Percentiles of a scene's pixels that are shown black and white."""


@dataclass(frozen=True)
class SceneView:
    """What a map is drawn upon.

    `covered` is the height and width of what the cells cover, and `size` of the scene, in its
    pixels. `thumbnail` is the scene at any size, (height, width, bands), with red, green and blue
    first, or gray; without it, the map is drawn alone. `axes` is as of :attr:`.Georeference.axes`.
    """

    covered: tuple[int, int]
    size: tuple[int, int]
    axes: Axes
    thumbnail: NDArray[np.uint8] | None = None


def draw_map(
    classes: NDArray[Any],
    view: SceneView,
    class_names: Sequence[str],
    colors: Sequence[Color],
    counts: NDArray[np.int64],
    hatched: NDArray[np.bool_] | None = None,
) -> Figure:
    """Draw a scene, its classes, and a legend with each class's share of the area.

    `classes` are labels, (rows, columns); those of no class stay white. `counts` are the cells of
    each class. `hatched` cells, (rows, columns), are unlike the training images.
    """
    with mpl.rc_context(STYLE):
        table = ListedColormap([tuple(value / 255 for value in color) for color in colors])
        masked = np.ma.masked_greater_equal(classes, len(colors))
        fig, image = _panels(view, masked, cmap=table, vmin=-0.5, vmax=len(colors) - 0.5)
        image.axes.set_title("classes")
        patches = _patches(class_names, colors, counts)
        if hatched is not None:
            patches += _hatch(image, hatched)
        fig.legend(
            handles=patches,
            loc="outside right center",
            ncols=-(-len(patches) // ROWS_OF_LEGEND),
            title="share of the area",
            alignment="left",
        )
    return fig


def draw_numbers(
    numbers: NDArray[np.float32],
    view: SceneView,
    name: str,
    hatched: NDArray[np.bool_] | None = None,
) -> Figure:
    """Draw a scene and its numbers, (rows, columns), with a colour bar; see :func:`draw_map`.

    Cells without a number, NaN, stay white.
    """
    with mpl.rc_context(STYLE):
        fig, image = _panels(view, np.ma.masked_invalid(numbers), cmap="viridis")
        title = class_text(name, 40)
        image.axes.set_title(title)
        fig.colorbar(image, ax=image.axes, label=title)
        if hatched is not None:
            fig.legend(handles=_hatch(image, hatched), loc="outside lower center")
    return fig


def _hatch(image: Any, hatched: NDArray[np.bool_]) -> list[Patch]:
    """Hatch cells of a map that is drawn, and return the entry of the legend."""
    share = 100 * hatched.mean()
    # The contour runs between the middles of cells: of smaller ones it lies near their sides.
    times = max(1, -(-HATCHED_SIDE // max(hatched.shape)))
    fine = np.kron(hatched, np.ones((times, times)))
    if hatched.any():
        image.axes.contourf(
            fine,
            levels=[0.5, 1.5],
            colors="none",
            hatches=["xxxx"],
            extent=image.get_extent(),
            origin="upper",
        )
    text = f"unlike the training images, {share:.1f} %"
    return [Patch(facecolor="none", edgecolor=INK, hatch="xxxx", label=text)]


def _panels(view: SceneView, cells: Any, **colors: Any) -> tuple[Figure, Any]:
    """Return a figure with the scene and the cells beside it, and the image of the cells."""
    (bounds, x_label, y_label), (height, width) = view.axes, view.size
    left, right, bottom, top = bounds or (0.0, float(width), float(height), 0.0)
    # The cells cover whole multiples of a stride.
    beyond = (
        left,
        left + (right - left) * view.covered[1] / width,
        top + (bottom - top) * view.covered[0] / height,
        top,
    )
    with mpl.rc_context(STYLE):
        aspect = _aspect(view.axes)
        tall = abs((top - bottom) * aspect / (right - left))
        panel = np.array([1.0, tall]) * LONG_SIDE / max(1.0, tall)
        n_panels = 1 if view.thumbnail is None else 2
        fig = Figure(
            figsize=(n_panels * max(panel[0], 1.6) + 3.2, max(panel[1], 1.6) + 0.9),
            layout="constrained",
        )
        axs = fig.subplots(1, n_panels, sharex=True, sharey=True, squeeze=False)[0]
        before, after = axs[0], axs[-1]
        if view.thumbnail is not None:
            scene = _stretched(view.thumbnail)
            before.imshow(scene, extent=(left, right, bottom, top), cmap="gray")
            before.set_title("scene")
        for ax in axs:
            ax.set_aspect(aspect)
            ax.set_xlim(left, right)
            ax.set_ylim(bottom, top)
            ax.xaxis.set_major_locator(_ticks(panel[0], 1.2))
            ax.yaxis.set_major_locator(_ticks(panel[1], 0.7))
            ax.ticklabel_format(useOffset=False, style="plain")
            ax.set_xlabel(x_label)
        before.set_ylabel(y_label)
        image = after.imshow(cells, extent=beyond, interpolation="nearest", aspect=aspect, **colors)
    return fig, image


def _ticks(length: float, apart: float) -> Locator:
    """Return the ticks of an axis of `length` inches, `apart` inches or more from each other."""
    return MaxNLocator(nbins=int(length / apart)) if length > apart else NullLocator()


def _aspect(axes: Axes) -> float:
    """Return how much longer a unit of y is drawn than one of x."""
    bounds, x_label, _ = axes
    if bounds is None or not x_label.startswith("longitude"):
        return 1.0
    # Degrees of longitude shorten towards the poles.
    latitude = min(abs(bounds[2] + bounds[3]) / 2, 85.0)
    return 1 / math.cos(math.radians(latitude))


def _stretched(thumbnail: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return red, green and blue, or one band, with its contrast stretched."""
    pixels = thumbnail[:, :, :3] if thumbnail.shape[2] >= 3 else thumbnail[:, :, 0]
    # Black mostly means no data.
    found = pixels[pixels > 0] if pixels.any() else pixels
    low, high = np.percentile(found, STRETCH).tolist()
    return to_bytes(pixels, (low, max(high, low + 1)))


def _patches(
    class_names: Sequence[str], colors: Sequence[Color], counts: NDArray[np.int64]
) -> list[Patch]:
    """Return the legend's entries: the classes on the map, the most frequent first."""
    order = [i for i in np.argsort(-counts, kind="stable").tolist() if counts[i]]
    patches = []
    for i in order[:MAX_SHOWN]:
        name = class_text(class_names[i], 28)
        share = 100 * counts[i] / counts.sum()
        text = f"{share:.1f} %" if share >= 0.05 else "< 0.1 %"
        color = tuple(value / 255 for value in colors[i])
        patches.append(Patch(facecolor=color, label=f"{name}, {text}"))
    if left := len(order) - len(patches):
        share = 100 * counts[order[MAX_SHOWN:]].sum() / counts.sum()
        patches.append(Patch(facecolor="none", label=f"{left} others, {share:.1f} %"))
    return patches
