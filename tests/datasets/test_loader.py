from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from PIL import Image

from featstore.datasets.base import ArrayDataset, FileDataset
from featstore.datasets.loader import READ_AHEAD, batches, usual_shape
from featstore.datasets.registry import open_dataset
from featstore.datasets.source import ArraySource
from featstore.errors import ImageError
from featstore.io import gdal


def rows_of(batch):
    """Return a batch's images by row."""
    return {
        batch.start + int(position): image
        for positions, images in batch.groups
        for position, image in zip(positions, images, strict=True)
    }


def test_every_row_comes_once_and_in_order(images):
    dataset = open_dataset("folder", images)
    found = list(batches(dataset, range(0, len(dataset), 4), 4, "stop"))
    assert [(b.start, b.stop) for b in found] == [(i, min(i + 4, 27)) for i in range(0, 27, 4)]
    for batch in found:
        for row, image in rows_of(batch).items():
            np.testing.assert_array_equal(image, dataset.read(row))


def test_only_the_batches_asked_for_are_read(images, monkeypatch):
    dataset = open_dataset("folder", images)
    read = []
    original = FileDataset.read
    monkeypatch.setattr(
        FileDataset, "read", lambda d, row, size: read.append(row) or original(d, row, size)
    )
    assert [b.start for b in batches(dataset, [8, 20], 4, "stop")] == [8, 20]
    assert sorted(read) == [8, 9, 10, 11, 20, 21, 22, 23]


def test_large_jpegs_are_read_at_a_fraction(images):
    path = open_dataset("folder", images).paths[1]
    Image.new("RGB", (300, 200), "red").save(path.with_suffix(".jpg"))
    path.unlink()
    dataset = open_dataset("folder", images)
    (batch,) = batches(dataset, [0], 4, "stop", 40)
    found = rows_of(batch)
    assert [found[row].shape[:2] for row in range(4)] == [(40, 40), (50, 75), (40, 40), (40, 40)]
    np.testing.assert_array_equal(found[1], dataset.read(1, 40))
    (batch,) = batches(dataset, [0], 4, "stop")
    assert rows_of(batch)[1].shape[:2] == (200, 300)


def test_compressed_tiffs_are_read_as_by_themselves_and_gdals_options_stay_in_the_threads(tmp_path):
    shapes = [(8, 9), (8, 9), (5, 4)]
    for i, shape in enumerate(shapes):
        pixels = np.random.default_rng(i).integers(0, 256, (*shape, 3), dtype=np.uint8)
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "a" / f"{i}.tif", compression="tiff_lzw")
    dataset = open_dataset("folder", tmp_path)
    (batch,) = batches(dataset, [0], 3, "stop")
    for row, image in rows_of(batch).items():
        np.testing.assert_array_equal(image, dataset.read(row))
    assert not gdal.rasterio().env.hasenv()


@pytest.mark.parametrize("ahead_nbytes", [1, 10**9], ids=["large images", "small images"])
@pytest.mark.parametrize("odd_row", [0, 1])
def test_sizes_may_differ_within_a_batch(images, monkeypatch, odd_row, ahead_nbytes):
    monkeypatch.setattr("featstore.datasets.loader.AHEAD_NBYTES", ahead_nbytes)
    dataset = open_dataset("folder", images)
    Image.new("RGB", (30, 20), "red").save(dataset.paths[odd_row])
    dataset.paths[3].write_bytes(b"not an image")
    (batch,) = batches(dataset, [0], 6, "mask")
    shapes = [images.shape[:3] for _, images in batch.groups]
    assert shapes == ([(1, 20, 30), (4, 40, 40)] if odd_row == 0 else [(4, 40, 40), (1, 20, 30)])
    assert sorted(rows_of(batch)) == [0, 1, 2, 4, 5]
    for row, image in rows_of(batch).items():
        np.testing.assert_array_equal(image, dataset.read(row))


def test_the_first_unreadable_image_stops_with_its_path(images):
    dataset = open_dataset("folder", images)
    for row in (5, 6, 7):
        dataset.paths[row].write_bytes(b"not an image")
    with pytest.raises(ImageError, match=dataset.paths[5].name):
        list(batches(dataset, range(0, 27, 4), 4, "stop"))


def test_an_unreadable_image_is_masked_and_no_row_moves(images):
    dataset = open_dataset("folder", images)
    dataset.paths[5].write_bytes(b"not an image")
    found = list(batches(dataset, range(0, 27, 4), 4, "mask"))
    assert list(found[1].masked) == [5]
    assert sorted(rows_of(found[1])) == [4, 6, 7]
    np.testing.assert_array_equal(rows_of(found[1])[6], dataset.read(6))


class Counting(ArraySource):
    """A source of constant images that counts how many are read at a time."""

    name = title = "counting"
    bands = ("red", "green", "blue")
    class_names = ("only",)
    image_shape = (2, 2, 3)
    labels = np.zeros(1000, np.int32)
    splits = np.zeros(1000, np.uint8)
    sample_ids = tuple(map(str, range(1000)))

    def __init__(self):
        self.n_read = 0
        self._lock = threading.Lock()

    def files(self):
        return []

    def identity(self):
        return {}

    def read_rows(self, rows):
        with self._lock:
            self.n_read += len(rows)
        return np.broadcast_to(rows[:, None, None, None] % 256, (len(rows), 2, 2, 3)).astype("u1")


def test_arrays_are_read_in_blocks_and_not_too_far_ahead():
    source = Counting()
    stream = batches(ArrayDataset(source), range(0, 1000, 10), 10, "stop")
    first = next(stream)
    time.sleep(0.2)
    assert source.n_read <= (READ_AHEAD + 1) * 10
    rest = list(stream)
    assert [b.start for b in (first, *rest)] == list(range(0, 1000, 10))
    assert [int(b.groups[0][1][3, 0, 0, 0]) for b in rest[:3]] == [13, 23, 33]


def test_large_images_are_read_one_batch_ahead(monkeypatch):
    source = Counting()
    # A batch has 120 bytes.
    monkeypatch.setattr("featstore.datasets.loader.AHEAD_NBYTES", 200)
    stream = batches(ArrayDataset(source), range(0, 1000, 10), 10, "stop")
    for _ in range(5):
        next(stream)
    time.sleep(0.2)
    assert source.n_read <= 60
    assert len(list(stream)) == 95


def test_arrays_are_read_in_full_whatever_size_is_wanted():
    dataset = ArrayDataset(Counting())
    (batch,) = batches(dataset, [990], 10, "stop", 1)
    np.testing.assert_array_equal(batch.groups[0][1], dataset.read_block(990, 1000))
    np.testing.assert_array_equal(dataset.read(7, 1), dataset.read(7))


def test_leaving_early_leaves_no_threads(images):
    before = threading.active_count()
    stream = batches(open_dataset("folder", images), range(0, 27, 4), 4, "stop")
    next(stream)
    stream.close()
    deadline = time.monotonic() + 60
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_the_usual_shape_is_the_most_frequent_of_readable_images(images):
    dataset = open_dataset("folder", images)
    assert usual_shape(dataset) == (40, 40)
    for path in dataset.paths[:9]:
        Image.new("RGB", (30, 20), "red").save(path)
    for path in dataset.paths[9:]:
        path.write_bytes(b"nothing")
    assert usual_shape(dataset) == (20, 30)
    for path in dataset.paths:
        path.write_bytes(b"nothing")
    assert usual_shape(dataset) is None


def test_arrays_have_a_shape_without_being_read():
    source = Counting()
    assert usual_shape(ArrayDataset(source)) == (2, 2)
    assert source.n_read == 0
