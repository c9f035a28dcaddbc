"""Find and open datasets by name; each format has a module of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from featstore.datasets.base import ArrayDataset, Dataset, FileDataset
from featstore.datasets.formats.folder import FolderSource
from featstore.datasets.formats.layout import EXAMPLE
from featstore.datasets.formats.sat_csv import CsvSource
from featstore.datasets.formats.sat_mat import MatSource
from featstore.datasets.formats.synthetic import demo_file, write_demo
from featstore.datasets.formats.ucmerced import CLASSES, FOLDER, IMAGES, UcMercedSource
from featstore.datasets.reading import Reading
from featstore.errors import ConfigError, DatasetError, DatasetNotFoundError
from featstore.progress import Progress
from featstore.progress_bars import IN_NOTEBOOKS
from featstore.text import did_you_mean


@dataclass(frozen=True)
class Format:
    """A format of datasets: what it needs, and where its files are looked for.

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
    """

    name: str
    description: str
    needs: str
    cure: str
    folders: tuple[str, ...]
    marks: tuple[str, ...]

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
            "your own images: JPEG, PNG, TIFF, JPEG 2000, WebP, AVIF, BMP, GIF",
            "CLASS/IMAGE, or train/CLASS/IMAGE and test/CLASS/IMAGE, or IMAGE without classes",
            "Give the folder.",
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
    """A format, the folders that were searched, and the place found."""

    format: Format
    places: tuple[Path, ...]
    found: Path | None


def data_root(root: str | Path | None = None) -> Path:
    """Return the folder of datasets: `root`, else ``FEATSTORE_DATA``, else ``data``."""
    return Path(root or os.environ.get("FEATSTORE_DATA") or "data").expanduser()


def available_datasets(root: str | Path | None = None) -> list[Availability]:
    """Return all formats, and where each was found.

    Parameters
    ----------
    root : str or Path, optional
        The folder that holds their files, or a parent that has it under the dataset's name.

    Returns
    -------
    list of Availability
        One for each format; ``folder`` is found in every folder.
    """
    base = data_root(root)
    return [
        Availability(entry, tuple(entry.places(base)), entry.find(base))
        for entry in FORMATS.values()
    ]


def resolve_dataset(name: str, root: str | Path | None = None) -> tuple[str, str | Path | None]:
    """Return the format and root that a dataset's name means; a folder means ``folder``.

    A name that is neither raises DatasetError with the nearest dataset; a folder with another
    root raises ConfigError.
    """
    if name in FORMATS:
        return name, root
    folder = Path(name).expanduser()
    if name and folder.is_dir():
        # The commands take the environment's root for every dataset.
        if root is not None and str(root) != os.environ.get("FEATSTORE_DATA"):
            raise ConfigError(f"Give the folder {name} or the root {root}, not both.")
        return "folder", str(folder)
    guess = did_you_mean(name, FORMATS)
    what = "is a file, not a folder" if folder.is_file() else "is neither a dataset nor a folder"
    raise DatasetError(
        f"{name or 'An empty name'} {what}.{guess} The datasets are {', '.join(FORMATS)}. For your "
        "own images, give their folder instead of a name."
    )


def open_dataset(
    name: str,
    root: str | Path | None = None,
    *,
    seed: int = 0,
    limit: int | None = None,
    follow_links: bool = False,
    reading: Reading | None = None,
    progress: Progress = IN_NOTEBOOKS,
) -> Dataset:
    """Find a dataset's files and open them; labels and pixels load when they are asked for.

    Parameters
    ----------
    name : str
        ``sat4``, ``sat6``, ``ucmerced``, ``folder`` or ``demo``; or a folder of images, which
        means ``folder`` with this root.
    root : str or Path, optional
        The folder that holds the files, or a parent that has it under the dataset's name; by
        default the environment's ``FEATSTORE_DATA``, else ``data``. For ``folder`` it must be
        given and is the tree itself. A missing ``demo`` is generated in it.
    seed : int
        Seeds the split of datasets that have no official one, and the demo's images.
    limit : int, optional
        Keep this many samples, spread evenly over each class of each split.
    follow_links : bool
        Whether links in a tree of images may lead out of it.
    reading : Reading, optional
        Which bands of image files are read, and how their values become bytes.
    progress : Progress, optional
        Receives work that is done once: converting CSV files, generating the demo.

    Returns
    -------
    Dataset
        An :class:`ArrayDataset` or a :class:`FileDataset`.

    Raises
    ------
    DatasetNotFoundError
        When the files do not exist; names the expected files, the folders, and how to get them.
    DatasetError
        When the name is neither a dataset nor a folder.
    ConfigError
        When ``folder`` has no root.

    Examples
    --------
    >>> dataset = open_dataset("~/images/nwpu", limit=500)  # doctest: +SKIP
    """
    name, root = resolve_dataset(name, root)
    entry, base = FORMATS[name], data_root(root)
    if name == "folder" and root is None:
        raise ConfigError(f"The dataset folder needs --root, the images' tree: {EXAMPLE[9:]}.")
    if name in ("folder", "ucmerced"):
        found = _find(entry, base)
        if name == "folder":
            return FileDataset(FolderSource(base, seed, follow_links=follow_links), limit, reading)
        source = UcMercedSource(found.parent, seed, follow_links=follow_links)
        return FileDataset(source, limit, reading)
    if reading is not None and not reading.is_default:
        raise ConfigError(
            f"{name} has a format of its own: its bands and values can't be chosen. Leave out "
            "--bands, --range and --nodata."
        )
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
    source.files()  # All five have to exist.
    return ArrayDataset(source, limit)


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
    "demo": _open_demo,
}
"""How formats of arrays are opened; :func:`open_dataset` opens trees of files itself."""
