"""Commands watched from outside: seconds from start to end, and the memory of all their processes.

Linux says what pages a process holds and with how many others it shares each.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from turns import Turn

PERIOD_S = 0.05
"""Time between two looks at the memory."""

LOOKS_PER_LISTING = 5
"""Looks at the same processes before new ones are looked for, which takes 5 ms."""

Look = Callable[[int], Mapping[str, int]]


def shared_fairly(pid: int) -> dict[str, int]:
    """Return a process's kB, its part of shared pages counted as one n-th."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return {"PSS": next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))}


def resident(pid: int) -> dict[str, int]:
    """Return a process's resident kB, and those of them that no file stands behind."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    found = {name: value for name, _, value in (line.partition(":") for line in lines)}
    kinds = {"RSS": "VmRSS", "anonymous": "RssAnon"}
    return {kind: int(found[name].split()[0]) for kind, name in kinds.items() if name in found}


def watch(
    words: Sequence[str], look: Look = shared_fairly, environment: Mapping[str, str] | None = None
) -> Turn:
    """Run a command, and return its seconds, its peak memory and what it printed.

    Parameters
    ----------
    words : sequence of str
        The command.
    look : callable
        What to look at in each process: :func:`shared_fairly`, or :func:`resident`, which is
        quicker where gigabytes are mapped. Peaks are of the sums over all processes.
    environment : mapping of str to str, optional
        Further variables of it.

    Raises
    ------
    subprocess.CalledProcessError
        When it fails; it holds what it printed.
    """
    peaks: dict[str, int] = {}
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as said:
        began = time.perf_counter()
        process = subprocess.Popen(
            words, stdout=printed, stderr=said, env={**os.environ, **(environment or {})}
        )
        try:
            pids: list[int] = []
            for number in range(10**9):
                if number % LOOKS_PER_LISTING == 0:
                    pids = _family(process.pid)
                sums: dict[str, int] = {}
                for pid in pids:
                    # One that has just ended holds nothing.
                    with contextlib.suppress(OSError, StopIteration):
                        for name, kb in look(pid).items():
                            sums[name] = sums.get(name, 0) + kb
                for name, kb in sums.items():
                    peaks[name] = max(peaks.get(name, 0), kb)
                try:
                    process.wait(PERIOD_S)
                    break
                except subprocess.TimeoutExpired:
                    continue
        except BaseException:
            process.terminate()
            process.wait()
            raise
        seconds = time.perf_counter() - began
        texts = [_read(stream) for stream in (printed, said)]
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words, *texts)
    found: Turn = {f"peak {name} MB": kb * 1024 / 1e6 for name, kb in peaks.items()}
    return {"seconds": seconds, **found, "printed": texts[0]}


def _family(pid: int) -> list[int]:
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return [pid]


def _read(stream: Any) -> str:
    stream.seek(0)
    return str(stream.read())


def last_json(found: Turn) -> Turn:
    """Return a turn with the JSON object of the last line that was printed in place of it all."""
    *_, line = found.pop("printed").splitlines()
    return {**found, **json.loads(line)}
