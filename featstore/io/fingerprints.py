"""Content hashes of dataset files, cached by file stamp, and a watch for changes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from featstore.environment import available_cores
from featstore.errors import DatasetError
from featstore.io.files import file_sha256, json_digest
from featstore.io.stamped_cache import StampedCache, stamp_text
from featstore.progress import SILENT, Progress

N_AT_A_TIME = 32
"""Most files that a thread hashes as one task: a task takes longer than a tiny file."""


class Watch:
    """Checks that files have not changed since they were fingerprinted.

    `stamps` are those of :func:`.stamp_text` by path, from before the files were read.
    """

    def __init__(self, stamps: Mapping[str, str]) -> None:
        self._stamps = dict(stamps)

    def check(self, paths: Iterable[str | Path] | None = None) -> None:
        """Raise DatasetError if one of `paths`, or of all files, was changed or removed."""
        for path in map(str, self._stamps if paths is None else paths):
            try:
                changed = stamp_text(path) != self._stamps[path]
            except DatasetError:
                changed = True
            if changed:
                raise DatasetError(
                    f"{path} was changed, or touched, while its dataset was being read, so that "
                    "features of two datasets could be mixed. What was computed before is kept; "
                    "run the same command again: it resumes if the images are the same, and makes "
                    "another feature set if they are not."
                )


class FingerprintCache:
    """Content hashes of files, computed again only when a file's stamp changes.

    `folder` keeps the hashes. If it can't be written, they are computed each time.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # The stamps of the files, from before they were read.
        self.stamps: dict[str, str] = {}
        self._lists: dict[str, StampedCache] = {}

    def sha256(self, files: Sequence[str | Path], progress: Progress = SILENT) -> list[str]:
        """Return the sha256 (hex) of each file."""
        if not files:
            return []
        # Path's own methods would take most of the time of a million files.
        names = [str(path) for path in files]
        paths = list(map(partial(os.path.join, os.getcwd()), names))
        # One list for each folder, named by the folder's absolute path.
        common = os.path.commonpath([min(paths), max(paths)])
        if common not in self._lists:
            self._lists[common] = StampedCache(self.folder / f"{json_digest(common)}.json")
        known = self._lists[common]
        keys = [path[len(common) :] for path in paths]
        stamps = [stamp_text(name) for name in names]
        self.stamps |= dict(zip(names, stamps, strict=True))
        found = [known.get(key, stamp) for key, stamp in zip(keys, stamps, strict=True)]
        stale = [i for i, digest in enumerate(found) if digest is None]
        if stale:
            for i, digest in zip(stale, _hashes([names[i] for i in stale], progress), strict=True):
                known.put(keys[i], stamps[i], digest)
                found[i] = digest
        known.save(keys)
        return [str(digest) for digest in found]


def _hashes(names: Sequence[str], progress: Progress) -> Iterator[str]:
    progress.start("Fingerprinting", len(names), "files")
    try:
        with ThreadPoolExecutor(min(8, available_cores())) as pool:
            step = min(N_AT_A_TIME, 1 + len(names) // 256)
            blocks = (names[start : start + step] for start in range(0, len(names), step))
            for digests in pool.map(_hash_block, blocks):
                yield from digests
                progress.advance(len(digests))
    finally:
        progress.stop()


def _hash_block(names: Sequence[str]) -> list[str]:
    found = []
    for name in names:
        try:
            found.append(file_sha256(Path(name)))
        except OSError as error:
            raise DatasetError(f"{name} can't be read: {error.strerror}.") from error
    return found


def dataset_fingerprint(
    identity: dict[str, Any],
    files: Sequence[tuple[str, str | Path]],
    cache: FingerprintCache,
    progress: Progress = SILENT,
) -> str:
    """Return the sha256 (hex) of a dataset's identity and its files' names and content.

    It does not depend on the folder of the files.
    """
    digests = cache.sha256([path for _, path in files], progress)
    names = [name for name, _ in files]
    return json_digest({"identity": identity, "files": list(zip(names, digests, strict=True))})
