from __future__ import annotations

import numpy as np
import pytest
import rasterio
from PIL import Image

from featstore.config import ExtractConfig
from featstore.datasets.base import FileDataset
from featstore.datasets.formats.image_list import UnlabelledSource
from featstore.datasets.reading import Reading, sampled_range
from featstore.errors import ConfigError, ImageError, UnclearImageError

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    return rng.integers(0, 3000, (13, 6, 8)).astype(np.uint16)


@pytest.fixture
def write(tmp_path):
    def write(values, name="chip.tif", descriptions=(), colors=None, **options):
        path = tmp_path / name
        n_bands, height, width = values.shape
        size = {"count": n_bands, "height": height, "width": width, "dtype": values.dtype}
        with rasterio.open(path, "w", driver="GTiff", **size, **options) as file:
            file.write(values)
            if descriptions:
                file.descriptions = descriptions
            if colors:
                file.colorinterp = [rasterio.enums.ColorInterp[color] for color in colors]
        return path

    return write


def scaled(values, low, high):
    return np.rint(np.clip((values.astype(float) - low) * 255 / (high - low), 0, 255))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_chosen_bands_are_scaled_from_the_range(write, values, dtype):
    values = (values % 200).astype(dtype) if dtype == "uint8" else values.astype(dtype)
    pixels = Reading(("4", "3", "2"), ((0, 2750),)).read(write(values))
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    expected = scaled(values[[3, 2, 1]], 0, 2750)
    assert np.abs(np.moveaxis(pixels, -1, 0) - expected).max() <= 1


def test_each_band_may_have_its_own_range(write, values):
    ranges = tuple((float(i), 1000.0 + i) for i in range(13))
    pixels = Reading(("all",), ranges).read(write(values))
    for i, (low, high) in enumerate(ranges):
        assert np.abs(pixels[..., i] - scaled(values[i], low, high)).max() <= 1
    with pytest.raises(UnclearImageError, match="holds 13 bands .* 2 ranges"):
        Reading(("all",), ranges[:2]).read(write(values))


def test_bands_are_found_by_their_names(write, values):
    path = write(values[:4], descriptions=("B02: blue", "B03: green", "B04: red", "SWIR"))
    reading = Reading(("red", "green", "blue", "swir"), ((0, 3000),))
    assert reading.band_names(path) == ("red", "green", "blue", "SWIR")
    np.testing.assert_array_equal(
        reading.read(path), Reading(("3", "2", "1", "4"), ((0, 3000),)).read(path)
    )
    assert Reading(("all",)).band_names(path) == ("blue", "green", "red", "SWIR")
    assert Reading(("all",)).band_names(write(values[:2], "plain.tif")) == ("b1", "b2")
    with pytest.raises(ImageError, match=r"no band 'nir'; its bands are 1 \(blue\), .* 4 \(SWIR\)"):
        Reading(("nir",)).read(path)
    with pytest.raises(ImageError, match="no band '5'"):
        Reading(("5",)).read(path)


def test_pictures_of_pillow_have_three_bands(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (5, 7, 3), np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    np.testing.assert_array_equal(Reading(("3", "1")).read(path), pixels[..., [2, 0]])
    assert Reading(("blue",)).band_names(path) == ("blue",)
    Image.fromarray(pixels).save(tmp_path / "a.bmp")
    np.testing.assert_array_equal(Reading(("3", "1")).read(tmp_path / "a.bmp"), pixels[..., [2, 0]])


def test_without_a_choice_of_bands_a_range_scales_the_colors(write, values):
    path = write(values[:3], photometric="RGB")
    pixels = Reading((), ((0, 2750),)).read(path)
    assert np.abs(np.moveaxis(pixels, -1, 0) - scaled(values[:3], 0, 2750)).max() <= 1
    gray = Reading((), ((0, 2750),)).read(write(values[:1], "gray.tif"))
    assert gray.shape == (6, 8, 3)
    assert (gray[..., 0] == gray[..., 2]).all()


def test_what_is_unclear_is_refused_with_the_options_to_type(write, values):
    with pytest.raises(UnclearImageError, match=r"13 bands of uint16.*--bands 4,3,2 --range "):
        Reading((), ((0, 3000),)).read(write(values))
    for name, one in (("a", values[:3]), ("b", values[:3].astype(np.int16))):
        with pytest.raises(UnclearImageError, match="--range LOW,HIGH, or --range percentile:2,98"):
            Reading(("1", "2", "3")).read(write(one, f"{name}.tif"))
    # One bright pixel does not make a dark image full.
    bright = np.tile(values[:3], (1, 20, 20))
    bright[:, 0, 0] = 60_000
    with pytest.raises(UnclearImageError, match=r"99\.9 % of its 16-bit values lie below 4,096"):
        Reading(("1", "2", "3")).read(write(bright, "c.tif"))
    full = (values[:3].astype(np.uint32) * 20).astype(np.uint16)
    pixels = Reading(("1", "2", "3")).read(write(full, "d.tif"))
    np.testing.assert_array_equal(pixels, np.moveaxis(full >> 8, 0, -1))


def test_pixels_without_data_get_their_bands_mean_or_are_refused(write):
    values = np.full((2, 4, 4), 10.0, np.float32)
    values[0, 0, 0], values[1, 3, :] = np.nan, -9999
    values[1, 0, 0] = 50
    path = write(values)
    with pytest.raises(ImageError, match="1 of its 16 pixels have no data .NaN.* --nodata nan"):
        Reading(("all",), ((0, 255),)).read(path)
    pixels = Reading(("all",), ((0, 255),), -9999.0).read(path)
    assert pixels[0, 0, 0] == 10
    assert (pixels[3, :, 1] == round((11 * 10 + 50) / 12)).all()
    tagged = write(np.nan_to_num(values, nan=1), "tagged.tif", nodata=-9999)
    with pytest.raises(ImageError, match=r"4 of its 16 pixels have no data .nodata -9999"):
        Reading(("all",), ((0, 255),)).read(tagged)
    with pytest.raises(ImageError, match="band 2 of those chosen has no data at all"):
        Reading(("all",), ((0, 255),), 7.0).read(
            write(np.full((2, 2, 2), [[[1.0]], [[7.0]]]), "b.tif")
        )


def test_percentiles_are_those_of_the_values_of_all_images(write, values):
    paths = [write(values, "a.tif"), write(values + 1000, "b.tif")]
    both = np.stack([values, values + 1000]).swapaxes(0, 1).reshape(13, -1)
    found = sampled_range(paths, Reading(("all",)), 2, 98)
    np.testing.assert_allclose(found, np.percentile(both, (2, 98), axis=1).T)
    paths[1].write_bytes(b"")
    assert len(sampled_range(paths, Reading(("all",)), 2, 98)) == 13
    with pytest.raises(ImageError, match="b.tif"):
        sampled_range(paths[1:], Reading(("all",)), 2, 98)


def test_a_record_gives_the_same_reading_back():
    for reading in (Reading(), Reading(("red", "8"), ((0.5, 1e4), (1, 2)), -9999.0)):
        assert Reading.from_record(reading.to_record()) == reading
    assert np.isnan(Reading.from_record(Reading((), (), float("nan")).to_record()).nodata)


def test_images_of_other_numbers_of_bands_are_refused(write, values):
    paths = [write(values, "a.tif"), write(values[:4], "b.tif")]
    dataset = FileDataset(UnlabelledSource(paths), reading=Reading(("all",), ((0, 3000),)))
    assert len(dataset.bands) == 13
    assert dataset.subset(np.array([1])).bands == dataset.bands
    with pytest.raises(ImageError, match=r"b\.tif: holds 4 bands; expected 13"):
        dataset.read(1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bands": "4,,2"}, "bands is '4,,2'"),
        ({"value_range": "3000"}, "LOW,HIGH, such as 0,3000"),
        ({"value_range": "3000,0"}, "LOW,HIGH"),
        ({"value_range": "percentile:2,101"}, "percentile:2,98"),
        ({"value_range": "a,b"}, "LOW,HIGH"),
        ({"nodata": "none"}, "a number or nan"),
    ],
)
def test_settings_are_checked_before_any_file_is_read(settings, message):
    with pytest.raises(ConfigError, match=message):
        ExtractConfig("pixelstats", "folder", **settings)


def test_the_command_names_the_settings():
    config = ExtractConfig("pixelstats", "folder", bands="all", value_range="0,1", nodata="nan")
    assert "--bands all --range 0,1 --nodata nan" in config.command("store")
