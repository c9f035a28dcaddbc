"""Draw pictures with captions on one sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from featstore.datasets.base import Dataset
from featstore.errors import ImageError
from featstore.plotting import INK, PALETTE, check_png, font_path, write_png

SIDE_PX = 168
"""Longer side of a picture with a caption: six times that of SAT's images."""


SMALL_SIDE_PX = 112
"""Longer side of a picture without one."""


N_COLUMNS = 10
"""Pictures beside each other; further ones follow in the next line."""


GAP_PX, HEAD_GAP_PX, MARGIN_PX, FRAME_PX = 8, 40, 14, 3


TITLE_PX, CAPTION_PX, NOTE_PX = 22, 15, 13
"""Sizes of text."""


PAPER, GRAY, PALE = "#ffffff", "#e3e5e7", "#59636b"


SAME, OTHER = PALETTE[2], PALETTE[1]
"""Frames of pictures of the expected class, and of another."""


@dataclass(frozen=True)
class Tile:
    """One picture and its caption: `title` above `note` and `name`.

    `image` is (H, W, 3) uint8, or None: a gray tile with the name stands for it. `same` says
    whether the picture has the expected class, None where that is unknown.
    """

    image: np.ndarray | None
    title: str = ""
    name: str = ""
    note: str = ""
    same: bool | None = None


@dataclass(frozen=True)
class Strip:
    """A head, which is a picture or text, and the pictures at its right."""

    head: Tile | str
    tiles: Sequence[Tile]


def draw_sheet(strips: Sequence[Strip], title: str = "") -> Image.Image:
    """Draw strips from top to bottom.

    Frames are green, with a check mark in the caption, or orange, with a cross.
    """
    has_captions = any(tile.title for strip in strips for tile in strip.tiles)
    side = SIDE_PX if has_captions else SMALL_SIDE_PX
    caption = (CAPTION_PX + NOTE_PX + 20) if has_captions else 0
    pitch = side + 2 * GAP_PX if has_captions else side + GAP_PX
    most = max(len(strip.tiles) for strip in strips)
    n_columns = math.ceil(most / max(1, math.ceil(most / N_COLUMNS)))
    lines = [max(1, math.ceil(len(strip.tiles) / max(1, n_columns))) for strip in strips]
    line_height = side + caption + GAP_PX
    left = MARGIN_PX + side + HEAD_GAP_PX
    top = MARGIN_PX + (TITLE_PX + 2 * GAP_PX if title else 0)
    width = left + n_columns * pitch
    width = max(width, MARGIN_PX * 2 + round(_font(TITLE_PX).getlength(title)))
    sheet = Image.new("RGB", (width, top + sum(lines) * line_height + MARGIN_PX), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN_PX, MARGIN_PX), title, INK, _font(TITLE_PX))
    for strip, n_lines in zip(strips, lines, strict=True):
        if isinstance(strip.head, str):
            _draw_text(draw, (MARGIN_PX, top), strip.head, side + HEAD_GAP_PX - GAP_PX, side)
        else:
            _draw_tile(sheet, (MARGIN_PX, top), strip.head, side, side + HEAD_GAP_PX - GAP_PX, INK)
        for i, tile in enumerate(strip.tiles):
            line, column = divmod(i, n_columns)
            at = (left + column * pitch, top + line * line_height)
            color = {True: SAME, False: OTHER, None: INK}[tile.same]
            _draw_tile(sheet, at, tile, side, pitch - GAP_PX, color)
        top += n_lines * line_height
    return sheet


def write_class_sheet(dataset: Dataset, path: Path, n_per_class: int = 8) -> Path:
    """Write a PNG picture with a row of images for each class, spread evenly over its samples.

    Of images with more than three bands the first three are shown.
    """
    check_png(path, "--out")
    strips = []
    for name, rows in dataset.rows_by_class().items():
        n = min(n_per_class, len(rows))
        chosen = rows[((np.arange(n) + 0.5) * len(rows) / max(n, 1)).astype(int)]
        tiles = [_stored_tile(dataset, int(row)) for row in chosen]
        strips.append(Strip(f"{name}\n{len(rows):,} images", tiles))
    title = f"{dataset.title}: {len(dataset):,} images, {len(dataset.class_names)} classes"
    write_png(draw_sheet(strips, title), path)
    return path


def _stored_tile(dataset: Dataset, row: int) -> Tile:
    try:
        return Tile(dataset.read(row, SMALL_SIDE_PX)[:, :, :3])
    except ImageError:
        return Tile(None, name="unreadable")


def _draw_tile(
    sheet: Image.Image, at: tuple[int, int], tile: Tile, side: int, width: int, color: str
) -> None:
    """Draw one picture at the bottom left of its cell, its frame, and its caption below."""
    # A name's bytes that are not UTF-8 have no glyphs.
    name = tile.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    draw = ImageDraw.Draw(sheet)
    left, bottom = at[0], at[1] + side
    if tile.image is None:
        draw.rectangle((left, at[1], left + side - 1, bottom - 1), fill=GRAY)
        _draw_text(draw, (left + GAP_PX, at[1]), name, side - 2 * GAP_PX, side)
        size = (side, side)
    else:
        picture = _fitted(Image.fromarray(tile.image), side)
        size = picture.size
        sheet.paste(picture, (left, bottom - size[1]))
    if not tile.title:
        return
    box = (left, bottom - size[1], left + size[0] - 1, bottom - 1)
    draw.rectangle(box, outline=color, width=FRAME_PX)
    mark = {True: "✓ ", False: "✗ ", None: ""}[tile.same]
    heading = _cut_end(mark + tile.title, _font(CAPTION_PX), width)
    draw.text((left, bottom + 4), heading, INK, _font(CAPTION_PX))
    font, note = _font(NOTE_PX), f"{tile.note}  " if tile.note else ""
    text = note + _short_name(name, font, width - font.getlength(note))
    draw.text((left, bottom + CAPTION_PX + 10), text, INK, font)


def _fitted(picture: Image.Image, side: int) -> Image.Image:
    """Return a picture with a longer side of `side`; small ones keep their pixels visible."""
    scale = side / max(picture.size)
    size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
    kind = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    return picture.resize(size, kind)


def _draw_text(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, width: int, height: int
) -> None:
    """Draw text in the middle of a cell's height, broken to its width, the first line darker."""
    font, step = _font(CAPTION_PX), CAPTION_PX + 5
    lines = [
        (line, INK if i == 0 else PALE)
        for i, part in enumerate(text.split("\n"))
        for line in _wrapped(part, font, width)
    ][: height // step]
    top = at[1] + (height - step * len(lines)) // 2
    for i, (line, color) in enumerate(lines):
        draw.text((at[0], top + i * step), line, color, font)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> Iterator[str]:
    """Yield lines of a name that fit a width, broken after folders or words if possible."""
    while text:
        n = len(text)
        while n > 1 and font.getlength(text[:n].rstrip()) > width:
            n -= 1
        if n < len(text):
            word = max(text.rfind(" ", 0, n), text.rfind("_", 0, n)) + 1
            n = text.rfind("/", 0, n) + 1 or word or n
        yield text[:n].rstrip()
        text = text[n:]


def _short_name(name: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Return a file's or sample's name without its ending, nor folders that do not fit."""
    folders, slash, last = name.replace("\\", "/").rpartition("/")
    stem, dot, _ = last.rpartition(".")
    last = stem if dot and stem else last
    whole = f"{folders}{slash}{last}"
    if font.getlength(whole) <= width:
        return whole
    # Names differ in their ends.
    return _cut(last, lambda n: f"…{last[len(last) - n :]}", font, width)


def _cut_end(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    return _cut(text, lambda n: f"{text[:n]}…", font, width)


def _cut(
    text: str, cut_to: Callable[[int], str], font: ImageFont.FreeTypeFont, width: float
) -> str:
    """Return a text, or the longest of its cuts to n letters that fits a width."""
    if font.getlength(text) <= width:
        return text
    n = len(text) - 1
    while n > 0 and font.getlength(cut_to(n)) > width:
        n -= 1
    return cut_to(n)


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(font_path(), size)
