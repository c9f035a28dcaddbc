"""Content hashes of dataset files, cached by file stamp, and a watch for changes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from featstore.environment import available_cores
from featstore.errors import DatasetError, StoreError
from featstore.io.files import file_sha256, file_stamp, json_digest, read_json, write_json
from featstore.progress import SILENT, Progress

RECENT_S = 0.02
"""A file that is this young may change and keep its times, which count in milliseconds."""


class Watch:
    """Checks that files have not changed since they were fingerprinted.

    `stamps` are those of :func:`file_stamp`, from before their content was read.
    """

    def __init__(self, stamps: Mapping[Path, list[int]]) -> None:
        self._stamps = dict(stamps)

    def check(self, paths: Iterable[Path] | None = None) -> None:
        """Raise DatasetError if one of `paths`, or of all files, was changed or removed."""
        for path in self._stamps if paths is None else paths:
            try:
                changed = file_stamp(path) != self._stamps[path]
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
        self.stamps: dict[Path, list[int]] = {}
        self._known: dict[str, list[Any]] = {}

    def sha256(self, files: Sequence[Path], progress: Progress = SILENT) -> list[str]:
        """Return the sha256 (hex) of each file."""
        if not files:
            return []
        # One list for each folder, named by the folder's absolute path.
        common = os.path.commonpath([path.absolute() for path in files])
        place = self.folder / f"{json_digest(common)}.json"
        known = self._load(place) | self._known
        keys = [str(path.absolute()) for path in files]
        stats = [file_stamp(path) for path in files]
        self.stamps |= dict(zip(files, stats, strict=True))
        stale = [i for i, key in enumerate(keys) if known.get(key, [None])[:-1] != stats[i]]
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
            # A file this young may change and keep its stamp.
            settled_ns = time.time_ns() - RECENT_S * 1e9
            kept = {key: known[key] for key in keys if known[key][3] < settled_ns}
            self._save(place, kept)
            self._known |= {key: known[key] for key in keys if key not in kept}
        return [known[key][-1] for key in keys]

    @staticmethod
    def _hash(path: Path) -> str:
        try:
            return file_sha256(path)
        except OSError as error:
            raise DatasetError(f"{path} can't be read: {error.strerror}.") from error

    @staticmethod
    def _load(place: Path) -> dict[str, list[Any]]:
        # With one wrong bit in a hash, the same files would be another dataset.
        try:
            return dict(read_json(place)["files"])
        except (StoreError, KeyError, ValueError, TypeError):
            return {}

    @staticmethod
    def _save(place: Path, known: dict[str, list[Any]]) -> None:
        try:
            write_json(place, {"files": known})
        except OSError:
            return


def dataset_fingerprint(
    identity: dict[str, Any],
    files: Sequence[tuple[str, Path]],
    cache: FingerprintCache,
    progress: Progress = SILENT,
) -> str:
    """Return the sha256 (hex) of a dataset's identity and its files' names and content.

    It does not depend on the folder of the files.
    """
    digests = cache.sha256([path for _, path in files], progress)
    names = [name for name, _ in files]
    return json_digest({"identity": identity, "files": list(zip(names, digests, strict=True))})
