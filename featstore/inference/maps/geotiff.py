"""Write rasters of classes, and read them thinned."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.datasets.georeference import Georeference
from featstore.datasets.scene import without_warnings
from featstore.errors import StoreError
from featstore.io import gdal

BLOCK_SIDE = 256
"""Side in cells of a large map's tiles, and the number of rows that are written at a time."""


def write_map(
    path: Path,
    name: str,
    georeference: Georeference,
    stride: int,
    shape: tuple[int, int],
    rows: Iterable[NDArray[Any]],
    *,
    dtype: str,
    nodata: float,
    descriptions: Sequence[str],
    colors: Sequence[tuple[int, int, int]],
    tags: Mapping[str, str],
    class_tags: Mapping[str, str],
) -> None:
    """Write a GeoTIFF of classes or numbers that lies upon its scene, some rows at a time.

    `path` is overwritten; errors call it `name`. `stride` is the side of a cell in pixels of the
    scene, `shape` the rows and columns of cells. `rows` gives the cells from the top, (bands,
    :data:`BLOCK_SIDE` or fewer, columns) at a time; the first band holds classes, or numbers
    without `colors`, and `nodata` in cells without one. `tags` are metadata of the file,
    `class_tags` of the band of classes.
    """
    rasterio = gdal.rasterio()
    n_rows, n_cols = shape
    layout: dict[str, Any] = {"compress": "deflate", "interleave": "band", "bigtiff": "if_safer"}
    if min(shape) >= BLOCK_SIDE:
        layout |= {"tiled": True, "blockxsize": BLOCK_SIDE, "blockysize": BLOCK_SIDE}
    table = {label: (*color, 255) for label, color in enumerate(colors)}
    n_written = 0
    with _writing(name), without_warnings():
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            height=n_rows,
            width=n_cols,
            count=len(descriptions),
            dtype=dtype,
            nodata=nodata,
            **layout,
            **georeference.profile(stride),
        ) as raster:
            if colors:
                raster.write_colormap(1, table | {int(nodata): (0, 0, 0, 0)})
            raster.update_tags(**tags)
            raster.update_tags(1, **class_tags)
            for band, description in enumerate(descriptions, 1):
                raster.set_band_description(band, description)
            top = 0
            for values in rows:
                part = rasterio.windows.Window(0, top, n_cols, values.shape[1])
                raster.write(values, window=part)
                n_written += _n_present(values, nodata)
                top += values.shape[1]
        # Cells that GDAL can't write when it closes the file are missing without an error.
        n_found = sum(_n_present(band, nodata) for band in _stored_rows(path))
    if n_found != n_written:
        raise StoreError(f"{name} can't be written whole. Make room on its disk.")


def _n_present(values: NDArray[Any], nodata: float) -> int:
    # NaN is not equal to itself.
    return int(np.count_nonzero(~np.isnan(values) if np.isnan(nodata) else values != nodata))


def _stored_rows(path: Path) -> Iterator[NDArray[Any]]:
    rasterio = gdal.rasterio()
    with rasterio.open(path, driver="GTiff") as raster:
        for top in range(0, raster.height, BLOCK_SIDE):
            height = min(BLOCK_SIDE, raster.height - top)
            yield raster.read(window=rasterio.windows.Window(0, top, raster.width, height))


def class_shapes(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield the areas of one class, which touch along the cells' sides, as GeoJSON with labels."""
    rasterio = gdal.rasterio()
    with without_warnings(), rasterio.open(path, driver="GTiff") as raster:
        classes, transform = raster.read(1), raster.transform
        present = classes != raster.nodata
    yield from rasterio.features.shapes(classes, mask=present, transform=transform)


def read_thinned(path: Path, side: int, band: int = 1) -> NDArray[Any]:
    """Return a band of a map, thinned to at most `side` cells."""
    rasterio = gdal.rasterio()
    with without_warnings(), rasterio.open(path, driver="GTiff") as raster:
        step = max(1, -(-max(raster.shape) // side))
        shape = (-(-raster.height // step), -(-raster.width // step))
        thinned: NDArray[Any] = raster.read(band, out_shape=shape)
    return thinned


@contextmanager
def _writing(name: str) -> Iterator[None]:
    try:
        yield
    except gdal.failures() as error:
        raise StoreError(f"{name} can't be written: {gdal.cause(error)}") from error
