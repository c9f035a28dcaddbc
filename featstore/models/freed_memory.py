"""Keep freed memory for the next tensor, or give it back to the system: glibc's malloc."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt: malloc.h."""


def keep_freed_memory() -> None:
    """Make the C library keep freed memory for the next tensor.

    By default glibc returns large blocks to the system and gets them back page by page at the next
    operation. That took half of MobileNetV2's time on a 2-core CPU (55 against 108 images/s) and a
    fifth of ResNet50's; keeping them takes 130 MB of memory.
    """
    if (mallopt := _glibc("mallopt")) is not None:
        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def return_freed_memory() -> None:
    """Give the freed memory that was kept back to the system, of a pass some 0.7 GB."""
    if (malloc_trim := _glibc("malloc_trim")) is not None:
        malloc_trim(0)


def _glibc(name: str) -> Any:
    """Return a function of glibc's; None where the C library is another one, such as musl."""
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):
            return getattr(ctypes.CDLL("libc.so.6"), name)
    return None
