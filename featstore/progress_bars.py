"""Progress for people: bars in terminals and notebooks, lines in logs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from featstore.progress import SILENT, Progress
from featstore.text import duration_text, nbytes_text, printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as RichProgress


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


@dataclass
class Phase:
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
        """How much gets done in a second."""
        return rate_text(self.done / max(time.monotonic() - self.began, 1e-9), self.unit)

    @property
    def amount(self) -> str:
        """How much is done."""
        return amount_text(self.done, self.total, self.unit)


class Lines:
    """Progress for logs: a line every quarter minute, and one at the end of a phase if wanted."""

    PERIOD_S = 15.0

    def __init__(self, say: Callable[[str], None], *, says_ends: bool = True) -> None:
        self.say = say
        self._says_ends = says_ends
        self._phases: list[Phase] = []

    def start(self, what: str, total: int, unit: str) -> None:
        """Begin a phase."""
        self._phases.append(Phase(what, total, unit, len(self._phases)))

    def advance(self, n: int) -> None:
        """Count progress, and print a line every quarter minute until all is done."""
        phase = self._phases[-1]
        phase.done += n
        now = time.monotonic()
        if now - phase.told < self.PERIOD_S or phase.done in (0, phase.total):
            return
        phase.told = now
        left = (now - phase.began) * max(0, phase.total - phase.done) / phase.done
        self.say(f"{phase.what}: {phase.amount}, {phase.rate}, {duration_text(left)} left")

    def stop(self) -> None:
        """End the phase."""
        phase = self._phases.pop()
        if phase.done and self._says_ends:
            duration_s = max(time.monotonic() - phase.began, 1e-9)
            self.say(f"{phase.what}: {phase.amount} in {duration_text(duration_s)}, {phase.rate}")


class Bars:
    """Progress for terminals: a bar with rate and time left for each phase."""

    def __init__(self, bars: RichProgress) -> None:
        self._bars = bars
        self._phases: list[Phase] = []

    def start(self, what: str, total: int, unit: str) -> None:
        """Begin a phase with a bar."""
        phase = Phase(what, total, unit, len(self._phases))
        indented = "  " * phase.depth + printable(what)
        phase.bar = self._bars.add_task(indented, total=total, amount="", rate="")
        self._phases.append(phase)

    def advance(self, n: int) -> None:
        """Move the bar."""
        phase = self._phases[-1]
        phase.done += n
        self._bars.update(phase.bar, advance=n, amount=phase.amount, rate=phase.rate)

    def stop(self) -> None:
        """Stop the bar, and remove that of an inner phase."""
        phase = self._phases.pop()
        self._bars.stop_task(phase.bar)
        if self._phases:
            self._bars.remove_task(phase.bar)

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(printable(line, "\n"), markup=False, highlight=False)


@contextmanager
def open_bars(console: Console, *, keeps_bars: bool = True) -> Iterator[Bars]:
    """Yield bars on a console; in the end they stay as they are, or vanish."""
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    with RichProgress(*columns, console=console, transient=not keeps_bars) as bars:
        yield Bars(bars)


def is_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    shell = sys.modules.get("IPython")
    found = shell.get_ipython() if shell else None
    return type(found).__name__ == "ZMQInteractiveShell"


class InNotebooks:
    """Bars in a notebook, silence elsewhere: the progress of callers who give none."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._shown: Progress = SILENT
        self._n_open = 0

    def __repr__(self) -> str:
        return "IN_NOTEBOOKS"

    def start(self, what: str, total: int, unit: str) -> None:
        """Begin a phase; the first of several that nest opens the bars."""
        if not self._n_open and is_notebook():
            # rich draws in notebooks by ipywidgets.
            if find_spec("ipywidgets"):
                from rich.console import Console

                self._shown = self._stack.enter_context(open_bars(Console()))
            else:
                self._shown = Lines(print)
        self._n_open += 1
        self._shown.start(what, total, unit)

    def advance(self, n: int) -> None:
        """Count in the phase that began last."""
        self._shown.advance(n)

    def stop(self) -> None:
        """End the phase that began last."""
        self._shown.stop()
        self._n_open -= 1
        if not self._n_open:
            self._stack.close()
            self._shown = SILENT

    def say(self, line: str) -> None:
        """Print a line."""
        if self._n_open:
            self._shown.say(line)
        elif is_notebook():
            print(line)


IN_NOTEBOOKS: Progress = InNotebooks()
