"""Contact sheets: some images of each class on one picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from featstore.datasets.base import Dataset
from featstore.errors import ConfigError, ImageError

CELL = 112
"""Side of a thumbnail in pixels: four times that of SAT's images."""


GAP = 6


MARGIN = 18


MAX_NAME_WIDTH = 200


INK, PALE, PAPER = (34, 34, 34), (120, 120, 120), (255, 255, 255)


Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(dataset: Dataset, path: Path, n_per_class: int = 8) -> Path:
    """Draw a row of images for each class, evenly spread over the class's samples.

    Of images with more bands than red, green and blue the first three are shown. An unreadable
    image is a cell that says so.

    Parameters
    ----------
    dataset : Dataset
        Where the images are.
    path : Path
        The picture to write; its ending decides the format.
    n_per_class : int
        Images in a row.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    ConfigError
        When the picture can't be written there.
    """
    name_font, small_font = ImageFont.load_default(16), ImageFont.load_default(12)
    title_font = ImageFont.load_default(22)
    names = [
        _wrap(name.replace("_", " "), name_font, MAX_NAME_WIDTH) for name in dataset.class_names
    ]
    top, pitch = 2 * MARGIN + 26, CELL + GAP
    left = 2 * MARGIN + round(max(name_font.getlength(line) for name in names for line in name))
    width = left + n_per_class * pitch - GAP + MARGIN
    title = f"{dataset.title}: {len(dataset):,} images, {len(dataset.class_names)} classes"
    width = max(width, round(title_font.getlength(title)) + 2 * MARGIN)
    sheet = Image.new("RGB", (width, top + len(names) * pitch - GAP + MARGIN), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN), title, INK, title_font)
    for label, lines in enumerate(names):
        rows = np.flatnonzero(dataset.labels == label)
        y = top + label * pitch
        at = y + (CELL - 20 * len(lines) - 16) / 2
        draw.text((MARGIN, at), "\n".join(lines), INK, name_font)
        draw.text((MARGIN, at + 20 * len(lines) + 2), f"{len(rows):,} images", PALE, small_font)
        n = min(n_per_class, len(rows))
        chosen = rows[((np.arange(n) + 0.5) * len(rows) / max(n, 1)).astype(int)]
        for column, row in enumerate(chosen):
            cell = _cell(dataset, int(row), small_font)
            sheet.paste(cell, (left + column * pitch, y))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
    except (OSError, ValueError) as error:
        cause = getattr(error, "strerror", None) or error
        raise ConfigError(f"The contact sheet can't be written to {path}: {cause}.") from None
    return path


def _cell(dataset: Dataset, row: int, font: Font) -> Image.Image:
    """Return one image in the middle of a square cell."""
    cell = Image.new("RGB", (CELL, CELL), PAPER)
    try:
        image = Image.fromarray(dataset.read(row)[:, :, :3])
    except ImageError:
        draw = ImageDraw.Draw(cell)
        draw.rectangle((0, 0, CELL - 1, CELL - 1), outline=PALE)
        draw.text((CELL / 2, CELL / 2), "unreadable", PALE, font, anchor="mm")
        return cell
    scale = CELL / max(image.size)
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    # Small images keep their pixels visible.
    image = image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    cell.paste(image, ((CELL - size[0]) // 2, (CELL - size[1]) // 2))
    return cell


def _wrap(text: str, font: Font, width: int) -> list[str]:
    """Break a name into at most three lines that fit the width, cutting what is too long."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    for number, line in enumerate(lines):
        while font.getlength(lines[number]) > width:
            line = line[:-1]
            lines[number] = f"{line}…"
    return lines[:3]
