"""Where results come from: versions, machine, and the fingerprints of files."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

DISTRIBUTION = "rs-featstore"
"""The name that pip knows: ``featstore`` is another package on PyPI."""


@cache
def version(distribution: str) -> str:
    """Return the version of an installed distribution, or ``not installed``."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


__version__ = version(DISTRIBUTION)


PACKAGES = (
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
    found = {"python": platform.python_version(), "featstore": __version__}
    return found | {name: version(name) for name in PACKAGES}


def import_from(folder: str | None = None) -> None:
    """Let modules in a folder be imported, by default in the working folder."""
    if (folder := folder or os.getcwd()) not in sys.path:
        sys.path.insert(0, folder)


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


DEFAULT_STORE = "feature-store"
"""Folder of the store of those who name none."""


def default_store() -> str:
    """Return the store of those who name none: that of FEATSTORE_STORE, or ``feature-store``."""
    return os.environ.get("FEATSTORE_STORE") or DEFAULT_STORE


def store_option(address: str) -> str:
    """Return the option by which a command finds a store; empty for the default one."""
    return "" if address == default_store() else f" --store {shlex.quote(address)}"


def command() -> str:
    """Return the command line of this process, as it could be typed again."""
    return shlex.join([Path(sys.argv[0]).name or "python", *sys.argv[1:]])


def now(timespec: str = "seconds") -> str:
    """Return the time, UTC, ISO 8601, to the second, or to what `timespec` names."""
    return datetime.now(UTC).isoformat(timespec=timespec)
