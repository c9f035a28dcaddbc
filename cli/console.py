"""What the commands share: options, tables, progress and JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from featstore.config import PROJECTIONS
from featstore.text import duration_text, nbytes_text

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

    from featstore.progress import Progress
    from featstore.report.table import Table

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

store_option: Decorator = click.option(
    "--store",
    envvar="FEATSTORE_STORE",
    default="feature-store",
    show_default=True,
    show_envvar=True,
    metavar="DIR|URL",
    help="Folder of the feature store, or its URL, as in s3://bucket/prefix.",
)
root_option: Decorator = click.option(
    "--root",
    envvar="FEATSTORE_DATA",
    show_envvar=True,
    metavar="DIR",
    help="Folder that holds the dataset's files, or a parent that has it under its name.  "
    "[default: data]",
)
json_option: Decorator = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object and nothing else on stdout."
)
seed_option: Decorator = click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    metavar="N",
    help="Seed of all that is drawn at random.",
)

device_option: Decorator = click.option(
    "--device", default="auto", show_default=True, metavar="DEV", help="auto, cpu, cuda or cuda:N."
)
trust_option: Decorator = click.option(
    "--trust",
    "trusted",
    multiple=True,
    metavar="TYPE",
    help="Type of a classifier of your own, as package.module.Class, whose code may run. May be "
    "repeated.",
)
projection_option: Decorator = click.option(
    "--projection",
    type=click.Choice(PROJECTIONS),
    default=PROJECTIONS[0],
    show_default=True,
    help="How features are drawn in two dimensions; umap compiles for some 20 s and needs "
    "umap-learn.",
)


def given(ctx: click.Context, names: Iterable[str]) -> dict[str, str]:
    """Return those parameters that stand on the command line, each with its option's text."""
    return {
        name: f"--{name.replace('_', '-')}"
        for name in names
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }


def emit_json(value: Any) -> None:
    """Print one JSON object on stdout."""
    click.echo(json.dumps(value, indent=1, ensure_ascii=False))


def say(line: str) -> None:
    """Print a line for people on stderr."""
    click.echo(line, err=True)


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    title: str | None = None,
    *,
    right: Sequence[str] = (),
) -> None:
    """Print a table on stdout; the columns named in `right` are set flush right.

    On a terminal it takes the terminal's width; elsewhere nothing is cut.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(soft_wrap=False) if sys.stdout.isatty() else Console(width=200)
    drawn = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        collapse_padding=True,
        pad_edge=False,
    )
    for column in columns:
        drawn.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    console.print(drawn)


def show_table(full: Table) -> None:
    """Print a report's table on stdout."""
    shown = full.shown()
    rows = [[cell.whole_text for cell in row] for row in shown.rows]
    numbers = [name for name, is_number in shown.columns if is_number]
    click.echo(shown.title)
    table([name for name, _ in shown.columns], rows, right=numbers)


def amount_text(done: float, total: float, unit: str) -> str:
    """Return how much is done, for people."""
    if unit == "bytes":
        return f"{nbytes_text(done)} of {nbytes_text(total)}"
    return f"{done:.0f} of {total:.0f} {unit}"


def rate_text(rate: float, unit: str) -> str:
    """Return how much gets done in a second, for people."""
    if unit == "bytes":
        return f"{nbytes_text(rate)}/s"
    return f"{rate:.1f} {unit}/s" if rate >= 1 or not rate else f"{1 / rate:.1f} s each"


def shown(path: str | Path) -> str:
    """Return a path as it is named from the current folder, where it lies below it."""
    if "://" not in str(path) and Path(path).is_relative_to(Path.cwd()):
        return str(Path(path).relative_to(Path.cwd()))
    return str(path)


@dataclass
class _Phase:
    """One phase of work; another may begin within it."""

    what: str
    total: int
    unit: str
    depth: int
    done: int = 0
    began: float = field(default_factory=lambda: time.monotonic())
    told: float = field(default_factory=lambda: time.monotonic())
    bar: Any = None

    @property
    def rate(self) -> str:
        return rate_text(self.done / max(time.monotonic() - self.began, 1e-9), self.unit)

    @property
    def amount(self) -> str:
        return amount_text(self.done, self.total, self.unit)


class Lines:
    """A progress for logs: a line at the start, every quarter minute, and at the end."""

    PERIOD_S = 15.0

    def __init__(self) -> None:
        self._phases: list[_Phase] = []

    def start(self, what: str, total: int, unit: str) -> None:
        """Begin a phase."""
        self._phases.append(_Phase(what, total, unit, len(self._phases)))

    def advance(self, n: int) -> None:
        """Note progress; speak now and then."""
        phase = self._phases[-1]
        phase.done += n
        now = time.monotonic()
        if now - phase.told < self.PERIOD_S or not phase.done:
            return
        phase.told = now
        left = (now - phase.began) * max(0, phase.total - phase.done) / phase.done
        say(f"{phase.what}: {phase.amount}, {phase.rate}, {duration_text(left)} left")

    def stop(self) -> None:
        """End the phase."""
        phase = self._phases.pop()
        if phase.done:
            duration_s = max(time.monotonic() - phase.began, 1e-9)
            say(f"{phase.what}: {phase.amount} in {duration_text(duration_s)}, {phase.rate}")

    def say(self, line: str) -> None:
        """Print a line."""
        say(line)


class Bars:
    """A progress for terminals: a bar with rate and time left, for each phase within another."""

    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars
        self._phases: list[_Phase] = []

    def start(self, what: str, total: int, unit: str) -> None:
        """Begin a phase with a bar."""
        phase = _Phase(what, total, unit, len(self._phases))
        indented = "  " * phase.depth + what
        phase.bar = self._bars.add_task(indented, total=total, amount="", rate="")
        self._phases.append(phase)

    def advance(self, n: int) -> None:
        """Move the bar."""
        phase = self._phases[-1]
        phase.done += n
        self._bars.update(phase.bar, advance=n, amount=phase.amount, rate=phase.rate)

    def stop(self) -> None:
        """Leave the bar as it stands; that of a phase within another goes."""
        phase = self._phases.pop()
        self._bars.stop_task(phase.bar)
        if self._phases:
            self._bars.remove_task(phase.bar)

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(line, markup=False, highlight=False)


@contextmanager
def progress() -> Iterator[Progress]:
    """Yield a progress that writes to stderr: bars on a terminal, quiet lines elsewhere."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    with RichProgress(*columns, console=Console(stderr=True)) as bars:
        yield Bars(bars)
