"""Keep on disk what takes long to find out about networks: names, layers, rates, compiled code.

The files save time and decide nothing: one that is missing or damaged is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import platformdirs

from featstore.environment import version
from featstore.io.files import atomic_write, json_digest
from featstore.models.names import source_facts

MAX_NBYTES = 2 * 2**30
"""Most bytes of all files together; those that were not used for longest are deleted."""


N_DIGEST = 64
"""Bytes of the sha256 (hex) with which each file begins."""


PACKAGES = ("openvino", "torch", "torchvision")


def cache_folder() -> Path:
    """Return the folder of the files: in the user's cache, or below FEATSTORE_CACHE."""
    named = os.environ.get("FEATSTORE_CACHE")
    return (Path(named) if named else platformdirs.user_cache_path("featstore")) / "networks"


@cache
def _code_digest() -> str:
    """Return the sha256 of the code that builds networks."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class CacheFile:
    """The file of one thing about one network, or about a source of networks such as ``timm:``.

    The file's name covers `facts` (JSON-able), the model's source, the versions of the libraries
    and featstore's own code, so that a change of any of them means another file.
    """

    def __init__(self, model: str, what: str, facts: Mapping[str, Any]) -> None:
        versions = {name: version(name) for name in PACKAGES} | source_facts(model)
        key = {"model": model, **facts, "versions": versions, "code": _code_digest()}
        self._path = cache_folder() / f"{json_digest(key)[:32]}.{what}"

    def exists(self) -> bool:
        """Return whether the file was written, whole or damaged."""
        return self._path.is_file()

    def read(self) -> bytes | None:
        """Return the content; None if the file is missing or damaged."""
        try:
            content = memoryview(self._path.read_bytes())
            if content[:N_DIGEST] != hashlib.sha256(content[N_DIGEST:]).hexdigest().encode():
                return None
            os.utime(self._path)
        except OSError:
            return None
        return bytes(content[N_DIGEST:])

    def write(self, content: bytes) -> None:
        """Write the content, unless the folder can't be written."""
        if len(content) > MAX_NBYTES // 2:
            return
        with suppress(OSError):
            with atomic_write(self._path) as temporary, temporary.open("wb") as file:
                file.write(hashlib.sha256(content).hexdigest().encode())
                file.write(content)
            _delete_oldest(self._path.parent)

    def read_json(self) -> Any:
        """Return the value that :meth:`write_json` wrote; None if the file is of no use."""
        content = self.read()
        return None if content is None else json.loads(content)

    def write_json(self, value: Any) -> None:
        """Write a value as JSON."""
        self.write(json.dumps(value).encode())


def _delete_oldest(folder: Path) -> None:
    files = [
        (stat.st_mtime, stat.st_size, path) for path in folder.iterdir() if (stat := path.stat())
    ]
    excess = sum(nbytes for _, nbytes, _ in files) - MAX_NBYTES
    for _, nbytes, path in sorted(files):
        if excess <= 0:
            return
        path.unlink(missing_ok=True)
        excess -= nbytes
