"""Real processes for tests: started in milliseconds, killed, filled up, and waited for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from makers import tree_bytes

from featstore.runs.run import Run
from featstore.store.feature_store import open_store

PATIENCE_S = 600.0
"""Longest wait for a process, however busy the machine: it only ends a deadlock."""


LOOK_S = 0.015
"""Time between two looks at a process."""


@dataclass
class Child:
    """One process, which may have ended."""

    pid: int
    folder: Path
    report_path: Path
    children: Children = field(repr=False)
    status: int | None = None

    def poll(self) -> bool:
        """Return whether it has ended."""
        if self.status is None:
            answer = self.children.ask({"wait": self.pid})
            if answer["ended"]:
                self.status = int(answer["status"])
        return self.status is not None

    def wait(self) -> Child:
        """Wait for the end."""
        until = time.monotonic() + PATIENCE_S
        while not self.poll():
            if time.monotonic() > until:
                os.kill(self.pid, signal.SIGKILL)
                raise AssertionError(f"it did not end: {self.err}")
            time.sleep(LOOK_S)
        return self

    def kill(self) -> None:
        """End it by SIGKILL, if it is still there."""
        if not self.poll():
            os.kill(self.pid, signal.SIGKILL)
            self.wait()

    @property
    def code(self) -> int:
        """Exit code; negative for the signal that ended it."""
        self.wait()
        assert self.status is not None
        return os.waitstatus_to_exitcode(self.status)

    @property
    def out(self) -> str:
        """What it said on stdout."""
        return (self.folder / "out").read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        """What it said on stderr."""
        return (self.folder / "err").read_text(encoding="utf-8")

    @property
    def result(self) -> Any:
        """The JSON that it printed."""
        assert self.code == 0, self.err
        return json.loads(self.out)

    @property
    def report(self) -> Any:
        """What :class:`operations.Operations` reported; None where nothing was."""
        try:
            return json.loads(self.report_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None


class Children:
    """Starts processes by a zygote."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._started: list[Child] = []
        here = Path(__file__).parent
        self._zygote = subprocess.Popen(
            [sys.executable, str(here / "zygote.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def close(self) -> None:
        """End the zygote, and those of its children that a failed test left."""
        for child in self._started:
            if child.status is None:
                child.kill()
        assert self._zygote.stdin
        assert self._zygote.stdout
        self._zygote.stdin.close()
        self._zygote.wait(PATIENCE_S)
        self._zygote.stdout.close()

    def _answer(self) -> Any:
        assert self._zygote.stdout
        return json.loads(self._zygote.stdout.readline())

    def ask(self, request: dict[str, Any]) -> Any:
        """Send the zygote a request and return its answer."""
        with self._lock:
            assert self._zygote.stdin
            self._zygote.stdin.write(json.dumps(request) + "\n")
            self._zygote.stdin.flush()
            return self._answer()

    def start(self, call: str, **request: Any) -> Child:
        """Start a process."""
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        # A child that has not run yet has said nothing.
        (folder / "out").touch()
        (folder / "err").touch()
        report = folder / "report.json"
        if "fault" in request:
            request["fault"] = {"report": str(report), **request["fault"]}
        asked = self.ask({"call": call, "folder": str(folder), **request})
        self._started.append(Child(asked["pid"], folder, report, self))
        return self._started[-1]

    def command(self, store: Path, *args: object, **request: Any) -> Child:
        """Start ``featstore``, with small chunks that are journalled at once."""
        words = [*map(str, args), "--store", str(store)]
        constants = SMALL | request.pop("constants", {})
        more = {"args": words, "store": str(store), "constants": constants}
        return self.start("command", **more, **request)


def wait_until(is_so: Callable[[], object]) -> None:
    """Wait for something that other processes bring about."""
    until = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < until, "it never came"
        time.sleep(LOOK_S)


SMALL = {
    # Three rows of the 29 statistics of three bands: no multiple of the batch of four.
    "store.format.matrix.CHUNK_NBYTES": 4 * 29 * 3,
    "store.writer.CHECKPOINT_S": 0.0,
    "store.writer.JOURNAL_S": 0.0,
    "extraction.coordinator.MIN_BATCHES": 1,
}
"""Constants with which few images make many chunks, and whatever comes in is made durable."""


def extract_words(root: Path, *more: str) -> list[str]:
    """Return the words of an extraction that takes no network."""
    words = ["extract", "--model", "pixelstats", "--dataset", "folder", "--root", str(root)]
    return [*words, "--batch-size", "4", *more]


def group_bytes(store: Path) -> dict[str, bytes]:
    """Return the files of the one set of a store."""
    (feature_set,) = open_store(store).sets()
    return tree_bytes(feature_set.group)


def resumed(child: Child) -> None:
    """Check that a command ended well."""
    assert child.code == 0, child.err


VOLATILE = ("created", "command", "duration_s", "peak_rss_nbytes", "digest", "files")
"""What two runs of one fit don't share."""


def run_content(run: Run) -> dict[str, bytes | str]:
    """Return what a run holds, without times and places."""
    record = {k: v for k, v in run.record.to_dict().items() if k not in VOLATILE}
    files = {k: v for k, v in tree_bytes(run.path).items() if k != "metrics.json"}
    # A zip file has the time of its making in it, and skops names objects by their addresses.
    del files["model.skops"]
    for step in run.model.named_steps.values():
        for name, value in sorted(vars(step).items()):
            if name.endswith("_") and not name.startswith("_"):
                record[name] = np.asarray(value).tolist()
    return files | {"record": json.dumps(record, sort_keys=True, default=repr)}
