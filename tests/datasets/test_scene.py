from __future__ import annotations

import numpy as np
import pytest
import rasterio
from makers import write_scene

from featstore.datasets.decode import decode
from featstore.datasets.scene import Scene
from featstore.errors import (
    ConfigError,
    DatasetError,
    DatasetNotFoundError,
    ImageError,
)

RGB = ("red", "green", "blue")


def noise(*shape, dtype=np.uint8, high=256):
    return np.random.default_rng(0).integers(0, high, shape).astype(dtype)


def test_a_part_is_read_as_it_is(tmp_path):
    pixels = noise(3, 50, 70)
    path = write_scene(tmp_path / "scene.tif", pixels)
    with Scene(path, RGB) as scene:
        assert (scene.height, scene.width, scene.bands) == (50, 70, (1, 2, 3))
        assert not scene.may_lack_pixels
        found, present = scene.read(10, 20, 30, 40)
    np.testing.assert_array_equal(found, pixels[:, 10:40, 20:60])
    assert present is None


@pytest.mark.parametrize("ending", [".vrt", ".tif", ".TIFF", ".jp2", ".png"])
def test_only_a_raster_that_says_so_takes_its_pixels_from_other_files(tmp_path, ending):
    write_scene(tmp_path / "secret.tif", noise(3, 8, 8))
    bands = "".join(
        f'<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource><SourceFilename>'
        f"{tmp_path}/secret.tif</SourceFilename><SourceBand>{band}</SourceBand></SimpleSource>"
        "</VRTRasterBand>"
        for band in (1, 2, 3)
    )
    path = tmp_path / f"scene{ending}"
    path.write_text(f'<VRTDataset rasterXSize="8" rasterYSize="8">{bands}</VRTDataset>')
    if ending == ".vrt":
        with Scene(str(path), RGB) as scene:
            np.testing.assert_array_equal(scene.read(0, 0, 8, 8)[0], noise(3, 8, 8))
    else:
        with pytest.raises(DatasetError, match="as a raster of the kind that its ending says"):
            Scene(str(path), RGB)
    with pytest.raises(ImageError, match="is not an image"):
        decode(path)


def test_bands_are_taken_by_number_and_in_order(tmp_path):
    pixels = noise(4, 5, 7)
    path = write_scene(tmp_path / "scene.tif", pixels)
    with Scene(path, RGB, (4, 1, 1)) as scene:
        # GDAL takes a fourth band of bytes for alpha.
        assert not scene.may_lack_pixels
        np.testing.assert_array_equal(scene.read(0, 0, 5, 7)[0], pixels[[3, 0, 0]])


@pytest.mark.parametrize(
    ("n_bands", "bands", "told"),
    [
        (
            4,
            (5, 1, 1),
            r"Band 5 does not exist: .* has 4 bands, 1 \(red\), 2 \(green\)",
        ),
        (4, (0, 1, 1), "Band 0 does not exist"),
        (4, (1, 2), r"2 bands are given, and needed are 3 \(red, green, blue\)"),
        (1, None, r"has 1 band, 1 \(gray\); needed are 3 .* --bands 1,1,1"),
    ],
)
def test_wrong_bands_are_answered_with_those_there_are(tmp_path, n_bands, bands, told):
    photometric = "rgb" if n_bands > 1 else "minisblack"
    path = write_scene(tmp_path / "scene.tif", noise(n_bands, 5, 7), photometric=photometric)
    with pytest.raises(ConfigError, match=told):
        Scene(path, RGB, bands)


def test_numbers_of_colours_are_refused(tmp_path):
    path = tmp_path / "scene.tif"
    write_scene(path, noise(1, 5, 7))
    with rasterio.open(path, "r+") as raster:
        raster.write_colormap(1, {0: (1, 2, 3, 255)})
    with pytest.raises(ConfigError, match="-expand rgb"):
        Scene(str(path), ("pan",))


def test_of_16_bits_the_high_byte_is_taken_unless_there_is_a_range(tmp_path):
    pixels = np.array([[[0, 255, 256], [3000, 32_768, 65_535]]], np.uint16)
    path = write_scene(tmp_path / "scene.tif", pixels)
    with Scene(path, ("pan",)) as scene:
        assert scene.read(0, 0, 2, 3)[0].tolist() == [[[0, 0, 1], [11, 128, 255]]]
    with Scene(path, ("pan",), ranges=[(0, 3000)]) as scene:
        assert scene.read(0, 0, 2, 3)[0].tolist() == [[[0, 22, 22], [255, 255, 255]]]


@pytest.mark.parametrize("dtype", [np.float32, np.int16, np.float64])
def test_other_types_need_a_range_and_a_sample_helps(tmp_path, dtype):
    pixels = noise(1, 600, 40, dtype=dtype, high=900)
    pixels[0, 0, 0] = -100
    path = write_scene(tmp_path / "scene.tif", pixels)
    with pytest.raises(ConfigError, match="from -100 to 899.*--range LOW,HIGH"):
        Scene(path, ("pan",))
    with Scene(path, ("pan",), ranges=[(-100, 900)]) as scene:
        found, _ = scene.read(0, 0, 600, 40)
    np.testing.assert_allclose(found, (pixels + 100) / 1000 * 255, atol=0.51)


@pytest.mark.parametrize("ends", [(5, 5), (9, 1), (0, np.inf), (np.nan, 1)])
def test_a_range_has_two_ends(tmp_path, ends):
    path = write_scene(tmp_path / "scene.tif", noise(3, 5, 7))
    with pytest.raises(ConfigError, match="it must go from low to high"):
        Scene(path, RGB, ranges=[ends])


def test_bands_of_different_types_need_a_range(tmp_path):
    bands = ""
    for i, kind in enumerate(("Byte", "UInt16", "Byte"), 1):
        pixels = np.full((1, 8, 8), i * 50, kind.lower().replace("byte", "uint8"))
        write_scene(tmp_path / f"{i}.tif", pixels)
        bands += (
            f'<VRTRasterBand dataType="{kind}" band="{i}"><SimpleSource><SourceFilename '
            f'relativeToVRT="1">{i}.tif</SourceFilename></SimpleSource></VRTRasterBand>'
        )
    path = tmp_path / "scene.vrt"
    path.write_text(f'<VRTDataset rasterXSize="8" rasterYSize="8">{bands}</VRTDataset>')
    with pytest.raises(ConfigError, match=r"types, uint8, uint16, uint8: .* --range LOW,HIGH"):
        Scene(str(path), RGB)
    with Scene(str(path), RGB, ranges=[(0, 255)]) as scene:
        found, _ = scene.read(0, 0, 8, 8)
        assert scene.thumbnail(4)[0, 0].tolist() == found[:, 0, 0].tolist() == [50, 100, 150]
    with Scene(str(path), RGB, bands=(1, 1, 3)) as scene:
        assert scene.dtype == np.uint8


@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_no_data_is_black_in_a_thumbnail_whatever_the_range(tmp_path, dtype):
    pixels = np.full((3, 8, 8), -15, dtype)
    pixels[:, :, 4:] = 99
    path = write_scene(tmp_path / "scene.tif", pixels, nodata=99)
    with Scene(path, RGB, ranges=[(-20, -10)]) as scene:
        thumbnail = scene.thumbnail(8)
    assert (thumbnail[:, :4] == 128).all()
    assert (thumbnail[:, 4:] == 0).all()


def test_a_sample_without_data_has_no_range(tmp_path):
    path = write_scene(tmp_path / "scene.tif", np.full((3, 8, 8), np.nan, np.float32))
    with pytest.raises(ConfigError, match=r"a sample has no data\. Give .* --range LOW,HIGH"):
        Scene(path, RGB)


def test_complex_numbers_are_refused(tmp_path):
    path = write_scene(tmp_path / "scene.tif", np.ones((1, 5, 7), np.complex64))
    with pytest.raises(ConfigError, match="magnitude"):
        Scene(path, ("pan",))


def hole():
    present = np.ones((20, 30), bool)
    present[:5, :8] = False
    return present


@pytest.mark.parametrize("kind", ["nodata", "mask", "alpha", "nan"])
def test_pixels_without_data_are_known(tmp_path, kind):
    pixels, present = np.maximum(noise(3, 20, 30), 1), hole()
    options = {}
    if kind == "nodata":
        pixels[:, ~present] = 0
        # Black in one band alone is a colour.
        pixels[0, 10, 10] = 0
        options = {"nodata": 0}
    elif kind == "mask":
        options = {"mask": present}
    elif kind == "alpha":
        pixels = np.concatenate([pixels, np.where(present, 255, 0)[None].astype(np.uint8)])
        options = {"photometric": "rgb", "alpha": "yes"}
    else:
        pixels = pixels.astype(np.float32)
        pixels[1, ~present] = np.nan
    path = write_scene(tmp_path / "scene.tif", pixels, **options)
    with Scene(path, RGB, ranges=[(0, 255)] if kind == "nan" else ()) as scene:
        assert scene.may_lack_pixels
        np.testing.assert_array_equal(scene.read(0, 0, 20, 30)[1], present)
        assert scene.read(6, 0, 10, 30)[1] is None
        assert scene.thumbnail(100).shape == (20, 30, 3)


@pytest.mark.parametrize("n_colors", [3, 4, 5])
def test_an_alpha_band_beside_any_number_of_bands_masks(tmp_path, n_colors):
    pixels, present = np.maximum(noise(n_colors, 20, 30), 1), hole()
    alpha = np.where(present, 255, 0)[None].astype(np.uint8)
    path = write_scene(tmp_path / "scene.tif", np.concatenate([pixels, alpha]))
    kinds = rasterio.enums.ColorInterp
    with rasterio.open(path, "r+") as raster:
        colors = (kinds.red, kinds.green, kinds.blue, kinds.undefined, kinds.undefined)
        raster.colorinterp = (*colors[:n_colors], kinds.alpha)
    with Scene(path, RGB) as scene:
        assert scene.may_lack_pixels
        np.testing.assert_array_equal(scene.read(0, 0, 20, 30)[1], present)
        assert not scene.thumbnail(30)[~present].any()
    with Scene(path, RGB, (1, 2, n_colors + 1)) as scene:
        assert not scene.may_lack_pixels


def test_bands_are_taken_by_their_tags(tmp_path):
    pixels = noise(3, 5, 7)
    path = write_scene(tmp_path / "scene.tif", pixels)
    kinds = rasterio.enums.ColorInterp
    with rasterio.open(path, "r+") as raster:
        raster.colorinterp = (kinds.blue, kinds.green, kinds.red)
    with Scene(path, RGB) as scene:
        np.testing.assert_array_equal(scene.read(0, 0, 5, 7)[0], pixels[::-1])


def test_what_is_no_raster_is_refused(tmp_path):
    with pytest.raises(DatasetNotFoundError, match="does not exist"):
        Scene(str(tmp_path / "nothing.tif"), RGB)
    path = tmp_path / "text.tif"
    path.write_text("hello")
    with pytest.raises(DatasetError, match="GDAL can't read .*not recognized"):
        Scene(str(path), RGB)


@pytest.mark.parametrize("n_bits", [4, 12])
def test_bits_are_scaled_as_in_training_images(tmp_path, n_bits):
    pixels = noise(3, 50, 70, dtype=np.uint8 if n_bits < 8 else np.uint16, high=2**n_bits)
    path = write_scene(tmp_path / "scene.tif", pixels, nbits=n_bits)
    with Scene(path, RGB) as scene:
        found, _ = scene.read(0, 0, 50, 70)
        assert scene.thumbnail(20).max() > 100
    np.testing.assert_array_equal(np.moveaxis(found, 0, -1), decode(tmp_path / "scene.tif"))


def test_a_damaged_part_is_named(tmp_path):
    path = tmp_path / "scene.tif"
    tiles = {"compress": "deflate", "tiled": True, "blockxsize": 64, "blockysize": 64}
    write_scene(path, noise(3, 256, 256), **tiles)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    with Scene(str(path), RGB) as scene, pytest.raises(ImageError, match=r"rows 0 to 255"):
        scene.read(0, 0, 256, 256)


def test_a_scene_turned_by_pixels_of_a_few_degrees_millionths_has_no_axes(tmp_path):
    turned = rasterio.Affine(8e-6, 6e-6, 15, 6e-6, -8e-6, 45)
    crs = {"crs": "EPSG:4326", "transform": turned}
    with Scene(write_scene(tmp_path / "scene.tif", noise(3, 20, 30), **crs), RGB) as scene:
        assert scene.georeference.axes[0] is None
    crs["transform"] = rasterio.Affine(8e-6, 0, 15, 0, -8e-6, 45)
    with Scene(write_scene(tmp_path / "scene.tif", noise(3, 20, 30), **crs), RGB) as scene:
        assert scene.georeference.axes[0] is not None


@pytest.mark.parametrize(
    ("epsg", "x"), [(32633, "easting (m)"), (4326, "longitude (°)"), (None, "x (map units)")]
)
def test_axes_are_named_by_the_reference_system(tmp_path, epsg, x):
    crs = f"EPSG:{epsg}" if epsg else None
    path = write_scene(tmp_path / "scene.tif", noise(3, 20, 30), crs=crs)
    with Scene(path, RGB) as scene:
        bounds, found, _ = scene.georeference.axes
    assert bounds == (500_000, 500_300, 4_599_800, 4_600_000)
    assert found == x
