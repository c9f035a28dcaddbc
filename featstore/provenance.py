"""Where results come from: versions, machine, and the fingerprints of files."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from featstore.config import json_digest
from featstore.errors import DatasetError
from featstore.files import file_sha256, replacing
from featstore.progress import SILENT, Progress

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


class FingerprintCache:
    """Content hashes of files, computed again only when size, time or place of one changed.

    Parameters
    ----------
    folder : Path
        Where the hashes are kept; a folder that can't be written only costs time.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def sha256(self, files: Sequence[Path], progress: Progress = SILENT) -> list[str]:
        """Return the sha256 (hex) of each file.

        Raises
        ------
        DatasetError
            When a file can't be read.
        """
        if not files:
            return []
        # One list a folder of files, named by its absolute path.
        common = os.path.commonpath([path.absolute() for path in files])
        place = self.folder / f"{json_digest(common)}.json"
        known = self._load(place)
        keys = [str(path.absolute()) for path in files]
        stats = [self._stat(path) for path in files]
        stale = [i for i, key in enumerate(keys) if known.get(key, [None])[:3] != stats[i]]
        if stale:
            progress.start("Fingerprinting", len(stale), "files")
            try:
                with ThreadPoolExecutor(min(8, available_cores())) as pool:
                    for i, digest in zip(
                        stale, pool.map(self._hash, (files[i] for i in stale)), strict=True
                    ):
                        known[keys[i]] = [*stats[i], digest]
                        progress.advance(1)
            finally:
                progress.stop()
            self._save(place, {key: known[key] for key in keys})
        return [known[key][3] for key in keys]

    @staticmethod
    def _stat(path: Path) -> list[int]:
        try:
            found = path.stat()
        except OSError as error:
            raise DatasetError(f"{path} can't be read: {error.strerror}.") from error
        return [found.st_size, found.st_mtime_ns, found.st_ino]

    @staticmethod
    def _hash(path: Path) -> str:
        try:
            return file_sha256(path)
        except OSError as error:
            raise DatasetError(f"{path} can't be read: {error.strerror}.") from error

    @staticmethod
    def _load(place: Path) -> dict[str, list[Any]]:
        try:
            return dict(json.loads(place.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return {}

    @staticmethod
    def _save(place: Path, known: dict[str, list[Any]]) -> None:
        try:
            with replacing(place) as temporary:
                temporary.write_text(json.dumps(known), encoding="utf-8")
        except OSError:
            return


def dataset_fingerprint(
    identity: dict[str, Any],
    files: Sequence[tuple[str, Path]],
    cache: FingerprintCache,
    progress: Progress = SILENT,
) -> str:
    """Return the sha256 (hex) of what a dataset is: its identity and its files' content.

    It does not depend on where the files lie.
    """
    digests = cache.sha256([path for _, path in files], progress)
    names = [name for name, _ in files]
    return json_digest({"identity": identity, "files": list(zip(names, digests, strict=True))})
