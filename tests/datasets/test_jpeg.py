"""Plain JPEG files are decoded by simplejpeg, with Pillow's pixels and Pillow's refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from featstore.datasets import decode as decoding
from featstore.datasets import jpeg
from featstore.datasets.decode import decode
from featstore.errors import ImageError

PIXELS = np.random.default_rng(0).integers(0, 256, (37, 45, 3), dtype=np.uint8)


def saved(path: Path, mode: str = "RGB", **options: object) -> Path:
    Image.fromarray(PIXELS).resize((90, 74)).convert(mode).save(path, "JPEG", **options)
    return path


def as_pillow(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def turned_upside_down() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 3
    return exif


PLAIN = {
    "4:4:4": {"subsampling": 0},
    "4:2:2": {"subsampling": 1},
    "4:2:0": {"subsampling": 2, "quality": 30},
    "gray": {"mode": "L"},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_rows": 1},
    "remarks": {"icc_profile": bytes(300), "comment": b"from the air", "dpi": (300, 300)},
}
OTHERS = {
    "turned": {"exif": turned_upside_down()},
    "CMYK": {"mode": "CMYK"},
    "no chroma conversion": {"keep_rgb": True},
}


@pytest.mark.parametrize("options", PLAIN.values(), ids=PLAIN)
def test_a_plain_jpeg_has_pillows_pixels_without_pillow(tmp_path, monkeypatch, options):
    path = saved(tmp_path / "a.jpg", **options)
    monkeypatch.setattr(decoding, "_open", None)
    found = decode(path, 74)
    assert found.dtype == np.uint8
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(found, as_pillow(path))


@pytest.mark.parametrize("options", OTHERS.values(), ids=OTHERS)
def test_any_other_jpeg_is_left_to_pillow(tmp_path, options):
    path = saved(tmp_path / "a.jpg", **options)
    assert jpeg.plain_size(path.read_bytes()) is None
    found = decode(path)
    np.testing.assert_array_equal(
        found[::-1, ::-1] if "exif" in options else found, as_pillow(path)
    )


def test_a_jpeg_that_is_reduced_or_large_is_left_to_pillow(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.jpg")
    monkeypatch.setattr(jpeg, "decode_plain", None)
    assert decode(path, 37).shape == (37, 45, 3)
    monkeypatch.setattr(decoding, "SMALL_NBYTES", path.stat().st_size)
    np.testing.assert_array_equal(decode(path), as_pillow(path))


def test_a_damaged_head_gives_what_pillow_alone_gives(tmp_path, monkeypatch):
    content = saved(tmp_path / "a.jpg").read_bytes()
    path = tmp_path / "damaged.jpg"

    def outcome(damaged: bytes) -> object:
        path.write_bytes(damaged)
        try:
            return decode(path).tobytes()
        except ImageError as error:
            return str(error)

    damaged = [content[:at] for at in range(2, 700, 23)]
    damaged += [content[:at] + b"\x03" + content[at + 1 :] for at in range(2, 700, 7)]
    found = [outcome(one) for one in damaged]
    monkeypatch.setattr(jpeg, "decode_plain", lambda _: None)
    assert found == [outcome(one) for one in damaged]
    assert {type(one) for one in found} == {str, bytes}


def test_simplejpeg_is_used_only_where_it_gives_pillows_pixels(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.jpg")
    original = simplejpeg.decode_jpeg
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda content: original(content) ^ 1)
    jpeg._gives_pillows_pixels.cache_clear()
    try:
        np.testing.assert_array_equal(decode(path), as_pillow(path))
    finally:
        jpeg._gives_pillows_pixels.cache_clear()
