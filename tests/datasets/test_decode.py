from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import tiff_files
from PIL import Image
from tiff_files import Page, write_tiff
from tiff_zoo import noise, picture, smooth

from featstore.datasets.decode import IMAGE_SUFFIXES, PILLOW_FORMATS, decode, image_shape
from featstore.errors import ImageError

RGB = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
GRAY = RGB[..., 0]
GRAY_AS_RGB = np.repeat(GRAY[..., None], 3, axis=2)
ALPHA = RGB[..., 1:2]


def saved(path: Path, pixels: np.ndarray, **options: object) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def test_every_ending_of_the_formats_that_are_read_is_known() -> None:
    formats = {*PILLOW_FORMATS, "MPO", "TIFF", "JPEG2000"}
    endings = {e for e, name in Image.registered_extensions().items() if name in formats}
    assert endings <= IMAGE_SUFFIXES


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


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def save_png(path: Path, pixels: np.ndarray, bits: int, *more: bytes) -> Path:
    """Write a PNG file of any depth, its further chunks before the pixels."""
    height, width, n_bands = pixels.shape
    rows = pixels.reshape(height, -1)
    if bits < 8:
        ones = (rows[..., None] >> np.arange(bits - 1, -1, -1)) & 1
        rows = np.packbits(ones.reshape(height, -1).astype(np.uint8), axis=1)
    lines = b"".join(b"\0" + row.astype(">u2" if bits == 16 else "u1").tobytes() for row in rows)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[n_bands]
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    body = [header, *more, chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(body))
    return path


@pytest.mark.parametrize("n_bands", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_png_of_every_depth(tmp_path: Path, n_bands: int, bits: int) -> None:
    if bits < 8 and n_bands > 1:
        return
    pixels = noise(n_bands, bits)
    path = save_png(tmp_path / "a.png", pixels, bits)
    np.testing.assert_array_equal(decode(path), picture(pixels, bits))


@pytest.mark.parametrize("n_bands", [1, 3])
def test_dark_png_of_sixteen_bits_is_refused(tmp_path: Path, n_bands: int) -> None:
    path = save_png(tmp_path / "a.png", noise(n_bands, 16) // 16, 16)
    with pytest.raises(ImageError, match=r"16-bit values end at 4,095 of 65,535"):
        decode(path)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    "damaged",
    [
        chunk(b"eXIf", b"rubbish"),
        chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x05rubbish"),
        chunk(b"eXIf", b"MM\0*")[:-1] + b"?",
        chunk(b"tEXt", b"Comment\0hello")[:-1] + b"?",
        chunk(b"iCCP", b"rubbish"),
        chunk(b"gAMA", b"?"),
        chunk(b"pHYs", b"?"),
        chunk(b"acTL", b"?"),
        chunk(b"tRNS", b"?")[:-1] + b"?",
    ],
)
@pytest.mark.parametrize("where", ["before the pixels", "after the pixels", "with an orientation"])
def test_png_with_a_damaged_chunk_beside_its_pixels_is_read(
    tmp_path: Path, bits: int, damaged: bytes, where: str, capfd: pytest.CaptureFixture[str]
) -> None:
    pixels, orientation = noise(3, bits), 1
    more = [damaged] if where != "after the pixels" else []
    if where == "with an orientation" and b"eXIf" not in damaged:
        exif = Image.Exif()
        exif[0x0112] = orientation = 6
        more.append(chunk(b"eXIf", exif.tobytes()[6:]))
    path = save_png(tmp_path / "a.png", pixels, bits, *more)
    if where == "after the pixels":
        path.write_bytes(path.read_bytes()[:-12] + damaged + chunk(b"IEND", b""))
    np.testing.assert_array_equal(decode(path), picture(pixels, bits, orientation=orientation))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    "more", [[], [chunk(b"eXIf", b"MM\0*")[:-1] + b"?"], [chunk(b"gAMA", b"?")]]
)
def test_png_with_pixels_cut_short_is_refused(tmp_path: Path, bits: int, more: list[bytes]) -> None:
    path = save_png(tmp_path / "a.png", noise(3, bits), bits, *more)
    content = path.read_bytes()
    for n_cut in (40, len(content) // 2):
        path.write_bytes(content[:-n_cut])
        with pytest.raises(ImageError, match="can't be read"):
            decode(path)


def test_png_of_sixteen_bits_is_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = noise(3, 16)
    path = save_png(tmp_path / "a.png", pixels, 16, chunk(b"eXIf", exif.tobytes()[6:]))
    np.testing.assert_array_equal(decode(path), picture(pixels, 16, orientation=6))


@pytest.mark.parametrize(("n_bands", "bits"), [(1, 8), (3, 8), (4, 8), (3, 12), (1, 15), (3, 16)])
def test_jpeg_2000(tmp_path: Path, n_bands: int, bits: int) -> None:
    pixels = noise(n_bands, bits)
    path = tmp_path / "a.jp2"
    options = {"QUALITY": "100", "REVERSIBLE": "YES", "YCBCR420": "NO", "RESOLUTIONS": "1"}
    options |= {"NBITS": str(bits)} if bits not in (8, 16) else {}
    profile = {"height": pixels.shape[0], "width": pixels.shape[1], "count": n_bands}
    with (
        warnings.catch_warnings(action="ignore"),
        rasterio.MemoryFile() as memory,
        memory.open(driver="GTiff", dtype=pixels.dtype, **profile) as raster,
    ):
        raster.write(np.moveaxis(pixels, -1, 0))
        rasterio.shutil.copy(raster, path, driver="JP2OpenJPEG", **options)
    np.testing.assert_array_equal(decode(path), picture(pixels, bits))


def test_avif_and_its_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    path = saved(tmp_path / "a.avif", smooth(3), quality=100, subsampling="4:4:4", exif=exif)
    expected = picture(smooth(3), orientation=8)
    assert np.abs(decode(path).astype(int) - expected).mean() < 3


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg", "webp"])
def test_exif_orientation_is_applied_once(tmp_path: Path, suffix: str) -> None:
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
def test_broken_exif_is_passed_over_in_silence(
    tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path / f"a.{suffix}", RGB, exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0rubbish")
    assert decode(path).shape == RGB.shape
    assert capfd.readouterr() == ("", "")


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((8, 8, 3), value, np.uint8)) for value in (10, 200)]
    for suffix in ("gif", "png", "webp"):
        path = tmp_path / f"a.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        assert np.abs(decode(path).astype(int) - 10).max() <= 3


def broken_files(folder: Path) -> dict[str, Path]:
    whole = {
        "png": saved(folder / "a.png", RGB).read_bytes(),
        "jpg": saved(folder / "a.jpg", RGB, quality=95).read_bytes(),
        "webp": saved(folder / "a.webp", RGB).read_bytes(),
    }
    write_tiff(folder / "a.tif", Page(RGB, tiff_files.RGB, rows_per_strip=4))
    whole["tif"] = (folder / "a.tif").read_bytes()
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
def test_a_file_that_is_no_image_is_refused(tmp_path: Path, content: bytes, cause: str) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=cause):
        decode(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"absent\.png: can't be read: No such file"):
        decode(tmp_path / "absent.png")
    with pytest.raises(ImageError, match="can't be read: Is a directory"):
        decode(tmp_path)


def test_images_that_are_too_large_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    # Pillow has two limits of its own, and another for a warning.
    for side in (14_000, 20_000):
        Image.new("1", (side, side)).save(tmp_path / "large.png")
        with pytest.raises(
            ImageError, match=r"large\.png: has .* 178,956,970 are decoded\. Cut it"
        ):
            decode(tmp_path / "large.png")
    tags = {256: 60_000, 257: 60_000}
    path = write_tiff(tmp_path / "large.tif", Page(RGB, tiff_files.RGB, tags=tags))
    with pytest.raises(ImageError, match="60000 x 60000 pixels; at most 178,956,970"):
        decode(path)


def test_large_images_are_read_in_strips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "a.png", SLOPE)
    monkeypatch.setattr("featstore.datasets.decode.STRIP_PIXELS", 1000)
    np.testing.assert_array_equal(decode(path), SLOPE)
    # Pillow warns from 89 million pixels on; that is no reason to refuse, nor to speak.
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", SLOPE.size // 4)
    np.testing.assert_array_equal(decode(path), SLOPE)


def test_a_large_jpeg_shows_its_shape_without_being_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = saved(tmp_path / "a.jpg", RGB)
    turned = saved(tmp_path / "b.jpg", RGB, exif=exif)
    other = saved(tmp_path / "c.png", RGB)
    assert [image_shape(path) for path in (plain, turned, other)] == [(20, 30), (30, 20), (20, 30)]
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    assert [image_shape(path) for path in (plain, turned)] == [(20, 30), (30, 20)]
    (tmp_path / "d.jpg").write_bytes(b"\xff\xd8rubbish")
    with pytest.raises(ImageError, match=r"d\.jpg: is not an image"):
        image_shape(tmp_path / "d.jpg")


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
