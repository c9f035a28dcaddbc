"""Turns: contenders run one after the other, several times, so that noise hits them all.

A turn in a process of its own has the contender's peak memory alone.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from featstore.cli import console

Turn = dict[str, Any]


def take_turns(
    contenders: Mapping[str, Callable[[], Turn]], repeats: int, reference: str | None
) -> list[Turn]:
    """Let each contender take its turn, `repeats` times round.

    Parameters
    ----------
    contenders : mapping of str to callable
        Each returns its measurements; one of them is ``images/s``.
    repeats : int
        Rounds.
    reference : str or None
        The contender whose rate divides the others' rates of the same round; None for the
        fastest.

    Returns
    -------
    list of dict
        A row for each turn, with ``round``, ``contender``, and the ratio as ``of {reference}``,
        or ``of best``.
    """
    rows: list[Turn] = []
    for number in range(repeats):
        turns: list[Turn] = []
        for name, measure in contenders.items():
            found = measure()
            console.say(f"Round {number + 1}: {name} {found['images/s']:,.1f} images/s")
            turns.append({"round": number + 1, "contender": name, **found})
        rates = [t["images/s"] for t in turns if reference in (t["contender"], None)]
        share = f"of {reference or 'best'}"
        rows += [turn | {share: turn["images/s"] / max(rates)} for turn in turns]
    return rows


def take_timed_turns(contenders: Mapping[str, Callable[[], Turn]], repeats: int) -> list[Turn]:
    """Let each contender take its turn, `repeats` times round, and measure seconds, not rates.

    Parameters
    ----------
    contenders : mapping of str to callable
        Each returns its measurements, one of them ``seconds``; or a ``note`` that says why it
        can't run.
    repeats : int
        Rounds.

    Returns
    -------
    list of dict
        A row for each turn, with ``round`` and ``contender``.
    """
    turns: list[Turn] = []
    for number in range(repeats):
        for name, measure in contenders.items():
            found = measure()
            told = f"{found['seconds']:,.1f} s" if "seconds" in found else found["note"]
            console.say(f"Round {number + 1}: {name} {told}")
            turns.append({"round": number + 1, "contender": name, **found})
    return turns


def divide(
    turns: Sequence[Turn], reference: str, column: str, share: str, *, by_own: bool = False
) -> None:
    """Divide each turn's measurement by the reference's of the same round.

    Parameters
    ----------
    turns : sequence of dict
        Changed in place, if both have the column.
    reference : str
        The contender to compare with.
    column : str
        Column to compare.
    share : str
        Column to add.
    by_own : bool
        Whether the reference's measurement is divided by the turn's, as seconds are for a speed.
    """
    by_round = {t["round"]: t.get(column) for t in turns if t["contender"] == reference}
    for turn in turns:
        whole, own = by_round.get(turn["round"]), turn.get(column)
        if whole is not None and own is not None:
            turn[share] = whole / own if by_own else own / whole


def summary(turns: Sequence[Turn], columns: Sequence[str]) -> list[Turn]:
    """Return a row for each contender: medians of its numbers, and the range of its rates.

    Parameters
    ----------
    turns : sequence of dict
        Rows of :func:`take_turns` or :func:`take_timed_turns`.
    columns : sequence of str
        Columns to show, in order; without ``images/s`` the range is that of ``seconds``.
    """
    ranged = "images/s" if "images/s" in columns else "seconds"
    rows = []
    for name in dict.fromkeys(turn["contender"] for turn in turns):
        own = [turn for turn in turns if turn["contender"] == name]
        row: Turn = {"contender": name}
        for column in columns:
            values = [turn[column] for turn in own if turn.get(column) is not None]
            row[column] = _middle(values)
            if column == ranged:
                row |= {"lowest": min(values, default=None), "highest": max(values, default=None)}
        rows.append(row)
    return rows


def without_empty_columns(rows: Sequence[Turn]) -> list[Turn]:
    """Return the rows without empty columns."""
    full = [key for key in rows[0] if any(row[key] is not None for row in rows)]
    return [{key: row[key] for key in full} for row in rows]


def _middle(values: Sequence[Any]) -> Any:
    if not values:
        return None
    return statistics.median(values) if isinstance(values[0], float) else values[-1]


def in_fresh_process(function: Callable[..., Turn], *args: Any) -> Turn:
    """Return the measurements of a function in a new process, and the process's peak memory."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(_with_peak, function, *args).result()


def _with_peak(function: Callable[..., Turn], *args: Any) -> Turn:
    found = function(*args)
    return found | {"peak RSS MB": peak_rss_nbytes() / 1e6}


def peak_rss_nbytes() -> int:
    """Return the peak memory of this process, without its children."""
    # On Linux a process's ru_maxrss starts at that of its parent.
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found if sys.platform == "darwin" else found * 1024


def run_command(words: Sequence[str]) -> Turn:
    """Run a command, and return its seconds, its peak memory and its output.

    Call it in a new process, which is small: see :func:`peak_rss_nbytes`.
    """
    began = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words, printed)
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "seconds": time.perf_counter() - began,
        "command RSS MB": usage.ru_maxrss * unit / 1e6,
        "printed": printed,
    }


FEATSTORE = (
    sys.executable,
    "-c",
    "import sys; from featstore.cli.main import main; sys.exit(main())",
)
"""The ``featstore`` command of this interpreter."""
