"""Find and open datasets by name; each format has a module of its own."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from featstore._signatures import settings_of, takes
from featstore.config import DatasetOptions
from featstore.datasets.base import ArrayDataset, Dataset, FileDataset
from featstore.datasets.format import Format, Opening
from featstore.datasets.formats import named, ucmerced
from featstore.datasets.formats.folder import FolderSource
from featstore.datasets.formats.layout import EXAMPLE
from featstore.datasets.formats.sat_csv import CsvSource
from featstore.datasets.formats.sat_mat import MatSource
from featstore.datasets.formats.scene_dataset import SceneDataset
from featstore.datasets.formats.scene_files import VIRTUAL
from featstore.datasets.formats.scenes import SceneSource, open_scenes
from featstore.datasets.formats.synthetic import demo_file, write_demo
from featstore.datasets.formats.table import TableSource
from featstore.datasets.formats.table_files import MARKS, TABLE_SUFFIXES
from featstore.datasets.formats.ucmerced import CLASSES, FOLDER, IMAGES, UcMercedSource
from featstore.datasets.grouped import GroupedSource
from featstore.datasets.published import ListedSource
from featstore.datasets.reading import Reading
from featstore.datasets.source import ArraySource, FileSource, Source
from featstore.errors import ConfigError, DatasetError
from featstore.io import gdal
from featstore.progress import Progress
from featstore.progress_bars import IN_NOTEBOOKS
from featstore.text import did_you_mean

ENTRY_POINTS = "featstore.datasets"
"""Entry-point group of packages that add datasets: each names a :class:`.Format`."""


def _open_sat(opening: Opening) -> Source:
    found = opening.find()
    if found.suffix == ".mat":
        return MatSource(opening.format.name, found)
    source = CsvSource(opening.format.name, found.parent, opening.progress)
    source.files()  # All five have to exist.
    return source


def _open_ucmerced(opening: Opening) -> Source:
    options = opening.options
    return UcMercedSource(opening.find().parent, options.seed, follow_links=options.follow_links)


def _open_folder(opening: Opening) -> Source:
    if not opening.has_root:
        raise ConfigError(f"The dataset folder needs --root, the images' tree: {EXAMPLE[9:]}.")
    opening.find()
    options = opening.options
    return FolderSource(opening.root, options.seed, follow_links=options.follow_links)


def _open_table(opening: Opening) -> Source:
    if not opening.has_root:
        raise ConfigError(f"The dataset table needs --root, a {', '.join(TABLE_SUFFIXES)} file.")
    return TableSource(opening.root, opening.options)


def _open_demo(opening: Opening) -> Source:
    base, seed = opening.root, opening.options.seed
    path = base / "demo" / demo_file(seed)
    if not path.is_file() and (base / path.name).is_file():
        path = base / path.name
    if not path.is_file():
        write_demo(path.parent, seed, progress=opening.progress)
    return MatSource("demo", path)


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
        _open_sat,
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
            _open_ucmerced,
            lambda root, progress: ucmerced.download(root, progress),
        ),
        *named.formats().values(),
        Format(
            "folder",
            "your own images: JPEG, PNG, TIFF, JPEG 2000, WebP, AVIF, BMP, GIF",
            "CLASS/IMAGE, or train/CLASS/IMAGE and test/CLASS/IMAGE, or IMAGE without classes",
            "Give the folder.",
            (".",),
            (".",),
            _open_folder,
        ),
        Format(
            "table",
            "images that a table names or holds: CSV, TSV, Parquet, GeoParquet",
            "a table with the columns path (or image) and label; split, group, id as you have them",
            "Give the table.",
            (".", "data"),
            (*MARKS, "train-00000-of-00001.parquet"),
            _open_table,
        ),
        Format(
            "scene",
            "windows of scenes: GeoTIFF, virtual rasters, JPEG 2000, of any size",
            "a raster, or a folder or pattern of rasters",
            "Give the raster or its folder with --root, and the side of the windows with --window.",
            (".",),
            (),
            open_scenes,
        ),
        Format(
            "demo",
            "generated land cover in SAT-4's format, 28x28 pixels, 4 bands, 4 classes",
            f"nothing: it is generated as {demo_file(0)}",
            "Run `featstore datasets get demo`, or just use it.",
            ("demo", "."),
            (demo_file(0),),
            _open_demo,
        ),
    )
}


def dataset_names() -> list[str]:
    """Return the names of all formats, featstore's own first; packages are not loaded."""
    added = sorted(entry.name for entry in entry_points(group=ENTRY_POINTS))
    return list(dict.fromkeys([*FORMATS, *added]))


def find_format(name: str) -> Format | None:
    """Return the format of a name, or None.

    DatasetError names an entry point that does not lead to a format, and what it raised.
    """
    return FORMATS.get(name) or _plug_in(name)


@cache
def _plug_in(name: str) -> Format | None:
    entry = next(iter(entry_points(group=ENTRY_POINTS, name=name)), None)
    if entry is None:
        return None
    place = f"The entry point {entry.name} = {entry.value} of the group {ENTRY_POINTS}"
    try:
        found = entry.load()
    except Exception as error:
        raise DatasetError(f"{place} can't be loaded: {error}") from error
    if not isinstance(found, Format) or found.name != name:
        raise DatasetError(f"{place} must lead to a Format of the name {name!r}.")
    return found


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
        for name in dataset_names()
        if (entry := find_format(name)) is not None
    ]


def resolve_dataset(name: str, root: str | Path | None = None) -> tuple[str, str | Path | None]:
    """Return the format and root that a name means: of a folder, a table or a raster, its format.

    A name that is neither raises DatasetError with the nearest dataset; a folder with another
    root raises ConfigError.
    """
    if find_format(name) is not None:
        return name, root
    folder = Path(name).expanduser()
    kind = None
    if name and folder.is_dir():
        kind = "folder"
    elif folder.is_file():
        suffix = folder.suffix.lower()
        is_raster = suffix in (*gdal.DRIVERS, VIRTUAL)
        kind = "table" if suffix in TABLE_SUFFIXES else "scene" if is_raster else None
    if kind is not None:
        # The commands take the environment's root for every dataset.
        if root is not None and str(root) != os.environ.get("FEATSTORE_DATA"):
            raise ConfigError(f"Give the {kind} {name} or the root {root}, not both.")
        return kind, str(folder)
    guess = did_you_mean(name, dataset_names())
    what = "is neither a dataset nor a folder"
    if folder.is_file():
        what = f"is no folder, table ({', '.join(TABLE_SUFFIXES)}) or raster"
    raise DatasetError(
        f"{name or 'An empty name'} {what}.{guess} The datasets are "
        f"{', '.join(dataset_names())}. For your own images, give their folder instead of a name."
    )


def _divided(source: Source, options: DatasetOptions) -> Source:
    """Return a source with the splits and groups that the options give."""
    if isinstance(source, SceneSource):
        # Its windows are divided by blocks of ground.
        return source
    groups_from = options.groups_from
    # A table reads the column of its groups itself.
    is_own = isinstance(source, TableSource) and groups_from and ":" not in groups_from
    if not options.split_files and (groups_from is None or is_own):
        return source
    if not isinstance(source, FileSource):
        raise ConfigError(
            f"{source.name} has no image files: leave out --splits and --groups-from."
        )
    if options.split_files:
        source = ListedSource(source, options.split_files)
    if groups_from is None or is_own:
        return source
    return GroupedSource(source, groups_from, options.seed)


@takes(*settings_of(DatasetOptions))
def open_dataset(
    name: str,
    root: str | Path | None = None,
    *,
    reading: Reading | None = None,
    progress: Progress = IN_NOTEBOOKS,
    **options: Any,
) -> Dataset:
    """Find a dataset's files and open them; labels and pixels load when they are asked for.

    Parameters
    ----------
    name : str
        A dataset of ``featstore datasets``, such as ``ucmerced``, ``folder``, ``table`` or an
        installed package's; or a folder of images, which means ``folder`` with this root, or a
        table, which means ``table``.
    root : str or Path, optional
        The folder that holds the files, or a parent that has it under the dataset's name; by
        default the environment's ``FEATSTORE_DATA``, else ``data``. For ``folder`` it must be
        given and is the tree itself, for ``table`` the table, for ``scene`` the raster,
        folder or pattern. A missing ``demo`` is generated in
        it.
    reading : Reading, optional
        Which bands of image files are read, and how their values become bytes.
    progress : Progress, optional
        Receives work that is done once: converting CSV files, generating the demo.
    **options
        Settings of :class:`featstore.config.DatasetOptions`: ``seed``, ``limit``,
        ``follow_links``, ``columns``, ``task``, ``split_files`` and ``groups_from``; of
        ``scene``, ``window``, ``stride``, ``labels``, ``label_column`` and ``label_by``.

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
    settings = DatasetOptions(**options)
    name, root = resolve_dataset(name, root)
    entry = find_format(name) or FORMATS["folder"]
    if name in FORMATS and name != "table" and (settings.columns or settings.task):
        raise ConfigError(f"{name} is no table: leave out --columns and --task.")
    opening = Opening(
        entry, data_root(root), root is not None, settings, progress, reading or Reading()
    )
    source = _divided(entry.open(opening), settings)
    if isinstance(source, SceneSource):
        return SceneDataset(source, settings.limit)
    if isinstance(source, FileSource):
        return FileDataset(source, settings.limit, reading)
    if not isinstance(source, ArraySource):
        raise DatasetError(
            f"{name} opens a {type(source).__name__}, which is neither a FileSource nor an "
            "ArraySource."
        )
    if reading is not None and not reading.is_default:
        raise ConfigError(
            f"{name} has a format of its own: its bands and values can't be chosen. Leave out "
            "--bands, --range and --nodata."
        )
    return ArrayDataset(source, settings.limit)
