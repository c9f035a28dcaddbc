import shutil

import pytest
from makers import write_images

import featstore
from featstore.baselines import fit_baselines
from featstore.errors import DatasetNotFoundError, FitError
from featstore.fitting.fit import fit_each


@pytest.fixture
def extracted(tmp_path, images):
    """Return a store with features of a few images, and the images' folder."""
    store = featstore.open_store(tmp_path / "store")
    featstore.extract(
        "squeezenet1_1",
        "folder",
        root=str(images),
        store=store,
        weights="random:7",
        image_size=64,
    )
    return store, images


def test_pixels_and_random_weights_are_extracted_and_fitted_once(extracted):
    store, _ = extracted
    fits = fit_each(store, "knn", params={"n_neighbors": 1})
    found = fit_baselines(store, fits, "knn", params={"n_neighbors": 1})
    assert [one.run.selection["model"] for one in found] == ["pixelstats", "squeezenet1_1"]
    random = found[1].run.selection
    assert random["weights"] == "random:0"
    assert random["layers"] == fits[0].run.selection["layers"]
    (preprocess,) = {
        str(store.get(part["set_id"]).info["preprocess"])
        for one in (fits[0], found[1])
        for part in one.run.selection["features"]
    }
    assert "64" in preprocess
    assert {one.run.record["params"]["n_neighbors"] for one in found} == {1}
    again = fit_baselines(store, fits, "knn", params={"n_neighbors": 1})
    assert all(one.reused for one in again)
    assert len(store.sets()) == 3


def test_each_image_size_has_a_baseline_of_its_own_though_they_share_a_name(extracted):
    store, images = extracted
    settings = {"root": str(images), "weights": "random:7", "image_size": 96}
    featstore.extract("squeezenet1_1", "folder", store=store, **settings)
    fits = [*fit_each(store, "lda", image_size=64), *fit_each(store, "lda", image_size=96)]
    found = fit_baselines(store, fits, "lda")
    assert [one.run.selection["model"] for one in found].count("squeezenet1_1") == 2
    assert len({one.run.run_id for one in found}) == 3
    assert len({one.name for one in found}) == 2


def test_a_baseline_of_a_baseline_is_not_made(extracted):
    store, images = extracted
    featstore.extract("pixelstats", "folder", root=str(images), store=store)
    fits = fit_each(store, "ridge", model="pixelstats")
    assert fit_baselines(store, fits, "ridge") == []


def test_images_that_are_gone_or_others_are_named(extracted, tmp_path):
    store, images = extracted
    fits = fit_each(store, "ridge")
    shutil.rmtree(images)
    gone = fit_baselines(store, fits, "ridge")
    assert all(isinstance(one.error, DatasetNotFoundError) and one.run is None for one in gone)
    assert [one.name for one in gone] == [
        "my images pixelstats",
        "my images squeezenet1_1 (random:0)",
    ]
    others = write_images(tmp_path / "others" / images.name)
    extra = next(others.rglob("*.*"))
    extra.unlink()
    for one in fit_baselines(store, fits, "ridge", root=str(others)):
        assert isinstance(one.error, FitError)
        assert "no longer those that" in str(one.error)


def test_images_that_could_not_be_read_are_masked_for_baselines_too(tmp_path, images):
    broken = next(images.glob("train/*/*.png"))
    broken.write_bytes(broken.read_bytes()[:60])
    store = featstore.open_store(tmp_path / "store")
    settings = {"root": str(images), "weights": "random:7", "image_size": 64, "on_error": "mask"}
    featstore.extract("squeezenet1_1", "folder", store=store, **settings)
    fits = fit_each(store, "lda")
    found = fit_baselines(store, fits, "lda")
    assert [one.error for one in found] == [None, None]
    assert {one.run.record["rows"]["n_masked"] for one in [*fits, *found]} == {1}
