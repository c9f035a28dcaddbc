"""Keep the start of Dask's workers from changing this process."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any


@contextmanager
def environment_kept(names: Iterable[str]) -> Iterator[None]:
    """Restore variables of this process's environment, which Dask changes to pass to workers."""
    kept = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back while threads and workers start.

    They inherit the hold and are never interrupted, so that this thread alone ends them, in order.
    A Ctrl-C that came meanwhile takes effect at the end.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Its later start would let interrupts through again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def without_log() -> Iterator[None]:
    """Keep Dask's log off the terminal; results say what matters."""
    # Some of Dask's modules set their own log levels.
    names = [name for name in logging.root.manager.loggerDict if name.startswith("distributed.")]
    loggers = [logging.getLogger(name) for name in ("distributed", *names)]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextmanager
def script_hidden() -> Iterator[None]:
    """Keep new processes from importing the running script.

    multiprocessing would import it, and a script that calls ``featstore.fit`` outside an
    ``if __name__ == "__main__"`` would start clusters without end.
    """
    main = vars(sys.modules["__main__"])
    kept: dict[str, Any] = {name: main[name] for name in ("__file__", "__spec__") if name in main}
    main.pop("__file__", None)
    main["__spec__"] = None
    try:
        yield
    finally:
        main.update(kept)
