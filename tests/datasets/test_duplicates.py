"""Identical images in the genuine formats, and which of them are leaks."""

from __future__ import annotations

import shutil

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from makers import Listener
from PIL import Image

from featstore.datasets import duplicates
from featstore.datasets.duplicates import find_first_rows, image_digests
from featstore.datasets.registry import open_dataset
from featstore.errors import DatasetError
from featstore.io import fingerprints, stamped_cache
from featstore.io.fingerprints import FingerprintCache, dataset_fingerprint
from featstore.store.leaks import count_leaked, leaked


@pytest.fixture
def cache(tmp_path):
    return FingerprintCache(tmp_path / "fingerprints")


def copies(dataset, first_rows):
    """Return {a sample: the first one with the same image}, of those that are copies."""
    return {
        dataset.sample_ids[row]: dataset.sample_ids[first]
        for row, first in enumerate(first_rows)
        if first != row
    }


def test_copies_are_found_across_splits_classes_and_names(images, cache):
    first = images / "test" / "forest" / "forest00.png"
    shutil.copy(first, images / "train" / "forest" / "a b.PNG")
    shutil.copy(first, images / "train" / "water" / "ü.png")
    (images / "val" / "sand").mkdir(parents=True)
    shutil.copy(images / "train" / "sand" / "sand05.png", images / "val" / "sand")
    dataset = open_dataset("folder", images)
    first_rows = find_first_rows(dataset, cache)
    assert first_rows.dtype == np.int64
    assert first_rows.shape == (30,)
    assert copies(dataset, first_rows) == {
        "train/forest/a b.PNG": "test/forest/forest00.png",
        "train/water/ü.png": "test/forest/forest00.png",
        "val/sand/sand05.png": "train/sand/sand05.png",
    }


def test_without_copies_each_row_is_its_own_first(images, cache):
    assert find_first_rows(open_dataset("folder", images), cache).tolist() == list(range(27))


def test_links_to_one_file_are_copies(images, cache):
    path = images / "train" / "water" / "water00.png"
    (images / "test" / "water" / "linked.png").symlink_to(path)
    (images / "test" / "water" / "hard.png").hardlink_to(path)
    dataset = open_dataset("folder", images)
    found = copies(dataset, find_first_rows(dataset, cache))
    # The test folder is sorted before train: the first of three is a link.
    assert set(found) == {"test/water/linked.png", "train/water/water00.png"}
    assert set(found.values()) == {"test/water/hard.png"}


def test_an_image_in_a_table_has_the_digest_of_its_file(images, cache, tmp_path):
    dataset = open_dataset("folder", images)
    content = [path.read_bytes() for path in dataset.paths]
    names = [dataset.class_names[label] for label in dataset.labels]
    path = tmp_path / "held.parquet"
    pd.DataFrame({"image": content, "label": names}).to_parquet(path)
    held = open_dataset("table", path)
    in_table, in_files = image_digests(held, cache), image_digests(dataset, cache)
    assert sorted(in_table.tolist()) == sorted(in_files.tolist())


def test_an_image_saved_anew_is_another_image(images, cache):
    with Image.open(images / "train" / "sand" / "sand00.png") as image:
        image.save(images / "test" / "sand" / "copy.bmp")
        image.save(images / "test" / "sand" / "copy.png", compress_level=1)
    first_rows = find_first_rows(open_dataset("folder", images), cache)
    assert first_rows.tolist() == list(range(29))


def test_files_that_are_no_images_are_compared_too(images, cache):
    for name in ("train/sand/cut.png", "test/sand/cut.png"):
        (images / name).write_bytes(b"")
    dataset = open_dataset("folder", images)
    assert copies(dataset, find_first_rows(dataset, cache)) == {
        "train/sand/cut.png": "test/sand/cut.png"
    }


def test_a_subset_compares_its_own_rows_only(images, cache):
    # The copies' first is in train/forest, which a subset can lack.
    for name in ("train/water/copy.png", "train/water/copy2.png"):
        shutil.copy(images / "train" / "forest" / "forest00.png", images / name)
    dataset = open_dataset("folder", images)
    rows = np.array([i for i, name in enumerate(dataset.sample_ids) if "/water/" in name])
    subset = dataset.subset(rows)
    assert copies(subset, find_first_rows(subset, cache)) == {
        "train/water/copy2.png": "train/water/copy.png"
    }
    limited = open_dataset("folder", images, limit=12)
    assert find_first_rows(limited, cache).shape == (12,)


@pytest.mark.parametrize("limit", [None, 6])
def test_no_file_is_read_that_was_fingerprinted(images, cache, monkeypatch, limit):
    # The hashes of files that are new are kept, too.
    monkeypatch.setattr(stamped_cache, "RECENT_S", 0)
    shutil.copy(images / "train" / "sand" / "sand00.png", images / "test" / "sand" / "copy.png")
    dataset = open_dataset("folder", images, limit=limit)
    dataset_fingerprint(dataset.identity(), dataset.files(), cache)
    kept = {path: path.read_bytes() for path in cache.folder.iterdir()}
    monkeypatch.setattr(fingerprints, "file_sha256", lambda path: pytest.fail(f"read {path}"))
    find_first_rows(dataset.subset(np.arange(3)), cache)
    find_first_rows(dataset, cache)
    assert {path: path.read_bytes() for path in cache.folder.iterdir()} == kept


def test_a_file_that_is_gone_is_named(images, cache):
    dataset = open_dataset("folder", images)
    _ = dataset.sample_ids
    (images / "train" / "sand" / "sand03.png").unlink()
    with pytest.raises(DatasetError, match=r"sand03\.png can't be read"):
        find_first_rows(dataset, cache)


def annotations():
    cells = np.empty((4, 2), dtype=object)
    for i, name in enumerate(("barren land", "trees", "grassland", "none")):
        cells[i] = "".join("1" if j == i else "0" for j in range(4)), name
    return cells


def write_v5(root, train, test):
    parts = {"annotations": annotations()}
    for split, X in (("train", train), ("test", test)):
        parts[f"{split}_x"] = np.moveaxis(X, 0, -1)
        parts[f"{split}_y"] = np.eye(4)[:, np.arange(len(X)) % 4]
    scipy.io.savemat(root / "sat-4-full.mat", parts, do_compression=True)


def write_v73(root, train, test):
    with h5py.File(root / "sat-4-full.mat", "w", userblock_size=512) as file:
        for split, X in (("train", train), ("test", test)):
            # MATLAB's axes are reversed in HDF5.
            file.create_dataset(
                f"{split}_x", data=X.transpose(0, 3, 2, 1), chunks=(3, 4, 28, 28), compression=3
            )
            file[f"{split}_y"] = np.eye(4)[np.arange(len(X)) % 4]
        references = np.empty((2, 4), dtype=h5py.ref_dtype)
        for i, row in enumerate(annotations()):
            for j, text in enumerate(row):
                cell = file.create_dataset(f"#refs#/{i}{j}", data=[[ord(c)] for c in text])
                cell.attrs["MATLAB_class"] = np.bytes_("char")
                references[j, i] = cell.ref
        file.create_dataset("annotations", data=references, dtype=h5py.ref_dtype)
    with (root / "sat-4-full.mat").open("rb+") as stream:
        stream.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")


def write_csv(root, train, test):
    for split, X in (("train", train), ("test", test)):
        np.savetxt(root / f"X_{split}_sat4.csv", X.reshape(len(X), -1), "%d", delimiter=",")
        one_hot = np.eye(4, dtype=int)[np.arange(len(X)) % 4]
        np.savetxt(root / f"y_{split}_sat4.csv", one_hot, "%d", delimiter=",")
    rows = [f"{code},{name}" for code, name in annotations()]
    (root / "sat4annotations.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture
def pixels():
    """Return 40 images to train on and 12 to test on; some of the latter are copies."""
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (40, 28, 28, 4), dtype=np.uint8)
    test = rng.integers(0, 256, (12, 28, 28, 4), dtype=np.uint8)
    train[33] = train[2]
    test[1] = test[7] = train[2]
    test[4] = train[39]
    test[9] = test[8]
    # Visible bands alike, the near infrared of one pixel not.
    test[11] = train[5]
    test[11, 27, 27, 3] ^= 1
    return train, test


SAME_PIXELS = {33: 2, 41: 2, 44: 39, 47: 2, 49: 48}


@pytest.mark.parametrize("write", [write_v5, write_v73, write_csv])
@pytest.mark.parametrize("n_in_block", [1, 7, 1000])
def test_images_in_arrays_are_compared_by_all_their_pixels(
    tmp_path, cache, pixels, write, n_in_block, monkeypatch
):
    write(tmp_path, *pixels)
    monkeypatch.setattr(duplicates, "HASHED_NBYTES", n_in_block * 28 * 28 * 4)
    listener = Listener()
    first_rows = find_first_rows(open_dataset("sat4", tmp_path), cache, listener)
    assert first_rows.dtype == np.int64
    expected = np.arange(52)
    expected[list(SAME_PIXELS)] = list(SAME_PIXELS.values())
    assert first_rows.tolist() == expected.tolist()
    (phase,) = listener.phases
    assert (phase.total, phase.unit, phase.n_done, phase.is_over) == (52, "images", 52, True)


@pytest.mark.parametrize("write", [write_v5, write_v73])
def test_a_subset_of_an_array_compares_its_own_rows_only(tmp_path, cache, pixels, write):
    write(tmp_path, *pixels)
    # Without row 2, the first of four.
    subset = open_dataset("sat4", tmp_path).subset(np.array([5, 33, 41, 47, 51]))
    assert find_first_rows(subset, cache).tolist() == [0, 1, 1, 1, 4]
    limited = open_dataset("sat4", tmp_path, limit=20)
    everything = find_first_rows(open_dataset("sat4", tmp_path), cache)
    same = everything[limited.rows][:, None] == everything[limited.rows]
    assert find_first_rows(limited, cache).tolist() == same.argmax(axis=1).tolist()


def test_pixels_that_cannot_be_read_are_an_error_and_end_the_phase(tmp_path, cache, pixels):
    write_v73(tmp_path, *pixels)
    dataset = open_dataset("sat4", tmp_path)
    _ = dataset.labels
    with h5py.File(tmp_path / "sat-4-full.mat", "r") as file:
        chunk = file["train_x"].id.get_chunk_info(3)
    with (tmp_path / "sat-4-full.mat").open("rb+") as stream:
        stream.seek(chunk.byte_offset + 8)
        stream.write(bytes(64))
    listener = Listener()
    with pytest.raises(DatasetError, match=r"sat-4-full\.mat: images can't be read"):
        find_first_rows(open_dataset("sat4", tmp_path), cache, listener)
    assert listener.phases[-1].is_over


def test_the_generated_demo_repeats_no_image(tmp_path, cache):
    dataset = open_dataset("demo", tmp_path, limit=400)
    assert find_first_rows(dataset, cache).tolist() == list(range(400))


def test_another_kind_of_dataset_is_refused(cache):
    with pytest.raises(TypeError, match="list can't be compared"):
        find_first_rows([], cache)


# Rows 0 to 5: a a b c a c.
FIRST_ROWS = np.array([0, 0, 2, 3, 0, 3])


@pytest.mark.parametrize(
    ("train", "rows", "expected"),
    [
        ([0, 1], [2, 3], [False, False]),
        ([0, 1], [4, 5], [True, False]),
        ([4], [0, 1, 2], [True, True, False]),
        # The first of the three images is in neither.
        ([1], [4], [True]),
        ([5, 2], [3, 3, 0], [True, True, False]),
        ([], [0], [False]),
        ([0], [], []),
    ],
)
def test_a_leak_is_an_image_that_is_also_trained_on(train, rows, expected):
    found = leaked(FIRST_ROWS, np.array(train, np.int64), np.array(rows, np.int64))
    assert found.dtype == bool
    assert found.tolist() == expected


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_leaks_equal_those_of_a_comparison_one_by_one(data):
    pictures = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=30))
    first_rows = np.array([pictures.index(picture) for picture in pictures])
    row = st.integers(0, len(pictures) - 1)
    train, rows = (np.array(data.draw(st.lists(row)), np.int64) for _ in range(2))
    expected = [any(pictures[r] == pictures[t] for t in train) for r in rows]
    assert leaked(first_rows, train, rows).tolist() == expected


@pytest.mark.parametrize(
    ("first_rows", "splits", "masked", "expected"),
    [
        ([0, 0, 0, 3], [0, 0, 0, 1], (), 0),
        ([0, 1, 2, 2], [0, 0, 1, 1], (), 0),
        ([0, 1, 0, 0], [0, 0, 1, 1], (), 2),
        ([0, 1, 0, 1], [0, 0, 1, 2], (), 2),
        ([0, 0, 2, 2], [1, 0, 2, 2], (), 1),
        ([0, 1, 0, 0], [0, 0, 1, 1], {2}, 1),
        ([0, 1, 0, 0], [1, 1, 2, 2], (), 0),
        ([], [], (), 0),
    ],
)
def test_leaks_are_counted_outside_the_train_split(first_rows, splits, masked, expected):
    rows = np.array(first_rows, np.int64)
    assert count_leaked(rows, np.array(splits, np.uint8), masked) == expected
