from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from featstore.datasets.decode import decode
from featstore.errors import ImageError

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
GRAY = RGB[..., 0]
GRAY_AS_RGB = np.repeat(GRAY[..., None], 3, axis=2)
ALPHA = RGB[..., 1:2]


def save_bands(path: Path, pixels: np.ndarray) -> Path:
    tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig")
    return path


def saved(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "webp"])
def test_rgb_comes_back_exactly(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == "webp" else {}
    image = decode(saved(tmp_path / f"a.{suffix}", RGB, **options))
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    np.testing.assert_array_equal(image, RGB)


def test_jpeg_and_cmyk_jpeg_agree(tmp_path: Path) -> None:
    smooth = np.linspace(0, 255, 64 * 64 * 3).reshape(64, 64, 3).astype(np.uint8)
    plain = decode(saved(tmp_path / "a.jpg", smooth, quality=95))
    Image.fromarray(smooth).convert("CMYK").save(tmp_path / "b.jpg", quality=95)
    assert np.abs(plain.astype(int) - smooth).mean() < 3
    assert np.abs(decode(tmp_path / "b.jpg").astype(int) - smooth).mean() < 3


def test_alpha_is_dropped_and_gray_repeated(tmp_path: Path) -> None:
    rgba = np.concatenate([RGB, ALPHA], axis=2)
    np.testing.assert_array_equal(decode(saved(tmp_path / "rgba.png", rgba)), RGB)
    np.testing.assert_array_equal(decode(saved(tmp_path / "l.png", GRAY)), GRAY_AS_RGB)
    gray_alpha = np.concatenate([GRAY[..., None], ALPHA], axis=2)
    np.testing.assert_array_equal(decode(saved(tmp_path / "la.png", gray_alpha)), GRAY_AS_RGB)


def test_palette_with_transparency_gives_its_colors(tmp_path: Path) -> None:
    palette = Image.fromarray(RGB).quantize(16)
    palette.save(tmp_path / "p.png", transparency=bytes(range(0, 160, 10)))
    np.testing.assert_array_equal(decode(tmp_path / "p.png"), np.asarray(palette.convert("RGB")))


def test_bilevel_is_black_and_white(tmp_path: Path) -> None:
    assert set(np.unique(decode(saved(tmp_path / "1.png", GRAY > 128)))) == {0, 255}


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_sixteen_bits_map_the_full_range(tmp_path: Path, byteorder: str) -> None:
    wide = GRAY.astype(np.uint16) * 257
    wide[0, :3] = 0, 65535, 32896
    path = tmp_path / "g16.tif"
    tifffile.imwrite(path, wide, byteorder=byteorder)
    image = decode(path)
    assert image[0, :3, 1].tolist() == [0, 255, 128]
    np.testing.assert_array_equal(image[1:], GRAY_AS_RGB[1:])
    np.testing.assert_array_equal(decode(saved(tmp_path / "g16.png", wide)), image)


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_sixteen_bit_color_agrees_with_gray(tmp_path: Path, planar: str) -> None:
    wide = RGB.astype(np.uint16) * 257
    pixels = wide if planar == "contig" else np.moveaxis(wide, -1, 0)
    tifffile.imwrite(tmp_path / "c.tif", pixels, photometric="rgb", planarconfig=planar)
    np.testing.assert_array_equal(decode(tmp_path / "c.tif"), RGB)


def test_sixteen_bit_color_png(tmp_path: Path) -> None:
    # Pillow can't write one.
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    wide = (RGB.astype(np.uint16) * 257).astype(">u2").reshape(20, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in wide)
    header = struct.pack(">IIBBBBB", 30, 20, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    np.testing.assert_array_equal(decode(tmp_path / "c.png"), RGB)


@pytest.mark.parametrize("n_bands", [4, 5, 13])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_of_many_bands_the_first_three_are_taken(
    tmp_path: Path, n_bands: int, dtype: type, planar: str
) -> None:
    bands = np.resize(np.moveaxis(RGB, -1, 0), (n_bands, 20, 30)).astype(dtype)
    bands[3:] = 77
    bands *= 1 if dtype == np.uint8 else 257
    pixels = np.moveaxis(bands, 0, -1) if planar == "contig" else bands
    path = tmp_path / "multi.tif"
    tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig=planar)
    np.testing.assert_array_equal(decode(path), RGB)


@pytest.mark.parametrize("n_bands", [1, 3, 4, 5, 8, 13])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("interleave", ["band", "pixel"])
def test_compressed_files_of_rasterio_are_read_as_others(
    tmp_path: Path, n_bands: int, dtype: str, interleave: str
) -> None:
    rasterio = pytest.importorskip("rasterio")
    bands = np.resize(np.moveaxis(RGB, -1, 0), (n_bands, 20, 30)).astype(dtype)
    bands[3:] = 77
    bands *= 1 if dtype == "uint8" else 257
    path = tmp_path / "multi.tif"
    profile = {"height": 20, "width": 30, "count": n_bands, "dtype": dtype}
    profile |= {"transform": rasterio.Affine(2, 0, 5, 0, -2, 9), "interleave": interleave}
    with rasterio.open(path, "w", compress="deflate", **profile) as file:
        file.write(bands)
    expected = RGB if n_bands >= 3 else np.repeat(RGB[..., :1], 3, axis=2)
    np.testing.assert_array_equal(decode(path), expected)


def test_a_compression_that_wants_another_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_bands(tmp_path / "five.tif", np.resize(RGB, (20, 30, 5)))

    def refuses(*_args: object, **_options: object) -> None:
        raise ValueError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", refuses)
    with pytest.raises(ImageError, match=r"five\.tif: .*pip install imagecodecs.*COMPRESS=DEFLATE"):
        decode(path)


def test_two_bands_are_gray_and_something(tmp_path: Path) -> None:
    path = save_bands(tmp_path / "two.tif", RGB[..., :2])
    np.testing.assert_array_equal(decode(path), GRAY_AS_RGB)


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "webp"])
def test_exif_orientation_is_honored_once(tmp_path: Path, suffix: str) -> None:
    scene = np.zeros((40, 60, 3), np.uint8)
    scene[:20, :30] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    image = decode(saved(tmp_path / f"a.{suffix}", scene, exif=exif))
    assert image.shape == (60, 40, 3)
    # Turned clockwise, the top left corner comes to the top right.
    assert image[10, 30].min() > 200
    assert image[10, 10].max() < 50
    assert image[50, 30].max() < 50


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_broken_exif_is_no_hindrance_and_no_warning(
    tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path / f"a.{suffix}", RGB, exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0rubbish")
    assert decode(path).shape == RGB.shape
    assert capfd.readouterr() == ("", "")


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (10, 200)]
    for suffix in ("gif", "png", "tif"):
        path = tmp_path / f"a.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        assert np.abs(decode(path).astype(int) - 10).max() <= 3


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint32, np.int16])
def test_other_dtypes_are_refused(tmp_path: Path, dtype: type) -> None:
    for name, pixels in (("g.tif", GRAY), ("many.tif", np.resize(GRAY, (20, 30, 5)))):
        path = save_bands(tmp_path / name, pixels.astype(dtype))
        with pytest.raises(ImageError, match="expected 8 or 16-bit") as caught:
            decode(path)
        assert str(path) in str(caught.value)


def test_many_bands_leave_the_console_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    decode(save_bands(tmp_path / "b.tif", np.zeros((8, 8, 13), np.uint8)))
    assert capfd.readouterr() == ("", "")


def broken_files(folder: Path) -> dict[str, Path]:
    whole = {
        "png": saved(folder / "a.png", RGB).read_bytes(),
        "jpg": saved(folder / "a.jpg", RGB, quality=95).read_bytes(),
        "webp": saved(folder / "a.webp", RGB).read_bytes(),
    }
    whole["tif"] = save_bands(folder / "a.tif", np.resize(RGB, (20, 30, 13))).read_bytes()
    paths = {}
    for suffix, content in whole.items():
        for name, part in (("head", 12), ("half", len(content) // 2), ("most", -40)):
            paths[f"{suffix}-{name}"] = folder / f"{name}.{suffix}"
            paths[f"{suffix}-{name}"].write_bytes(content[:part])
    return paths


def test_cut_short_files_are_named_with_the_cause(tmp_path: Path) -> None:
    for path in broken_files(tmp_path).values():
        with pytest.raises(ImageError) as caught:
            decode(path)
        message = str(caught.value)
        assert str(path) in message
        assert message.endswith(".")
        assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "cause"),
    [(b"", "is empty"), (b"hello, world", "is not an image"), (b"II*\0", "can't be read")],
)
def test_what_is_no_image_is_said(tmp_path: Path, content: bytes, cause: str) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=cause):
        decode(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"absent\.png: can't be read: No such file"):
        decode(tmp_path / "absent.png")
    with pytest.raises(ImageError, match="can't be read: Is a directory"):
        decode(tmp_path)


def test_decompression_bombs_are_refused_and_large_images_read(tmp_path: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(ImageError, match="decompression bomb"):
        decode(tmp_path / "bomb.png")
    # Pillow warns from 89 million pixels on; that is no reason to refuse, nor to speak.
    Image.new("1", (9_500, 9_500)).save(tmp_path / "large.png")
    assert decode(tmp_path / "large.png").shape == (9_500, 9_500, 3)


def test_a_tiff_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = save_bands(tmp_path / "bomb.tif", np.zeros((16, 16, 13), np.uint8))
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tags = tiff.pages[0].tags
        tags["ImageWidth"].overwrite(60_000)
        tags["ImageLength"].overwrite(60_000)
    with pytest.raises(ImageError, match="60000 x 60000 pixels"):
        decode(path)


@pytest.mark.parametrize(
    ("size", "min_size", "expected"),
    [
        ((640, 480), 224, (320, 240)),
        ((480, 640), 224, (240, 320)),
        ((2000, 900), 224, (500, 225)),
        ((256, 256), 224, (256, 256)),
        ((640, 480), None, (640, 480)),
    ],
)
def test_a_large_jpeg_is_decoded_at_a_fraction(tmp_path, size, min_size, expected):
    """Of 1, 2, 4 or 8, so that both sides stay at least as long as is wanted."""
    width, height = size
    rows, columns = np.mgrid[:height, :width]
    pixels = np.stack([rows % 256, columns % 256, (rows + columns) % 256], axis=2)
    smooth = (pixels // 4 + 90).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    Image.fromarray(smooth).save(tmp_path / "a.png")
    found = decode(tmp_path / "a.jpg", min_size)
    assert found.shape == (*expected[::-1], 3)
    whole = Image.fromarray(decode(tmp_path / "a.jpg")).resize((224, 224), Image.Resampling.BOX)
    reduced = Image.fromarray(found).resize((224, 224), Image.Resampling.BOX)
    assert np.abs(np.asarray(whole, float) - np.asarray(reduced, float)).mean() < 2
    assert decode(tmp_path / "a.png", min_size).shape == (height, width, 3)


SLOPE = np.stack(
    np.broadcast_arrays(
        *np.ogrid[20:220:300j, 20:220:420j], np.add(*np.ogrid[10:110:300j, 10:110:420j])
    ),
    axis=2,
).astype(np.uint8)


def shrunk(pixels: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BOX), int)


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {}),
        ("RGB", {"subsampling": 0}),
        ("RGB", {"progressive": True}),
        ("RGB", {"format": "MPO", "save_all": True, "append_images": [Image.new("RGB", (8, 8))]}),
        ("L", {}),
        ("YCbCr", {}),
        ("CMYK", {}),
    ],
)
def test_every_kind_of_jpeg_is_reduced_to_the_same_scene(
    tmp_path: Path, mode: str, options: dict[str, object]
) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(SLOPE).convert(mode).save(path, quality=95, **options)
    reduced, full = decode(path, 75), decode(path)
    assert (reduced.shape, full.shape) == ((75, 105, 3), (300, 420, 3))
    assert reduced.flags.c_contiguous
    assert np.abs(shrunk(full, 105, 75) - reduced).mean() < 1
    np.testing.assert_array_equal(decode(path, 75), reduced)


@pytest.mark.parametrize("min_size", [151, 300, 301, 10_000])
def test_a_jpeg_that_is_not_reduced_is_the_full_one(tmp_path: Path, min_size: int) -> None:
    path = saved(tmp_path / "a.jpg", SLOPE)
    np.testing.assert_array_equal(decode(path, min_size), decode(path))


@pytest.mark.parametrize(
    ("min_size", "shape"), [(1, (38, 53)), (37, (38, 53)), (38, (75, 105)), (150, (150, 210))]
)
def test_neither_side_falls_below_the_wanted_one(
    tmp_path: Path, min_size: int, shape: tuple[int, int]
) -> None:
    assert decode(saved(tmp_path / "a.jpg", SLOPE), min_size).shape == (*shape, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_jpeg_is_turned_as_the_full_one(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / "a.jpg", SLOPE, exif=exif, quality=95)
    reduced = decode(path, 75)
    assert reduced.shape == ((75, 105, 3) if orientation < 5 else (105, 75, 3))
    height, width, _ = reduced.shape
    assert np.abs(shrunk(decode(path), width, height) - reduced).mean() < 1


def test_a_jpeg_cut_short_is_refused_at_a_reduced_size_too(tmp_path: Path) -> None:
    content = saved(tmp_path / "a.jpg", SLOPE, quality=95).read_bytes()
    path = tmp_path / "cut.jpg"
    for end in (12, len(content) // 2, -40):
        path.write_bytes(content[:end])
        with pytest.raises(ImageError, match=r"cut\.jpg"):
            decode(path, 75)


def test_other_files_are_never_reduced(tmp_path: Path) -> None:
    for suffix in ("png", "tif", "bmp"):
        path = saved(tmp_path / f"a.{suffix}", SLOPE)
        np.testing.assert_array_equal(decode(path, 10), SLOPE)
    many = save_bands(tmp_path / "many.tif", np.resize(SLOPE, (300, 420, 5)))
    assert decode(many, 10).shape == (300, 420, 3)
