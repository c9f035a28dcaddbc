"""The protocol by which long work reports its progress, without knowing who listens."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What a long-running function calls as it goes; the command line draws bars from it."""

    def start(self, what: str, total: int, unit: str) -> None:
        """Begin a phase of `total` units (``images``, ``bytes``, ``fits``).

        What was done earlier is no part of it: rates and the time left count from the start.
        """

    def advance(self, n: int) -> None:
        """Note that `n` more units are done."""

    def stop(self) -> None:
        """End the phase."""

    def say(self, line: str) -> None:
        """Tell the user one plain line."""


class Silent:
    """A :class:`Progress` to which nobody listens, the default of every function."""

    def __repr__(self) -> str:
        return "SILENT"

    def start(self, what: str, total: int, unit: str) -> None:
        """Do nothing."""

    def advance(self, n: int) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""

    def say(self, line: str) -> None:
        """Do nothing."""


SILENT: Progress = Silent()
