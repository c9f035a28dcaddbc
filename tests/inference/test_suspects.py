from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
from conftest import blobs, measured, tagged

import featstore
from featstore.cli.main import _run
from featstore.errors import ConfigError
from featstore.inference.suspects import find_suspects, suggest_labels

pytestmark = pytest.mark.usefixtures("blank_pictures")

FLIPPED = {3: 1, 50: 0, 121: 2, 250: 0, 313: 3}
"""Rows with a wrong label, and the label."""


@pytest.fixture
def noisy(make_store):
    """Return a store with wrong labels, one near-copy and one exact copy of training rows."""
    X, y = blobs(320, 20)
    for row, label in FLIPPED.items():
        assert y[row] != label
        y[row] = label
    X[300] = X[20] * np.linspace(1, 1.1, 20)
    X[301] = X[21]
    first_rows = np.arange(320)
    first_rows[301] = 21
    return make_store(X=X, y=y, first_rows=first_rows)


@pytest.mark.parametrize("clf", ["logreg", "linear-svm", "knn"])
def test_wrong_labels_are_found_with_the_right_one(clf, noisy):
    # A strong penalty keeps a classifier from following wrong labels.
    params = {} if clf == "knn" else {"C": 0.01}
    (run,) = featstore.fit(noisy, clf, n_jobs=1, params=params)
    found = find_suspects(run, store=noisy)
    right = blobs(320, 20)[1]
    names = run.class_names
    assert {one.row for one in found.suspects[:5]} == set(FLIPPED)
    for one in found.suspects[:5]:
        assert (one.label, one.suggested) == (names[FLIPPED[one.row]], names[right[one.row]])
        assert one.split == ("test" if one.row >= 240 else "train")
        assert one.suggested_probability > one.probability
    assert len(found.suspects) < 15
    gaps = [one.probability - one.suggested_probability for one in found.suspects]
    assert gaps == sorted(gaps)


def test_near_copies_are_found_and_exact_ones_named(noisy):
    # With a parameter and a grid of its own, which the further fits leave alone.
    options = {"params": {"solver": "lsqr"}, "search": "grid", "grid": {"shrinkage": [0.2, 0.4]}}
    (run,) = featstore.fit(noisy, "lda", **options, n_jobs=1)
    found = {one.sample_id: one for one in find_suspects(run, store=noisy).near_copies}
    assert set(found) == {"test/0000300", "test/0000301"}
    near, exact = found["test/0000300"], found["test/0000301"]
    assert (near.train_id, near.is_exact) == ("train/0000020", False)
    assert 0 <= near.distance < 0.01
    assert (exact.train_id, exact.is_exact, exact.distance) == ("train/0000021", True, 0)


def test_a_label_changes_where_another_class_reaches_its_own_mean():
    y = np.array([0, 0, 1, 1, 2])
    p = np.array([[0.9, 0.1, 0], [0.3, 0.7, 0], [0.2, 0.8, 0], [0.45, 0.55, 0], [0.5, 0.1, 0.4]])
    # The means are 0.6, 0.675 and 0.4: the last row's 0.5 of the first class is below its mean.
    assert suggest_labels(p, y).tolist() == [0, 1, 1, 1, 2]
    # A class without rows is never suggested.
    assert suggest_labels(np.array([[0.4, 0.6], [0.4, 0.6]]), np.array([0, 0])).tolist() == [0, 0]


@pytest.mark.parametrize("make", [tagged, measured])
def test_runs_of_other_tasks_are_refused(make, tmp_path):
    store = make(tmp_path)
    (run,) = featstore.fit(store, "ridge", n_jobs=1)
    with pytest.raises(ConfigError, match="where each image has one class"):
        find_suspects(run, store=store)


def test_decision_values_without_calibration_are_refused(make_store):
    store = make_store()
    (run,) = featstore.fit(store, "linear-svm", calibrate=False, n_jobs=1)
    with pytest.raises(ConfigError, match="Fit it again without --no-calibrate"):
        find_suspects(run, store=store)


def test_the_command_writes_tables_and_pictures(noisy, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    featstore.fit(noisy, "logreg", n_jobs=1, params={"C": 0.01})
    args = ["suspects", "best", "--store", str(noisy.path)]
    assert _run(args) == 0
    out = capsys.readouterr().out
    assert re.search(r"[0-9]+ of 320 labels look wrong", out)
    assert "2 images are nearly a training image" in out
    assert "0 (same pixels)" in out
    with open("suspects.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {int(row["row"]) for row in rows[:5]} == set(FLIPPED)
    with open("suspects-copies.csv", newline="") as file:
        assert [row["is_exact"] for row in csv.DictReader(file)] == ["True", "False"]
    assert (tmp_path / "suspects.png").is_file()
    assert _run([*args, "--n-pictures", "0", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n_rows"], found["figures"]) == (320, [])
    assert found["suspects"][0]["row"] in FLIPPED


def test_of_clean_labels_it_says_so(make_store, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    X, y = blobs(320, 20)
    store = make_store(X=X + 20 * np.eye(20, dtype=np.float32)[y], y=y)
    featstore.fit(store, "lda", n_jobs=1)
    copies = tmp_path / "suspects-copies.csv"
    copies.write_text("what an earlier call found\n")
    assert _run(["suspects", "best", "--store", str(store.path)]) == 0
    out = capsys.readouterr().out
    assert "No label of 320 looks wrong." in out
    assert "No test or validation image is nearly a training image." in out
    assert not (tmp_path / "suspects.png").exists()
    (header,) = copies.read_text().splitlines()
    assert header.startswith("sample_id,split,label,train_id,")
