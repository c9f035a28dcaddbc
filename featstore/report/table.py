"""Tables: rows for people, the same in HTML, Markdown, LaTeX and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from featstore.io.files import atomic_write

NONE = "–"


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Parameters
    ----------
    text : str
    value : float or None
        By which a column of numbers is sorted.
    run_id : str or None
        The run that it tells of.
    detail : str
        What stands beside the text, less conspicuously.
    is_best : bool
        Whether it stands out.
    """

    text: str
    value: float | None = None
    run_id: str | None = None
    detail: str = ""
    is_best: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Parameters
    ----------
    name : str
        Of its files.
    title : str
    columns : tuple of (str, bool)
        Each one's heading, which no other has, and whether it holds numbers.
    rows : list of list of Cell
        The first cell of each names the row.
    note : str
        What a reader has to know.

    Raises
    ------
    ValueError
        When two columns have one heading.
    """

    name: str
    title: str
    columns: tuple[tuple[str, bool], ...]
    rows: list[list[Cell]]
    note: str = ""

    def __post_init__(self) -> None:
        headings = [heading for heading, _ in self.columns]
        if repeated := [one for one in dict.fromkeys(headings) if headings.count(one) > 1]:
            raise ValueError(
                f"The table {self.name} has several columns {', '.join(map(repr, repeated))}, of "
                "which JSON would keep one; give each a heading of its own."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the table as JSON-able values: texts, and numbers where there are any.

        Texts hold what stands beside them, too; numbers stand alone.
        """
        names = [name for name, _ in self.columns]
        return {
            "title": self.title,
            "note": self.note,
            "rows": [
                {
                    name: _text(cell) if cell.value is None else cell.value
                    for name, cell in zip(names, row, strict=True)
                }
                for row in self.rows
            ],
        }

    def to_markdown(self) -> str:
        """Return the table as GitHub's Markdown."""
        body = self._tabulate("github", lambda text: text.replace("|", "\\|"))
        return f"**{self.title}**\n\n{body}\n" + (f"\n{self.note}\n" if self.note else "")

    def to_latex(self) -> str:
        """Return the table as LaTeX, for the package booktabs."""
        body = self._tabulate("latex_booktabs", lambda text: text.replace(NONE, "--"))
        comment = f"% {self.title}. {self.note}".rstrip().replace("\n", " ")
        return f"{comment}\n{body}\n"

    def _tabulate(self, form: str, escape: Any) -> str:
        rows = [[escape(_text(cell)) for cell in row] for row in self.rows]
        return tabulate(
            rows,
            [escape(name) for name, _ in self.columns],
            tablefmt=form,
            disable_numparse=True,
            colalign=["right" if is_number else "left" for _, is_number in self.columns],
        )


def write_tables(tables: Sequence[Table], folder: Path) -> list[Path]:
    """Write each table as ``<name>.md`` and ``<name>.tex``; return the files."""
    written = []
    for table in tables:
        for suffix, text in ((".md", table.to_markdown()), (".tex", table.to_latex())):
            path = folder / f"{table.name}{suffix}"
            with atomic_write(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
            written.append(path)
    return written


def _text(cell: Cell) -> str:
    return f"{cell.text} ({cell.detail})" if cell.detail else cell.text


def percent(value: float | None) -> str:
    """Return a fraction as percent with one decimal."""
    return NONE if value is None else f"{100 * value:.1f}"
