from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from makers import of_pixels
from PIL import Image

from featstore.datasets.base import FileDataset
from featstore.datasets.formats import table_files
from featstore.datasets.registry import open_dataset
from featstore.datasets.text_column import TextColumn
from featstore.errors import ConfigError, DatasetError, FeatstoreError, ImageError
from featstore.extraction.extract import extract
from featstore.inference.source_images import Originals
from featstore.store.feature_store import open_store

N = 24


@pytest.fixture
def rows(tmp_path: Path) -> pd.DataFrame:
    """A table of images in a folder."""
    folder = tmp_path / "my tiles"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(N):
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return pd.DataFrame(
        {
            "path": [f"{i}.png" for i in range(N)],
            "label": ["sand", "water", "crops"] * (N // 3),
            "scene": [f"s{i // 4}" for i in range(N)],
        }
    )


def write(frame: pd.DataFrame, tmp_path: Path, ending: str, name: str = "labels") -> Path:
    path = tmp_path / "my tiles" / f"{name}{ending}"
    if ending == ".parquet":
        frame.to_parquet(path, row_group_size=5)
    else:
        frame.to_csv(path, index=False, sep="\t" if ending == ".tsv" else ",")
    return path


def with_bytes(frame: pd.DataFrame, tmp_path: Path) -> pd.DataFrame:
    """Return the table with the images in it, as Hugging Face writes them."""
    content = [(tmp_path / "my tiles" / path).read_bytes() for path in frame["path"]]
    image = [{"bytes": b, "path": p} for b, p in zip(content, frame["path"], strict=True)]
    return frame.drop(columns="path").assign(image=image)


def opened(path: Path, **options: object) -> FileDataset:
    dataset = open_dataset(str(path), **options)
    assert isinstance(dataset, FileDataset)
    return dataset


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".parquet"])
def test_all_endings_are_the_same_table(rows: pd.DataFrame, tmp_path: Path, ending: str) -> None:
    table = write(rows.assign(split=["Training"] * 18 + ["val"] * 6), tmp_path, ending)
    dataset = opened(table)
    assert (dataset.name, dataset.title, dataset.task) == ("table", "my tiles", "classification")
    assert dataset.class_names == ("crops", "sand", "water")
    assert dataset.labels.tolist() == [1, 2, 0] * 8
    assert dataset.splits.tolist() == [0] * 18 + [2] * 6
    assert list(dataset.sample_ids) == rows["path"].tolist()
    np.testing.assert_array_equal(dataset.read(5), Image.open(tmp_path / "my tiles" / "5.png"))
    assert "split" not in dataset.identity()
    assert open_dataset("table", table).sample_ids[3] == "3.png"
    assert opened(write(rows, tmp_path, ending, "fold 1")).title == "fold 1"


def test_without_a_split_70_percent_of_each_class_are_drawn(
    rows: pd.DataFrame, tmp_path: Path
) -> None:
    table = write(rows, tmp_path, ".csv")
    dataset = opened(table)
    drawn = [int((dataset.splits[dataset.labels == c] == 0).sum()) for c in range(3)]
    assert drawn == [6, 6, 6]
    assert dataset.identity()["split"] == {"train_fraction": 0.7, "seed": 0}
    assert (opened(table, seed=1).splits != dataset.splits).any()


def test_a_drawn_split_cuts_no_group(rows: pd.DataFrame, tmp_path: Path) -> None:
    table = write(rows, tmp_path, ".csv")
    dataset = opened(table, columns={"group": "scene"})
    assert dataset.group_by == "column scene"
    assert dataset.groups is not None
    assert dataset.groups.tolist() == [i // 4 for i in range(N)]
    of_group = [set(dataset.splits[dataset.groups == g].tolist()) for g in range(6)]
    assert all(len(splits) == 1 for splits in of_group)
    assert sum(0 in splits for splits in of_group) == 4
    np.testing.assert_array_equal(opened(table, groups_from="scene").groups, dataset.groups)


def test_images_within_parquet_are_those_of_the_files(rows: pd.DataFrame, tmp_path: Path) -> None:
    named = write(rows, tmp_path, ".csv")
    held = write(with_bytes(rows, tmp_path), tmp_path, ".parquet", "held")
    dataset = opened(held)
    assert list(dataset.sample_ids) == rows["path"].tolist()
    assert str(dataset.paths[6]) == f"{held}, row 7"
    assert dataset.files_of(0, N) == [held]
    assert dataset.shape(3) == (8, 8)
    store = open_store(tmp_path / "store")
    made = [extract("pixelstats", str(path), store=store, batch_size=7) for path in (named, held)]
    features = [store.select(set_id=one.set_id).numpy() for one in made]
    np.testing.assert_array_equal(*features)
    original = Originals(store, made[1].set_id).image(6)
    np.testing.assert_array_equal(original, Image.open(tmp_path / "my tiles" / "6.png"))


def test_paths_may_be_written_in_any_way(rows: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / "my tiles" / ".b").mkdir()
    odd = {0: "./0.png", 1: ".b/../1.png", 2: str(tmp_path / "my tiles" / "2.png"), 3: ".//3.png"}
    frame = rows.assign(path=[odd.get(i, path) for i, path in enumerate(rows["path"])])
    dataset = opened(write(frame, tmp_path, ".csv"))
    named = {str(path) for _, path in dataset.files()}
    assert {str(path) for path in dataset.paths} < named
    for row in odd:
        np.testing.assert_array_equal(
            dataset.read(row), Image.open(tmp_path / "my tiles" / f"{row}.png")
        )


def test_each_row_group_is_read_once(
    rows: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = opened(write(with_bytes(rows, tmp_path), tmp_path, ".parquet"))
    read = pa.parquet.ParquetFile.read_row_group
    groups = []

    def counted(self: object, group: int, **options: object) -> object:
        groups.append(group)
        return read(self, group, **options)

    monkeypatch.setattr(pa.parquet.ParquetFile, "read_row_group", counted)
    for row in range(N):
        dataset.read(row)
    assert groups == [0, 1, 2, 3, 4]
    monkeypatch.setattr(table_files, "MAX_GROUP_NBYTES", 10)
    with pytest.raises(DatasetError, match=r"a row group holds .* at most 10 B.*row_group_size"):
        opened(dataset.files_of(0, 1)[0]).labels.tolist()


def test_copies_within_parquet_are_found(rows: pd.DataFrame, tmp_path: Path) -> None:
    frame = with_bytes(rows, tmp_path).assign(split=["train"] * 12 + ["test"] * 12)
    frame.at[13, "image"] = frame.at[2, "image"] | {"path": "copy.png"}
    frame.at[14, "image"] = {"bytes": None, "path": "gone.png"}
    table = write(frame, tmp_path, ".parquet")
    with pytest.raises(ImageError, match=r"labels.parquet, row 15: image holds no image"):
        opened(table).read(14)
    options = {"store": tmp_path / "store", "on_error": "mask"}
    made = extract("pixelstats", str(table), **options)
    assert (made.n_leaked, made.n_masked) == (1, 1)


def test_shards_are_one_table_whose_names_say_the_split(rows: pd.DataFrame, tmp_path: Path) -> None:
    frame = with_bytes(rows, tmp_path)
    frame["label"] = frame["label"].map({"crops": 0, "sand": 1, "water": 2})
    names = {"names": ["crops", "sand", "water", "never"], "_type": "ClassLabel"}
    about = json.dumps({"info": {"features": {"label": names}}})
    folder = tmp_path / "hub"
    (folder / "data").mkdir(parents=True)
    for name, part in (
        ("train-00000-of-00002", frame[:10]),
        ("train-00001-of-00002", frame[10:18]),
        ("test-00000-of-00001", frame[18:]),
    ):
        table = pa.Table.from_pandas(part, preserve_index=False)
        table = table.replace_schema_metadata({"huggingface": about})
        pa.parquet.write_table(table, folder / "data" / f"{name}.parquet")
    dataset = open_dataset("table", folder)
    assert dataset.title == "hub"
    assert dataset.class_names == ("crops", "sand", "water")
    # The files are in the order of their names.
    assert dataset.splits.tolist() == [1] * 6 + [0] * 18
    expected = [*rows["path"][18:], *rows["path"][:18]]
    assert list(dataset.sample_ids) == expected
    names = [dataset.class_names[label] for label in dataset.labels]
    assert names == [*rows["label"][18:], *rows["label"][:18]]
    np.testing.assert_array_equal(dataset.read(6), Image.open(tmp_path / "my tiles" / "0.png"))


@pytest.mark.parametrize(
    ("labels", "options"),
    [
        (["a;b", "b", "c; a"], {}),
        (["a", "b", "a"], {"task": "multilabel"}),
        (["a", "", "a;b"], {"task": "multilabel"}),
        ([["a", "b"], [], ["c"]], {}),
    ],
)
def test_several_classes_an_image_become_targets(
    rows: pd.DataFrame, tmp_path: Path, labels: list[object], options: dict[str, str]
) -> None:
    ending = ".parquet" if isinstance(labels[0], list) else ".csv"
    dataset = opened(write(rows[:3].assign(label=labels), tmp_path, ending), **options)
    assert dataset.task == "multilabel"
    assert dataset.target_names == dataset.class_names
    assert dataset.labels.tolist() == [-1, -1, -1]
    assert dataset.targets is not None
    found = [
        {name for name, has in zip(dataset.class_names, row, strict=True) if has}
        for row in dataset.targets.tolist()
    ]
    expected = [
        set(filter(None, map(str.strip, one.split(";")))) if isinstance(one, str) else set(one)
        for one in labels
    ]
    assert found == expected
    by_class = {name: rows.tolist() for name, rows in dataset.rows_by_class().items()}
    assert by_class["a"] == [i for i, own in enumerate(expected) if "a" in own]


def test_an_empty_text_among_several_classes_needs_the_task(
    rows: pd.DataFrame, tmp_path: Path
) -> None:
    table = write(rows[:3].assign(label=["", "b", "a;b"]), tmp_path, ".csv")
    with pytest.raises(DatasetError, match="row 1: its label is empty.*--task multilabel"):
        opened(table).labels.tolist()


def test_columns_may_be_parted_by_semicolons(rows: pd.DataFrame, tmp_path: Path) -> None:
    rows = rows.assign(label=["a; b", "b", "c"] * (N // 3))
    expected = opened(write(rows, tmp_path, ".csv"))
    table = tmp_path / "my tiles" / "other.csv"
    rows.to_csv(table, index=False, sep=";", encoding="utf-8-sig")
    found = opened(table)
    assert found.target_names == expected.target_names == ("a", "b", "c")
    np.testing.assert_array_equal(found.targets, expected.targets)


def test_a_text_with_a_semicolon_may_be_one_class(rows: pd.DataFrame, tmp_path: Path) -> None:
    table = write(rows[:3].assign(label=["a;b", "b", "a;b"]), tmp_path, ".csv")
    assert opened(table, task="classification").class_names == ("a;b", "b")


def test_numbers_become_targets(rows: pd.DataFrame, tmp_path: Path) -> None:
    table = write(rows.assign(label=np.arange(N) / 4), tmp_path, ".csv")
    dataset = opened(table, task="regression")
    assert (dataset.task, dataset.class_names, dataset.target_names) == (
        "regression",
        (),
        ("label",),
    )
    assert dataset.targets is not None
    assert dataset.targets.ravel().tolist() == (np.arange(N) / 4).tolist()
    assert int((dataset.splits == 0).sum()) == round(0.7 * N)
    store = open_store(tmp_path / "store")
    extract("pixelstats", str(table), task="regression", store=store)
    assert store.select().target_names == ("label",)
    with pytest.raises(DatasetError, match=r"fractions, such as 0.25.*--task regression"):
        opened(table).labels.tolist()


def test_labels_that_may_be_a_slip_are_named(rows: pd.DataFrame, tmp_path: Path) -> None:
    table = write(rows[:3].assign(label=["Sand", "sand", "water"]), tmp_path, ".csv")
    assert opened(table).notes == ["Classes that differ only in capitals: Sand, sand."]
    heights = pd.concat([rows] * 3).assign(label=range(3 * N), id=range(3 * N))
    table = write(heights, tmp_path, ".csv")
    (note,) = opened(table).notes
    assert note.startswith("72 whole numbers are taken for classes.")
    assert opened(table, task="classification").notes == []


def test_whole_numbers_are_classes_in_their_order(rows: pd.DataFrame, tmp_path: Path) -> None:
    for ending in (".csv", ".parquet"):
        dataset = opened(write(rows[:3].assign(label=[10, 9, 2]), tmp_path, ending))
        assert dataset.class_names == ("2", "9", "10")


def change(row: int, column: str, value: object):  # noqa: ANN201
    def apply(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.astype({column: object})
        frame.at[row, column] = value
        return frame

    return apply


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
@pytest.mark.parametrize(
    ("spoil", "options", "wrong"),
    [
        (change(6, "path", "x.png"), {}, r"row 7: the file .*my tiles/x\.png does not exist"),
        (change(6, "path", None), {}, "row 7: its path is empty"),
        (change(6, "label", None), {}, "row 7: its label is empty"),
        (change(6, "label", " "), {"task": "regression"}, "row 1: its label is 'sand'"),
        (change(6, "path", "2.png"), {}, r"row 7: its id '2.png' is that of .*, row 3 too"),
        (change(6, "scene", ""), {"columns": "group=scene"}, "row 7: its group is empty"),
        (change(6, "scene", ""), {"columns": "id=scene"}, "row 7: its id is empty"),
        (change(0, "scene", "all"), {"columns": "split=scene"}, r"row 1: its split is 'all'; exp"),
        (lambda f: f.rename(columns={"label": "class"}), {}, r"no column label; it has path, cl"),
        (lambda f: f, {"columns": "label=clas"}, r"no column clas.*--columns label=COLUMN"),
        (lambda f: f, {"groups_from": "scenes"}, r"no column scenes.*Did you mean scene\?"),
        (lambda f: f.assign(image=f["path"]), {}, r"both path and image may name the images"),
        (lambda f: f[:0], {}, "has no rows"),
    ],
)
def test_a_fault_is_named_with_its_row(
    rows: pd.DataFrame,
    tmp_path: Path,
    ending: str,
    spoil,  # noqa: ANN001
    options: dict[str, str],
    wrong: str,
) -> None:
    table = write(spoil(rows), tmp_path, ending)
    with pytest.raises(FeatstoreError, match=wrong):
        opened(table, **options).sample_ids[0]


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (b"", "is empty; expected a header"),
        (b"path,label\n0.png,a,b\n", "row 1: has 3 values; the header has 2"),
        (b"path,label\n0.png,\xff\n", "is not UTF-8"),
        (b'path,label\n"0.png,a\n', r"labels.csv, line \d: unexpected end"),
        (b"label,label,path\na,b,0.png\n", "two columns are named label"),
    ],
)
def test_a_damaged_text_table_is_refused(
    rows: pd.DataFrame, tmp_path: Path, content: bytes, wrong: str
) -> None:
    table = tmp_path / "my tiles" / "labels.csv"
    table.write_bytes(content)
    with pytest.raises(DatasetError, match=wrong):
        opened(table).labels.tolist()


def test_a_damaged_parquet_file_is_refused(rows: pd.DataFrame, tmp_path: Path) -> None:
    table = write(rows, tmp_path, ".parquet")
    table.write_bytes(table.read_bytes()[:-20])
    with pytest.raises(DatasetError, match=r"labels.parquet: can't be read: "):
        opened(table).labels.tolist()
    nested = pa.table({"path": ["0.png"], "label": [{"a": 1}]})
    pa.parquet.write_table(nested, table)
    with pytest.raises(DatasetError, match=r"label holds struct<a: int64>; expected text or num"):
        opened(table).labels.tolist()


def test_parquet_without_pyarrow_says_what_to_install(
    rows: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write(rows, tmp_path, ".parquet")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(ConfigError, match="Parquet needs pyarrow: pip install pyarrow"):
        opened(table).labels.tolist()


def test_another_table_is_another_dataset(rows: pd.DataFrame, tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    first = extract(store=store, **of_pixels(write(rows, tmp_path, ".csv"), dataset="table"))
    again = extract(store=store, **of_pixels(write(rows, tmp_path, ".csv"), dataset="table"))
    assert (again.set_id, again.n_computed) == (first.set_id, 0)
    other = write(rows.assign(label=rows["label"].to_list()[::-1]), tmp_path, ".csv")
    changed = extract(store=store, **of_pixels(other, dataset="table"))
    assert changed.set_id != first.set_id
    # The images of the first table are gone with it.
    assert "are not those of" in (Originals(store, first.set_id).unavailable_reason() or "")


def test_texts_are_kept_without_an_object_for_each() -> None:
    texts = ["a/1.png", "", "Wälder/ü.tif", "\udce4.png", "a/1.png"]
    column = TextColumn(texts)
    assert (list(column), column[-1], column[1:3]) == (texts, "a/1.png", texts[1:3])
    assert column.find_twice() == (0, 4)
    assert TextColumn(texts[:4]).find_twice() is None
    with pytest.raises(IndexError):
        column[5]
