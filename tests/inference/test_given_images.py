import io
from pathlib import Path

import numpy as np
import pytest
from makers import Listener
from PIL import Image

from featstore.datasets.decode import decode
from featstore.errors import ConfigError, DatasetNotFoundError
from featstore.inference.given_images import as_files, each_image


@pytest.fixture
def path(tmp_path):
    """Return a PNG file whose name has each kind of letter."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    path = tmp_path / "beach 1.png"
    Image.fromarray(pixels).save(path)
    return path


def given(images):
    with as_files(images, Listener()) as files:
        return [(file.name, decode(file.path)) for file in files]


@pytest.mark.parametrize("kind", ["str", "Path", "array", "Pillow", "file", "bytes"])
def test_every_kind_of_image_gives_the_same_pixels(path, kind):
    pixels = decode(path)
    with path.open("rb") as file, Image.open(path) as picture:
        images = {
            "str": str(path),
            "Path": path,
            "array": pixels,
            "Pillow": picture,
            "file": file,
            "bytes": io.BytesIO(path.read_bytes()),
        }
        for images_given in (images[kind], [images[kind]]):
            ((name, found),) = given(images_given)
            np.testing.assert_array_equal(found, pixels)
            assert name == (str(path) if kind not in ("array", "bytes") else "image 0")
            if kind in ("file", "bytes"):
                images[kind].seek(0)


def test_several_kinds_are_told_apart_by_their_places(path):
    pixels = decode(path)
    names = [name for name, _ in given([path, pixels, path, io.BytesIO(path.read_bytes())])]
    assert names == [str(path), "image 1", str(path), "image 3"]


def test_stacked_gray_and_one_band_arrays_are_images(path):
    pixels = decode(path)
    assert len(given(np.stack([pixels, pixels]))) == 2
    for gray in (pixels[:, :, 0], pixels[:, :, :1]):
        ((_, found),) = given(gray)
        np.testing.assert_array_equal(found, np.repeat(pixels[:, :, :1], 3, axis=2))


def test_a_pillow_image_is_turned_as_its_file_says(tmp_path, path):
    turned = tmp_path / "turned.jpg"
    image = Image.open(path).resize((64, 32))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(turned, exif=exif)
    ((_, found),) = given(Image.open(turned))
    assert found.shape == decode(turned).shape == (64, 32, 3)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (3, "images is a int"),
        ([None], "An image is a NoneType"),
        (np.zeros((4, 5, 3), complex), r"an array of shape \(4, 5, 3\) of complex128"),
        (np.zeros((4, 5, 3, 2, 1), np.uint8), r"of shape \(4, 5, 3, 2, 1\)"),
        (np.zeros((0, 5, 3), np.uint8), r"of shape \(0, 5, 3\)"),
    ],
)
def test_anything_else_is_refused_with_what_is_expected(images, message):
    with pytest.raises(ConfigError, match=f"{message}.*Give a path, a folder"):
        given(images)


def test_a_text_is_one_path_and_not_its_letters(tmp_path):
    assert list(each_image("x.png")) == ["x.png"]
    with pytest.raises(DatasetNotFoundError, match="x.png does not exist"):
        given(str(tmp_path / "x.png"))
    assert [*each_image(Path("a"))] == [Path("a")]
