"""Datasets that change under a feature set, finished, half finished or in work: never mixed."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from children import extract_words, group_bytes, resumed
from makers import tree_bytes, write_images

from featstore.datasets.formats.synthetic import write_demo
from featstore.datasets.registry import open_dataset
from featstore.models.pixelstats import pixel_statistics
from featstore.store.feature_store import open_store
from featstore.store.verification import verify


@pytest.fixture
def images(pictures, tmp_path):
    # The title, which is the folder's name, is in the metadata.
    return shutil.copytree(pictures, tmp_path / "pictures")


@pytest.fixture
def another(tmp_path):
    """Return an image like the others that is none of them."""
    return next(write_images(tmp_path / "other", n=2, size=12, seed=9).rglob("*.png"))


def check_rows(store, set_id, root):
    """Check that each row of a set is of the image that the folder holds now."""
    dataset = open_dataset("folder", str(root))
    selection = open_store(store).select(set_id=set_id)
    assert selection.sample_ids.tolist() == list(dataset.sample_ids)
    bands = dataset.bands
    expected = [pixel_statistics(dataset.read(i)[None], bands)[0] for i in range(len(dataset))]
    np.testing.assert_array_equal(selection.memmap(), np.stack(expected))


def touched(images, another):
    for path in images.rglob("*.png"):
        os.utime(path, (1, 1))


def copied(images, another):
    shutil.move(images, images.with_name("moved"))
    shutil.copytree(images.with_name("moved"), images)


def replaced(images, another):
    shutil.copy(another, images / "train" / "sand" / "sand03.png")


def added(images, another):
    shutil.copy(another, images / "train" / "sand" / "sand99.png")


def removed(images, another):
    (images / "train" / "sand" / "sand02.png").unlink()


SAME = [touched, copied]
CHANGES = [replaced, added, removed]


def test_a_changed_dataset_is_another_set_and_a_touched_one_is_not(
    images, another, children, tmp_path
):
    store, words = tmp_path / "store", extract_words(images)
    resumed(children.command(store, *words))
    n_sets = 1
    for change in SAME + CHANGES:
        change(images, another)
        again = children.command(store, *words, "--json").result
        n_sets += change in CHANGES
        assert len(open_store(store).sets()) == n_sets
        assert again["n_reused"] == (36 if change in SAME else 0)
        check_rows(store, again["set_id"], images)
    # What was there before is as it was.
    assert all(verify(feature_set) == [] for feature_set in open_store(store).sets())


@pytest.mark.parametrize(
    "change",
    [replaced, *(pytest.param(one, marks=pytest.mark.soak) for one in (added, removed, copied))],
)
def test_a_dataset_that_changes_under_an_unfinished_set_is_another_set(
    change, images, another, children, tmp_path
):
    store, words = tmp_path / "store", extract_words(images)
    assert children.command(store, *words, fault={"at": 180}).code == -9
    original = shutil.copytree(images, tmp_path / "original")
    change(images, another)
    if change not in SAME:
        again = children.command(store, *words, "--json").result
        sets = open_store(store).sets()
        assert (len(sets), again["n_reused"]) == (2, 0)
        assert sorted(s.unfinished() for s in sets) == [[], ["stats"]]
        check_rows(store, again["set_id"], images)
    # With the images as they were, and only touched, the unfinished set is gone on with.
    shutil.rmtree(images)
    shutil.copytree(original, images)
    touched(images, another)
    again = children.command(store, *words, "--json").result
    assert 0 < again["n_reused"] < 36
    check_rows(store, again["set_id"], images)


@pytest.mark.parametrize(
    "kind",
    [
        "rewritten in place",
        pytest.param("replaced by another", marks=pytest.mark.soak),
        pytest.param("the same again", marks=pytest.mark.soak),
    ],
)
def test_an_image_that_is_replaced_while_extract_runs_is_noticed_and_never_mixed(
    kind, images, another, children, unbroken, tmp_path, tally
):
    store, words = tmp_path / "store", extract_words(images)
    dataset = open_dataset("folder", str(images))
    target, source = dataset.paths[21], tmp_path / "source.png"
    original = target.read_bytes()
    shutil.copy(target if kind == "the same again" else another, source)
    # Replaced when an image two batches before it is read.
    overwrite = {"row": 12, "path": str(target), "source": str(source)}
    overwrite["in_place"] = kind == "rewritten in place"
    noticed = children.command(store, *words, overwrite=overwrite)
    assert noticed.code == 1
    assert f"{target} was changed, or touched, while its dataset was being read" in noticed.err
    assert "run the same command again" in noticed.err
    (begun,) = open_store(store).sets()
    assert begun.unfinished() == ["stats"]
    if kind != "the same again":
        # What it is now makes another set.
        another_set = children.command(store, *words, "--json").result
        assert another_set["n_reused"] == 0
        assert len(open_store(store).sets()) == 2
        check_rows(store, another_set["set_id"], images)
    # With the image as it was, what was stored before is gone on with, and is right.
    target.write_bytes(original)
    again = children.command(store, *words, "--json").result
    assert again["set_id"] == begun.set_id
    assert again["n_reused"] > 0
    assert tree_bytes(open_store(store).get(begun.set_id).group) == unbroken
    check_rows(store, begun.set_id, images)
    tally.add("images changed in work", kind, "all noticed, none mixed")


def test_a_masked_image_that_went_missing_in_work_is_no_masked_row(images, children, tmp_path):
    store, words = tmp_path / "store", extract_words(images, "--on-error", "mask")
    target = open_dataset("folder", str(images)).paths[21]
    overwrite = {"row": 12, "path": str(target), "source": "", "in_place": False}
    noticed = children.command(store, *words, overwrite=overwrite)
    assert noticed.code == 1
    assert f"{target} was changed" in noticed.err
    again = children.command(store, *words, "--json").result
    assert (again["n_images"], again["n_masked"]) == (35, 0)


def test_an_image_changed_to_the_same_size_and_time_is_noticed(images, another, children, tmp_path):
    store, words = tmp_path / "store", extract_words(images)
    resumed(children.command(store, *words))
    path = images / "train" / "sand" / "sand03.png"
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[-20] ^= 1
    with path.open("rb+") as stream:
        stream.write(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (before.st_size, before.st_mtime_ns, before.st_ino) == (
        after.st_size,
        after.st_mtime_ns,
        after.st_ino,
    )
    changed = children.command(store, *words, "--on-error", "mask", "--json").result
    assert changed["n_reused"] == 0
    assert len(open_store(store).sets()) == 2


def test_arrays_that_change_in_work_are_noticed_too(children, tmp_path):
    store = tmp_path / "store"
    write_demo(tmp_path / "demo", 0, 40, 20)
    words = ["extract", "--model", "pixelstats", "--dataset", "demo", "--root", str(tmp_path)]
    words += ["--batch-size", "4"]
    resumed(children.command(tmp_path / "first", *words))
    files = [path for _, path in open_dataset("demo", str(tmp_path), seed=0).files()]
    changed = children.command(store, *words, touch={"row": 20, "path": str(files[0])})
    assert changed.code == 1
    assert "was changed, or touched" in changed.err
    resumed(children.command(store, *words))
    (feature_set,) = open_store(store).sets()
    assert verify(feature_set) == []
    assert group_bytes(store) == group_bytes(tmp_path / "first")
