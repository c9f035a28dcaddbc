"""Datasets: named, ordered collections of images with labels and splits.

:func:`open_dataset` finds and opens one, :func:`available_datasets` tells what there is. Each
format has a module of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from featstore.datasets.base import ArrayDataset, Dataset, FileDataset
from featstore.datasets.formats.folder import EXAMPLE, FolderSource
from featstore.datasets.formats.sat_csv import CsvSource
from featstore.datasets.formats.sat_mat import MatSource
from featstore.datasets.formats.synthetic import demo_file, write_demo
from featstore.datasets.formats.ucmerced import CLASSES, FOLDER, IMAGES, UcMercedSource
from featstore.errors import ConfigError, DatasetError, DatasetNotFoundError
from featstore.progress import SILENT, Progress


@dataclass(frozen=True)
class Format:
    """What is known of a dataset without its files.

    Attributes
    ----------
    name : str
        What `open_dataset` takes.
    description : str
        One line for people.
    needs : str
        The files it is read from.
    cure : str
        How to get them.
    folders : tuple of str
        Where they are looked for, below the root.
    marks : tuple of str
        Of these files or folders at least one is in the folder when the dataset is.
    """

    name: str
    description: str
    needs: str
    cure: str
    folders: tuple[str, ...]
    marks: tuple[str, ...]

    def find(self, root: Path) -> Path | None:
        """Return the first file or folder that marks the dataset below a root, if there is one."""
        for folder in self.places(root) if root.is_dir() else ():
            for mark in self.marks:
                if (folder / mark).exists():
                    return folder / mark
        return None

    def places(self, root: Path) -> list[Path]:
        """Return the folders in which the dataset is looked for."""
        return [root / folder for folder in self.folders]


def _sat(number: int, description: str) -> Format:
    name, mat = f"sat{number}", f"sat-{number}-full.mat"
    csv = CsvSource.names(name)[0]
    kaggle = f"deepsat-{name}"
    return Format(
        name,
        description,
        f"{mat} (MATLAB v5 or v7.3), or {csv}[.gz] and its four companions",
        f"Get {mat} from https://csc.lsu.edu/~saikat/deepsat/, or the CSV files from "
        f"https://www.kaggle.com/datasets/crawford/{kaggle}, and name their folder with --root.",
        (".", name, kaggle),
        (mat, csv, f"{csv}.gz"),
    )


FORMATS = {
    entry.name: entry
    for entry in (
        _sat(4, "500,000 images of 28x28 pixels, 4 bands, 4 land-cover classes"),
        _sat(6, "405,000 images of 28x28 pixels, 4 bands, 6 land-cover classes"),
        Format(
            "ucmerced",
            "2,100 aerial images of 256x256 pixels, 21 land-use classes",
            f"{IMAGES}/CLASS/*.tif",
            "Run `featstore datasets get ucmerced`, or name the folder that holds "
            f"{FOLDER} with --root.",
            (IMAGES, f"ucmerced/{IMAGES}", "ucmerced/Images", "ucmerced", "Images", "."),
            CLASSES,
        ),
        Format(
            "folder",
            "your own images: JPEG, PNG, TIFF, WebP, BMP, GIF",
            "CLASS/IMAGE, or train/CLASS/IMAGE and test/CLASS/IMAGE",
            "Name the tree with --root.",
            (".",),
            (".",),
        ),
        Format(
            "demo",
            "generated land cover in SAT-4's format, 28x28 pixels, 4 bands, 4 classes",
            f"nothing: it is generated as {demo_file(0)}",
            "Run `featstore datasets get demo`, or just use it.",
            ("demo", "."),
            (demo_file(0),),
        ),
    )
}


@dataclass(frozen=True)
class Availability:
    """A format, where it is looked for, and where it was found."""

    format: Format
    places: tuple[Path, ...]
    found: Path | None


def data_root(root: str | Path | None = None) -> Path:
    """Return where datasets are looked for: `root`, else ``FEATSTORE_DATA``, else ``data``."""
    return Path(root or os.environ.get("FEATSTORE_DATA") or "data").expanduser()


def available_datasets(root: str | Path | None = None) -> list[Availability]:
    """Tell which datasets there are, and which of them are found.

    Parameters
    ----------
    root : str or Path, optional
        The folder that holds their files, or a parent that has it under the dataset's name.

    Returns
    -------
    list of Availability
        One for each format; ``folder`` is found wherever there is a folder.
    """
    base = data_root(root)
    return [
        Availability(entry, tuple(entry.places(base)), entry.find(base))
        for entry in FORMATS.values()
    ]


def open_dataset(
    name: str,
    root: str | Path | None = None,
    *,
    seed: int = 0,
    limit: int | None = None,
    progress: Progress = SILENT,
) -> Dataset:
    """Find a dataset's files and open them; labels and pixels load when they are asked for.

    Parameters
    ----------
    name : str
        ``sat4``, ``sat6``, ``ucmerced``, ``folder`` or ``demo``.
    root : str or Path, optional
        The folder that holds the files, or a parent that has it under the dataset's name; by
        default the environment's ``FEATSTORE_DATA``, else ``data``. For ``folder`` it must be
        given and is the tree itself. ``demo`` is generated there if it is missing.
    seed : int
        Seeds the split of datasets that have no official one, and the demo's images.
    limit : int, optional
        Keep this many samples, spread evenly over each class of each split.
    progress : Progress, optional
        Told about work that is done once: converting CSV files, generating the demo.

    Returns
    -------
    Dataset
        An :class:`ArrayDataset` or a :class:`FileDataset`.

    Raises
    ------
    DatasetNotFoundError
        When the files are not there; says what was expected where, and how to get it.
    DatasetError
        When there is no such dataset.
    ConfigError
        When ``folder`` has no root.

    Examples
    --------
    >>> dataset = open_dataset("folder", "~/images/nwpu", limit=500)  # doctest: +SKIP
    """
    if name not in FORMATS:
        raise DatasetError(
            f"There is no dataset {name!r}; there are {', '.join(FORMATS)}. For your own images "
            "take folder and name their tree with --root."
        )
    entry, base = FORMATS[name], data_root(root)
    if name == "folder" and root is None:
        raise ConfigError(f"The dataset folder needs --root, the images' tree: {EXAMPLE[9:]}.")
    return _OPEN[name](entry, base, seed, limit, progress)


def _find(entry: Format, base: Path) -> Path:
    if (found := entry.find(base)) is not None:
        return found
    if not base.is_dir():
        what = "is a file; give its folder" if base.exists() else "does not exist"
        raise DatasetNotFoundError(
            f"{entry.name}: the root {base} {what}. It needs {entry.needs}. {entry.cure}"
        )
    places = ", ".join(map(str, entry.places(base)))
    raise DatasetNotFoundError(
        f"{entry.name}: found no {entry.needs}; looked in {places}. {entry.cure}"
    )


def _open_sat(
    entry: Format, base: Path, seed: int, limit: int | None, progress: Progress
) -> Dataset:
    found = _find(entry, base)
    if found.suffix == ".mat":
        return ArrayDataset(MatSource(entry.name, found), limit)
    source = CsvSource(entry.name, found.parent, progress)
    source.files()  # All five have to be there.
    return ArrayDataset(source, limit)


def _open_ucmerced(
    entry: Format, base: Path, seed: int, limit: int | None, progress: Progress
) -> Dataset:
    return FileDataset(UcMercedSource(_find(entry, base).parent, seed), limit)


def _open_folder(
    entry: Format, base: Path, seed: int, limit: int | None, progress: Progress
) -> Dataset:
    _find(entry, base)
    return FileDataset(FolderSource(base, seed), limit)


def _open_demo(
    entry: Format, base: Path, seed: int, limit: int | None, progress: Progress
) -> Dataset:
    path = base / "demo" / demo_file(seed)
    if not path.is_file() and (base / path.name).is_file():
        path = base / path.name
    if not path.is_file():
        write_demo(path.parent, seed, progress=progress)
    return ArrayDataset(MatSource("demo", path), limit)


_OPEN: dict[str, Callable[[Format, Path, int, int | None, Progress], Dataset]] = {
    "sat4": _open_sat,
    "sat6": _open_sat,
    "ucmerced": _open_ucmerced,
    "folder": _open_folder,
    "demo": _open_demo,
}
