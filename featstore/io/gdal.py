"""Open rasters with GDAL; the only module that imports rasterio."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Protocol

FILE_OPTIONS = {
    # Only the file itself counts: GDAL lists no folder and reads no files beside it.
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": "NO",
    # The callers read several files at a time.
    "GDAL_NUM_THREADS": "1",
}


DRIVERS = {
    **dict.fromkeys((".tif", ".tiff", ".btf", ".tf8"), "GTiff"),
    **dict.fromkeys((".jp2", ".j2k"), "JP2OpenJPEG"),
    **dict.fromkeys((".jpg", ".jpeg"), "JPEG"),
    ".png": "PNG",
}
"""The driver by the ending of a file that holds its own pixels.

GDAL goes by the content: a virtual raster of another name would read any file or address.
"""


_warnings = threading.Lock()


@cache
def rasterio() -> Any:
    """Import rasterio with the parts that featstore uses; its log is silent by default."""
    import rasterio
    import rasterio.control
    import rasterio.enums
    import rasterio.features
    import rasterio.io
    import rasterio.rpc
    import rasterio.warp
    import rasterio.windows

    logging.getLogger("rasterio").addHandler(logging.NullHandler())
    return rasterio


def failures() -> tuple[type[Exception], ...]:
    """Return the errors that rasterio raises: its own, and GDAL's."""
    module = rasterio()
    return module.errors.RasterioError, module._err.CPLE_BaseError


def cause(error: BaseException) -> str:
    """Return GDAL's first message as a sentence."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{' '.join(str(error).split()).rstrip('.')}."


@contextmanager
def no_warnings() -> Iterator[None]:
    """Silence warnings. Python can do so only for all threads at once, hence the lock."""
    with _warnings, warnings.catch_warnings(action="ignore"):
        yield


class Opens(Protocol):
    """What holds a file's bytes elsewhere than in a file of its own."""

    def open(self, _mode: str = ..., /) -> BinaryIO:
        """Return the bytes as an open file."""


_thread = threading.local()


def keep_file_options() -> None:
    """Let the calling thread, which only reads files, keep GDAL's options from file to file.

    To set and reset them takes a seventh of the time of a small file.
    """
    _thread.keeps_options = True


@contextmanager
def _file_options() -> Iterator[None]:
    if getattr(_thread, "has_options", False):
        yield
        return
    options = rasterio().Env(**FILE_OPTIONS)
    if getattr(_thread, "keeps_options", False):
        # They end with the thread.
        options.__enter__()
        _thread.has_options = True
        yield
        return
    with options:
        yield


@contextmanager
def open_file(path: Path | Opens, driver: str, page: int = 1) -> Iterator[Any]:
    """Open one page of one file of a known format as a rasterio dataset."""
    with _file_options(), ExitStack() as stack:
        if isinstance(path, Path):
            name = str(path.absolute())
        else:
            content = path.open("rb").read()
            name = stack.enter_context(rasterio().io.MemoryFile(content)).name
        with no_warnings():
            # Most files have no georeference, and rasterio warns of each.
            raster = rasterio().io.DatasetReader(
                name if page == 1 else f"GTIFF_DIR:{page}:{name}", driver=driver, sharing=False
            )
        with raster:
            yield raster


def write_tiff(path: Path, values: Any) -> None:
    """Write values, (n_bands, height, width), as a TIFF file."""
    n_bands, height, width = values.shape
    size = {"count": n_bands, "height": height, "width": width, "dtype": values.dtype}
    with no_warnings(), rasterio().open(path, "w", driver="GTiff", **size) as raster:
        raster.write(values)
