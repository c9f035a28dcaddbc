from __future__ import annotations

import os
import shutil
import sys
import threading

import numpy as np
import pytest
from conftest import blobs
from makers import Listener, of_pixels, write_images
from PIL import Image
from sklearn.preprocessing import StandardScaler

import featstore
from featstore.datasets.decode import decode
from featstore.errors import BackboneError, ConfigError, DatasetNotFoundError, SelectionError
from featstore.extraction import encode
from featstore.extraction.extract import extract
from featstore.inference import neighbor_sheets
from featstore.inference.neighbor_result import Neighbor, Query
from featstore.inference.neighbor_sheets import write_sheets
from featstore.inference.neighbors import find_neighbors
from featstore.io.files import read_json, write_json
from featstore.runs.opening import open_run
from featstore.store.feature_store import open_store

pytestmark = pytest.mark.usefixtures("blank_pictures")


@pytest.fixture
def images(pixel_sample):
    return pixel_sample.images


@pytest.fixture
def store(pixel_sample):
    return pixel_sample.store


def set_id(store):
    return store.sets()[0].set_id


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def ids(query):
    return [one.sample_id for one in query.neighbors]


def test_a_stored_sample_finds_the_others_and_not_itself(make_store):
    store = make_store()
    X, y = blobs(320, 20)
    found = find_neighbors(set_id(store), ["test/0000300", "train/0000005"], store=store, k=5)
    Z = StandardScaler().fit_transform(X.astype(np.float64))
    Z /= np.linalg.norm(Z, axis=1, keepdims=True)
    assert [query.row for query in found.queries] == [300, 5]
    for query in found.queries:
        far = 1 - Z @ Z[query.row]
        nearest = np.argsort(far)[1:6]
        assert [one.row for one in query.neighbors] == nearest.tolist()
        assert [one.distance for one in query.neighbors] == pytest.approx(far[nearest])
        assert query.label == store.sets()[0].class_names[y[query.row]] == query.majority
    assert (found.n_rows, found.split, found.metric) == (320, "all", "cosine")
    assert {one.split for one in found.queries[1].neighbors} == {"train"} | {
        "test" if one.row >= 240 else "train" for one in found.queries[1].neighbors
    }


def test_a_run_looks_among_its_training_rows(make_store):
    store = make_store()
    (run,) = featstore.fit(store, "lda", split_seed=3, n_jobs=1)
    found = find_neighbors(run, ["test/0000300"], store=store, k=320)
    test_ids = set(run.predictions["sample_id"].tolist())
    n_itself = "test/0000300" not in test_ids
    assert (found.n_rows, len(found.queries[0].neighbors)) == (240, 240 - n_itself)
    assert not test_ids & set(ids(found.queries[0]))
    # A split of its own is what its neighbors are told to be of.
    assert {one.split for one in found.queries[0].neighbors} == {"train"}
    tested = find_neighbors(run.path, ["train/0000001"], store=store, split="test", k=320)
    assert set(ids(tested.queries[0])) | {"train/0000001"} >= test_ids
    everything = find_neighbors(run.run_id, ["train/0000001"], store=store, split="all", k=400)
    assert len(everything.queries[0].neighbors) == 319


def test_distances_are_those_of_the_runs_own_scaler(make_store):
    store = make_store()
    (run,) = featstore.fit(store, "logreg", n_jobs=1)
    X, _ = blobs(320, 20)
    Z = run.model["scale"].transform(X)
    found = find_neighbors(run, ["test/0000300"], store=store, metric="euclidean", split="all")
    for one in found.queries[0].neighbors:
        gap = np.linalg.norm(Z[one.row] - Z[300])
        assert one.distance == pytest.approx(gap, rel=1e-4)


def test_a_run_of_triplets_gives_its_metric(make_store):
    store = make_store()
    runs = {clf: featstore.fit(store, clf, n_jobs=1)[0] for clf in ("triplet", "lda")}
    model = runs["triplet"].model
    points = model[:-1].transform(blobs(320, 20)[0]).astype(np.float64)
    points = points @ model["clf"].components_
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    for searched in (runs["lda"], set_id(store)):
        found = find_neighbors(
            searched, ["test/0000300"], store=store, metric=runs["triplet"].run_id[-6:], split="all"
        )
        assert found.metric == runs["triplet"].run_id
        for one in found.queries[0].neighbors:
            gap = 1 - points[one.row] @ points[300]
            assert one.distance == pytest.approx(gap, abs=1e-5)
    with pytest.raises(ConfigError, match=r"of lda, has no projection .*--clf triplet"):
        find_neighbors(set_id(store), ["test/0000300"], store=store, metric=runs["lda"].run_id)


def test_the_metric_of_other_features_is_refused(make_store):
    store = make_store(layers={"a": blobs(320, 20)[0], "b": blobs(320, 20, seed=3)[0]})
    (run,) = featstore.fit(store, "triplet", layers="a", n_jobs=1)
    with pytest.raises(ConfigError, match="learned a projection of .* a; these are other features"):
        find_neighbors(set_id(store), ["test/0000300"], store=store, layers="b", metric=run.run_id)


def test_new_images_find_themselves_and_their_class(store, images):
    water = images / "test" / "water" / "water01.png"
    found = find_neighbors(set_id(store), [water, images / "test" / "sand"], store=store, k=4)
    assert [query.name.split("/")[-1] for query in found.queries] == [
        "water01.png",
        "sand00.png",
        "sand01.png",
        "sand02.png",
    ]
    for query in found.queries:
        assert query.neighbors[0].sample_id == "/".join(query.name.split("/")[-3:])
        assert query.neighbors[0].distance == pytest.approx(0, abs=1e-6)
        assert query.majority == query.name.split("/")[-2]
        assert (query.row, query.label, query.error) == (None, None, None)


def test_queries_keep_their_order_over_several_blocks(store, images, monkeypatch):
    monkeypatch.setattr(encode, "BLOCK_ROWS", 2)
    asked = [images / "test" / "forest", "train/sand/sand03.png", images / "test" / "water"]
    found = find_neighbors(set_id(store), asked, store=store, k=2)
    assert [query.row is None for query in found.queries] == [True] * 3 + [False] + [True] * 3
    assert [found.queries[i].majority for i in (0, 3, 6)] == ["forest", "sand", "water"]


def test_an_image_that_can_not_be_read_has_an_error(store, images, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nothing")
    good = images / "test" / "water" / "water01.png"
    found = find_neighbors(set_id(store), [bad, good], store=store, k=3)
    assert "bad.png" in found.queries[0].error
    assert not found.queries[0].neighbors
    assert found.queries[0].majority is None
    assert len(found.queries[1].neighbors) == 3


def test_masked_rows_are_neither_found_nor_asked_about(make_store):
    X, _ = blobs(320, 20)
    X[[4, 9]] = np.nan
    store = make_store(X=X, masked={4: "x", 9: "y"})
    found = find_neighbors(set_id(store), ["train/0000004", "train/0000005"], store=store, k=400)
    assert "could not be read" in found.queries[0].error
    assert len(found.queries[1].neighbors) == 317
    assert not {4, 9} & {one.row for one in found.queries[1].neighbors}


def test_samples_without_a_class_are_found_too(make_store):
    _, y = blobs(320, 20)
    y[10:40] = -1
    store = make_store(y=y)
    found = find_neighbors(set_id(store), ["train/0000012"], store=store, k=319)
    assert found.queries[0].label is None
    assert sum(one.label is None for one in found.queries[0].neighbors) == 29
    assert sum(found.queries[0].shares.values()) == pytest.approx(1)


def test_identical_images_leave_out_only_the_sample_itself(make_store):
    X, _ = blobs(320, 20)
    X[:12] = X[0]
    store = make_store(X=X)
    found = find_neighbors(set_id(store), ["train/0000011"], store=store, k=3)
    assert [one.row for one in found.queries[0].neighbors] == [0, 1, 2]


def test_layers_are_chosen_and_put_side_by_side(make_store):
    X, _ = blobs(320, 20)
    store = make_store(layers={"conv1": X, "fc": -X})
    # The feature layer.
    assert find_neighbors(set_id(store), ["train/0000001"], store=store).layers == ("conv1",)
    found = find_neighbors(set_id(store), ["train/0000001"], store=store, layers="fc,conv1")
    assert found.layers == ("fc", "conv1")
    (run,) = featstore.fit(store, "lda", layers="fc", n_jobs=1)
    with pytest.raises(ConfigError, match="Leave --layers out"):
        find_neighbors(run, ["train/0000001"], store=store, layers="fc")


def test_stored_samples_need_no_network(make_store, monkeypatch):
    store = make_store()
    for name in [n for n in sys.modules if n == "torch" or n.startswith("torch.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert find_neighbors(set_id(store), ["train/0000001"], store=store).queries[0].neighbors


@pytest.mark.parametrize(
    ("asked", "options", "error", "message"),
    [
        ("nothing", {}, SelectionError, "neither a run nor a feature set"),
        ("demo", {"split": "val"}, SelectionError, "no rows of the split val; it has test, train"),
        ("demo", {"split": "new"}, ConfigError, "all, train, test, val"),
        ("demo", {"metric": "taxi"}, ConfigError, "cosine, euclidean"),
        ("demo", {"k": 0}, ConfigError, "one neighbor or more"),
        ("demo", {"images": ["train/1"]}, DatasetNotFoundError, "such as train/0000000"),
    ],
)
def test_wrong_settings_are_refused(make_store, asked, options, error, message):
    with pytest.raises(error, match=message):
        find_neighbors(asked, store=make_store(), **{"images": ["train/0000001"], **options})


def test_a_run_whose_features_changed_is_refused(make_store):
    store = make_store()
    (run,) = featstore.fit(store, "lda", n_jobs=1)
    record = read_json(run.path / "metrics.json")
    record["selection"]["digest"] = "another"
    write_json(run.path / "metrics.json", record)
    with pytest.raises(SelectionError, match="Fit again: "):
        find_neighbors(open_run(run.path), ["train/0000001"], store=store)


def test_rgb_images_have_no_four_band_features(tmp_path, images):
    store = open_store(tmp_path / "store")
    extract("pixelstats", "demo", store=store, root=str(tmp_path), limit=20)
    (sample_id,) = store.sets()[0].sample_ids[7:8].tolist()
    found = find_neighbors("demo", [sample_id], store=store, k=3)
    assert write_sheets(found, tmp_path / "n.png", store=store) == [tmp_path / "n.png"]
    with pytest.raises(BackboneError):
        find_neighbors("demo", [images / "test"], store=store)


def test_equal_shares_go_to_the_nearer_class():
    labels = ["sand", "water", "water", "sand", None]
    own = tuple(Neighbor(i, f"{i}", name, "train", i) for i, name in enumerate(labels))
    query = Query("x.png", None, None, own)
    assert query.shares == {"sand": 0.5, "water": 0.5}
    assert query.majority == "sand"


def drawn(monkeypatch):
    """Return a list that is filled with the strips of each sheet."""
    sheets = []
    draw = neighbor_sheets.draw_sheet
    monkeypatch.setattr(neighbor_sheets, "draw_sheet", lambda s: sheets.append(s) or draw(s))
    return sheets


def test_sheets_show_the_pictures_that_are_meant(store, images, tmp_path, monkeypatch):
    sheets = drawn(monkeypatch)
    asked = [images / "test" / "water" / "water01.png", "train/sand/sand03.png"]
    found = find_neighbors(set_id(store), asked, store=store, k=4)
    (path,) = write_sheets(found, tmp_path / "out" / "n.png", store=store)
    assert pixels(path).shape[1] > 900
    (strips,) = sheets
    assert [strip.head.title for strip in strips] == ["Query: water?", "Query: sand"]
    for strip, query in zip(strips, found.queries, strict=True):
        for tile, one in zip(strip.tiles, query.neighbors, strict=True):
            expected = pixels(images / one.sample_id)
            np.testing.assert_array_equal(tile.image, expected)
            assert tile.same == (one.label == query.majority)
    np.testing.assert_array_equal(strips[1].head.image, pixels(images / "train/sand/sand03.png"))


def test_many_queries_take_several_sheets(store, images, tmp_path, monkeypatch):
    sheets = drawn(monkeypatch)
    found = find_neighbors(set_id(store), [images], store=store, k=2)
    written = write_sheets(found, tmp_path / "n.png", store=store)
    assert [path.name for path in written] == ["n-1.png", "n-2.png", "n-3.png"]
    assert all(path.is_file() for path in written)
    assert [len(strips) for strips in sheets] == [12, 12, 3]


def test_images_that_are_gone_are_gray_and_a_message_says_why(tmp_path, monkeypatch):
    images, store = write_images(tmp_path / "images"), open_store(tmp_path / "store")
    extract(store=store, **of_pixels(images))
    sheets, said = drawn(monkeypatch), Listener()
    new = tmp_path / "new.png"
    shutil.copy(images / "test" / "water" / "water01.png", new)
    found = find_neighbors(set_id(store), [new, "train/sand/sand03.png"], store=store, k=2)
    images.rename(tmp_path / "moved")
    write_sheets(found, tmp_path / "n.png", store=store, progress=said)
    assert "Gray tiles" in said.lines[0]
    assert "--root" in said.lines[0]
    assert sheets[0][0].head.image is not None
    assert sheets[0][1].head.image is None
    assert [tile.image for strip in sheets[0] for tile in strip.tiles] == [None] * 4
    write_sheets(found, tmp_path / "n.png", store=store, root=tmp_path / "moved")
    assert all(tile.image is not None for strip in sheets[1] for tile in strip.tiles)


def test_no_sheet_without_neighbors(store, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    found = find_neighbors(set_id(store), [bad], store=store)
    assert write_sheets(found, tmp_path / "n.png", store=store) == []
    assert not (tmp_path / "n.png").exists()


@pytest.mark.soak
def test_real_images_lie_near_their_class(real_sample):
    data, store = real_sample.images, real_sample.store
    held_out = [data / "test" / "desert", data / "test" / "forest"]
    found = find_neighbors(set_id(store), held_out, store=store, k=5, split="train")
    hits = [query.majority == query.name.split("/")[-2] for query in found.queries]
    assert len(hits) == 60
    assert np.mean(hits) > 0.7


def test_images_in_memory_have_the_neighbors_of_their_files(store, images):
    path = next((images / "test" / "sand").glob("*.png"))
    (feature_set,) = store.sets()
    given = [decode(path), str(feature_set.sample_ids[0]), path]
    found = find_neighbors(feature_set.set_id, given, store=store, k=3)
    assert [query.name for query in found.queries] == ["image 0", given[1], str(path)]
    assert found.queries[0].neighbors == found.queries[2].neighbors


def test_an_image_from_a_pipe_is_read_once(store, images, tmp_path):
    path = next((images / "test" / "sand").glob("*.png"))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(path.read_bytes()))
    writer.start()
    (feature_set,) = store.sets()
    found = find_neighbors(feature_set.set_id, pipe, store=store, k=3)
    writer.join()
    assert found.queries[0].neighbors
    (sheet,) = write_sheets(found, tmp_path / "sheet.png", store=store)
    assert sheet.is_file()
