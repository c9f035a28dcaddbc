"""Find the rasters of a dataset of scenes, and the files that they take their pixels from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from featstore.datasets.georeference import Georeference
from featstore.datasets.scene import open_raster
from featstore.datasets.windows import Grid
from featstore.errors import DatasetError, DatasetNotFoundError
from featstore.io import gdal

VIRTUAL = ".vrt"


@dataclass(frozen=True)
class Frame:
    """What is known of a scene without keeping it open."""

    name: str
    path: Path
    bands: tuple[int, ...]
    georeference: Georeference
    grid: Grid


def find_scenes(root: Path) -> tuple[list[Path], Path, str]:
    """Return the rasters that a root names, the folder below which files are named, and a title.

    The root is a raster, a folder of rasters, or a pattern.
    """
    if root.is_dir():
        files = sorted(path for path in root.iterdir() if path.is_file())
        own = [p for p in files if p.suffix.lower() in gdal.DRIVERS and not _is_map(p)]
        # A mosaic shows the same pixels as the rasters beside it.
        paths = own or [path for path in files if path.suffix.lower() == VIRTUAL]
        base = root
    else:
        base = root.parent
        paths = [root] if root.is_file() else sorted(base.glob(root.name) if root.name else [])
    if not paths:
        endings = ", ".join([*gdal.DRIVERS, VIRTUAL])
        what = f"holds no raster ({endings})" if root.is_dir() else "does not exist"
        raise DatasetNotFoundError(
            f"scene: {root} {what}. Name a raster, a folder of rasters, or a pattern with --root."
        )
    title = root.name if root.is_dir() or len(paths) == 1 else base.absolute().name
    return paths, base, title


def georeference_at(path: Path) -> Georeference:
    """Return where a raster lies."""
    with open_raster(str(path)) as raster:
        return Georeference.of(raster)


def _is_map(path: Path) -> bool:
    """Return whether featstore wrote a raster."""
    try:
        with open_raster(str(path)) as raster:
            return "FEATSTORE_RUN" in raster.tags()
    except DatasetError:
        return False


def raster_files(path: Path) -> list[Path]:
    """Return a raster's file, and those that it takes its pixels from.

    Programs that show a raster write statistics and overviews beside it, which don't count.
    """
    found, opened = [path], [path]
    for virtual in opened:
        with open_raster(str(virtual)) as raster:
            names = [name for name in raster.files if not name.endswith((".aux.xml", ".ovr"))]
        for file in map(Path, names):
            if not file.is_file():
                raise DatasetError(
                    f"{virtual} takes its pixels from {file}, which does not exist on this machine."
                )
            if any(file.samefile(other) for other in found):
                continue
            found.append(file)
            if file.suffix.lower() == VIRTUAL:
                opened.append(file)
    return found
