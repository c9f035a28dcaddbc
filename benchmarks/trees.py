"""Run a command and measure its time, and the memory of all its processes.

Linux reports the pages of a process, and how many processes share each.
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
"""Time between two samples of the resident memory."""

SHARED_PERIOD_S = 0.5
"""The same of shared pages. To count them takes milliseconds of each process, which it stops: every
0.05 s, that slowed two workers on two cores by a tenth, and a single process not at all."""

LISTING_S = 0.25
"""Time between two searches for new processes, which take 5 ms."""

Look = Callable[[int], Mapping[str, int]]


def shared_fairly(pid: int) -> dict[str, int]:
    """Return a process's kB; a page that n processes share counts one n-th."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return {"PSS": next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))}


def resident(pid: int) -> dict[str, int]:
    """Return a process's resident kB, and the anonymous ones among them."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    found = {name: value for name, _, value in (line.partition(":") for line in lines)}
    kinds = {"RSS": "VmRSS", "anonymous": "RssAnon"}
    return {kind: int(found[name].split()[0]) for kind, name in kinds.items() if name in found}


def watch(
    words: Sequence[str], look: Look = shared_fairly, environment: Mapping[str, str] | None = None
) -> Turn:
    """Run a command, and return its seconds, its peak memory and its output.

    Parameters
    ----------
    words : sequence of str
        The command.
    look : callable
        Measures the memory of a process: :func:`shared_fairly`, or :func:`resident`, which is
        faster for gigabytes of mapped files. Peaks are of the sum over all processes.
    environment : mapping of str to str, optional
        Further environment variables of the command.

    Raises
    ------
    subprocess.CalledProcessError
        When the command fails; holds its output.
    """
    peaks: dict[str, int] = {}
    period_s = SHARED_PERIOD_S if look is shared_fairly else PERIOD_S
    looks_per_listing = max(1, round(LISTING_S / period_s))
    with tempfile.TemporaryFile("w+") as printed, tempfile.TemporaryFile("w+") as said:
        began = time.perf_counter()
        process = subprocess.Popen(
            words, stdout=printed, stderr=said, env={**os.environ, **(environment or {})}
        )
        try:
            pids: list[int] = []
            for number in range(10**9):
                if number % looks_per_listing == 0:
                    pids = _family(process.pid)
                sums: dict[str, int] = {}
                for pid in pids:
                    # A process that has just ended holds nothing.
                    with contextlib.suppress(OSError, StopIteration):
                        for name, kb in look(pid).items():
                            sums[name] = sums.get(name, 0) + kb
                for name, kb in sums.items():
                    peaks[name] = max(peaks.get(name, 0), kb)
                try:
                    process.wait(period_s)
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
    """Return a turn whose output is replaced by the JSON object in its last line."""
    *_, line = found.pop("printed").splitlines()
    return {**found, **json.loads(line)}
