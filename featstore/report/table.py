"""Tables as HTML pages, Markdown, LaTeX and JSON have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tabulate import tabulate

from featstore.io.files import atomic_write
from featstore.text import NONE


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Parameters
    ----------
    text : str
    value : float or None
        The number that a column is sorted by.
    run_id : str or None
        The run of the cell.
    detail : str
        Small text beside it.
    is_best : bool
        Whether it is bold.
    """

    text: str
    value: float | None = None
    run_id: str | None = None
    detail: str = ""
    is_best: bool = False

    @property
    def whole_text(self) -> str:
        """Text and detail."""
        return f"{self.text} ({self.detail})" if self.detail else self.text


@dataclass(frozen=True)
class Table:
    """A table.

    Parameters
    ----------
    name : str
        Name of its files.
    title : str
    columns : tuple of (str, bool)
        Each column's heading, which is unique, and whether it holds numbers.
    rows : list of list of Cell
        The first cell of each names the row.
    note : str
        What a reader has to know.
    optional : tuple of str
        Headings of columns that :meth:`shown` leaves out if all rows have the same text.
    legend : dict of str to str
        Explanations of columns, for the note of :meth:`shown`.

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
    optional: tuple[str, ...] = ()
    legend: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        headings = [heading for heading, _ in self.columns]
        if repeated := [one for one in dict.fromkeys(headings) if headings.count(one) > 1]:
            raise ValueError(
                f"The table {self.name} has several columns {', '.join(map(repr, repeated))}; JSON "
                "would keep one of them. Give each a heading of its own."
            )

    def shown(self) -> Table:
        """Return the table for people: without empty columns, and constant ones in the note.

        The note explains the columns.
        """
        kept, constants = [0], []
        for at, (heading, _) in enumerate(self.columns[1:], start=1):
            texts = {row[at].whole_text for row in self.rows}
            if texts == {NONE}:
                continue
            if heading in self.optional and len(texts) == 1 and len(self.rows) > 1:
                constants.append(f"{heading} {texts.pop()}")
            else:
                kept.append(at)
        columns = tuple(self.columns[at] for at in kept)
        told = [heading for heading, _ in columns]
        notes = [self.note, *(text for heading, text in self.legend.items() if heading in told)]
        if constants:
            notes.append(f"The same in all rows: {', '.join(constants)}.")
        rows = [[row[at] for at in kept] for row in self.rows]
        note = " ".join(filter(None, notes))
        return replace(self, columns=columns, rows=rows, note=note, legend={})

    def to_dict(self) -> dict[str, Any]:
        """Return all columns as JSON-able values: numbers, or texts with their details."""
        names = [name for name, _ in self.columns]
        return {
            "title": self.title,
            "note": self.note,
            "rows": [
                {
                    name: cell.whole_text if cell.value is None else cell.value
                    for name, cell in zip(names, row, strict=True)
                }
                for row in self.rows
            ],
        }

    def to_markdown(self) -> str:
        """Return the columns of :meth:`shown` as GitHub's Markdown."""
        table = self.shown()
        body = _tabulate(table, "github", lambda text: text.replace("|", "\\|"))
        return f"**{table.title}**\n\n{body}\n" + (f"\n{table.note}\n" if table.note else "")

    def to_latex(self) -> str:
        """Return the columns of :meth:`shown` as LaTeX, for the package booktabs."""
        table = self.shown()
        body = _tabulate(table, "latex_booktabs", lambda text: text.replace(NONE, "--"))
        comment = f"% {table.title}. {table.note}".rstrip().replace("\n", " ")
        return f"{comment}\n{body}\n"


def _tabulate(table: Table, form: str, escape: Callable[[str], str]) -> str:
    return tabulate(
        [[escape(cell.whole_text) for cell in row] for row in table.rows],
        [escape(name) for name, _ in table.columns],
        tablefmt=form,
        disable_numparse=True,
        colalign=["right" if is_number else "left" for _, is_number in table.columns],
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
