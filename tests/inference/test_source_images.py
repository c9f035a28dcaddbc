from __future__ import annotations

import shutil

import numpy as np
import pytest
from makers import of_pixels
from PIL import Image

from featstore.datasets.registry import open_dataset
from featstore.errors import DatasetError, DatasetNotFoundError, ImageError
from featstore.extraction.extract import extract
from featstore.inference.source_images import Originals
from featstore.store.feature_store import open_store


@pytest.fixture
def store(images, tmp_path):
    store = open_store(tmp_path / "store")
    extract(store=store, **of_pixels(images))
    return store


def only(store):
    return store.sets()[0].set_id


def test_each_row_has_the_image_of_its_sample(pixel_sample):
    store, images = pixel_sample.store, pixel_sample.images
    originals = Originals(store, only(store))
    assert originals.unavailable_reason() is None
    for row, sample_id in enumerate(store.sets()[0].sample_ids.tolist()):
        expected = np.asarray(Image.open(images / sample_id))
        found = originals.image(row)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, expected)


def test_rows_are_those_of_a_limited_set(images, tmp_path):
    store = open_store(tmp_path / "few")
    extract(store=store, **of_pixels(images, limit=8))
    originals = Originals(store, only(store))
    sample_ids = store.sets()[0].sample_ids.tolist()
    assert len(sample_ids) == 8
    expected = np.asarray(Image.open(images / sample_ids[5]))
    np.testing.assert_array_equal(originals.image(5), expected)


def test_four_bands_show_red_green_and_blue(tmp_path):
    store = open_store(tmp_path / "store")
    options = {"root": str(tmp_path), "limit": 12, "seed": 3}
    extract("pixelstats", "demo", store=store, **options)
    found = Originals(store, only(store)).image(7)
    assert found.shape == (28, 28, 3)
    dataset = open_dataset("demo", tmp_path, limit=12, seed=3)
    np.testing.assert_array_equal(found, dataset.read(7)[..., :3])


def test_a_deleted_demo_is_not_generated_again(tmp_path):
    store = open_store(tmp_path / "store")
    extract("pixelstats", "demo", store=store, root=str(tmp_path), limit=12)
    shutil.rmtree(tmp_path / "demo")
    assert "found no demo-full.mat" in Originals(store, only(store)).unavailable_reason()
    assert not (tmp_path / "demo").exists()


def test_moved_images_are_found_by_their_root(store, images, tmp_path):
    images.rename(tmp_path / "elsewhere")
    lost = Originals(store, only(store))
    reason = lost.unavailable_reason()
    assert "my images does not exist" in reason
    assert "with --root" in reason
    with pytest.raises(DatasetNotFoundError, match="are gone from their folder"):
        lost.image(0)
    found = Originals(store, only(store), tmp_path / "elsewhere")
    assert found.unavailable_reason() is None
    assert found.image(0).shape == (40, 40, 3)


def test_changed_images_are_not_shown(store, images):
    first = images / "train" / "forest" / "forest00.png"
    shutil.copy(images / "train" / "water" / "water00.png", first)
    changed = Originals(store, only(store))
    assert "are not those of" in changed.unavailable_reason()
    with pytest.raises(DatasetError, match="extract again"):
        changed.image(5)


def test_an_image_that_was_never_readable(images, tmp_path):
    bad = images / "train" / "forest" / "forest00.png"
    bad.write_bytes(b"nothing")
    store = open_store(tmp_path / "store")
    extract(store=store, **of_pixels(images, on_error="mask"))
    originals = Originals(store, only(store))
    assert originals.unavailable_reason() is None
    row = store.sets()[0].sample_ids.tolist().index("train/forest/forest00.png")
    with pytest.raises(ImageError, match=r"forest00\.png"):
        originals.image(row)


def test_images_behind_links_out_of_the_folder_are_found(images, tmp_path):
    linked = images / "test" / "sand" / "sand00.png"
    linked.rename(tmp_path / "blob")
    linked.symlink_to(tmp_path / "blob")
    store = open_store(tmp_path / "store")
    extract(store=store, **of_pixels(images, follow_links=True))
    assert Originals(store, only(store)).unavailable_reason() is None
