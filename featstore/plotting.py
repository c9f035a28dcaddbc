"""The plot style, and figures as PNG files or inline SVG, drawn by matplotlib without a display."""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path
from typing import IO, Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL.Image import Image

from featstore.errors import ConfigError, StoreError
from featstore.io.files import atomic_write, write_output

INK = "#1d2327"
"""Colour of text and axes on white paper."""


PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6f6f6f")
"""Okabe and Ito 2008, the darker hues first: distinct to colour-blind readers."""


DASHES = ("-", "--", "-.", ":")


STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.06,
    "svg.fonttype": "none",
}


def font_path() -> str:
    """Return the file of the font that figures are lettered in."""
    return str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")


def class_text(name: str, length: int) -> str:
    """Return a class's name as matplotlib draws it literally, cut to a number of characters."""
    return literal_text(shortened(name, length))


def shortened(text: str, length: int) -> str:
    """Return text cut to a number of characters; a cut text ends in an ellipsis."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def literal_text(text: str) -> str:
    """Return text as matplotlib draws it literally, in legends too."""
    # Matplotlib leaves labels that begin with an underscore out of legends.
    shown = f" {text}" if text.startswith("_") else text
    return shown.replace("$", r"\$")


def check_png(path: str | Path, option: str) -> None:
    """Refuse a place where no PNG file can be written; `option` is named in the message."""
    path = Path(path)
    if path.is_dir():
        raise ConfigError(f"{path} is a folder. Name a file: {option} {path / 'figure.png'}")
    if path.suffix.lower() != ".png":
        raise ConfigError(
            f"{path} does not end in .png, as a PNG file must. Write: {option} "
            f"{path.parent / f'{path.stem}.png'}"
        )
    above = next((folder for folder in path.parents if folder.exists()), path.parent)
    if above.exists() and not above.is_dir():
        raise StoreError(
            f"{path} can't be written: {above} is a file, not a folder. Name another {option}."
        )


def to_png(picture: Figure | Image) -> bytes:
    """Return a figure, on white at 160 dots per inch, or an image as a PNG file."""
    stream = io.BytesIO()
    if isinstance(picture, Image):
        picture.save(stream, "PNG")
    else:
        FigureCanvasAgg(picture)
        _save(picture, stream, format="png", dpi=160, facecolor="white")
    return stream.getvalue()


def write_png(picture: Figure | Image, path: str | Path) -> None:
    """Write a picture as :func:`to_png` draws it; the file is replaced whole, or not at all."""
    write_output(Path(path), to_png(picture))


def _save(fig: Figure, target: IO[Any] | Path, **how: Any) -> None:
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        # The font lacks signs of some scripts: figures show boxes, texts show the names.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        fig.savefig(target, **how)


def write_figure(fig: Figure, path: Path) -> list[Path]:
    """Write the figure as ``<path>.png`` and ``<path>.svg``, both on white; return the files."""
    files = [path.with_name(f"{path.name}{suffix}") for suffix in (".png", ".svg")]
    with atomic_write(files[0]) as temporary:
        temporary.write_bytes(to_png(fig))
    with atomic_write(files[1]) as temporary:
        _save(fig, temporary, format="svg", facecolor="white", metadata={"Date": None})
    return files


def to_svg(fig: Figure, name: str, description: str) -> str:
    """Return the figure as an ``<svg>`` element for a page.

    Text and axes take the page's text colour, the background is clear. `name` (letters, digits
    and hyphens) keeps its ids apart from those of other figures; `description` is for readers who
    can't see it.
    """
    stream = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        _save(fig, stream, format="svg", transparent=True, metadata={"Date": None})
    svg = stream.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)

    def adapted(tag: re.Match[str]) -> str:
        text = tag[0].replace(INK, "currentColor")
        text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
        # The page's own sans-serif, at the size that was laid out.
        return re.sub(r"(font(?:-family)?:[^;\"']*?)'[^\"]*?sans-serif", r"\1sans-serif", text)

    # Only tags: the text between them may look like any of these.
    svg = re.sub(r"<[^>]*>", adapted, svg)
    label = description.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
