"""SAT-4 and SAT-6 in the genuine formats, written by SciPy, h5py and as text."""

from __future__ import annotations

import gzip
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scipy.io

from featstore.datasets.formats import sat_csv
from featstore.datasets.registry import ArrayDataset, open_dataset
from featstore.errors import DatasetError, DatasetNotFoundError, SpaceError

NAMES = {
    4: ("barren land", "trees", "grassland", "none"),
    6: ("building", "barren land", "trees", "grassland", "road", "water"),
}
N_TRAIN, N_TEST = 50, 14


class Images:
    """Random images (N, row, column, band) and labels, the truth that files are made from."""

    def __init__(self, n_classes: int = 4) -> None:
        rng = np.random.default_rng(n_classes)
        self.n_classes = n_classes
        self.train = rng.integers(0, 256, (N_TRAIN, 28, 28, 4), dtype=np.uint8)
        self.test = rng.integers(0, 256, (N_TEST, 28, 28, 4), dtype=np.uint8)
        self.y_train = rng.permutation(np.arange(N_TRAIN) % n_classes)
        self.y_test = rng.permutation(np.arange(N_TEST) % n_classes)

    def variables(self) -> dict[str, Any]:
        """Return what a MATLAB user sees in the file."""
        eye = np.eye(self.n_classes)
        cells = np.empty((self.n_classes, 2), object)
        for i, name in enumerate(NAMES[self.n_classes]):
            cells[i] = "[" + " ".join(f"{v:.0f}" for v in eye[i]) + "]", name
        return {
            "train_x": np.moveaxis(self.train, 0, -1),
            "train_y": eye[:, self.y_train],
            "test_x": np.moveaxis(self.test, 0, -1),
            "test_y": eye[:, self.y_test],
            "annotations": cells,
        }

    def check(self, dataset: ArrayDataset) -> None:
        assert dataset.class_names == NAMES[self.n_classes]
        assert dataset.bands == ("red", "green", "blue", "nir")
        assert dataset.image_shape == (28, 28, 4)
        assert dataset.labels.dtype == np.int32
        assert dataset.labels.tolist() == [*self.y_train, *self.y_test]
        assert dataset.splits.dtype == np.uint8
        assert dataset.splits.tolist() == [0] * N_TRAIN + [1] * N_TEST
        assert dataset.sample_ids[0] == "train/0000000"
        assert dataset.sample_ids[N_TRAIN + 1] == "test/0000001"
        everything = np.concatenate([self.train, self.test])
        block = dataset.read_block(N_TRAIN - 5, N_TRAIN + 6)
        assert block.dtype == np.uint8
        assert block.flags.c_contiguous
        np.testing.assert_array_equal(block, everything[N_TRAIN - 5 : N_TRAIN + 6])
        np.testing.assert_array_equal(dataset.read(3), everything[3])
        gaps = np.array([0, 2, 3, N_TRAIN, N_TRAIN + 4])
        np.testing.assert_array_equal(dataset.subset(gaps).read_block(0, 5), everything[gaps])


def save_v5(path: Path, variables: dict[str, Any]) -> None:
    scipy.io.savemat(path, variables)


def save_v5_compressed(path: Path, variables: dict[str, Any]) -> None:
    scipy.io.savemat(path, variables, do_compression=True)


def save_v73(path: Path, variables: dict[str, Any]) -> None:
    """Write as MATLAB's `save -v7.3` does: axes reversed, text as codes, cells as references."""
    with h5py.File(path, "w", userblock_size=512) as file:
        cells = file.create_group("#refs#")
        for name, value in variables.items():
            if value.dtype != object:
                options = {"chunks": True, "compression": "gzip"}
                stored = file.create_dataset(
                    name, data=value.T, **(options if name[-1] == "x" else {})
                )
                stored.attrs["MATLAB_class"] = np.bytes_(value.dtype.name)
                continue
            references = np.empty(value.T.shape, h5py.ref_dtype)
            for at, cell in np.ndenumerate(value.T):
                is_text = isinstance(cell, str)
                data = (
                    np.array([[ord(c)] for c in cell], np.uint16)
                    if is_text
                    else np.atleast_2d(cell).T
                )
                stored = cells.create_dataset(f"{name}{at}", data=data)
                stored.attrs["MATLAB_class"] = np.bytes_("char" if is_text else "double")
                references[at] = stored.ref
            file.create_dataset(name, data=references, dtype=h5py.ref_dtype)
            file[name].attrs["MATLAB_class"] = np.bytes_("cell")
    header = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM"
    with path.open("r+b") as file:
        file.write(header)


Save = Callable[[Path, dict[str, Any]], None]
Change = Callable[[h5py.File, Path], None]
savers = pytest.mark.parametrize("save", [save_v5, save_v5_compressed, save_v73])


def link(file: h5py.File, folder: Path) -> None:
    file["test_x"] = h5py.ExternalLink("other.mat", "/test_x")


def link_softly(file: h5py.File, folder: Path) -> None:
    file["#refs#/elsewhere"] = h5py.ExternalLink("other.mat", "/")
    file["test_x"] = h5py.SoftLink("/#refs#/elsewhere/test_x")


def make_virtual(file: h5py.File, folder: Path) -> None:
    shape = (N_TEST, 4, 28, 28)
    layout = h5py.VirtualLayout(shape, "u1")
    layout[:] = h5py.VirtualSource(folder / "other.mat", "test_x", shape)
    file.create_virtual_dataset("test_x", layout)


def store_outside(file: h5py.File, folder: Path) -> None:
    size = N_TEST * 4 * 28 * 28
    file.create_dataset(
        "test_x", (N_TEST, 4, 28, 28), "u1", external=[(str(folder / "other.mat"), 0, size)]
    )


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (link, r"test_x is an external link to other\.mat"),
        (link_softly, "test_x is a link to /#refs#/elsewhere/test_x"),
        (make_virtual, r"test_x is a virtual dataset of .*other\.mat"),
        (store_outside, r"test_x is stored externally, in .*other\.mat"),
    ],
)
def test_values_in_other_files_are_refused(tmp_path: Path, change: Change, found: str) -> None:
    save_v73(tmp_path / "other.mat", Images().variables())
    path = tmp_path / "sat-4-full.mat"
    save_v73(path, Images().variables())
    with h5py.File(path, "r+") as file:
        del file["test_x"]
        change(file, tmp_path)
    with pytest.raises(DatasetError, match=f"{found}; expected its values in this file"):
        _ = open_mat(tmp_path).labels


def test_names_of_classes_in_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "sat-4-full.mat"
    save_v73(path, Images().variables())
    with h5py.File(path, "r+") as file:
        cell = file["#refs#"].create_dataset("x", (2, 1), "u2", external=[("/etc/passwd", 0, 4)])
        file["annotations"][0, 0] = cell.ref
    with pytest.raises(DatasetError, match="annotations is stored externally, in /etc/passwd"):
        _ = open_mat(tmp_path).class_names


def open_mat(folder: Path, n_classes: int = 4) -> ArrayDataset:
    dataset = open_dataset(f"sat{n_classes}", folder)
    assert isinstance(dataset, ArrayDataset)
    return dataset


@savers
@pytest.mark.parametrize("n_classes", [4, 6])
def test_matlab_files_give_the_images_as_matlab_sees_them(
    tmp_path: Path, save: Save, n_classes: int
) -> None:
    images = Images(n_classes)
    save(tmp_path / f"sat-{n_classes}-full.mat", images.variables())
    images.check(open_mat(tmp_path, n_classes))


def test_it_is_found_in_a_folder_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "sat4").mkdir()
    save_v5(tmp_path / "sat4" / "sat-4-full.mat", Images().variables())
    dataset = open_mat(tmp_path)
    assert dataset.files() == [("sat-4-full.mat", tmp_path / "sat4" / "sat-4-full.mat")]
    assert len(dataset) == N_TRAIN + N_TEST


@savers
def test_opening_reads_nothing_and_labels_read_no_pixels(tmp_path: Path, save: Save) -> None:
    path = tmp_path / "sat-4-full.mat"
    save(path, Images().variables())
    dataset = open_mat(tmp_path)
    assert dataset.identity() == {"dataset": "sat4", "format": 1}
    assert set(dataset._source.__dict__).isdisjoint({"_mat", "_opened"})
    assert len(dataset.labels) == N_TRAIN + N_TEST
    assert "_opened" not in dataset._source.__dict__


def test_pixels_are_held_once(tmp_path: Path) -> None:
    variables = Images().variables()
    rng = np.random.default_rng(0)
    variables["train_x"] = rng.integers(0, 256, (28, 28, 4, 5000), dtype=np.uint8)
    variables["train_y"] = np.eye(4)[:, np.arange(5000) % 4]
    save_v5_compressed(tmp_path / "sat-4-full.mat", variables)
    dataset = open_mat(tmp_path)
    assert len(dataset) == 5000 + N_TEST
    tracemalloc.start()
    try:
        dataset.read_block(0, 10)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1.1 * variables["train_x"].nbytes


def cells(*rows: tuple[Any, Any]) -> np.ndarray:
    array = np.empty((len(rows), 2), object)
    for i, row in enumerate(rows):
        array[i, 0], array[i, 1] = row
    return array


ANNOTATIONS = {
    "other order": cells(
        ("[0 0 1 0]", "grassland"),
        ("[1 0 0 0]", "barren land"),
        ("[0 0 0 1]", "none"),
        ("[0 1 0 0]", "trees"),
    ),
    "digits": cells(
        ("1000", "barren land"), ("0100", "trees"), ("0010", "grassland"), ("0001", "none")
    ),
    "from one": cells(("3", "grassland"), ("1", "barren land"), ("2", "trees"), ("4", "none")),
    "from zero": cells(("0", "barren land"), ("2", "grassland"), ("1", "trees"), ("3", "none")),
    "names first": cells(
        ("barren land", "1;0;0;0"),
        ("trees", "0;1;0;0"),
        ("none", "0;0;0;1"),
        ("grassland", "0;0;1;0"),
    ),
    "numbers": cells(*((np.eye(4)[[i]], NAMES[4][i]) for i in (3, 1, 0, 2))),
    "index numbers": cells(*((float(i + 1), NAMES[4][i]) for i in (3, 1, 0, 2))),
}


@savers
@pytest.mark.parametrize("kind", ANNOTATIONS)
def test_annotations_decide_the_names_order(tmp_path: Path, save: Save, kind: str) -> None:
    save(tmp_path / "sat-4-full.mat", Images().variables() | {"annotations": ANNOTATIONS[kind]})
    assert open_mat(tmp_path).class_names == NAMES[4]


def changed(**variables: Any) -> dict[str, Any]:
    return Images().variables() | variables


def without(name: str) -> dict[str, Any]:
    variables = Images().variables()
    del variables[name]
    return variables


def two_ones() -> np.ndarray:
    y = Images().variables()["train_y"].copy()
    y[:, 6] = [0, 1, 1, 0]
    return y


def no_trees() -> dict[str, Any]:
    y_train, y_test = np.zeros((4, N_TRAIN)), np.zeros((4, N_TEST))
    y_train[0], y_test[[0, 2, 3], :3] = 1, np.eye(3)
    y_test[0, 3:] = 1
    return changed(train_y=y_train, test_y=y_test)


WRONG = {
    "missing variable": (without("test_x"), "has no variable test_x"),
    "missing annotations": (without("annotations"), "has no variable annotations"),
    "dtype": (
        changed(train_x=np.zeros((28, 28, 4, N_TRAIN))),
        r"train_x is (double|float64) .*; expected uint8",
    ),
    "image axis first": (
        changed(train_x=Images().train),
        r"train_x is uint8 of shape \(50, 28, 28, 4\); expected uint8 of shape \(28, 28, 4, N\)",
    ),
    "labels on end": (changed(train_y=Images().variables()["train_y"].T), r"train_y .*\(4, 50\)"),
    "fewer labels": (
        changed(test_y=Images().variables()["test_y"][:, 1:]),
        r"test_y .* \(4, 13\); expected one-hot of shape \(4, 14\)",
    ),
    "six classes": (Images(6).variables(), r"train_y .* \(6, 50\); expected .* \(4, 50\)"),
    "not one-hot": (changed(train_y=two_ones()), r"train_y: the label of image 7 is \[0 1 1 0\]"),
    "no label": (changed(test_y=np.zeros((4, N_TEST))), r"14 of 14 are not"),
    "nan": (changed(test_y=np.full((4, N_TEST), np.nan)), "not one-hot"),
    "empty class": (no_trees(), "no image is of class trees"),
    "names twice": (
        changed(annotations=cells(("1", "a"), ("2", "b"), ("3", "b"), ("4", "d"))),
        "don't name each of 4 classes once",
    ),
    "code twice": (
        changed(annotations=cells(("1", "a"), ("2", "b"), ("2", "c"), ("4", "d"))),
        "don't name each of 4 classes once",
    ),
    "no code": (
        changed(annotations=cells(("x", "a"), ("2", "b"), ("3", "c"), ("4", "d"))),
        "row 1 is",
    ),
    "too few": (changed(annotations=cells(("1", "a"), ("2", "b"))), r"annotations is .*\(2, 2\)"),
    "annotations no cells": (changed(annotations=np.zeros((4, 2))), "annotations is"),
}


@savers
@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_file_gives_one_clear_error(tmp_path: Path, save: Save, fault: str) -> None:
    variables, message = WRONG[fault]
    path = tmp_path / "sat-4-full.mat"
    save(path, variables)
    dataset = open_mat(tmp_path)
    with pytest.raises(DatasetError, match=message) as caught:
        _ = dataset.labels, dataset.class_names, dataset.read(0)
    assert str(path) in str(caught.value)


@savers
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_file_cut_short_gives_one_clear_error(tmp_path: Path, save: Save, share: float) -> None:
    path = tmp_path / "sat-4-full.mat"
    save(path, Images().variables())
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    dataset = open_mat(tmp_path)
    with pytest.raises(DatasetError, match="sat-4-full.mat") as caught:
        _ = dataset.labels, dataset.class_names, dataset.read_block(0, len(dataset))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_matlab_file(tmp_path: Path) -> None:
    (tmp_path / "sat-4-full.mat").write_text("<html>404 Not Found</html>\n" * 100)
    with pytest.raises(DatasetError, match="can't be read as a MATLAB file"):
        _ = open_mat(tmp_path).labels


# CSV


def write_csv(path: Path, rows: np.ndarray) -> None:
    text = "".join(",".join(map(str, row)) + "\n" for row in rows.reshape(len(rows), -1).tolist())
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)


def write_sat_csv(folder: Path, images: Images, suffix: str = "") -> None:
    name, eye = f"sat{images.n_classes}", np.eye(images.n_classes, dtype=int)
    write_csv(folder / f"X_train_{name}.csv{suffix}", images.train)
    write_csv(folder / f"y_train_{name}.csv{suffix}", eye[images.y_train])
    write_csv(folder / f"X_test_{name}.csv{suffix}", images.test)
    write_csv(folder / f"y_test_{name}.csv{suffix}", eye[images.y_test])
    lines = [
        f"{label},{','.join(map(str, eye[i]))}\n" for i, label in enumerate(NAMES[images.n_classes])
    ]
    (folder / f"{name}annotations.csv").write_text("".join(lines[::-1]))


class Heard:
    """A progress that keeps what it hears."""

    def __init__(self) -> None:
        self.started: list[tuple[str, int, str]] = []
        self.n = 0

    def start(self, what: str, total: int, unit: str) -> None:
        self.started.append((what, total, unit))

    def advance(self, n: int) -> None:
        self.n += n

    def stop(self) -> None: ...

    def say(self, line: str) -> None: ...


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("n_classes", [4, 6])
def test_csv_files_give_the_same_images(tmp_path: Path, suffix: str, n_classes: int) -> None:
    images = Images(n_classes)
    write_sat_csv(tmp_path, images, suffix)
    images.check(open_mat(tmp_path, n_classes))


def test_blocks_smaller_than_a_line_and_odd_ends_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sat_csv, "PARSED_NBYTES", 20_000)
    images = Images()
    write_sat_csv(tmp_path, images)
    path = tmp_path / "X_train_sat4.csv"
    text = path.read_text().replace("\n", "\r\n").replace(",", ", ")
    path.write_bytes(b"\xef\xbb\xbf" + text.rstrip().encode())
    test = tmp_path / "X_test_sat4.csv"
    test.write_text(test.read_text() + "\n\n")
    images.check(open_mat(tmp_path))


def test_conversion_happens_once_and_reports_progress(tmp_path: Path) -> None:
    write_sat_csv(tmp_path, Images())
    sizes = sum((tmp_path / f"X_{split}_sat4.csv").stat().st_size for split in ("train", "test"))
    first, second = Heard(), Heard()
    Images().check(open_dataset("sat4", tmp_path, progress=first))
    Images().check(open_dataset("sat4", tmp_path, progress=second))
    assert [what for what, _, _ in first.started] == [
        "converting X_train_sat4.csv",
        "converting X_test_sat4.csv",
    ]
    assert {unit for _, _, unit in first.started} == {"bytes"}
    assert first.n == sum(total for _, total, _ in first.started) == sizes
    assert second.started == []
    assert len(list((tmp_path / ".featstore").glob("*.npy"))) == 2
    assert list((tmp_path / ".featstore").glob("*.tmp")) == []


def test_a_changed_csv_is_converted_anew_and_the_old_array_goes(tmp_path: Path) -> None:
    images = Images()
    write_sat_csv(tmp_path, images)
    open_mat(tmp_path).read(0)
    images.train = images.train[::-1].copy()
    path = tmp_path / "X_train_sat4.csv"
    before = path.stat().st_mtime_ns
    write_csv(path, images.train)
    os.utime(path, ns=(before + 10**9, before + 10**9))
    images.check(open_mat(tmp_path))
    assert len(list((tmp_path / ".featstore").glob("X_train*.npy"))) == 1


def test_a_change_that_leaves_size_and_time_is_converted_anew(tmp_path: Path) -> None:
    images = Images()
    write_sat_csv(tmp_path, images)
    path = tmp_path / "X_train_sat4.csv"
    # Of one width, so that other pixels have the same number of digits.
    images.train = images.train % 100 + 100
    write_csv(path, images.train)
    images.check(open_mat(tmp_path))
    before = path.stat()
    images.train = images.train[::-1].copy()
    write_csv(path, images.train)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    images.check(open_mat(tmp_path))


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "digest"])
def test_a_damaged_conversion_is_made_anew(tmp_path: Path, damage: str) -> None:
    images = Images()
    write_sat_csv(tmp_path, images)
    images.check(open_mat(tmp_path))
    (converted,) = (tmp_path / ".featstore").glob("X_train*.npy")
    content = bytearray(converted.read_bytes())
    content[-7] ^= 1
    cut = {"cut": 1000, "empty": 0}.get(damage)
    if damage == "digest":
        converted.with_suffix(".json").unlink()
    else:
        converted.write_bytes(content[:cut])
    images.check(open_mat(tmp_path))


def test_a_read_only_folder_is_converted_into_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, cache = tmp_path / "data", tmp_path / "cache"
    data.mkdir()
    write_sat_csv(data, Images())
    (data / ".featstore").write_text("a file is in the way")
    monkeypatch.setattr(sat_csv, "user_cache_path", lambda name: cache / name)
    Images().check(open_mat(data))
    assert len(list(cache.rglob("*.npy"))) == 2
    heard = Heard()
    open_dataset("sat4", data, progress=heard).read(0)
    assert heard.started == []


def test_leftovers_of_a_killed_conversion_are_overwritten(tmp_path: Path) -> None:
    write_sat_csv(tmp_path, Images())
    (tmp_path / ".featstore").mkdir()
    (tmp_path / ".featstore" / "X_train_sat4.csv.tmp").write_bytes(b"half")
    Images().check(open_mat(tmp_path))


def test_a_full_disk_is_foreseen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sat_csv(tmp_path, Images())
    monkeypatch.setattr(
        sat_csv.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})
    )
    with pytest.raises(SpaceError, match="where 1 kB are free"):
        open_mat(tmp_path).read(0)


def edited(folder: Path, name: str, edit: Callable[[list[str]], list[str]]) -> None:
    path = folder / name
    path.write_text("\n".join(edit(path.read_text().split("\n"))))


def on_line(number: int, change: Callable[[str], str]) -> Callable[[list[str]], list[str]]:
    return lambda lines: [*lines[: number - 1], change(lines[number - 1]), *lines[number:]]


def first_cell(value: str) -> Callable[[str], str]:
    return lambda line: f"{value},{line.split(',', 1)[1]}"


X, Y, A = "X_train_sat4.csv", "y_test_sat4.csv", "sat4annotations.csv"
HEADER = ",".join(f"x{i}" for i in range(3136))
WRONG_CSV: dict[str, tuple[str, Callable[[list[str]], list[str]], str]] = {
    "few columns": (X, on_line(7, lambda s: s[: s.rindex(",")]), "line 7 has 3135 columns"),
    "many columns": (X, on_line(7, lambda s: s + ",1"), "line 7 has 3137 columns; expected 3136"),
    "out of range": (X, on_line(50, first_cell("256")), "line 50, column 1 is '256'"),
    "long": (X, on_line(50, first_cell("1000")), "line 50, column 1 is '1000'"),
    "negative": (X, on_line(2, first_cell("-1")), "line 2, column 1 is '-1'"),
    "float": (X, on_line(2, first_cell("1.0")), "line 2, column 1 is '1.0'"),
    "empty cell": (X, on_line(3, first_cell("")), "line 3, column 1 is ''"),
    "header": (X, lambda lines: [HEADER, *lines], "line 1, column 1 is 'x0'.*no header"),
    "blank line": (X, on_line(4, lambda s: ""), "line 4 has 1 columns"),
    "cut short": (X, on_line(50, lambda s: s[:3000]), "line 50 has"),
    "row missing": (X, lambda lines: lines[1:], "holds 49 images; its labels are 50"),
    "row too many": (X, lambda lines: [lines[0], *lines], "holds 51 images; its labels are 50"),
    "empty": (X, lambda lines: [], "holds 0 images"),
    "label row": (Y, on_line(3, lambda s: "0,1,1,0"), r"image 3 is \[0 1 1 0\], not one-hot"),
    "label columns": (Y, on_line(3, lambda s: "0,1,0"), "line 3 has 3 columns; expected 4"),
    "no labels": (Y, lambda lines: [], "holds no labels"),
    "annotations": (A, lambda lines: lines[1:], "names 3 classes; expected 4"),
}


@pytest.mark.parametrize("fault", WRONG_CSV)
def test_a_wrong_csv_names_file_and_line(tmp_path: Path, fault: str) -> None:
    name, edit, message = WRONG_CSV[fault]
    write_sat_csv(tmp_path, Images())
    edited(tmp_path, name, edit)
    dataset = open_mat(tmp_path)
    with pytest.raises(DatasetError, match=message) as caught:
        _ = dataset.labels, dataset.class_names, dataset.read(0)
    assert str(tmp_path / name) in str(caught.value)
    assert list(tmp_path.glob(".featstore/*.tmp")) == []
    assert list(tmp_path.glob(f".featstore/{name}*.npy")) == []


def test_a_line_number_is_right_beyond_the_first_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sat_csv, "PARSED_NBYTES", 30_000)
    write_sat_csv(tmp_path, Images())
    edited(tmp_path, X, on_line(41, lambda s: s + ",9"))
    with pytest.raises(DatasetError, match="line 41 has 3137 columns"):
        open_mat(tmp_path).read(0)


def test_a_gzip_cut_short_or_broken(tmp_path: Path) -> None:
    write_sat_csv(tmp_path, Images(), ".gz")
    path = tmp_path / f"{X}.gz"
    content = path.read_bytes()
    for broken in (content[:-2000], content[:1000] + b"\0" * 50 + content[1050:], b"not gzip"):
        path.write_bytes(broken)
        with pytest.raises(DatasetError, match=r"X_train_sat4\.csv\.gz"):
            open_mat(tmp_path).read(0)


def test_a_missing_companion_is_named(tmp_path: Path) -> None:
    write_sat_csv(tmp_path, Images())
    (tmp_path / Y).unlink()
    with pytest.raises(DatasetNotFoundError, match=r"y_test_sat4\.csv \(or y_test_sat4\.csv\.gz\)"):
        open_mat(tmp_path)


def test_memory_stays_bounded_while_converting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sat_csv, "PARSED_NBYTES", 2**18)
    path = tmp_path / "X.csv"
    rows = np.random.default_rng(0).integers(0, 256, (100, 3136), dtype=np.uint8)
    write_csv(path, rows)
    path.write_bytes(path.read_bytes() * 20)
    tracemalloc.start()
    try:
        pixels = sat_csv.as_memory_map(path, 2000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 * 2**18 < pixels.nbytes
    assert isinstance(pixels, np.memmap)
    np.testing.assert_array_equal(pixels[-100:], rows)
