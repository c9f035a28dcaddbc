"""Images as a caller gives them: paths, folders, pipes, arrays, Pillow's images, open files."""

from __future__ import annotations

import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps

from featstore.datasets.formats.image_list import find_images
from featstore.errors import ConfigError
from featstore.io import gdal
from featstore.progress import Progress

GivenImage = str | Path | np.ndarray | Image.Image | IO[bytes]
"""One image, or a folder of images."""


@dataclass(frozen=True)
class ImageFile:
    """A file with an image, the caller's name of the image, and which of the given ones it is."""

    path: Path
    name: str
    position: int


def each_image(images: GivenImage | Iterable[GivenImage]) -> Iterator[GivenImage]:
    """Yield one image, or each of several; an array of four dimensions is several."""
    if isinstance(images, np.ndarray) and images.ndim == 4:
        yield from images
    elif isinstance(images, str | Path | np.ndarray | Image.Image) or hasattr(images, "read"):
        yield images  # type: ignore[misc]
    elif isinstance(images, Iterable):
        yield from images
    else:
        raise ConfigError(f"images is {_kind(images)}. {EXPECTED}")


@contextmanager
def as_files(
    images: GivenImage | Iterable[GivenImage], progress: Progress
) -> Iterator[list[ImageFile]]:
    """Yield files with the images; those that are not files that can be read twice are copied.

    An array is (height, width) or (height, width, n_bands). Folders give all their images;
    `progress` receives what is left out. The copies are deleted in the end.
    """
    with tempfile.TemporaryDirectory(prefix="featstore-") as folder:
        files: list[ImageFile] = []
        for position, image in enumerate(each_image(images)):
            copy = Path(folder) / f"image-{position}"
            if isinstance(image, str | Path):
                paths, left_out = find_images([image])
                for line in left_out.lines():
                    progress.say(line)
                files += [ImageFile(_seekable(path, copy), str(path), position) for path in paths]
            else:
                name = _save(image, copy) or f"image {len(files)}"
                files.append(ImageFile(copy, name, position))
        yield files


def _seekable(path: Path, copy: Path) -> Path:
    """Return a file in which a decoder can go back: a copy of a pipe, else the file itself."""
    if not stat.S_ISFIFO(path.stat().st_mode):
        return path
    with path.open("rb") as source, copy.open("wb") as target:
        shutil.copyfileobj(source, target)
    return copy


def _save(image: Any, path: Path) -> str:
    """Write an image from memory or from an open file; return its own name, if it has one."""
    if isinstance(image, Image.Image):
        upright = ImageOps.exif_transpose(image)
        upright.convert("RGB").save(path, "PNG", compress_level=1)
        return str(getattr(image, "filename", ""))
    if isinstance(image, np.ndarray):
        _save_array(image, path)
        return ""
    if not hasattr(image, "read"):
        raise ConfigError(f"An image is {_kind(image)}. {EXPECTED}")
    with path.open("wb") as target:
        shutil.copyfileobj(image, target)
    name = getattr(image, "name", "")
    return name if isinstance(name, str) else ""


def _save_array(pixels: np.ndarray, path: Path) -> None:
    pixels = pixels[..., np.newaxis] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or pixels.dtype.kind not in "uif" or not pixels.size:
        raise ConfigError(f"An image is {_kind(pixels)}. {EXPECTED}")
    if pixels.dtype == np.uint8 and pixels.shape[2] in (1, 3):
        picture = pixels[..., 0] if pixels.shape[2] == 1 else pixels
        Image.fromarray(picture).save(path, "PNG", compress_level=1)
        return
    # Read with the bands and the range of the run.
    gdal.write_tiff(path, np.moveaxis(pixels, -1, 0))


EXPECTED = (
    "Give a path, a folder, a Pillow image, an open binary file, an array of numbers of shape "
    "(height, width) or (height, width, n_bands), or several of these."
)


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} of {value.dtype}"
    return f"a {type(value).__name__}"
