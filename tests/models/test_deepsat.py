from __future__ import annotations

import colorsys

import numpy as np
import pytest
from makers import write_images
from scipy.fft import dctn

import featstore
from featstore.models import deepsat
from featstore.models.deepsat import DCT, channel_names, feature_names, hand_features
from featstore.models.pixelstats import feature_names as pixel_names
from featstore.models.pixelstats import pixel_statistics

RGB = ("red", "green", "blue")
SAT = (*RGB, "nir")
BANDS = [SAT, RGB, ("pan",), ("b1", "red", "b3", "nir", "b5"), (*RGB, "rededge", "nir", "swir")]


def noise(k, height=28, width=28, n_bands=4, seed=0):
    shape = (k, height, width, n_bands)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def value(images, bands, name):
    return hand_features(images, bands)[:, feature_names(bands).index(name)]


def test_names_say_what_each_of_the_150_features_is():
    names = feature_names(SAT)
    assert len(names) == len(set(names)) == 150
    assert names[:2] == ("hue_mean", "hue_std")
    assert {"saturation_ccm_autoc", "intensity_ccm_mean", "nir_dct_0_1", "sr_std"} <= set(names)
    assert len(feature_names(RGB)) == 108
    assert channel_names(BANDS[-1]) == ("hue", "saturation", "intensity", "rededge", "nir", "swir")
    # Without all three colors, every band is a channel; indices need bands of their names.
    assert channel_names(BANDS[3]) == BANDS[3]
    assert feature_names(BANDS[3])[180:] == ("ndvi_mean", "ndvi_std", "sr_mean", "sr_std")


def test_channels_are_hue_saturation_and_intensity():
    corners = np.array(np.meshgrid(*[[0, 1, 60, 128, 255]] * 3), np.uint8).reshape(3, -1).T
    found = {
        name: value(corners[:, None, None], RGB, f"{name}_mean") for name in channel_names(RGB)
    }
    for row, pixel in enumerate(corners.tolist()):
        hue = 256 * colorsys.rgb_to_hsv(*pixel)[0]
        total = sum(pixel)
        assert abs((found["hue"][row] - hue + 128) % 256 - 128) <= 0.5001
        assert abs(found["intensity"][row] - total / 3) <= 0.5
        share = 255 * (1 - 3 * min(pixel) / total) if total else 0
        assert abs(found["saturation"][row] - share) <= 0.5001


def test_bands_without_color_are_read_as_they_are():
    images = noise(4, 9, 12, 1)
    for name in ("mean", "std"):
        expected = pixel_statistics(images, ("pan",))[:, pixel_names(("pan",)).index(f"pan_{name}")]
        np.testing.assert_allclose(value(images, ("pan",), f"pan_{name}"), expected, rtol=1e-6)
    squares = (images.astype(float) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(value(images, ("pan",), "pan_moment2"), squares, rtol=1e-6)


@pytest.mark.parametrize("size", [(28, 28), (5, 40), (4, 4)])
def test_waves_are_those_of_scipy(size):
    images = noise(3, *size, 1)
    for row in range(3):
        whole = dctn(images[row, ..., 0].astype(float), norm="ortho") / np.sqrt(size[0] * size[1])
        for down, across in DCT:
            found = value(images[row : row + 1], ("pan",), f"pan_dct_{down}_{across}")[0]
            assert found == pytest.approx(abs(whole[down, across]), rel=1e-5)


def test_indices_are_their_formulas():
    images = noise(5, seed=3)
    red, _, _, nir = (images[..., i].reshape(5, -1).astype(float) for i in range(4))
    ratio = nir / np.maximum(red, 1)
    np.testing.assert_allclose(value(images, SAT, "sr_mean"), ratio.mean(1), rtol=1e-5)
    np.testing.assert_allclose(value(images, SAT, "sr_std"), ratio.std(1), rtol=1e-5)
    for name in ("ndvi_mean", "ndvi_std", "evi_mean", "arvi_mean"):
        expected = pixel_statistics(images, SAT)[:, pixel_names(SAT).index(name)]
        np.testing.assert_allclose(value(images, SAT, name), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("level", [0, 1, 97, 255])
@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 2), (4, 1), (28, 28)])
def test_even_images_have_finite_features_and_no_deviation(level, size):
    found = hand_features(np.full((2, *size, 4), level, np.uint8), SAT)
    assert np.isfinite(found).all()
    names = feature_names(SAT)
    still = [i for i, n in enumerate(names) if n.endswith(("std", "var", "contr", "entro"))]
    assert not found[:, still].any()


def test_tiny_and_extreme_images_have_finite_features():
    for size in ((1, 1), (1, 3), (2, 1), (2, 2)):
        for bands in BANDS:
            images = noise(50, *size, len(bands)) // 128 * 255
            assert np.isfinite(hand_features(images, bands)).all()


@pytest.mark.parametrize("bands", BANDS)
def test_an_image_does_not_depend_on_its_batch(bands):
    images = noise(150, n_bands=len(bands), seed=1)
    whole = hand_features(images, bands)
    assert whole.dtype == np.float32
    for i in (0, 1, 80, 149):
        assert np.array_equal(hand_features(images[i : i + 1], bands)[0], whole[i])
    assert np.array_equal(hand_features(images[::7], bands), whole[::7])


@pytest.mark.parametrize(("bands", "size"), [(SAT, (40, 61)), (RGB, (3, 99)), (("pan",), (50, 1))])
def test_large_images_in_strips_have_the_same_features(monkeypatch, bands, size):
    images = noise(2, *size, len(bands))
    images[1] = images[1] // 64 * 3
    expected = hand_features(images, bands)
    monkeypatch.setattr(deepsat, "STEP_PIXELS", 500)
    np.testing.assert_allclose(hand_features(images, bands), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "images", [noise(2).astype(float), noise(2, n_bands=3), noise(2)[0], noise(2)[:, :0]]
)
def test_what_is_no_image_is_named(images):
    with pytest.raises(ValueError, match="images"):
        hand_features(images, SAT)


def test_the_whole_way_from_files_to_predictions(tmp_path):
    root = write_images(tmp_path / "images", n=6)
    store = featstore.open_store(tmp_path / "store")
    done = featstore.extract("deepsat", str(root), store=store)
    assert (done.layers, done.engine, done.n_features) == (["features"], "numpy", {"features": 108})
    dataset = featstore.open_dataset("folder", root)
    X = store.select().memmap()
    for row in (0, len(dataset) - 1):
        assert np.array_equal(X[row], hand_features(dataset.read(row)[None], RGB)[0])
    assert featstore.extract("deepsat", str(root), store=store).n_computed == 0
    featstore.extract("pixelstats", str(root), store=store)
    (run,) = featstore.fit(store, "knn", model="deepsat")
    predicted = featstore.predict(run, [root], store=store)
    assert len(predicted) == len(dataset)
    assert all(one.label for one in predicted)
