from __future__ import annotations

import errno
import shutil

import numpy as np
import pytest
from conftest import add_features, blobs

from featstore.errors import (
    CorruptionError,
    FormatError,
    IncompleteError,
    SelectionError,
    StoreError,
)
from featstore.io import locks
from featstore.io.files import read_json, write_json
from featstore.io.locks import locked
from featstore.store.backend import Backend
from featstore.store.feature_store import FeatureStore, open_store
from featstore.store.verification import verify
from featstore.text import file_name


def test_a_folder_that_is_not_there_is_an_empty_store(tmp_path):
    store = open_store(tmp_path / "none")
    assert store.sets() == []
    assert not (tmp_path / "none").exists()


def test_a_relative_store_is_the_same_from_any_folder(make_store, tmp_path, monkeypatch):
    make_store(n_samples=40)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    store = open_store("store")
    selection, (feature_set,) = store.select(), store.sets()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert selection.memmap().shape == (40, 20)
    assert feature_set.labels.shape == (40,)
    assert len(store.sets()) == 1
    assert list((tmp_path / "elsewhere").iterdir()) == []
    # Commands name the store as the user typed it.
    assert store.address == "store"


def test_a_file_is_no_store(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="is a file"):
        open_store(tmp_path / "file")


def test_a_store_without_a_name_is_not_the_current_folder(tmp_path, monkeypatch):
    with pytest.raises(StoreError, match="name is empty; give a folder"):
        open_store("")
    monkeypatch.chdir(tmp_path)
    assert open_store(".").sets() == []


def test_rows_labels_splits_and_ids_stand_side_by_side(make_store):
    (feature_set,) = make_store(n_samples=40).sets()
    assert feature_set.n_samples == 40
    assert feature_set.labels.tolist() == [i % 4 for i in range(40)]
    assert feature_set.splits.tolist() == [0] * 30 + [1] * 10
    assert feature_set.sample_ids[35] == "test/0000035"
    assert feature_set.matrix("fc1000").n_samples == 40
    assert list(feature_set.layers()) == ["fc1000"]
    assert feature_set.outline.find_layer(None) == "fc1000"
    assert feature_set.outline.find_layer("nothing") is None


def test_groups_and_several_classes_an_image_stand_beside_the_labels(tmp_path):
    store = open_store(tmp_path / "store")
    groups = np.arange(40, dtype=np.int32) // 4
    targets = (np.arange(120).reshape(40, 3) % 2).astype(np.float32)
    targets[7] = np.nan
    splits = (groups == 9).astype(np.uint8)
    add_features(
        store,
        {"fc": np.ones((40, 2), np.float32)},
        np.full(40, -1, np.int32),
        splits,
        groups=groups,
        targets=targets,
        dataset_info={
            "task": "multilabel",
            "target_names": ["a", "b", "c"],
            "group_by": "column scene",
        },
    )
    selection = store.select()
    assert (selection.task, selection.group_by) == ("multilabel", "column scene")
    np.testing.assert_array_equal(selection.groups, groups)
    np.testing.assert_array_equal(selection.targets, targets)
    (feature_set,) = store.sets()
    assert verify(feature_set) == []
    (feature_set.group / "target" / "c" / "0" / "0").write_bytes(b"")
    assert [damage.file for damage in verify(feature_set)] == ["features.zarr/target/c/0/0"]


def test_the_set_id_depends_on_title_model_and_key():
    store = FeatureStore(Backend("anywhere"))
    base = {"facets": {"title": "Wälder & Seen", "model": "resnet50"}, "key": {"weights": "a"}}
    assert store.set_id(base) == store.set_id(base | {"note": 1})
    assert store.set_id(base) != store.set_id(base | {"key": {"weights": "b"}})
    assert store.set_id(base).isascii()


@pytest.mark.parametrize("text", ["a/b", "..", "", "x" * 300, "C:\\x", "ü", "conv1@max", ".hidden"])
def test_names_are_safe_on_every_file_system(text):
    name = file_name(text)
    assert 0 < len(name) <= 80
    assert not name.startswith(".")
    assert not set(name) & set('/\\:*?"<>|')
    assert file_name("conv1@max") == "conv1@max"


def test_a_copied_set_under_another_name_is_refused(make_store):
    store = make_store(n_samples=40)
    (feature_set,) = store.sets()
    identity = {"facets": feature_set.facets.to_dict(), "key": feature_set.info.key}
    assert store.find(identity) == feature_set
    # Where the dataset's folder was renamed.
    renamed = identity | {"facets": identity["facets"] | {"title": "renamed"}}
    assert store.find(renamed) == feature_set
    other = identity | {"key": identity["key"] | {"weights": "others"}}
    assert store.find(other) is None
    shutil.copytree(feature_set.path, feature_set.path.with_name(store.set_id(other)))
    with pytest.raises(CorruptionError, match=f"not the set.*store rm {store.set_id(other)} --st"):
        store.find(other)
    assert store.find(identity) == feature_set


def test_sets_are_found_by_a_part_of_their_name(make_store):
    store = make_store(n_samples=40)
    (feature_set,) = store.sets()
    assert store.get(feature_set.set_id[-6:]).set_id == feature_set.set_id
    with pytest.raises(SelectionError, match=feature_set.set_id):
        store.get("nothing")


def test_an_unfinished_layer_says_how_to_resume(make_store):
    store = make_store(n_samples=40)
    (feature_set,) = store.sets()
    feature_set.begin_layer("conv1", 3, {})
    assert feature_set.unfinished() == ["conv1"]
    with pytest.raises(IncompleteError, match="Resume it with"):
        feature_set.matrix("conv1")
    with pytest.raises(SelectionError, match="it has fc1000"):
        feature_set.matrix("conv9")


def test_an_edited_record_is_refused(make_store):
    store = make_store(n_samples=40)
    path = store.sets()[0].path / "set.json"
    path.write_text(path.read_text().replace('"demo"', '"sat4"'))
    with pytest.raises(CorruptionError, match="not as it was written"):
        _ = store.sets()[0].info


@pytest.mark.parametrize("format_", [1, 99])
def test_a_store_of_another_format_is_refused(make_store, format_):
    store = make_store(n_samples=40)
    (feature_set,) = store.sets()
    path = feature_set.path / "set.json"
    # Older records lack most fields.
    write_json(path, {"format": format_, "facets": {}})
    cure = f"Remove the set with `featstore store rm {feature_set.set_id}` and extract again"
    with pytest.raises(FormatError, match=f"has format {format_}; .* reads format 3. {cure}"):
        _ = store.sets()[0].info
    with pytest.raises(FormatError, match=cure):
        store.select()
    (damage,) = verify(store.sets()[0])
    assert cure in damage.problem
    # The cure that is named cures.
    store.remove(store.get(feature_set.set_id))
    assert store.sets() == []


def test_a_set_of_another_format_does_not_hide_the_others(make_store):
    store = make_store(n_samples=40)
    (old,) = store.sets()
    X, y = blobs(40, 3)
    add_features(store, {"fc8": X}, y, y * 0, model="alexnet")
    write_json(old.path / "set.json", {"format": 1})
    assert store.select().model == "alexnet"


def test_removing_a_set_removes_what_was_decoded(make_store):
    store = make_store(n_samples=40)
    store.select().memmap()
    assert list(store.cache_dir.glob("*.npy"))
    store.remove(store.sets()[0])
    assert store.sets() == []
    assert not list(store.cache_dir.glob("*.npy"))


def test_leftovers_of_a_killed_creation_are_not_a_set(make_store):
    store = make_store(n_samples=40)
    (store.sets()[0].path.parent / ".new-half").mkdir()
    assert len(store.sets()) == 1


def test_leftovers_of_a_killed_creation_are_deleted_by_the_next(make_store):
    store = make_store(n_samples=40)
    sets = store.sets()[0].path.parent
    (sets / ".new-left-0123456789ab" / "features.zarr").mkdir(parents=True)
    (sets / ".new-work-ba9876543210").mkdir()
    X, y = blobs(40, 6)
    with locked(store.backend.set_lock("work-ba9876543210"), "it"):
        add_features(store, {"fc8": X}, y, np.zeros(40, np.uint8), model="alexnet")
        assert [path.name for path in sets.glob(".new-*")] == [".new-work-ba9876543210"]
    add_features(store, {"fc8": X}, y, np.zeros(40, np.uint8), model="vgg19")
    assert list(sets.glob(".new-*")) == []


def test_leftovers_of_a_killed_beginning_of_a_layer_are_deleted_by_the_next(make_store):
    (feature_set,) = make_store(n_samples=40).sets()
    (feature_set.path / ".new-layer-abcdefgh" / "conv1").mkdir(parents=True)
    feature_set.begin_layer("conv1", 3, {})
    assert list(feature_set.path.glob(".new-*")) == []


def test_damaged_labels_are_refused(make_store):
    store = make_store(n_samples=4000)
    path = store.sets()[0].group / "label" / "c" / "0"
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptionError, match="label is damaged"):
        np.asarray(store.sets()[0].labels)


def test_rows_of_identical_images_are_kept(make_store):
    rows = np.array([0, 0, 2, 3, 0, 3])
    (feature_set,) = make_store(n_samples=6, first_rows=rows).sets()
    assert feature_set.first_rows.dtype == np.int64
    assert feature_set.first_rows.tolist() == rows.tolist()
    assert feature_set.unfinished() == []
    assert verify(feature_set) == []


@pytest.mark.parametrize("file", ["zarr.json", "c/0"])
def test_damaged_first_rows_are_refused(make_store, file):
    store = make_store(n_samples=40)
    path = store.sets()[0].group / "first_row" / file
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    (damage,) = verify(store.sets()[0])
    assert damage.file == f"features.zarr/first_row/{file}"
    with pytest.raises(CorruptionError, match="first_row is damaged.*store verify"):
        _ = store.sets()[0].first_rows


def test_a_missing_vector_is_damage(make_store):
    store = make_store(n_samples=40)
    shutil.rmtree(store.sets()[0].group / "first_row")
    assert len(verify(store.sets()[0])) == 2
    with pytest.raises(CorruptionError, match="first_row is damaged"):
        _ = store.sets()[0].first_rows


@pytest.mark.parametrize("file", ["set.json", "layers/fc1000.json"])
def test_a_damaged_record_does_not_stand_in_the_way_of_other_sets(make_store, file):
    store = make_store(n_samples=40)
    X, y = blobs(40, 6)
    add_features(store, {"fc8": X}, y, np.zeros(40, np.uint8), model="alexnet")
    broken = store.select(model="resnet50").parts[0][0]
    (store.get(broken).path / file).write_text("{}")
    assert store.select().model == "alexnet"
    with pytest.raises(SelectionError, match=broken):
        store.select(model="resnet50")


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        ("class_names", ["one", "two"], r"set\.json.*label has 3; expected -1 to 1"),
        ("class_names", [], r"set\.json.*label has 0; expected -1 to -1"),
        ("n_samples", 39, r"shape: \(40,\); its record says \(39,\)"),
    ],
)
def test_labels_and_splits_out_of_range_are_named(make_store, place, value, said):
    store = make_store(n_samples=40)
    path = store.sets()[0].path / "set.json"
    info = read_json(path)
    write_json(path, info | {"dataset": info["dataset"] | {place: value}})
    with pytest.raises(CorruptionError, match=f"{said}.*store rm"):
        _ = store.sets()[0].labels


def test_masked_rows_that_are_not_there_are_named(make_store):
    store = make_store(n_samples=40, masked={39: "cut short"})
    path = store.sets()[0].layer_path("fc1000")
    record = read_json(path)
    for row in (40, 3.0):
        write_json(path, record | {"masked": [record["masked"][0] | {"row": row}]})
        with pytest.raises(SelectionError, match=f"fc1000.json holds what.*{row}"):
            store.select()
        with pytest.raises(CorruptionError, match=f"fc1000.json holds what.*{row}"):
            _ = store.reopen([(store.sets()[0].set_id, "fc1000")]).valid


def test_leftovers_of_a_killed_removal_are_deleted_by_the_next(make_store):
    store = make_store(n_samples=40)
    left = store.path / "sets" / ".old-another-0123abcd"
    left.mkdir()
    (left / "set.json").touch()
    (feature_set,) = store.sets()
    store.remove(feature_set)
    assert list((store.path / "sets").iterdir()) == []


def test_a_set_is_removed_where_no_note_of_its_lock_can_be_written(make_store, monkeypatch):
    store = make_store(n_samples=40)
    (feature_set,) = store.sets()
    with locked(store.backend.set_lock(feature_set.set_id), "it"):
        pass
    (note,) = (store.path / "locks").glob("*.json")

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", str(note))

    monkeypatch.setattr(locks.Path, "write_text", full)
    store.remove(feature_set)
    assert store.sets() == []
    # It would name who held it before.
    assert not note.exists()


def test_a_set_that_is_worked_on_is_not_removed(make_store):
    store = make_store(n_samples=40)
    (feature_set,) = store.sets()
    path = store.backend.set_lock(feature_set.set_id)
    with locked(path, "it"), pytest.raises(StoreError, match="worked on by process"):
        store.remove(feature_set)
    store.remove(feature_set)
    assert store.sets() == []
