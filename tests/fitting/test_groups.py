"""Groups of images stay on one side of splits, folds and learning curves."""

from types import SimpleNamespace

import numpy as np
import pytest
from conftest import store_in

from featstore.errors import FitError
from featstore.fitting.fit import fit
from featstore.fitting.folds import check_folds, draw_folds
from featstore.fitting.learning_curve import learning_curve
from featstore.fitting.splits import (
    draw_training_rows,
    row_numbers,
)
from featstore.fitting.tasks import find_task

CLASSES = find_task("classification")

N, N_GROUPS = 360, 60


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Return a store of images that differ by their group alone, and one that hides the groups.

    Labels are a coin's, one for each group: only leaks make them known.
    """
    rng = np.random.default_rng(4)
    groups = np.repeat(np.arange(N_GROUPS, dtype=np.int32), N // N_GROUPS)
    X = rng.normal(size=(N_GROUPS, 40))[groups] + 0.1 * rng.normal(size=(N, 40))
    y = rng.permutation(np.arange(N_GROUPS) % 2)[groups].astype(np.int32)
    splits = (np.arange(N) % 4 == 0).astype(np.uint8)
    folder = tmp_path_factory.mktemp("groups")
    shared = {"X": X.astype(np.float32), "y": y, "splits": splits, "class_names": ("a", "b")}
    grouped = {"groups": groups, "dataset_info": {"group_by": "column scene"}}
    return store_in(folder / "in", N, **shared, **grouped), store_in(folder / "no", N, **shared)


def cut(groups, train, test):
    return set(groups[row_numbers(train)]) & set(groups[row_numbers(test)])


def test_a_new_split_cuts_no_group_and_so_shows_what_leaks_hid(stores):
    grouped, hidden = stores
    selection = grouped.select()
    official = CLASSES.split(selection)
    assert official.n_cut_groups == len(cut(selection.groups, official.train, official.test)) > 0
    drawn = CLASSES.split(selection, 1)
    assert cut(selection.groups, drawn.train, drawn.test) == set()
    assert drawn.n_cut_groups == 0
    assert len(row_numbers(drawn.test)) == pytest.approx(N / 4, abs=10)
    assert not np.array_equal(
        row_numbers(CLASSES.split(selection, 2).test), row_numbers(drawn.test)
    )
    runs = {
        name: fit(store, "knn", split_seed=seed)[0]
        for name, store, seed in (
            ("official", grouped, None),
            ("grouped", grouped, 1),
            ("random", hidden, 1),
        )
    }
    assert [run.record.rows.split for run in runs.values()] == [
        "official split",
        "grouped by column scene",
        "random split",
    ]
    assert runs["official"].outline.summary["n_cut_groups"] == official.n_cut_groups
    accuracy = {name: run.metrics.test.accuracy for name, run in runs.items()}
    assert accuracy["official"] > 0.9
    assert accuracy["random"] > 0.9
    assert accuracy["grouped"] < 0.75


def test_a_search_holds_out_whole_groups(stores):
    accuracies = {}
    for name, store in zip(("grouped", "random"), stores, strict=True):
        options = {"search": "grid", "grid": {"C": [0.1, 1.0]}, "n_jobs": 1}
        (run,) = fit(store, "logreg", **options)
        accuracies[name] = run.record.search.accuracy
    assert accuracies["random"] > 0.9
    assert accuracies["grouped"] < 0.75


def test_the_few_rows_of_halving_are_of_many_groups_and_its_folds_hold_whole_ones(stores):
    selection = stores[0].select()
    rows = row_numbers(CLASSES.split(selection).train)
    few = CLASSES.draw_part(selection, rows, 90, 0, whole_groups=False)
    groups = selection.groups[few]
    assert len(np.unique(groups)) > N_GROUPS / 2
    folds = CLASSES.draw_folds(selection, few, 5, 0)
    assert all(len(set(folds[groups == group])) == 1 for group in np.unique(groups))


def test_each_group_is_in_one_fold():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 40, 400)
    folds = draw_folds(groups % 3, 5, 0, "abc", groups)
    assert all(len(set(folds[groups == group])) == 1 for group in range(40))
    assert set(folds) == set(range(5))
    assert CLASSES.trains_all(groups % 3, folds)
    assert not CLASSES.trains_all(np.where(groups == 7, 3, groups % 3), folds)


@pytest.mark.parametrize(
    ("groups", "labels", "message"),
    [
        ([0, 1, 2], [0, 1, 0], r"5 groups of training rows or more, and there are 3. Try --cv 3"),
        ([0], [0, 1], "there is 1. Choose smaller groups, or leave out --search"),
        (range(5), [0, 0, 0, 0, 1], r"allow no 5 folds that .* two classes. Try --cv 4"),
    ],
)
def test_too_few_groups_for_the_folds_are_refused_with_a_cure(groups, labels, message):
    groups = np.repeat(np.array(groups), 10)
    y = np.resize(np.repeat(labels, 10 if len(labels) > 2 else 1), len(groups))
    with pytest.raises(FitError, match=message):
        draw_folds(y, 5, 0, "ab", groups)
    if len(set(groups)) < 5:
        with pytest.raises(FitError, match=message):
            check_folds(y, 5, "ab", groups)


def test_groups_that_allow_no_new_split_are_told():
    given = SimpleNamespace(
        y=np.array([0, 1] * 4),
        splits=np.array([0] * 6 + [1] * 2, np.uint8),
        valid=np.ones(8, bool),
        class_names=("a", "b"),
        first_rows=np.arange(8),
        groups=np.zeros(8, np.int32),
        trained_rows=(),
    )
    with pytest.raises(FitError, match="of 1 groups, too few to draw a new split"):
        CLASSES.split(given, 0)


def test_few_training_rows_are_of_few_groups():
    rng = np.random.default_rng(1)
    groups = rng.integers(0, 50, 500).astype(np.int32)
    y, rows = groups % 4, np.arange(0, 500, 2)
    for n in (5, 20, 100, 249):
        drawn = draw_training_rows(y, rows, groups, n, seed=3)
        assert len(set(drawn)) == len(drawn) == n
        assert set(drawn) <= set(rows)
        assert set(y[drawn]) == set(range(4))
    assert len(set(groups[draw_training_rows(y, rows, groups, 20, seed=3)])) <= 8
    assert len(set(groups[draw_training_rows(y, rows, None, 20, seed=3)])) > 12


def test_a_learning_curve_says_how_its_rows_were_divided(stores):
    (curve,) = learning_curve(stores[0], "lda", sizes=[60], repeats=1, split_seed=0)
    assert curve.split == "grouped by column scene"
    assert curve.points[0].scores[0] < 0.8
