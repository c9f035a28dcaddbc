"""Where results come from: versions, machine, and the fingerprints of files."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

PACKAGES = (
    "featstore",
    "dask",
    "distributed",
    "numcodecs",
    "numpy",
    "openvino",
    "scikit-learn",
    "scipy",
    "skops",
    "torch",
    "torchvision",
    "zarr",
)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine() -> dict[str, Any]:
    """Return what the results were made on."""
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "n_cores": available_cores(),
        "memory_nbytes": psutil.virtual_memory().total,
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def available_cores() -> int:
    """Return the cores that this process may use, which a container can make fewer."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def command() -> str:
    """Return the command line of this process, as it could be typed again."""
    return shlex.join([Path(sys.argv[0]).name or "python", *sys.argv[1:]])


def now() -> str:
    """Return the time, UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
