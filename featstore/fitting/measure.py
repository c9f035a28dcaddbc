"""Measure the time of each phase of a fit, and its memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

SAMPLING_S = 0.02


class Clock:
    """Seconds of each phase, and of all together as ``total``."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.times: dict[str, float] = {"total": 0.0}

    def lap(self, phase: str) -> None:
        """End a phase, and begin the next."""
        duration_s = time.perf_counter() - self._last
        self._last += duration_s
        self.times[phase] = duration_s
        self.times["total"] += duration_s


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Yield a list whose one element becomes this process's largest resident set, in bytes.

    It includes the pages of the features' memory map that are in memory.
    """
    process = psutil.Process()
    peak = [process.memory_info().rss]
    over = threading.Event()

    def watch() -> None:
        while not over.wait(SAMPLING_S):
            peak[0] = max(peak[0], process.memory_info().rss)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()
