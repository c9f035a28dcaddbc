import shutil

import pytest
from makers import tiny, write_images

import featstore
from featstore.baselines import fit_baselines
from featstore.errors import DatasetNotFoundError, FitError
from featstore.fitting.fit import fit_each

pytestmark = pytest.mark.usefixtures("blank_pictures")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Return a tree of images that all tests share."""
    return write_images(tmp_path_factory.mktemp("data") / "my images", n=4)


@pytest.fixture(scope="module")
def extracted(images, tmp_path_factory):
    """Return a store with features of the images at two sizes, and those of their baselines."""
    store = featstore.open_store(tmp_path_factory.mktemp("extracted") / "store")
    for size in (32, 48):
        featstore.extract(store=store, **tiny(images, weights="random:7", image_size=size))
    return store


@pytest.fixture
def store(extracted, tmp_path):
    """Return a copy of that store."""
    return featstore.open_store(shutil.copytree(extracted.path, tmp_path / "store"))


def test_each_image_size_has_baselines_that_are_extracted_and_fitted_once(store):
    params = {"n_neighbors": 1}
    fits = [*fit_each(store, "knn", image_size=32, params=params)]
    fits += fit_each(store, "knn", image_size=48, params=params)
    found = fit_baselines(store, fits, "knn", params=params)
    assert [one.run.selection.model for one in found] == ["pixelstats", "resnet18", "resnet18"]
    # They share a name.
    assert len({one.name for one in found}) == 2
    assert len({one.run.run_id for one in found}) == 3
    for fitted, baseline in zip(fits, found[1:], strict=True):
        selections = [one.run.selection for one in (fitted, baseline)]
        assert selections[1].weights == "random:0"
        assert selections[0].layers == selections[1].layers
        preprocess = [own.features[0].preprocess for own in selections]
        assert preprocess[0] == preprocess[1]
    assert {one.run.record.params["n_neighbors"] for one in found} == {1}
    again = fit_baselines(store, fits, "knn", params=params)
    assert all(one.reused for one in again)
    assert len(store.sets()) == 5
    # A baseline has none of its own.
    pixels = fit_each(store, "ridge", model="pixelstats")
    assert fit_baselines(store, pixels, "ridge") == []


def test_images_that_are_gone_or_others_are_named(store, images, tmp_path):
    fits = fit_each(store, "ridge", image_size=32)
    aside = images.rename(images.with_name("aside"))
    try:
        gone = fit_baselines(store, fits, "ridge")
    finally:
        aside.rename(images)
    assert all(isinstance(one.error, DatasetNotFoundError) and one.run is None for one in gone)
    assert [one.name for one in gone] == ["my images pixelstats", "my images resnet18 (random:0)"]
    others = write_images(tmp_path / "others" / images.name, n=4)
    next(others.rglob("*.*")).unlink()
    for one in fit_baselines(store, fits, "ridge", root=str(others)):
        assert isinstance(one.error, FitError)
        assert "no longer those that" in str(one.error)


def test_images_that_could_not_be_read_are_masked_for_baselines_too(tmp_path):
    images = write_images(tmp_path / "my images", n=4)
    broken = next(images.glob("train/*/*.png"))
    broken.write_bytes(broken.read_bytes()[:60])
    store = featstore.open_store(tmp_path / "store")
    featstore.extract(store=store, **tiny(images, weights="random:7", on_error="mask"))
    fits = fit_each(store, "lda")
    found = fit_baselines(store, fits, "lda")
    assert [one.error for one in found] == [None, None]
    assert {one.run.record.rows.n_masked for one in [*fits, *found]} == {1}
