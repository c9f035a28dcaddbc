"""Files in the genuine formats, made by other libraries, from images to a judged classifier."""

from __future__ import annotations

import gzip
import json

import h5py
import numpy as np
import pytest
import scipy.io
from PIL import Image

from featstore.cli.main import _run
from featstore.datasets.formats.ucmerced import CLASSES

NAMES = ["barren land", "trees", "grassland", "none"]
N_TRAIN, N_TEST = 48, 16


def sat_arrays(seed=0):
    """Return images (N, 28, 28, 4) whose brightness tells the class, and labels, train and test."""
    rng = np.random.default_rng(seed)
    found = []
    for n in (N_TRAIN, N_TEST):
        y = rng.permutation(np.arange(n) % 4)
        X = rng.integers(0, 40, (n, 28, 28, 4)) + 60 * y[:, None, None, None]
        found += [X.astype(np.uint8), y]
    return found


def annotations():
    cells = np.empty((4, 2), dtype=object)
    for i, name in enumerate(NAMES):
        cells[i] = "".join("1" if j == i else "0" for j in range(4)), name
    return cells


def write_v5(root):
    X_train, y_train, X_test, y_test = sat_arrays()
    scipy.io.savemat(
        root / "sat-4-full.mat",
        {
            "train_x": X_train.transpose(1, 2, 3, 0),
            "train_y": np.eye(4)[y_train].T,
            "test_x": X_test.transpose(1, 2, 3, 0),
            "test_y": np.eye(4)[y_test].T,
            "annotations": annotations(),
        },
        do_compression=True,
    )


def write_v73(root):
    X_train, y_train, X_test, y_test = sat_arrays()
    with h5py.File(root / "sat-4-full.mat", "w", userblock_size=512) as file:
        for split, X, y in (("train", X_train, y_train), ("test", X_test, y_test)):
            # MATLAB's axes are reversed in HDF5.
            file[f"{split}_x"] = X.transpose(0, 3, 2, 1)
            file[f"{split}_y"] = np.eye(4)[y]
        references = np.empty((2, 4), dtype=h5py.ref_dtype)
        for i, row in enumerate(annotations()):
            for j, text in enumerate(row):
                cell = file.create_dataset(f"#refs#/{i}{j}", data=[[ord(c)] for c in text])
                cell.attrs["MATLAB_class"] = np.bytes_("char")
                references[j, i] = cell.ref
        file.create_dataset("annotations", data=references, dtype=h5py.ref_dtype)
    with (root / "sat-4-full.mat").open("rb+") as stream:
        stream.write(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM")


def write_csv(root):
    X_train, y_train, X_test, y_test = sat_arrays()
    for split, X, y in (("train", X_train, y_train), ("test", X_test, y_test)):
        lines = "\n".join(",".join(map(str, row)) for row in X.reshape(len(X), -1)) + "\n"
        (root / f"X_{split}_sat4.csv.gz").write_bytes(gzip.compress(lines.encode()))
        np.savetxt(root / f"y_{split}_sat4.csv", np.eye(4, dtype=int)[y], "%d", delimiter=",")
    rows = [f"{code},{name}" for code, name in annotations()]
    (root / "sat4annotations.csv").write_text("\n".join(rows) + "\n")


def write_ucmerced(root):
    rng = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        folder = root / "UCMerced_LandUse" / "Images" / name
        folder.mkdir(parents=True)
        for i in range(10):
            # As in the real files, some are not quite 256x256.
            height = 256 if i else 253
            color = np.array([label % 3, label // 3 % 3, label // 9]) * 85
            pixels = np.clip(color + rng.normal(0, 20, (height, 256, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{name}{i:02d}.tif")


def run_json(capsys, *args):
    assert _run([*args, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("dataset", "write", "n_train", "n_test"),
    [
        ("sat4", write_v5, N_TRAIN, N_TEST),
        ("sat4", write_v73, N_TRAIN, N_TEST),
        ("sat4", write_csv, N_TRAIN, N_TEST),
        ("ucmerced", write_ucmerced, 21 * 7, 21 * 3),
    ],
)
def test_from_files_to_a_judged_classifier(
    dataset, write, n_train, n_test, tmp_path, monkeypatch, capsys
):
    root = tmp_path / "data"
    root.mkdir()
    write(root)
    monkeypatch.setenv("FEATSTORE_DATA", str(root))
    monkeypatch.setenv("FEATSTORE_STORE", str(tmp_path / "store"))
    network = ["--model", "resnet18", "--weights", "random:0", "--image-size", "32"]
    extracted = run_json(capsys, "extract", *network, "--dataset", dataset)
    assert extracted["n_images"] == extracted["n_computed"] == n_train + n_test
    (run,) = run_json(capsys, "fit", "--clf", "logreg")["runs"]
    assert (run["n_train"], run["n_test"]) == (n_train, n_test)
    assert (run["dataset"], run["model"], run["layers"]) == (dataset, "resnet18", ["fc"])
    # Brightness and colour tell the classes, in the right order of images and labels only.
    assert run["accuracy"] > 0.9
    assert run_json(capsys, "extract", *network, "--dataset", dataset)["n_computed"] == 0


def test_all_ways_to_write_sat4_give_the_same_features(tmp_path, capsys):
    features = []
    for write in (write_v5, write_v73, write_csv):
        root = tmp_path / write.__name__
        root.mkdir()
        write(root)
        args = ["--model", "resnet18", "--weights", "random:0", "--image-size", "32"]
        places = ["--root", str(root), "--store", str(root / "store")]
        run_json(capsys, "extract", *args, "--dataset", "sat4", *places)
        out = root / "x.npz"
        assert _run(["store", "export", str(out), "--store", str(root / "store")]) == 0
        capsys.readouterr()
        with np.load(out) as found:
            features.append({name: found[name] for name in ("X", "y", "split", "class_names")})
    for other in features[1:]:
        for name, value in other.items():
            np.testing.assert_array_equal(value, features[0][name])
