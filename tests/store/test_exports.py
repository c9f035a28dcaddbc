from __future__ import annotations

import csv

import numpy as np
import pandas as pd
import pytest
from conftest import store_in

from featstore.errors import ConfigError
from featstore.store import exports
from featstore.store.exports import export

ROWS = np.array([*range(49), 3])


@pytest.fixture
def selection(make_store):
    return make_store(n_samples=50, n_features=3, masked={7: "cut short"}, first_rows=ROWS).select()


def test_npz_holds_everything(selection, tmp_path):
    export(selection, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as found:
        np.testing.assert_array_equal(found["X"], selection.memmap())
        assert found["y"].tolist() == selection.y.tolist()
        assert found["split"].tolist() == ["train"] * 37 + ["test"] * 13
        assert found["sample_id"][40] == "test/0000040"
        assert np.flatnonzero(~found["valid"]).tolist() == [7]
        assert found["first_row"].tolist() == [*range(49), 3]
        assert found["class_names"].tolist() == list(selection.class_names)


def test_npy_is_the_matrix(selection, tmp_path):
    export(selection, tmp_path / "a.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), selection.memmap())


@pytest.mark.parametrize(("ending", "read"), [("parquet", pd.read_parquet), ("csv", pd.read_csv)])
def test_tables_have_a_row_a_sample(selection, tmp_path, monkeypatch, ending, read):
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.setattr(exports, "CSV_ROWS", 16)
    path = tmp_path / f"a.{ending}"
    path.write_text("what was there before")
    export(selection, path)
    frame = read(path)
    about = ["sample_id", "split", "label", "class", "first_row"]
    assert list(frame.columns[:6]) == [*about, "fc1000.0"]
    assert frame["first_row"].tolist() == ROWS.tolist()
    np.testing.assert_allclose(frame.iloc[:, 5:].to_numpy(), selection.memmap(), rtol=1e-6)
    assert frame["class"][1] == selection.class_names[1]
    assert frame["split"].tolist() == ["train"] * 37 + ["test"] * 13


def test_unlabelled_rows_have_no_class(make_store, tmp_path):
    y = np.array([0, -1, 1, 2], np.int32)
    store = make_store(n_samples=4, n_features=2, y=y, splits=np.zeros(4, np.uint8))
    export(store.select(), tmp_path / "a.csv")
    assert pd.read_csv(tmp_path / "a.csv")["class"].isna().tolist() == [False, True, False, False]


def test_names_with_any_line_end_come_back_from_csv(tmp_path):
    names = ("a\rb", "a\nb", "a\r\nb", 'a"b', "a,b", "\r", "plain")
    y = np.arange(7, dtype=np.int32)
    store = store_in(
        tmp_path, n_samples=7, n_features=2, y=y, splits=np.zeros(7, np.uint8), class_names=names
    )
    export(store.select(), tmp_path / "a.csv")
    assert pd.read_csv(tmp_path / "a.csv")["class"].tolist() == list(names)
    with (tmp_path / "a.csv").open(newline="") as stream:
        assert [line["class"] for line in csv.DictReader(stream)] == list(names)


def test_another_ending_is_refused_with_the_known_ones(selection, tmp_path):
    with pytest.raises(ConfigError, match=r"\.npz, \.npy, \.parquet, \.csv"):
        export(selection, tmp_path / "a.mat")
    assert list(tmp_path.glob("a*")) == []


def test_a_link_is_written_through(selection, tmp_path):
    (tmp_path / "b.npy").touch()
    (tmp_path / "a.npy").symlink_to("b.npy")
    export(selection, tmp_path / "a.npy")
    assert (tmp_path / "a.npy").is_symlink()
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), selection.memmap())


def test_no_class_name_of_a_csv_file_is_a_formula(make_store, tmp_path):
    names = ("=1+1", "+a", "-b", "@c")
    selection = make_store(n_samples=8, n_features=2, class_names=names).select()
    export(selection, tmp_path / "a.csv")
    with (tmp_path / "a.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["class"] for row in rows} == {f"'{name}" for name in names}
    export(selection, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as found:
        assert tuple(found["class_names"]) == names


def test_one_long_sample_id_does_not_widen_the_rows_of_a_file(selection, tmp_path, monkeypatch):
    ids = selection.sample_ids.copy()
    ids[3] = "a" * 4096
    vars(selection._sets[0])["sample_ids"] = ids
    monkeypatch.setattr(exports, "MAX_TEXT_NBYTES", 50 * 4 * 4096 - 1)
    with pytest.raises(ConfigError, match=r"4,096 characters.*819 kB.*Export to \.parquet or"):
        export(selection, tmp_path / "a.npz")
    export(selection, tmp_path / "a.csv")
    assert pd.read_csv(tmp_path / "a.csv")["sample_id"].tolist() == ids.tolist()
    assert (tmp_path / "a.csv").stat().st_size < 10_000
