"""Contact sheets: pictures with a few words below each, told apart without colour vision."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from featstore.plotting import INK, PALETTE, STYLE, shortened

N_COLUMNS = 10
"""Pictures beside each other; more go on in the line below."""


SIDE_IN = 1.25
"""Inches that a picture is wide and high, at the most."""


SIDE_PX = 200
"""The same at the resolution of :func:`featstore.plotting.to_png`."""


GAP_IN = 0.14


QUERY_GAP_IN = 0.5


CAPTION_IN = 0.46


LINE_GAP_IN = 0.16


TITLE_SIZE, NOTE_SIZE = 8.5, 7.5
"""Points."""


TITLE_LENGTH, NOTE_LENGTH, FOLDED_LENGTH = 17, 21, 17
"""Letters that fit on a line below a picture, and on a gray tile."""


MORE_LENGTH = 5
"""Letters more below a query, which has room at its right."""


GRAY = "#e3e5e7"
"""Where a picture is not to be had."""


SAME, OTHER = PALETTE[2], PALETTE[1]


@dataclass(frozen=True)
class Tile:
    """One picture and what is said of it.

    Parameters
    ----------
    image : ndarray of shape (H, W, 3), uint8, or None
        None where it is not to be had: a gray tile with `name` on it stands for it.
    title : str
        First line below it, such as its class.
    name : str
        The image's; long ones are cut where they begin.
    note : str
        What stands before the name in the second line, or nothing.
    same : bool or None
        Whether it is of the class that is expected: framed and marked so; None if that is not
        known.
    """

    image: np.ndarray | None
    title: str
    name: str
    note: str = ""
    same: bool | None = None


@dataclass(frozen=True)
class Strip:
    """A picture, and those that belong to it."""

    query: Tile
    tiles: Sequence[Tile]


def draw_sheet(strips: Sequence[Strip]) -> Figure:
    """Draw each query at the left, and what belongs to it at its right.

    Parameters
    ----------
    strips : sequence of Strip
        One or more, from top to bottom.

    Returns
    -------
    matplotlib.figure.Figure
        Frames are green with a check mark in the caption, or orange with a cross.
    """
    most = max(len(strip.tiles) for strip in strips)
    # Lines of about the same length.
    n_columns = math.ceil(most / max(1, math.ceil(most / N_COLUMNS)))
    lines = [max(1, math.ceil(len(strip.tiles) / max(1, n_columns))) for strip in strips]
    line_in = SIDE_IN + CAPTION_IN
    width = SIDE_IN + QUERY_GAP_IN + n_columns * (SIDE_IN + GAP_IN)
    height = sum(lines) * line_in + (len(strips) - 1) * LINE_GAP_IN
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(width, height))
        top = height
        for strip, n_lines in zip(strips, lines, strict=True):
            _draw_tile(fig, 0.0, top, strip.query, INK, MORE_LENGTH)
            for i, tile in enumerate(strip.tiles):
                line, column = divmod(i, n_columns)
                left = SIDE_IN + QUERY_GAP_IN + column * (SIDE_IN + GAP_IN)
                color = {True: SAME, False: OTHER, None: INK}[tile.same]
                _draw_tile(fig, left, top - line * line_in, tile, color)
            top -= n_lines * line_in + LINE_GAP_IN
    return fig


def _draw_tile(
    fig: Figure, left: float, top: float, tile: Tile, color: str, more_length: int = 0
) -> None:
    """Draw one picture, its frame and its caption; places are inches."""
    # Fonts have no signs for bytes of a name that are not UTF-8.
    name = tile.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    width, height = fig.get_size_inches()
    bottom = top - SIDE_IN
    ax = fig.add_axes((left / width, bottom / height, SIDE_IN / width, SIDE_IN / height))
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set(visible=True, color=color, linewidth=2.2)
    if tile.image is None:
        ax.set_facecolor(GRAY)
        parts = _cut(name, 64).replace("/", "/\n").split("\n")
        folded = "\n".join(line for part in parts for line in textwrap.wrap(part, FOLDED_LENGTH))
        ax.text(0.5, 0.5, folded, ha="center", va="center", fontsize=NOTE_SIZE, parse_math=False)
    else:
        ax.imshow(tile.image)
        ax.set_anchor("SW")
    mark = {True: "✓ ", False: "✗ ", None: ""}[tile.same]
    room = NOTE_LENGTH + more_length - (len(tile.note) + 2 if tile.note else 0)
    note = "  ".join(filter(None, [tile.note, _short(name, room)]))
    for text, below, size in (
        (mark + shortened(tile.title, TITLE_LENGTH + more_length - len(mark)), 0.07, TITLE_SIZE),
        (note, 0.23, NOTE_SIZE),
    ):
        place = left / width, (bottom - below) / height
        fig.text(*place, text, fontsize=size, va="top", parse_math=False)


def _short(name: str, length: int) -> str:
    """Return a file's or sample's name without its ending and what folders do not fit."""
    folders, slash, last = name.replace("\\", "/").rpartition("/")
    stem, dot, _ = last.rpartition(".")
    last = stem if dot and stem else last
    whole = f"{folders}{slash}{last}"
    return whole if len(whole) <= length else _cut(last, length)


def _cut(text: str, length: int) -> str:
    """Cut the beginning, for names differ in their ends."""
    return text if len(text) <= length else f"…{text[len(text) - length + 1 :]}"
