from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.io

from featstore.datasets.formats.synthetic import CLASS_NAMES, write_demo
from featstore.datasets.registry import ArrayDataset, open_dataset
from featstore.errors import ConfigError, DatasetError


def test_matlab_would_see_a_sat4_file(tmp_path: Path) -> None:
    path = write_demo(tmp_path / "demo", seed=3, n_train=40, n_test=12)
    assert path == tmp_path / "demo" / "demo-seed3-full.mat"
    variables = scipy.io.loadmat(path)
    assert variables["train_x"].shape == (28, 28, 4, 40)
    assert variables["train_x"].dtype == np.uint8
    assert variables["test_x"].shape == (28, 28, 4, 12)
    assert variables["train_y"].shape == (4, 40)
    assert (variables["train_y"].sum(axis=0) == 1).all()
    assert variables["annotations"].shape == (4, 2)


def test_the_reader_of_sat4_reads_it(tmp_path: Path) -> None:
    path = write_demo(tmp_path / "demo", n_train=40, n_test=12)
    path.rename(tmp_path / "sat-4-full.mat")
    dataset = open_dataset("sat4", tmp_path)
    assert dataset.class_names == CLASS_NAMES
    assert np.bincount(dataset.labels).tolist() == [13, 13, 13, 13]


def test_opening_generates_it_once(tmp_path: Path) -> None:
    dataset = open_dataset("demo", tmp_path)
    path = tmp_path / "demo" / "demo-full.mat"
    written = path.stat().st_mtime_ns
    assert isinstance(dataset, ArrayDataset)
    assert (dataset.name, dataset.title) == ("demo", "demo")
    assert np.bincount(dataset.splits).tolist() == [1600, 400]
    assert dataset.files() == [("demo-full.mat", path)]
    open_dataset("demo", tmp_path)
    open_dataset("demo", tmp_path / "demo")
    assert path.stat().st_mtime_ns == written
    assert [entry.name for entry in (tmp_path / "demo").iterdir()] == ["demo-full.mat"]


def test_same_seed_same_bytes_other_seed_other_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        contents.append(write_demo(tmp_path / folder, seed, 40, 12).read_bytes())
        # SciPy would write the time into the file.
        monkeypatch.setattr("time.asctime", lambda: "later")
    assert contents[0] == contents[1] != contents[2]


def test_seeds_have_files_of_their_own(tmp_path: Path) -> None:
    first = open_dataset("demo", tmp_path)
    second = open_dataset("demo", tmp_path, seed=7)
    assert first.files() != second.files()
    assert (first.read(0) != second.read(0)).any()


def test_pixel_statistics_are_right_for_some_images_and_not_all(tmp_path: Path) -> None:
    """Hard enough: the mean color and contrast of an image leave much in doubt."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    dataset = open_dataset("demo", tmp_path)
    images = dataset.read_block(0, len(dataset)).astype(np.float32)
    X = np.concatenate([images.mean(axis=(1, 2)), images.std(axis=(1, 2))], axis=1)
    train = dataset.splits == 0
    model = make_pipeline(StandardScaler(), LogisticRegression())
    model.fit(X[train], dataset.labels[train])
    assert 0.5 < model.score(X[~train], dataset.labels[~train]) < 0.9


@pytest.mark.parametrize(("n_train", "n_test"), [(3, 10), (10, 0), (700_000, 10)])
def test_impossible_sizes_are_refused(tmp_path: Path, n_train: int, n_test: int) -> None:
    with pytest.raises(ConfigError, match=r"n_(train|test) is"):
        write_demo(tmp_path, 0, n_train, n_test)


def test_a_folder_that_cant_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("a file is in the way")
    with pytest.raises(DatasetError, match=r"demo-full\.mat: can't be written"):
        open_dataset("demo", tmp_path)
