from __future__ import annotations

import numpy as np
import pandas
import pytest
import zarr

import featstore
from featstore.cli.main import _run
from featstore.errors import ConfigError, DatasetError, DatasetNotFoundError, FeatstoreError
from featstore.extraction.feature_files import open_features
from featstore.extraction.import_features import import_features
from featstore.store.feature_store import open_store
from featstore.store.verification import verify

NAMES = np.array(["water", "forest", "urban"])
Y = np.arange(90) % 3
X = np.random.default_rng(0).normal(size=(90, 16)) + 3 * Y[:, None]
IDS = [f"tile {i}" for i in range(90)]
SPLITS = ["train"] * 60 + ["test"] * 30


@pytest.fixture(autouse=True)
def _no_drawings(blank_pictures):
    """Spare the drawings of runs."""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("clay.npy", X)
    table = pandas.DataFrame({"id": IDS, "label": NAMES[Y], "split": SPLITS})
    table.sample(frac=1, random_state=0).to_csv("labels.csv", index=False)
    (tmp_path / "ids.txt").write_text("\n".join(IDS), encoding="utf-8")
    return tmp_path


def write(kind):
    """Write the features and their columns in a format; return the file."""
    pyarrow = pytest.importorskip("pyarrow") if kind.startswith("parquet") else None
    if kind == "npz":
        np.savez("all.npz", features=X, ids=IDS, label=NAMES[Y], split=SPLITS)
        return "all.npz"
    if kind == "zarr":
        group = zarr.create_group("all.zarr")
        group.create_array("embeddings", data=X.astype(np.float32))
        group.create_array("other", data=Y)
        return "all.zarr"
    columns = {"id": IDS, "label": NAMES[Y], "split": SPLITS}
    if kind == "parquet of lists":
        columns["embedding"] = pyarrow.array(X.tolist())
    else:
        columns |= {f"A{i:02d}": X[:, i] for i in range(16)}
    pyarrow.parquet.write_table(pyarrow.table(columns), "all.parquet", row_group_size=40)
    return "all.parquet"


@pytest.mark.parametrize("kind", ["npz", "zarr", "parquet of lists", "parquet of columns"])
def test_each_format_gives_the_same_rows(kind, here):
    if kind.startswith("parquet"):
        pytest.importorskip("pyarrow.parquet")
    file = write(kind)
    more = {"labels": "labels.csv", "sample_ids": "ids.txt"} if kind == "zarr" else {}
    done = import_features("brazil", file, store="store", **more)
    assert done.n_by_split == {"train": 60, "test": 30}
    selection = open_store("store").select()
    np.testing.assert_array_equal(selection.numpy(), X.astype(np.float32))
    assert selection.sample_ids.tolist() == IDS
    names = np.array(selection.class_names)
    assert names[selection.y].tolist() == NAMES[Y].tolist()


def test_features_of_the_same_rows_are_fitted_compared_and_put_side_by_side(here, capsys):
    labels = {"labels": "labels.csv", "sample_ids": "ids.txt"}
    for model in ("clay", "tessera"):
        done = import_features("brazil", "clay.npy", model=model, store="store", **labels)
        assert done.n_computed == 90
    again = import_features("brazil", "clay.npy", store="store", **labels)
    assert again.n_computed == 0
    assert [verify(one) for one in open_store("store").sets()] == [[], []]
    (run,) = featstore.fit("store", "lda", model="clay")
    (both,) = featstore.fit("store", "lda", model="clay,tessera")
    assert featstore.compare(run, both).n_test == 30
    np.save("new.npy", X[:3])
    found = featstore.predict(run, "new.npy", store="store")
    assert [one.label for one in found] == NAMES[Y[:3]].tolist()
    assert featstore.predict(run, X[:3], store="store") == found
    assert len(featstore.predict(both, ["new.npy", "new.npy"], store="store")) == 3
    with pytest.raises(ConfigError, match="16 of clay:features and 16 of tessera:features: give"):
        featstore.predict(both, "new.npy", store="store")
    with pytest.raises(FeatstoreError, match="computed elsewhere and imported from clay.npy"):
        featstore.find_neighbors(run, X[:1], store="store")
    assert _run(["predict", run.run_id, "new.npy", "--store", "store", "--csv"]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("0,water,")


def test_rows_without_numbers_are_masked_and_rows_that_lack_some_are_refused(here):
    holes = X.copy()
    holes[4] = np.nan
    done = import_features("a", holes, model="m", labels=NAMES[Y], store="store")
    assert done.n_masked == 1
    holes[7, 2] = np.inf
    with pytest.raises(DatasetError, match=r"features: row 7 holds inf in column 2"):
        import_features("b", holes, model="m", labels=NAMES[Y], store="store")
    # The set that was begun does not stand in the way.
    holes[7, 2] = 0
    assert import_features("b", holes, model="m", labels=NAMES[Y], store="store").n_masked == 1


@pytest.mark.parametrize(
    ("file", "error", "cause"),
    [
        ("none.npy", DatasetNotFoundError, "none.npy does not exist"),
        ("labels.csv", DatasetError, "expected .npy, .npz, .parquet or a Zarr folder"),
        ("cut.npy", DatasetError, "can't be read"),
        ("objects.npy", DatasetError, r"holds Python objects.*np.stack\(list\(X\)\)"),
        ("objects.npz", DatasetError, r"holds Python objects.*labels=y.astype\(str\)"),
        ("text.npy", DatasetError, "text.npy is no .npy file. Write it with numpy.save"),
        ("lacking.parquet", DatasetError, "some lists of features are missing"),
        ("flat.npy", DatasetError, r"shape \(90,\).*expected numbers of shape"),
        ("two.npz", DatasetError, "several arrays: a, b. Name one with --array"),
        ("folder", DatasetError, "is no file of features; expected .*Zarr folder"),
    ],
)
def test_what_is_no_file_of_features_is_refused(file, error, cause, here):
    (here / "cut.npy").write_bytes((here / "clay.npy").read_bytes()[:100])
    np.save("objects.npy", np.array([[{}], [{}]]), allow_pickle=True)
    np.savez("objects.npz", features=X, labels=NAMES[Y].astype(object))
    (here / "text.npy").write_text("no array", encoding="utf-8")
    pandas.DataFrame({"emb": [*X[:3], None]}).to_parquet("lacking.parquet")
    np.save("flat.npy", Y)
    np.savez("two.npz", a=X, b=X)
    (here / "folder").mkdir()
    with pytest.raises(error, match=cause):
        import_features("x", file, store="store")


def test_an_array_of_several_is_named(here):
    np.savez("two.npz", a=X, b=X[:, :3])
    assert open_features("two.npz", "b").shape == (90, 3)
    frame = pandas.DataFrame(X[:, :3], columns=["A00", "A01", "A02"]).assign(lon=1.5)
    frame.to_parquet("wide.parquet")
    assert open_features("wide.parquet").feature_columns == ["A00", "A01", "A02", "lon"]
    chosen = open_features("wide.parquet", "A*")
    np.testing.assert_array_equal(next(chosen.blocks()), X[:, :3])


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ({"labels": NAMES[Y[:5]]}, "90 rows of features and 5 values of label"),
        ({"labels": "none.csv"}, "none.csv does not exist"),
        ({"labels": "bare.csv"}, "has the columns id, kind; expected one of the name label"),
        ({"labels": "labels.csv", "sample_ids": [*IDS[:-1], "other"]}, "no row for the id 'other'"),
        ({"labels": NAMES[Y], "splits": ["foo"] * 90}, "splits holds 'foo'; expected"),
        ({"labels": "twice.csv", "sample_ids": IDS}, "row 2: its id 'a' is that of row 1 too"),
        ({"labels": "objects.npy"}, r"objects.npy holds Python objects.*y.astype\(str\)"),
        ({"labels": np.full((90, 2), 2)}, "must hold 0 and 1, with a column for each class"),
        ({"labels": NAMES[Y], "sample_ids": ["a"] * 90}, "have the name 'a'"),
        ({"labels": Y + 0.5}, "labels are numbers with fractions, such as 0.5. For numbers give"),
    ],
)
def test_labels_that_do_not_fit_are_refused(given, cause, here):
    (here / "bare.csv").write_text("id,kind\na,b\n", encoding="utf-8")
    (here / "twice.csv").write_text("id,label\na,b\na,b\n", encoding="utf-8")
    np.save("objects.npy", NAMES[Y].astype(object), allow_pickle=True)
    with pytest.raises(DatasetError, match=cause):
        import_features("x", "clay.npy", store="store", **given)


def test_values_too_large_for_float32_are_refused(here):
    large = X.copy()
    large[3, 0] = 1e300
    with pytest.raises(DatasetError, match=r"row 3, column 0 holds 1e\+300"):
        import_features("x", large, model="m", store="store")


def test_the_command_says_what_comes_next(here, capsys):
    words = ["import", "brazil", "clay.npy", "--labels", "labels.csv", "--ids", "ids.txt"]
    assert _run([*words, "--store", "store"]) == 0
    out = capsys.readouterr().out
    assert "90 rows of 16 features of clay as brazil: 60 train, 30 test" in out
    assert "Next: featstore fit --clf logreg --store store" in out
    assert _run(["fit", "--clf", "lda", "--store", "store"]) == 0
    assert "FEATURES_FILE" in capsys.readouterr().out
    assert _run(["import", "x", "labels.csv", "--store", "store"]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_several_classes_numbers_and_groups_come_along(here):
    several = [["water", "urban"] if i % 2 else ["forest"] for i in range(90)]
    scenes = [f"scene {i // 9}" for i in range(90)]
    import_features("a", X, model="m", labels=several, groups=scenes, store="store")
    import_features("b", X, model="m", labels=Y / 2, task="regression", store="store")
    selection = open_store("store").select(dataset="a")
    assert (selection.task, selection.target_names) == ("multilabel", ("forest", "urban", "water"))
    assert selection.targets[1].tolist() == [0, 1, 1]
    assert all(len(set(selection.splits[selection.groups == g])) == 1 for g in range(10))
    numbers = open_store("store").select(dataset="b")
    assert (numbers.task, numbers.target_names) == ("regression", ("value",))
    np.testing.assert_array_equal(numbers.targets[:, 0], (Y / 2).astype(np.float32))
