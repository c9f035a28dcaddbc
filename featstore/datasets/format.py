"""Describe a format of datasets: what it needs, where it lies, and how it is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from featstore.config import DatasetOptions
from featstore.datasets.reading import Reading
from featstore.datasets.source import Source
from featstore.errors import DatasetNotFoundError
from featstore.progress import SILENT, Progress


@dataclass(frozen=True)
class Format:
    """A format of datasets: what it needs, where it lies, and how it is opened.

    Attributes
    ----------
    name : str
        What `open_dataset` takes.
    description : str
        One line for people.
    needs : str
        The files that the format reads.
    cure : str
        How to get them.
    folders : tuple of str
        Folders below the root that are searched.
    marks : tuple of str
        Files or folders; one of them marks the folder of the dataset.
    open : callable
        Receives an :class:`Opening`, and returns a :class:`featstore.datasets.source.Source`.
    download : callable, optional
        Receives the root and a progress, puts the files below the root, and returns their place.
    """

    name: str
    description: str
    needs: str
    cure: str
    folders: tuple[str, ...]
    marks: tuple[str, ...]
    open: Callable[[Opening], Source]
    download: Callable[[Path, Progress], Path] | None = None

    def find(self, root: Path) -> Path | None:
        """Return the first file or folder below a root that marks the dataset, or None."""
        for folder in self.places(root) if root.is_dir() else ():
            for mark in self.marks:
                if (folder / mark).exists():
                    return folder / mark
        return None

    def places(self, root: Path) -> list[Path]:
        """Return the folders that are searched for the dataset."""
        return [root / folder for folder in self.folders]


@dataclass(frozen=True)
class Opening:
    """What a format's `open` receives.

    Attributes
    ----------
    format : Format
    root : Path
        The folder that holds the dataset's files, or a parent.
    has_root : bool
        Whether the user gave the root.
    options : DatasetOptions
        Settings such as ``seed``.
    progress : Progress
        Receives work that is done once.
    reading : Reading
        Which bands are read of rasters, and how their values become bytes.
    """

    format: Format
    root: Path
    has_root: bool = True
    options: DatasetOptions = DatasetOptions()
    progress: Progress = SILENT
    reading: Reading = Reading()

    def find(self) -> Path:
        """Return the file or folder that marks the dataset; DatasetNotFoundError without one."""
        entry, root = self.format, self.root
        if (found := entry.find(root)) is not None:
            return found
        if not root.is_dir():
            what = "is a file; give its folder" if root.exists() else "does not exist"
            raise DatasetNotFoundError(
                f"{entry.name}: the root {root} {what}. It needs {entry.needs}. {entry.cure}"
            )
        places = ", ".join(map(str, entry.places(root)))
        raise DatasetNotFoundError(
            f"{entry.name}: found no {entry.needs}; looked in {places}. {entry.cure}"
        )
