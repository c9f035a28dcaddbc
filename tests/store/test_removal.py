"""What a removal deletes: the files that featstore wrote, and no others, and nothing by a link."""

from __future__ import annotations

import secrets

import numpy as np
import pytest
import zarr
from conftest import add_features, blobs
from makers import tree_bytes

from featstore.errors import StoreError
from featstore.fitting.fit import fit
from featstore.runs.opening import open_run
from featstore.runs.tags import remove_run
from featstore.store.verification import lost_sets

THESIS = {"thesis.json": b"{}", f"{'0' * 32}.json": b"[]", f"{'0' * 32}.npy": b"rows"}
"""Files of a user; two have names such as featstore gives."""


def write(folder, files=THESIS):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def left_in(folder):
    """Return the files of a user that a removal left, by name."""
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_of_a_cache_only_the_decoded_matrices_of_the_set_are_deleted(make_store):
    store = make_store(n_samples=40)
    X, y = blobs(40, 3)
    add_features(store, {"fc8": X}, y, y * 0, model="alexnet")
    selections = [store.select(model=model) for model in ("resnet50", "alexnet")]
    both = store.reopen(part for one in selections for part in one.parts)
    for selection in (*selections, both):
        selection.memmap()
    write(store.cache_dir)
    store.remove(selections[0].sources[0][0])
    kept = {f"{selections[1].describe().digest[:32]}.{ending}" for ending in ("json", "npy")}
    found = {path.name for path in store.cache_dir.iterdir() if path.is_file()}
    assert found == kept | THESIS.keys()


@pytest.mark.parametrize("is_elsewhere", [True, False])
def test_a_cache_or_files_of_it_that_are_links_lead_to_nothing_that_is_deleted(
    is_elsewhere, make_store, tmp_path
):
    store = make_store(n_samples=40)
    store.select().memmap()
    elsewhere = write(tmp_path / "elsewhere")
    for path in list(store.cache_dir.iterdir()):
        path.rename(elsewhere / path.name)
        if not is_elsewhere:
            path.symlink_to(elsewhere / path.name)
    if is_elsewhere:
        store.cache_dir.rmdir()
        store.cache_dir.symlink_to(elsewhere)
    (feature_set,) = store.sets()
    before = {path: path.read_bytes() for path in elsewhere.iterdir() if path.is_file()}
    store.remove(feature_set)
    assert {path: path.read_bytes() for path in elsewhere.iterdir() if path.is_file()} == before
    assert is_elsewhere or not list(store.cache_dir.glob("*.*"))


FOREIGN = {
    "notes.txt": b"a",
    "layers/thesis.json": b"b",
    "journal/thesis.txt": b"c",
    "features.zarr/thesis.txt": b"x",
    "features.zarr/c/thesis.npy": b"d",
    "features.zarr/fc1000/thesis.npy": b"e",
    "features.zarr/label/c/0.bak": b"f",
}


def test_foreign_files_in_a_set_stay_and_are_named(make_store, tmp_path):
    store = make_store(n_samples=40)
    (feature_set,) = store.sets()
    write(feature_set.path, FOREIGN)
    zarr.save_array(str(feature_set.group / "map"), np.eye(3), zarr_format=3)
    elsewhere = write(tmp_path / "elsewhere")
    (feature_set.path / "link").symlink_to(elsewhere)
    (feature_set.group / "fc1000" / "c" / "7").symlink_to(elsewhere)
    with pytest.raises(
        StoreError, match=r"is removed. Files that featstore did not write.*c/thesis"
    ):
        store.remove(feature_set)
    assert store.sets() == []
    assert lost_sets(store) == []
    assert left_in(elsewhere) == THESIS
    (kept,) = (store.path / "sets").iterdir()
    found = tree_bytes(kept)
    assert {name for name in found if "/map/" not in name and "link/" not in name} == FOREIGN.keys()
    np.testing.assert_array_equal(zarr.open_array(kept / "features.zarr" / "map")[:], np.eye(3))
    # Nor does the next removal delete them.
    X, y = blobs(40, 3)
    add_features(store, {"fc8": X}, y, y * 0, model="alexnet")
    store.remove(store.sets()[0])
    assert tree_bytes(kept) == found


@pytest.mark.parametrize("part", [".", "features.zarr", "layers"])
def test_a_set_that_lies_elsewhere_stays_there(part, make_store, tmp_path):
    store = make_store(n_samples=40)
    (feature_set,) = store.sets()
    path = feature_set.path / part
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    before = tree_bytes(tmp_path / "elsewhere")
    if part == ".":
        with pytest.raises(StoreError, match=r"It was a link; the files in .*elsewhere stay"):
            store.remove(feature_set)
    else:
        store.remove(feature_set)
    assert list((store.path / "sets").iterdir()) == []
    assert tree_bytes(tmp_path / "elsewhere") == before


def test_an_unfinished_or_damaged_set_is_deleted_whole(make_store):
    store = make_store(n_samples=40)
    (feature_set,) = store.sets()
    feature_set.begin_layer("conv1", 3, {})
    feature_set.writable_matrix("conv1").write_chunk(0, np.zeros((40, 3)))
    partial = f"{secrets.token_hex(16)}.partial"
    names = ("set.json", "features.zarr/fc1000/zarr.json", "layers/fc1000.json")
    write(feature_set.path, dict.fromkeys(names, b"damaged"))
    left = (f"features.zarr/conv1/c/0/0.{partial}", f"features.zarr/label/zarr.{partial}")
    left = (*left, "journal/pass", "journal/conv1-3.spool", "layers/.fc8.json.0123abcd.tmp")
    write(feature_set.path, dict.fromkeys(left, b""))
    store.remove(feature_set)
    assert list((store.path / "sets").iterdir()) == []


def test_foreign_files_in_a_run_stay(make_store, blank_pictures):
    store = make_store(n_samples=40)
    (run,) = fit(store, "ridge", n_jobs=1)
    write(run.path, {"notes.txt": b"a", "figures/mine.png": b"b"})
    (again,) = fit(store, "ridge", n_jobs=1, refit=True)
    assert again.path == run.path
    assert open_run(run.path, store).record.created
    assert (run.path / "notes.txt").read_bytes() == b"a"
    assert (run.path / "figures" / "mine.png").read_bytes() == b"b"
    assert [path.name for path in store.runs_dir.iterdir()] == [run.run_id]
    with pytest.raises(StoreError, match=r"is removed. Files .*figures/mine.png, notes.txt"):
        remove_run(store, again)
    (kept,) = store.runs_dir.iterdir()
    assert tree_bytes(kept) == {"notes.txt": b"a", "figures/mine.png": b"b"}


def test_folders_with_names_that_featstore_never_gives_are_not_swept(make_store, blank_pictures):
    store = make_store(n_samples=40)
    own = [
        store.path / place / name
        for place, name in (
            ("sets/.old-pictures", "set.json"),
            ("sets/.new-pictures", "set.json"),
            ("runs/.old-pictures", "metrics.json"),
            ("runs/.new-pictures", "metrics.json"),
            ("cache/scratch/fit-results", "mine"),
            (f"sets/{store.sets()[0].set_id}/new-pictures", "mine"),
        )
    ]
    for path in own:
        path.parent.mkdir(parents=True)
        path.touch()
    store.sets()[0].begin_layer("conv1", 3, {})
    X, y = blobs(40, 3)
    add_features(store, {"fc8": X}, y, y * 0, model="alexnet")
    fit(store, "ridge", model="resnet50", n_jobs=1)
    store.remove(store.select(model="alexnet").sources[0][0])
    assert all(path.exists() for path in own)


def test_a_foreign_array_is_not_replaced_by_a_layer(make_store):
    (feature_set,) = make_store(n_samples=40).sets()
    zarr.save_array(str(feature_set.group / "conv1"), np.eye(3), zarr_format=3)
    with pytest.raises(StoreError, match="conv1 is an array that featstore did not write"):
        feature_set.begin_layer("conv1", 3, {})
    np.testing.assert_array_equal(zarr.open_array(feature_set.group / "conv1")[:], np.eye(3))
