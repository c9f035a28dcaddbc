"""Find the image files below a folder, and count what is left out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featstore.datasets.decode import IMAGE_SUFFIXES
from featstore.errors import DatasetError
from featstore.text import join_some

IGNORED_FOLDERS = frozenset(
    (
        *("__macosx", "__pycache__", "feature-store", "lost+found"),
        *("$recycle.bin", "recycler", "system volume information"),
        *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),
        *("network trash folder", "temporary items"),
    )
)
"""Folders of systems and programs, in lower case; hidden folders are ignored too."""

_ENDINGS = tuple(IMAGE_SUFFIXES)


@dataclass
class LeftOut:
    """Counts of what lies among the images of a folder and is left out.

    `endings` counts files that are not images, by ending, and hidden files as ``hidden``;
    `folders` counts hidden folders and folders of the system, by name; `n_outside` counts images
    outside the class folders, `n_unlisted` images that no list of a published split names.
    """

    endings: Counter[str] = field(default_factory=Counter)
    folders: Counter[str] = field(default_factory=Counter)
    n_outside: int = 0
    n_unlisted: int = 0

    def __add__(self, other: LeftOut) -> LeftOut:
        """Return the sum of both counts."""
        return LeftOut(
            self.endings + other.endings,
            self.folders + other.folders,
            self.n_outside + other.n_outside,
            self.n_unlisted + other.n_unlisted,
        )

    @property
    def n_files(self) -> int:
        """Number of files, without those in left-out folders."""
        return self.endings.total() + self.n_outside + self.n_unlisted

    def lines(self) -> list[str]:
        """Return sentences for people; none when nothing is left out."""
        found = []
        if n := self.endings.total():
            files = "1 file that is" if n == 1 else f"{n:,} files that are"
            found.append(f"Left out {files} not of an image format: {_counts(self.endings)}.")
        if n := self.n_outside:
            images = "1 image" if n == 1 else f"{n:,} images"
            found.append(f"Left out {images} outside the class folders.")
        if n := self.n_unlisted:
            images = "1 image" if n == 1 else f"{n:,} images"
            found.append(f"Left out {images} that no list of the published split names.")
        if n := self.folders.total():
            folders = "1 folder" if n == 1 else f"{n:,} folders"
            found.append(f"Left out {folders}, hidden or of the system: {_counts(self.folders)}.")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as JSON-able values."""
        return {
            "n_files": self.n_files,
            "n_files_by_ending": dict(self.endings.most_common()),
            "n_images_outside_classes": self.n_outside,
            "n_images_unlisted": self.n_unlisted,
            "n_folders_by_name": dict(self.folders.most_common()),
        }


def _counts(counter: Counter[str]) -> str:
    return join_some([f"{n:,} {name}" for name, n in counter.most_common()])


def list_folder(folder: str | Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder, sorted by name."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DatasetError(f"{folder}: can't be listed: {error.strerror}.") from None


def subfolders(folder: str | Path) -> list[os.DirEntry[str]]:
    """Return the folders in a folder, without those that are ignored."""
    return [e for e in list_folder(folder) if not _is_ignored(e.name) and e.is_dir()]


def is_image_name(name: str) -> bool:
    """Return whether a file's name is visible and ends as that of an image."""
    return not name.startswith(".") and name.lower().endswith(_ENDINGS)


def _is_ignored(name: str) -> bool:
    return name.startswith(".") or name.lower() in IGNORED_FOLDERS


class ImageWalk:
    """One walk through a folder and all folders in it.

    With `follow_links`, links may lead out of the folder. `left_out` counts what the walk leaves
    out. `dangling` holds image links to files that do not exist, as (link, file); the walk yields
    these links too.
    """

    def __init__(self, root: Path, *, follow_links: bool) -> None:
        self.left_out = LeftOut()
        self.dangling: list[tuple[str, Path]] = []
        self._root = root.resolve()
        self._follow_links = follow_links

    def folders(self, folder: str | Path) -> list[os.DirEntry[str]]:
        """Return the folders in a folder; its files are left out."""
        folders, images = self._sort(folder)
        self.left_out.n_outside += len(images)
        return folders

    def images(self, folder: str | Path, prefix: str = "") -> Iterator[tuple[str, str]]:
        """Yield (prefix and path below the folder, path) of all images below a folder."""
        return self._walk(str(folder), prefix, (Path(os.path.abspath(folder)).parent.resolve(),))

    def _walk(self, folder: str, prefix: str, above: tuple[Path, ...]) -> Iterator[tuple[str, str]]:
        real = Path(folder).resolve()
        if real != self._root:
            self._check(folder, real)
        if real in above:
            raise DatasetError(f"{folder}: is a link to a folder above it; remove it.")
        folders, images = self._sort(folder)
        for entry in images:
            if entry.is_symlink():
                target = Path(entry.path).resolve()
                self._check(entry.path, target)
                if not target.exists():
                    self.dangling.append((entry.path, target))
                    yield prefix + entry.name, entry.path
                    continue
            if not entry.is_file():
                # Reading a pipe would wait for ever.
                raise DatasetError(f"{entry.path}: is a pipe, socket or device; remove it.")
            yield prefix + entry.name, entry.path
        for entry in folders:
            yield from self._walk(entry.path, f"{prefix}{entry.name}/", (*above, real))

    def _check(self, path: str, target: Path) -> None:
        if not self._follow_links and not target.is_relative_to(self._root):
            raise DatasetError(
                f"{path}: is a link out of {self._root}, to {target}. Add --follow-links to read "
                "such links (follow_links=True in Python), or put the files in place of the links."
            )

    def _sort(self, folder: str | Path) -> tuple[list[os.DirEntry[str]], list[os.DirEntry[str]]]:
        """Return the folders and the images in a folder, and count the rest."""
        folders, images = [], []
        for entry in list_folder(folder):
            if entry.is_dir():
                if _is_ignored(entry.name):
                    self.left_out.folders[entry.name] += 1
                else:
                    folders.append(entry)
            elif is_image_name(entry.name):
                images.append(entry)
            else:
                is_hidden = entry.name.startswith(".")
                ending = os.path.splitext(entry.name)[1].lower()
                self.left_out.endings["hidden" if is_hidden else ending or "without ending"] += 1
        return folders, images
