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
from featstore.progress import Progress

GivenImage = str | Path | np.ndarray | Image.Image | IO[bytes]
"""One image, or a folder of images."""


@dataclass(frozen=True)
class ImageFile:
    """A file with an image, and the name by which the caller knows the image."""

    path: Path
    name: str


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
    images: GivenImage | Iterable[GivenImage], progress: Progress, n_before: int = 0
) -> Iterator[list[ImageFile]]:
    """Yield files with the images, temporary ones for those that are not files that can be read.

    An array is (height, width) or (height, width, 3) uint8. Folders give all their images;
    `progress` receives what is left out. `n_before` images have been named before.
    """
    with tempfile.TemporaryDirectory(prefix="featstore-") as folder:
        files: list[ImageFile] = []
        for image in each_image(images):
            if isinstance(image, str | Path):
                paths, left_out = find_images([image])
                for line in left_out.lines():
                    progress.say(line)
                found = [ImageFile(path, str(path)) for path in paths]
            else:
                found = [ImageFile(Path(), f"image {n_before + len(files)}")]
            for one in found:
                copy = Path(folder) / f"image-{len(files)}"
                files.append(_readable(one, image, copy))
        yield files


def _readable(one: ImageFile, image: Any, copy: Path) -> ImageFile:
    """Return an image's own file, or else a temporary one: decoders go back in their files."""
    if isinstance(image, str | Path):
        if not stat.S_ISFIFO(one.path.stat().st_mode):
            return one
        with one.path.open("rb") as source, copy.open("wb") as target:
            shutil.copyfileobj(source, target)
        return ImageFile(copy, one.name)
    name = one.name
    if isinstance(image, Image.Image):
        name = getattr(image, "filename", "") or name
        upright = ImageOps.exif_transpose(image)
        upright.convert("RGB").save(copy, "PNG", compress_level=1)
    elif isinstance(image, np.ndarray):
        _picture(image).save(copy, "PNG", compress_level=1)
    elif hasattr(image, "read"):
        own_name = getattr(image, "name", None)
        name = own_name if isinstance(own_name, str) else name
        with copy.open("wb") as target:
            shutil.copyfileobj(image, target)
    else:
        raise ConfigError(f"An image is {_kind(image)}. {EXPECTED}")
    return ImageFile(copy, name)


def _picture(pixels: np.ndarray) -> Image.Image:
    is_gray = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 1)
    is_rgb = pixels.ndim == 3 and pixels.shape[2] == 3
    if pixels.dtype != np.uint8 or not (is_gray or is_rgb) or not pixels.size:
        raise ConfigError(f"An image is {_kind(pixels)}. {EXPECTED}")
    return Image.fromarray(pixels.reshape(pixels.shape[:2]) if is_gray else pixels)


EXPECTED = (
    "Give a path, a folder, a Pillow image, an open binary file, an array of shape (height, width) "
    "or (height, width, 3) of uint8, or several of these."
)


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape} of {value.dtype}"
    return f"a {type(value).__name__}"
