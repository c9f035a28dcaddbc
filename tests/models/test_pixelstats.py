from __future__ import annotations

import numpy as np
import pytest
from makers import tree_bytes, write_images

import featstore
from featstore.datasets.loader import Batch
from featstore.errors import BackboneError
from featstore.extraction.extract import extract
from featstore.models import pixelstats
from featstore.models.pixelstats import (
    LAYER,
    QUANTILES,
    PixelExtractor,
    feature_names,
    pixel_statistics,
)
from featstore.store.feature_store import open_store

RGB = ("red", "green", "blue")
SAT = (*RGB, "nir")


def noise(k, height=28, width=28, n_bands=4, seed=0):
    shape = (k, height, width, n_bands)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def value(images, bands, name):
    return pixel_statistics(images, bands)[:, feature_names(bands).index(name)]


@pytest.mark.parametrize(("bands", "size"), [(SAT, (28, 28)), (RGB, (17, 40)), (("pan",), (5, 5))])
def test_band_statistics_are_those_of_the_pixels(bands, size):
    images = noise(6, *size, len(bands))
    names = feature_names(bands)
    found = pixel_statistics(images, bands)
    assert found.shape == (6, len(names))
    assert found.dtype == np.float32
    for i, band in enumerate(bands):
        pixels = images[..., i].reshape(6, -1).astype(float)
        expected = {"mean": pixels.mean(1), "std": pixels.std(1)}
        expected |= {"min": pixels.min(1), "max": pixels.max(1)}
        expected |= {
            f"q{100 * q:02.0f}": np.quantile(pixels, q, axis=1, method="inverted_cdf")
            for q in QUANTILES
        }
        for statistic, numbers in expected.items():
            column = found[:, names.index(f"{band}_{statistic}")]
            np.testing.assert_allclose(column, numbers, rtol=1e-6, atol=1e-4)


def test_indices_are_their_formulas():
    images = noise(5, seed=3)
    red, green, blue, nir = (images[..., i].reshape(5, -1) / 255 for i in range(4))
    with np.errstate(divide="ignore", invalid="ignore"):
        formulas = {
            "exg": (2 * green - red - blue) / (red + green + blue) / 2,
            "ndvi": (nir - red) / (nir + red),
            "ndwi": (green - nir) / (green + nir),
            "evi": 2.5 * (nir - red) / (nir + 6 * red - 7.5 * blue + 1),
            "arvi": (nir - (2 * red - blue)) / (nir + (2 * red - blue)),
        }
    for name, index in formulas.items():
        # Where a denominator is nearly zero, rounding decides the side that is clipped to.
        index = np.clip(np.nan_to_num(index, posinf=1, neginf=-1), -1, 1)
        tolerance = 0.01 if name in ("evi", "arvi") else 1e-5
        found = value(images, SAT, f"{name}_mean")
        np.testing.assert_allclose(found, index.mean(1), atol=tolerance)
        np.testing.assert_allclose(value(images, SAT, f"{name}_std"), index.std(1), atol=tolerance)


def test_vegetation_and_water_are_told_apart():
    grass, water = (
        np.full((1, 4, 4, 4), c, np.uint8) for c in ([40, 80, 30, 200], [30, 50, 70, 5])
    )
    assert value(grass, SAT, "ndvi_mean")[0] == pytest.approx(160 / 240)
    assert value(water, SAT, "ndwi_mean")[0] == pytest.approx(45 / 55)
    assert value(grass, SAT, "ndvi_std")[0] == 0
    assert "ndvi_mean" not in feature_names(RGB)
    assert "exg_mean" in feature_names(RGB)


@pytest.mark.parametrize("level", [0, 1, 255])
@pytest.mark.parametrize("size", [(1, 1), (28, 28), (300, 2)])
def test_flat_images_have_finite_statistics(level, size):
    found = pixel_statistics(np.full((2, *size, 4), level, np.uint8), SAT)
    assert np.isfinite(found).all()
    assert not found[:, [i for i, n in enumerate(feature_names(SAT)) if n.endswith("std")]].any()


def test_extreme_pixels_stay_in_bounds():
    corners = np.array(np.meshgrid(*[[0, 1, 128, 255]] * 4), np.uint8).reshape(4, -1).T
    found = pixel_statistics(corners.reshape(-1, 1, 1, 4), SAT)
    assert np.isfinite(found).all()
    assert np.abs(found[:, 36:]).max() <= 1


def test_an_image_does_not_depend_on_its_batch():
    images = noise(700, seed=1)
    whole = pixel_statistics(images, SAT)
    for i in (0, 1, 350, 699):
        assert np.array_equal(pixel_statistics(images[i : i + 1], SAT)[0], whole[i])
    assert np.array_equal(pixel_statistics(images[::7], SAT), whole[::7])


@pytest.mark.parametrize(
    "images", [noise(2).astype(float), noise(2, n_bands=3), noise(2)[0], noise(2)[:, :0]]
)
def test_what_is_no_image_is_named(images):
    with pytest.raises(ValueError, match="images"):
        pixel_statistics(images, SAT)


def test_the_whole_way_from_files_to_predictions(tmp_path):
    root = write_images(tmp_path / "images", n=6)
    store = open_store(tmp_path / "store")
    result = extract("pixelstats", "folder", root=str(root), store=store)
    assert (result.layers, result.engine, result.weights) == (["stats"], "numpy", "none")
    dataset = featstore.open_dataset("folder", root)
    X = store.select().memmap()
    for row in (0, 5, len(dataset) - 1):
        assert np.array_equal(X[row], pixel_statistics(dataset.read(row)[None], RGB)[0])
    assert extract("pixelstats", "folder", root=str(root), store=store).n_computed == 0
    (run,) = featstore.fit(store, "knn")
    predictions = featstore.predict(run, [root], store=store)
    assert len(predictions) == len(dataset)
    assert all(p.label for p in predictions)
    other = extract("pixelstats", "folder", root=str(root), store=tmp_path / "two", batch_size=5)
    one, two = (
        tree_bytes(store.sets()[0].group),
        tree_bytes(open_store(tmp_path / "two").sets()[0].group),
    )
    assert one == two
    assert other.batch_size == 5


def test_it_stands_beside_a_network(images, tmp_path):
    store = open_store(tmp_path / "store")
    extract("pixelstats", "folder", root=str(images), store=store)
    extract("resnet18", "folder", root=str(images), weights="random:0", image_size=32, store=store)
    (run,) = featstore.fit(store, "logreg", model="pixelstats,resnet18")
    assert run.selection.n_features == 29 + 1000


def test_images_with_other_bands_are_refused(images, tmp_path):
    store = open_store(tmp_path / "store")
    extract("pixelstats", "demo", limit=40, store=store)
    (run,) = featstore.fit(store, "knn")
    with pytest.raises(BackboneError, match="red,green,blue,nir; these images have red,green,blue"):
        featstore.predict(run, [images], store=store)


def test_it_has_one_layer(images, tmp_path):
    with pytest.raises(BackboneError, match="its only layer is stats"):
        extract("pixelstats", "folder", root=str(images), layers="conv1", store=tmp_path)


@pytest.mark.parametrize("n_cores", [1, 3, 8])
def test_threads_share_batches_of_large_images_and_change_no_bit(monkeypatch, n_cores):
    groups = [(np.array([0, 2, 5]), noise(3)), (np.array([1, 4]), noise(2, 9, 9, seed=1))]
    batch = Batch(10, 16, groups, {13: "broken"})
    whole = PixelExtractor(None, SAT).begin(batch)()[LAYER]
    monkeypatch.setattr(pixelstats, "SHARED_NBYTES", 1)
    monkeypatch.setattr(pixelstats, "available_cores", lambda: n_cores)
    shared = PixelExtractor(None, SAT).begin(batch)()[LAYER]
    assert shared.tobytes() == whole.tobytes()
    assert shared.dtype == np.float32


@pytest.mark.parametrize(
    ("bands", "size"), [(SAT, (300, 501)), (RGB, (1, 999)), (("pan",), (7, 5))]
)
def test_large_images_in_blocks_have_the_same_statistics(monkeypatch, bands, size):
    images = noise(2, *size, len(bands))
    images[1] = images[1] // 64 * 3
    expected = pixel_statistics(images, bands)
    monkeypatch.setattr(pixelstats, "LARGE_PIXELS", 10)
    monkeypatch.setattr(pixelstats, "PLANE_NBYTES", 4 * 100)
    np.testing.assert_allclose(pixel_statistics(images, bands), expected, rtol=1e-6, atol=1e-7)
