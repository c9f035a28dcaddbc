from __future__ import annotations

import shutil

import numpy as np
import pytest
from conftest import add_features, blobs

from featstore.errors import CorruptionError, IncompleteError, SelectionError
from featstore.io.files import read_json, write_json
from featstore.store import memmap_cache
from featstore.store.feature_set import FeatureSet
from featstore.store.feature_store import open_store
from featstore.store.query import selecting_options

N = 40
SPLITS = np.zeros(N, np.uint8)


def add(store, model="resnet50", layers=("fc1000",), **more):
    X, y = blobs(N, 6, seed=len(model))
    add_features(
        store, {name: X + i for i, name in enumerate(layers)}, y, SPLITS, model=model, **more
    )
    return X


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store")


def test_the_only_set_needs_no_naming(store):
    X = add(store)
    selection = store.select()
    assert (selection.dataset, selection.model, selection.layers) == (
        "demo",
        "resnet50",
        ("fc1000",),
    )
    np.testing.assert_array_equal(selection.memmap(), X)
    np.testing.assert_array_equal(selection.numpy(), X)
    np.testing.assert_array_equal(selection.dask().compute(), X)
    assert selection.memmap().dtype == np.float32
    assert not selection.memmap().flags.writeable


def test_layers_stand_side_by_side_in_the_order_asked(store):
    X = add(store, layers=("conv1", "fc1000"))
    selection = store.select(layers="fc1000,conv1")
    assert selection.layers == ("fc1000", "conv1")
    assert selection.n_features == 12
    np.testing.assert_array_equal(selection.memmap(), np.hstack([X + 1, X]))
    np.testing.assert_array_equal(selection.dask().compute(), np.hstack([X + 1, X]))
    assert selection.describe().digest != store.select(layers="conv1,fc1000").describe().digest


def test_models_fuse(store):
    first, second = add(store, "resnet50"), add(store, "alexnet", ("fc8",))
    selection = store.select(model="resnet50,alexnet")
    assert selection.model == "resnet50+alexnet"
    assert selection.layers == ("resnet50:fc1000", "alexnet:fc8")
    np.testing.assert_array_equal(selection.memmap(), np.hstack([first, second]))
    qualified = store.select(model="resnet50,alexnet", layers="alexnet:fc8,resnet50:fc1000")
    assert set(qualified.layers) == {"resnet50:fc1000", "alexnet:fc8"}
    shared = store.select(model="resnet50,alexnet", layers="fc1000,fc8")
    assert shared.n_features == 12


def test_models_of_different_images_do_not_fuse(store):
    add(store, "resnet50")
    add(store, "alexnet", title="other")
    with pytest.raises(SelectionError, match="different images"):
        store.select(model="resnet50,alexnet")


def test_several_fits_name_the_option_that_tells_them_apart(store):
    add(store, "resnet50")
    add(store, "alexnet", ("fc8",))
    with pytest.raises(SelectionError, match="Choose one with --model") as caught:
        store.select()
    assert "--model alexnet" in str(caught.value)
    assert "--model resnet50" in str(caught.value)
    assert store.select(model="alexnet").model == "alexnet"


def test_the_same_model_with_other_weights(store):
    add(store, weights="IMAGENET1K_V1", weights_names=["IMAGENET1K_V1", "imagenet"])
    add(store, weights="IMAGENET1K_V2", weights_names=["IMAGENET1K_V2"])
    with pytest.raises(SelectionError, match="--weights IMAGENET1K_V1"):
        store.select(model="resnet50")
    assert store.select(weights="imagenet").describe().weights == "IMAGENET1K_V1"


def test_baselines_are_selected_only_when_asked_for_or_alone(store):
    add(store, "pixelstats", ("stats",), weights="none", weights_names=["none"])
    assert store.select().model == "pixelstats"
    add(store, "deepsat", ("features",), weights="none", weights_names=["none"])
    add(store, weights="random:0", weights_names=["random:0"])
    with pytest.raises(SelectionError, match="Choose one with --model"):
        store.select()
    add(store, weights="IMAGENET1K_V1", weights_names=["IMAGENET1K_V1", "imagenet"])
    assert store.select().describe().weights == "IMAGENET1K_V1"
    assert store.select(weights="random:0").describe().weights == "random:0"
    assert store.select(model="pixelstats").model == "pixelstats"
    assert store.select(model="resnet50,pixelstats").model == "resnet50+pixelstats"


def test_sets_that_differ_in_nothing_asked_are_told_apart_by_name(store):
    add(store, limit=None)
    add(store, limit=40)
    with pytest.raises(SelectionError, match=r"--set:\n  --set \S+: limit ") as caught:
        store.select()
    lines = str(caught.value).splitlines()[1:]
    told = {line.split()[1]: line for line in lines if "newest" not in line}
    assert told.keys() == {s.set_id + ":" for s in store.sets()}
    assert sorted("limit 40" in line for line in told.values()) == [False, True]
    set_id = store.sets()[0].set_id
    assert store.select(set_id=set_id).parts[0][0] == set_id


def test_the_newest_set_is_the_last_of_those_that_fit_and_never_one_of_two(store):
    add(store, limit=None)
    add(store, limit=40)
    add(store, "alexnet")
    resnets = [s for s in store.sets() if s.facets.model == "resnet50"]
    for feature_set in store.sets():
        record = read_json(feature_set.path / "set.json")
        second = 0 if feature_set.set_id == resnets[0].set_id else 2
        record["created"] = f"2026-01-01T00:00:0{second}+00:00"
        write_json(feature_set.path / "set.json", record)
    again = open_store(store.path)
    (part,) = again.select(model="resnet50", set_id="newest").parts
    assert part[0] == resnets[1].set_id
    with pytest.raises(SelectionError, match="2 feature sets fit"):
        again.get("newest")


def test_of_sets_that_were_made_one_after_the_other_the_last_is_the_newest(store):
    """A fast machine makes several in a second."""
    known: set[str] = set()
    for limit in range(3, 8):
        add(store, limit=limit)
        (added,) = {s.set_id for s in store.sets()} - known
        assert store.get("newest").set_id == added
        known.add(added)


def test_without_a_feature_layer_several_layers_have_to_be_chosen_from(store):
    add(store, layers=("conv1", "fc1000"))
    (feature_set,) = store.sets()
    for layer in ("conv1", "fc1000"):
        path = feature_set.layer_path(layer)
        write_json(path, read_json(path) | {"default": False})
    with pytest.raises(SelectionError, match=r"conv1, fc1000\. Choose with --layers"):
        store.select()


def test_of_several_layers_the_feature_layer_is_selected(store):
    add(store, layers=("conv1", "fc1000"))
    (feature_set,) = store.sets()
    for layer in ("conv1", "fc1000"):
        path = feature_set.layer_path(layer)
        write_json(path, read_json(path) | {"default": layer == "fc1000"})
    assert store.select().layers == ("fc1000",)


@pytest.mark.parametrize(
    ("wanted", "hint"),
    [
        ({"model": "resnet5"}, "resnet50"),
        ({"dataset": "dmo"}, "demo"),
        ({"layers": "fc100"}, "fc1000"),
    ],
)
def test_a_wrong_name_is_answered_with_those_like_it(store, wanted, hint):
    add(store, layers=("fc1000",))
    with pytest.raises(SelectionError, match=f"Did you mean {hint}"):
        store.select(**wanted)


def test_an_empty_store_says_how_to_begin(store):
    with pytest.raises(SelectionError, match="featstore extract"):
        store.select()


@pytest.mark.parametrize("wanted", [{"model": "vgg19"}, {"dataset": "sat6"}, {"layers": "conv9"}])
def test_a_selection_that_fits_nothing_lists_the_sets(store, wanted):
    add(store)
    with pytest.raises(SelectionError, match="resnet50") as caught:
        store.select(**wanted)
    ((name, value),) = wanted.items()
    assert f"--{name} {value}" in str(caught.value)
    assert "demo" in str(caught.value)


def test_only_unfinished_sets_say_how_to_resume(store):
    add(store)
    feature_set = store.sets()[0]
    feature_set.layer_path("fc1000").unlink()
    with pytest.raises(IncompleteError, match="Resume it with"):
        store.select()


def test_a_layer_that_names_a_model_needs_the_model(store):
    add(store)
    with pytest.raises(SelectionError, match="give --model resnet50"):
        store.select(layers="resnet50:fc1000")


def test_masked_rows_are_marked(store):
    add(store, masked={3: "cut short"})
    assert np.flatnonzero(~store.select().valid).tolist() == [3]


def test_workers_reopen_it_by_its_parts(store):
    add(store, layers=("conv1", "fc1000"))
    selection = store.select(layers="conv1,fc1000")
    again = open_store(store.path).reopen(selection.parts)
    assert again.describe() == selection.describe()


def test_a_damaged_chunk_is_never_decoded(store):
    add(store)
    path = store.sets()[0].matrix("fc1000").chunk_path(0)
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    with pytest.raises(CorruptionError, match="Chunk 0"):
        store.select().memmap()
    assert not [path for path in store.cache_dir.iterdir() if path.is_file()]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rows_that_are_not_finite_are_not_cached(store, value):
    X, y = blobs(N, 6)
    X[[3, 30], 2] = value
    add_features(store, {"fc": X}, y, SPLITS, masked={3: "cut short"})
    with pytest.raises(CorruptionError, match=r"row 30 \(train/0000030\), columns 2\..*store rm"):
        store.select().memmap()
    assert not [path for path in store.cache_dir.iterdir() if path.is_file()]


def test_a_cached_file_deleted_before_it_is_mapped_is_decoded_again(store, monkeypatch):
    X = add(store)
    original, calls = np.load, []

    def load(path, **options):
        calls.append(path)
        # The first looks at its shape, the second maps it.
        if len(calls) == 2:
            shutil.rmtree(store.cache_dir)
        return original(path, **options)

    selection = store.select(model="resnet50")
    selection.memmap()
    monkeypatch.setattr(memmap_cache.np, "load", load)
    np.testing.assert_array_equal(selection.memmap(), X)
    assert len(calls) > 2


def test_a_set_removed_while_it_is_decoded_is_named(store, monkeypatch):
    add(store)
    selection = store.select()
    (feature_set,) = store.sets()
    original = FeatureSet.matrix

    def matrix(self, layer):
        opened = original(self, layer)
        store.remove(feature_set)
        return opened

    monkeypatch.setattr(FeatureSet, "matrix", matrix)
    with pytest.raises(SelectionError, match=f"{feature_set.set_id} was removed while"):
        selection.memmap()


def test_the_next_command_selects_what_was_extracted(store):
    add(store, "resnet50", layers=("conv1", "fc1000"))
    (first,) = store.sets()
    assert selecting_options([first], first, ["fc1000"]) == ["--layers", "fc1000"]
    add(store, "alexnet", ("fc8",))
    alexnet = store.get(store.select(model="alexnet").parts[0][0])
    assert selecting_options(store.sets(), alexnet, ["fc8"]) == ["--model", "alexnet"]
    add(store, "alexnet", ("fc8",), weights="random:1")
    assert selecting_options(store.sets(), alexnet, ["fc8"]) == ["--set", alexnet.set_id]


def test_a_record_that_fits_another_matrix_is_damage(store):
    add(store)
    path = store.sets()[0].layer_path("fc1000")
    record = read_json(path)
    write_json(path, record | {"n_features": record["n_features"] + 1})
    with pytest.raises(CorruptionError, match=r"its record says"):
        store.select().memmap()
