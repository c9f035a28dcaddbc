"""Draw tables on the terminal."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from featstore.text import printable

from .console import echo

if TYPE_CHECKING:
    from featstore.report.table import Table

MIN_WIDTH = 6
"""Least width of a column that is shortened."""


NUMBER_WIDTH = 13
"""Width up to which a column of numbers is never shortened."""


def output_width() -> int | None:
    """Return the columns of stdout: COLUMNS, or those of the terminal; None for a file or pipe."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return int(columns)
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    title: str | None = None,
    *,
    right: Sequence[str] = (),
) -> None:
    """Print a table on stdout; the columns named in `right` are set flush right.

    A table wider than the output has its longest texts shortened in the middle.
    """
    # Rich's own tables take 7 s for 10,000 rows.
    lines = [[_encodable(printable(cell)) for cell in row] for row in (columns, *rows)]
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    # Two blanks between columns, and one on either side.
    frame = 2 * len(columns)
    if (room := output_width()) is not None:
        is_short = [
            name in right and width <= NUMBER_WIDTH
            for name, width in zip(columns, widths, strict=True)
        ]
        widths = _fit_widths(widths, is_short, room - frame)
    if title:
        paragraph(title)
    drawn = [
        [_cell(text, width, flush_right=name in right) for text in column]
        for name, width, column in zip(columns, widths, zip(*lines, strict=True), strict=True)
    ]
    head, *body = (f" {'  '.join(cells)}".rstrip() for cells in zip(*drawn, strict=True))
    rule = f" {('─' if _is_unicode() else '-') * (sum(widths) + frame - 2)}"
    click.echo("\n".join(["", click.style(head, bold=True), rule, *body, ""]), file=sys.stdout)


def _cell(text: str, width: int, *, flush_right: bool) -> str:
    """Return a text that takes as many columns as its table has for it."""
    n_blanks = width - _width(text)
    if n_blanks < 0:
        text = shorten(text, width)
        n_blanks = width - _width(text)
    return " " * n_blanks + text if flush_right else text + " " * n_blanks


def paragraph(text: str) -> None:
    """Print a text on stdout, in lines that fit the output."""
    room = output_width()
    if room:
        text = textwrap.fill(text, room, break_long_words=False, break_on_hyphens=False)
    echo(text)


def _width(text: str) -> int:
    """Return the columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _is_unicode() -> bool:
    return (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")


def _encodable(text: str) -> str:
    """Return a text as stdout shows it: what it can't encode is escaped."""
    if text.isascii():
        return text
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _fit_widths(widths: Sequence[int], is_short: Sequence[bool], room: int) -> list[int]:
    """Return widths of columns that need no more than the room, taken from the widest."""
    found = list(widths)
    while sum(found) > room:
        at = max(
            (i for i, short in enumerate(is_short) if not short),
            key=found.__getitem__,
            default=None,
        )
        if at is None or found[at] <= MIN_WIDTH:
            break
        found[at] -= 1
    return found


def shorten(text: str, width: int) -> str:
    """Return a text of at most `width` columns: a longer one has its middle left out."""
    if _width(text) <= width:
        return text
    from rich.cells import set_cell_size

    mark = "…" if _is_unicode() else "..."
    n_tail = (width - len(mark)) // 2
    n_head = width - len(mark) - n_tail
    tail = set_cell_size(text[::-1], n_tail)[::-1]
    return f"{set_cell_size(text, n_head)}{mark}{tail}"


def show_table(full: Table) -> None:
    """Print a report's table on stdout."""
    shown = full.shown()
    rows = [[cell.whole_text for cell in row] for row in shown.rows]
    numbers = [name for name, is_number in shown.columns if is_number]
    table([name for name, _ in shown.columns], rows, shown.title, right=numbers)
