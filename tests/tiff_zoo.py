"""Some 4,000 kinds of TIFF file, each with the picture that it holds or the reason to refuse it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import tiff_files as tiff
from PIL import Image
from tiff_files import Page, write_tiff

HEIGHT, WIDTH = 21, 37
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LAYOUTS: tuple[dict[str, Any], ...] = ({}, {"rows_per_strip": 5}, {"tile": 16})


@dataclass(frozen=True)
class Case:
    """A file to be written, and what decoding it must give.

    Parameters
    ----------
    name : str
        Says what the file is.
    write : callable
        Writes it to a path.
    expected : ndarray of shape (height, width, 3) or None
        The picture; None when the file is to be refused.
    refused : str or None
        What the message says when the file is to be refused.
    stored : ndarray of shape (height, width, bands) or None
        What GDAL must show, if it is known and the first page is the picture.
    is_lossy : bool
        Whether the picture is only near to the expected one, and exactly what GDAL shows.
    """

    name: str
    write: Callable[[Path], object]
    expected: np.ndarray | None = None
    refused: str | None = None
    stored: np.ndarray | None = None
    is_lossy: bool = False


def noise(n_bands: int, bits: int = 8, seed: int = 0) -> np.ndarray:
    """Return random pixels that use the whole range."""
    rng = np.random.default_rng([seed, n_bands, bits])
    pixels = rng.integers(0, 2**bits, (HEIGHT, WIDTH, n_bands))
    pixels[0, 0], pixels[0, 1] = 0, 2**bits - 1
    return pixels.astype(np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32)


def smooth(n_bands: int) -> np.ndarray:
    """Return pixels that survive lossy compression."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    bands = [40 + 5 * rows + 2 * columns, 200 - 3 * rows, 30 + 4 * columns]
    return np.stack([bands[i % 3] for i in range(n_bands)], axis=2).astype(np.uint8)


def picture(
    pixels: np.ndarray, bits: int = 8, *, white_is_zero: bool = False, orientation: int = 1
) -> np.ndarray:
    """Return what a person is to see of pixels: three bands of bytes, turned."""
    exact = pixels.astype(float)
    exact = np.rint(exact * 255 / (2**bits - 1)) if bits < 8 else exact // 2 ** (bits - 8)
    exact = 255 - exact if white_is_zero else exact
    colors = exact[..., :3] if pixels.shape[2] > 2 else np.repeat(exact[..., :1], 3, axis=2)
    image = Image.fromarray(colors.astype(np.uint8))
    return np.asarray(image.transpose(TURNS[orientation]) if orientation in TURNS else image)


def all_cases() -> Iterator[Case]:
    """Yield every case."""
    for part in (_lattice, _by_gdal, _refused_values, _many_bands, _palettes, _pages, _colors):
        yield from part()


def _lattice() -> Iterator[Case]:
    """Yield files of every number of bits, bands, layout and byte order; truth is what we wrote."""
    rng = np.random.default_rng(0)
    for bits, n_bands, planar, layout, order, (big, compression) in itertools.product(
        range(1, 17), (1, 2, 3, 4), (False, True), LAYOUTS, "<>", ((False, 1), (True, 8))
    ):
        for photometric in (tiff.BLACK_IS_ZERO, tiff.RGB if n_bands > 2 else tiff.WHITE_IS_ZERO):
            orientation = int(rng.integers(1, 9))
            pixels = noise(n_bands, bits)
            page = Page(
                pixels,
                photometric,
                bits,
                planar,
                compression=compression,
                predictor=compression == tiff.DEFLATE and bits in (8, 16) and order == "<",
                tags={274: orientation},
                **layout,
            )
            yield Case(
                f"{bits} bits, {n_bands} bands, planar {planar}, {layout}, {order}, big {big}, "
                f"compression {compression}, photometric {photometric}, turned {orientation}",
                lambda path, page=page, order=order, big=big: write_tiff(
                    path, page, order=order, big=big
                ),
                picture(
                    pixels,
                    bits,
                    white_is_zero=photometric == tiff.WHITE_IS_ZERO,
                    orientation=orientation,
                ),
                stored=pixels,
            )


def _by_rasterio(
    name: str, pixels: np.ndarray, expected: np.ndarray, *, is_lossy: bool = False, **more: Any
) -> Case:
    def write(path: Path) -> None:
        settings = dict(more)
        mask, overviews = settings.pop("mask", False), settings.pop("overviews", ())
        part, meanings = settings.pop("part", None), settings.pop("colorinterp", None)
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            rasterio.open(
                path,
                "w",
                driver="GTiff",
                height=HEIGHT,
                width=WIDTH,
                count=pixels.shape[2],
                dtype=pixels.dtype,
                transform=rasterio.Affine(2, 0, 5, 0, -2, 9),
                **settings,
            ) as raster,
        ):
            if meanings:
                raster.colorinterp = [rasterio.enums.ColorInterp[m] for m in meanings]
            bands = np.moveaxis(pixels, -1, 0)
            if part is None:
                raster.write(bands)
            elif part:
                window = rasterio.windows.Window(0, 0, WIDTH, part)
                raster.write(bands[:, :part], window=window)
            if mask:
                raster.write_mask(np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH) % 3 > 0)
            if overviews:
                raster.build_overviews(list(overviews))

    if is_lossy:
        return Case(name, write, expected, is_lossy=True)
    seen = pixels.copy()
    seen[more["part"] if more.get("part") is not None else HEIGHT :] = 0
    return Case(name, write, expected, stored=seen)


def _by_gdal() -> Iterator[Case]:
    """Yield files that GDAL writes: its compressions, masks, overviews, holes, names of bands."""
    tilings: tuple[dict[str, Any], ...] = (
        {"blockysize": 4},
        {"tiled": True, "blockxsize": 16, "blockysize": 16},
    )
    for compress, bits, n_bands, interleave, tiling, endianness in itertools.product(
        ("lzw", "deflate", "zstd", "packbits", "lzma"),
        (8, 16),
        (1, 2, 3, 4),
        ("band", "pixel"),
        tilings,
        ("little", "big"),
    ):
        for predictor in (1, 2) if compress in ("lzw", "deflate", "zstd") else (1,):
            pixels = noise(n_bands, bits)
            more = {"compress": compress, "interleave": interleave, "endianness": endianness}
            more |= tiling | ({"predictor": predictor} if predictor > 1 else {})
            yield _by_rasterio(
                f"{bits} bits, {n_bands} bands, {more}", pixels, picture(pixels, bits), **more
            )
    for nbits, compress in itertools.product(
        (1, 2, 4, 7, 9, 10, 12, 14, 15), ("none", "lzw", "zstd")
    ):
        pixels = noise(3, nbits)
        yield _by_rasterio(
            f"nbits {nbits}, {compress}",
            pixels,
            picture(pixels, nbits),
            nbits=nbits,
            compress=compress,
        )
    for (n_bands, photometric, interleave), tiling, quality in itertools.product(
        (
            (1, "minisblack", "pixel"),
            (3, "rgb", "pixel"),
            (3, "ycbcr", "pixel"),
            (3, "rgb", "band"),
        ),
        ({"blockysize": 16}, tilings[1]),
        (75, 100),
    ):
        more = {"compress": "jpeg", "photometric": photometric, "interleave": interleave}
        more |= {"jpeg_quality": quality} | tiling
        pixels = smooth(n_bands)
        yield _by_rasterio(
            f"{n_bands} bands, {more}", pixels, picture(pixels), is_lossy=True, **more
        )
    for n_bands, lossless, tiling in itertools.product((3, 4), (True, False), tilings):
        pixels = noise(n_bands) if lossless else smooth(n_bands)
        # WebP keeps no color where nothing is to be seen.
        pixels[..., 3:] = np.maximum(pixels[..., 3:], 1)
        more = {"compress": "webp", "webp_lossless": lossless, "interleave": "pixel"} | tiling
        name = f"{n_bands} bands, {more}"
        yield _by_rasterio(name, pixels, picture(pixels), is_lossy=not lossless, **more)
    for n_bands, bits, interleave in itertools.product((1, 3, 4), (8, 16), ("band", "pixel")):
        pixels = noise(n_bands, bits)
        shared = {"interleave": interleave, "compress": "deflate"}
        seen = picture(pixels, bits)
        what = f"{n_bands} bands of {bits} bits, {interleave}"
        yield _by_rasterio(f"masked, {what}", pixels, seen, mask=True, **shared)
        yield _by_rasterio(f"with overviews, {what}", pixels, seen, overviews=(2, 4), **shared)
        both = {"mask": True, "overviews": (2,)}
        yield _by_rasterio(f"masked, with overviews, {what}", pixels, seen, **both, **shared)
        yield _by_rasterio(f"without data value, {what}", pixels, seen, nodata=7, **shared)
        for part in (0, 8):
            kept = pixels.copy()
            kept[part:] = 0
            holes = {"sparse_ok": True, "blockysize": 4, "part": part}
            yield _by_rasterio(
                f"holes from {part}, {what}", pixels, picture(kept, bits), **holes, **shared
            )
    for n_bands, bits in itertools.product((4, 5, 13), (8, 16)):
        pixels = noise(n_bands, bits)
        meanings = ["blue", "green", "red", *["undefined"] * (n_bands - 3)]
        yield _by_rasterio(
            f"named bands, {n_bands} of {bits} bits",
            pixels,
            picture(pixels[..., 2::-1], bits),
            photometric="minisblack",
            colorinterp=meanings,
        )
    for alpha in ("premultiplied", "non-premultiplied"):
        for n_bands in (2, 4):
            pixels = noise(n_bands)
            yield _by_rasterio(f"{alpha}, {n_bands}", pixels, picture(pixels), alpha=alpha)


def _refused(name: str, refused: str, *pages: Page) -> Case:
    return Case(name, lambda path: write_tiff(path, *pages), refused=refused)


def _refused_values() -> Iterator[Case]:
    """Yield files whose values have no known black and white."""
    for n_bands, planar, layout in itertools.product((1, 3, 4), (False, True), LAYOUTS):
        for dtype in ("i1", "i2", "i4", "f2", "f4", "f8", "c8"):
            pixels = noise(n_bands).astype(dtype)
            page = Page(pixels, bits=8 * pixels.itemsize, planar=planar, **layout)
            yield _refused(f"{dtype}, {n_bands} bands, {layout}", "SampleFormat is", page)
        for bits in (17, 24, 31, 32):
            page = Page(noise(n_bands, bits), bits=bits, planar=planar, **layout)
            yield _refused(f"{bits} bits, {n_bands} bands", f"BitsPerSample is {bits}", page)
        for top in (200, 3000, 10_000):
            pixels = (noise(n_bands, 16) // (65_536 / top)).astype(np.uint16)
            page = Page(pixels, bits=16, planar=planar, **layout)
            yield _refused(f"16 bits up to {top}, {n_bands} bands", "16-bit values end at", page)
            if n_bands == 1:
                page = Page(pixels, tiff.WHITE_IS_ZERO, 16, **layout)
                yield _refused(f"white is zero, 16 bits up to {top}", "16-bit values end at", page)
    mixed = Page(noise(3), tiff.RGB, tags={258: [8, 8, 4]})
    yield _refused("bands of several depths", "BitsPerSample is 8, 8, 4", mixed)


def _many_bands() -> Iterator[Case]:
    """Yield files of more than four bands: read where RGB is said, refused where it is not."""
    for n_bands, bits, planar, layout in itertools.product(
        range(5, 14), (8, 16), (False, True), LAYOUTS
    ):
        pixels = noise(n_bands, bits)
        what = f"{n_bands} bands of {bits} bits, planar {planar}, {layout}"
        page = Page(pixels, tiff.RGB, bits, planar, **layout)
        yield Case(
            f"RGB and more: {what}",
            lambda path, page=page: write_tiff(path, page),
            picture(pixels, bits),
        )
        yield _refused(what, f"holds {n_bands} bands", Page(pixels, 1, bits, planar, **layout))


def _palettes() -> Iterator[Case]:
    for bits, layout, orientation, extra in itertools.product(
        (1, 2, 4, 8), LAYOUTS, range(1, 9), (0, 1)
    ):
        rng = np.random.default_rng(bits)
        colors = rng.integers(0, 256, (2**bits, 3))
        pixels = noise(1 + extra, bits)
        tags = {320: (colors.T * 257).ravel().tolist(), 274: orientation}
        page = Page(pixels, tiff.PALETTE, bits, tags=tags, **layout)
        yield Case(
            f"palette of {bits} bits, {extra} extra, {layout}, turned {orientation}",
            lambda path, page=page: write_tiff(path, page),
            picture(colors[pixels[..., 0]].astype(np.uint8), orientation=orientation),
        )


def _read(name: str, expected: np.ndarray, *pages: Page) -> Case:
    return Case(name, lambda path: write_tiff(path, *pages), expected)


def _pages() -> Iterator[Case]:
    """Yield files of several pages."""
    gray, color = noise(1), noise(3)
    full, seen = Page(color, tiff.RGB), picture(color)
    small = Page(color[::2, ::2], tiff.RGB, tags={254: 1})
    mask = Page(noise(1, 1), tiff.MASK, 1, tags={254: 4})
    yield _read("overviews", seen, full, small, small)
    yield _read("a thumbnail first", seen, small, full)
    yield _read("two thumbnails first", seen, small, small, full)
    yield _read("an old thumbnail first", seen, Page(gray[::3, ::3], tags={255: 2}), full)
    yield _read("a mask", seen, full, mask)
    yield _read("a mask first", seen, mask, full)
    yield _read("a mask that no flag tells", seen, full, Page(noise(1, 1), tiff.MASK, 1))
    yield _read("one reduced page", seen, Page(color, tiff.RGB, tags={254: 1}))
    for bits, n_pages in itertools.product((8, 16), (2, 3, 4, 13)):
        pages = [Page(noise(1, bits, seed=i), bits=bits) for i in range(n_pages)]
        yield _refused(
            f"{n_pages} gray pages of {bits} bits", f"{n_pages} full pages (NewSubfileType)", *pages
        )
        flagged = [
            Page(page.pixels, bits=bits, tags={254: 2, 297: [i, n_pages]})
            for i, page in enumerate(pages)
        ]
        yield _refused(
            f"{n_pages} numbered pages of {bits} bits", f"{n_pages} full pages", *flagged
        )
        rows = [Page(noise(n_pages, bits)[i][..., None], bits=bits) for i in range(HEIGHT)]
        yield _refused(f"rows of {n_pages} bands as pages", f"{HEIGHT} full pages", *rows)
        shape = [n_pages, HEIGHT, WIDTH]
        ome = (
            f'<?xml version="1.0"?><OME><Image><Pixels SizeX="{WIDTH}" SizeY="{HEIGHT}" '
            f'SizeC="{n_pages}" SizeZ="1" SizeT="1"/></Image></OME>'
        )
        for description in (f"ImageJ=1.54f\nimages={n_pages}\n", json.dumps({"shape": shape}), ome):
            page = Page(gray, tags={270: description.encode()})
            yield _refused(
                f"{n_pages} planes by {description[:9]}",
                f"ImageDescription it holds {n_pages}",
                page,
            )
            yield _refused(
                f"{n_pages} pages by {description[:9]}", f"{n_pages} full pages", page, *pages[1:]
            )
    for description in ("ImageJ=1.54f\nimages=1\n", "ImageJ=1.54f\n", "a field", '{"shape": "'):
        for pixels, photometric in ((gray, tiff.BLACK_IS_ZERO), (color, tiff.RGB)):
            page = Page(pixels, photometric, tags={270: description.encode()})
            yield _read(f"described by {description!r}", picture(pixels), page)
    shape = json.dumps({"shape": [HEIGHT, WIDTH, 3]}).encode()
    yield _read("described by its shape", seen, Page(color, tiff.RGB, tags={270: shape}))
    yield _refused("pages of two sizes", "2 full pages", full, Page(color[:9], tiff.RGB))
    yield _refused("reduced pages alone", "NewSubfileType", small, small)
    yield _refused(
        "a thumbnail of a raw photo", "NewSubfileType", Page(gray, tags={254: 1, 330: 8})
    )


def _colors() -> Iterator[Case]:
    """Yield other color spaces."""
    for layout, orientation in itertools.product(LAYOUTS, range(1, 9)):
        cmyk = noise(4)
        page = Page(cmyk, tiff.CMYK, tags={274: orientation}, **layout)
        if orientation == 1:
            ink = 255.0 - cmyk
            yield _read(
                f"CMYK, {layout}", picture(np.floor(ink[..., :3] * ink[..., 3:] / 255)), page
            )
        else:
            yield _refused(f"CMYK turned {orientation}", "Orientation is", page)
    for photometric in (9, 10, 32803, 32844, 34892):
        page = Page(noise(3), photometric)
        yield _refused(f"photometric {photometric}", f"Interpretation is {photometric}", page)
    for n_bands in (1, 2):
        yield _refused("RGB of too few bands", "SamplesPerPixel", Page(noise(n_bands), tiff.RGB))
    for n_bands in (3, 4, 13):
        page = Page(noise(n_bands), tiff.WHITE_IS_ZERO)
        yield _refused(f"white is zero, {n_bands} bands", "white is zero", page)
