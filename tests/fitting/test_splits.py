from types import SimpleNamespace

import numpy as np
import pytest

from featstore.errors import FitError
from featstore.fitting import splits
from featstore.fitting.folds import check_folds, draw_folds
from featstore.fitting.splits import ClassLabels, n_rows, row_numbers

TRAIN, TEST, VAL = 0, 1, 2


def selection(y, splits, valid=None, names=("a", "b"), first_rows=None):
    y = np.array(y, np.int32)
    return SimpleNamespace(
        y=y,
        splits=np.array(splits, np.uint8),
        valid=np.ones(len(y), bool) if valid is None else np.array(valid, bool),
        class_names=names,
        first_rows=np.arange(len(y)) if first_rows is None else np.array(first_rows),
        groups=None,
        trained_rows=(),
    )


def split_rows(given, *args, **options):
    labels = ClassLabels(given.y, given.class_names, given.groups)
    return splits.split_rows(given, labels, *args, **options)


def test_contiguous_rows_are_slices_so_that_taking_them_copies_nothing():
    split = split_rows(selection([0, 1, 0, 1, 0, 1], [TRAIN] * 4 + [TEST] * 2))
    assert split.train == slice(0, 4)
    assert split.test == slice(4, 6)
    assert split.val is None
    X = np.zeros((6, 3))
    assert np.shares_memory(X[split.train], X)


def test_scattered_rows_keep_their_order():
    split = split_rows(selection([0, 1, 0, 1, 0, 1], [TEST, TRAIN, TRAIN, TEST, TRAIN, TEST]))
    assert row_numbers(split.train).tolist() == [1, 2, 4]
    assert row_numbers(split.test).tolist() == [0, 3, 5]
    assert n_rows(split.train) == 3


def test_masked_and_unlabelled_rows_are_left_out_and_counted():
    split = split_rows(
        selection(
            [0, 1, -1, 1, 0, 1, -1, 1],
            [TRAIN] * 5 + [TEST] * 3,
            [True, True, True, False, True, True, False, True],
        )
    )
    assert row_numbers(split.train).tolist() == [0, 1, 4]
    assert row_numbers(split.test).tolist() == [5, 7]
    # The row that is both masked and unlabelled counts once, as masked.
    assert (split.n_masked, split.n_unlabelled) == (2, 1)


def test_val_is_the_test_where_there_is_no_other():
    split = split_rows(selection([0, 1, 0, 1], [TRAIN, TRAIN, VAL, VAL]))
    assert (split.test, split.val, split.test_split) == (slice(2, 4), None, "val")


def test_val_stands_beside_a_test():
    split = split_rows(selection([0, 1, 0, 1, 1], [TRAIN, TRAIN, VAL, TEST, TEST]))
    assert (split.test, split.val, split.test_split) == (slice(3, 5), slice(2, 3), "test")
    assert list(split.uses()) == ["train", "test", "val"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (selection([0, 1], [TEST, TEST]), "no rows to train on"),
        (selection([-1, -1, 0], [TRAIN, TRAIN, TEST]), "no rows to train on.*2 unlabelled"),
        (selection([-1, -1], [TRAIN, TEST]), "None of the 2 images has a label"),
        (selection([0, 1], [TRAIN, TRAIN]), "no rows to test with.*test split"),
        (selection([0, 0, 1], [TRAIN, TRAIN, TEST]), "two classes or more"),
        (selection([0, 1, 2], [TRAIN, TRAIN, TEST], names="abc"), "No training rows.*class c"),
        (selection([0, 1, 5], [TRAIN, TRAIN, TEST]), "label 5.*2 classes"),
        (
            selection([0, 1, 2, 2], [0, 0, 0, 1], [1, 1, 0, 1], names=("a", "b", "roads")),
            "class roads.*1 masked",
        ),
        (selection([], []), "no rows to train on"),
    ],
)
def test_what_can_not_be_split_is_refused_with_its_cause(given, message):
    with pytest.raises(FitError, match=message):
        split_rows(given)


def test_a_class_without_any_rows_is_no_hindrance():
    split = split_rows(selection([0, 1, 0, 1], [0, 0, 1, 1], names=("a", "b", "never")))
    assert n_rows(split.train) == 2


class TestNewSplits:
    def given(self, **more):
        y = np.repeat([0, 1, 2], [100, 50, 10])
        splits = np.where(np.arange(160) % 5 == 0, TEST, TRAIN)
        return selection(y, splits, names="abc", **more)

    def test_each_class_keeps_its_shares(self):
        old, new = split_rows(self.given()), split_rows(self.given(), 0)
        y = self.given().y
        for use in ("train", "test"):
            before, after = getattr(old, use), getattr(new, use)
            assert np.bincount(y[before]).tolist() == np.bincount(y[after]).tolist()
            assert not np.array_equal(row_numbers(before), row_numbers(after))

    def test_every_row_is_in_one_of_them(self):
        new = split_rows(self.given(), 3)
        both = np.concatenate([row_numbers(new.train), row_numbers(new.test)])
        assert np.sort(both).tolist() == list(range(160))
        for rows in (new.train, new.test):
            assert np.all(np.diff(row_numbers(rows)) > 0)

    def test_another_seed_is_another_draw(self):
        first, again, other = (split_rows(self.given(), seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(first.test, again.test)
        assert not np.array_equal(first.test, other.test)

    def test_rows_that_can_not_be_used_stay_out_and_val_rows_stay_what_they_are(self):
        given = self.given()
        given.valid[[3, 5]] = False
        given.y[7] = -1
        given.splits[40:60] = VAL
        new = split_rows(given, 1)
        used = np.concatenate([row_numbers(new.train), row_numbers(new.test)])
        assert not np.isin([3, 5, 7, *range(40, 60)], used).any()
        assert new.val == slice(40, 60)
        assert (new.n_masked, new.n_unlabelled) == (2, 1)

    def test_without_a_test_val_rows_are_drawn(self):
        given = self.given()
        given.splits[given.splits == TEST] = VAL
        old, new = split_rows(given), split_rows(given, 1)
        assert new.test_split == "val"
        assert new.val is None
        assert n_rows(new.test) == n_rows(old.test)
        assert not np.array_equal(new.test, old.test)

    def test_a_class_of_one_image_can_not_be_divided(self):
        y = [0] * 9 + [1] * 9 + [2]
        message = (
            "images or more of each class; roads has one. Add images, or leave out --split-seed"
        )
        with pytest.raises(FitError, match=message):
            split_rows(selection(y, [TRAIN, TEST] * 9 + [TRAIN], names=("a", "b", "roads")), 1)

    def test_fewer_test_rows_than_classes_can_not_be_drawn(self):
        y = [0, 1, 2] * 4
        with pytest.raises(FitError, match="A new split can't be drawn: .*test_size"):
            split_rows(selection(y, [TRAIN] * 11 + [TEST], names="abc"), 1)


class TestLeaks:
    Y = (0, 1, 0, 1, 0, 1, 0, 1)
    SPLITS = (TRAIN, TRAIN, TRAIN, TRAIN, TEST, TEST, TEST, TEST)

    def test_they_are_counted_and_kept(self):
        split = split_rows(selection(self.Y, self.SPLITS, first_rows=[0, 1, 0, 3, 0, 1, 6, 7]))
        assert (split.n_leaked, split.n_dropped) == (2, 0)
        assert split.test == slice(4, 8)

    def test_they_are_dropped_where_that_is_asked_for(self):
        given = selection(self.Y, self.SPLITS, first_rows=[0, 1, 0, 3, 0, 1, 6, 7])
        split = split_rows(given, drop_leaks=True)
        assert (split.n_leaked, split.n_dropped) == (2, 2)
        assert split.test == slice(6, 8)
        assert split.train == slice(0, 4)

    def test_images_twice_among_the_test_are_none(self):
        split = split_rows(selection(self.Y, self.SPLITS, first_rows=[0, 1, 2, 3, 4, 5, 4, 5]))
        assert split.n_leaked == 0

    def test_val_rows_can_leak_too(self):
        splits = (TRAIN, TRAIN, TRAIN, TRAIN, VAL, VAL, TEST, TEST)
        given = selection(self.Y, splits, first_rows=[0, 1, 2, 3, 2, 5, 6, 1])
        split = split_rows(given, drop_leaks=True)
        assert split.n_dropped == 2
        assert row_numbers(split.val).tolist() == [5]
        assert row_numbers(split.test).tolist() == [6]

    def test_val_rows_that_all_leak_are_gone(self):
        splits = (TRAIN, TRAIN, TRAIN, TRAIN, VAL, VAL, TEST, TEST)
        given = selection(self.Y, splits, first_rows=[0, 1, 2, 3, 2, 1, 6, 7])
        split = split_rows(given, drop_leaks=True)
        assert split.val is None
        assert list(split.uses()) == ["train", "test"]

    def test_a_new_split_has_leaks_of_its_own(self):
        rng = np.random.default_rng(0)
        y = np.arange(200) % 2
        # Images in pairs, each within one split as the dataset has it.
        first = np.arange(200) // 4 * 4 + np.arange(200) % 2
        given = selection(y, np.where(np.arange(200) < 120, TRAIN, TEST), first_rows=first)
        assert split_rows(given).n_leaked == 0
        drawn = split_rows(given, int(rng.integers(100)), drop_leaks=True)
        assert drawn.n_leaked == drawn.n_dropped > 10
        assert not np.isin(first[drawn.test], first[drawn.train]).any()

    def test_where_all_leak_nothing_is_left_to_test_with(self):
        given = selection(self.Y, self.SPLITS, first_rows=[0, 1, 2, 3, 0, 1, 2, 3])
        with pytest.raises(FitError, match="All 4 test images are also among the training"):
            split_rows(given, drop_leaks=True)
        assert split_rows(given).n_leaked == 4


class TestFolds:
    def test_each_row_is_held_out_once_and_classes_are_shared_evenly(self):
        y = np.repeat([0, 1, 2], [100, 50, 11])
        folds = draw_folds(y, 5, 0, "abc")
        assert folds.shape == y.shape
        assert set(folds) == set(range(5))
        for c in range(3):
            counts = np.bincount(folds[y == c], minlength=5)
            assert counts.max() - counts.min() <= 1

    def test_rows_sorted_by_class_are_shuffled(self):
        folds = draw_folds(np.repeat([0, 1], 50), 5, 0, "ab")
        assert np.mean(np.diff(folds) == 0) < 0.5

    def test_another_seed_is_another_draw(self):
        y = np.arange(100) % 4
        np.testing.assert_array_equal(draw_folds(y, 5, 1, "abcd"), draw_folds(y, 5, 1, "abcd"))
        assert not np.array_equal(draw_folds(y, 5, 1, "abcd"), draw_folds(y, 5, 2, "abcd"))

    def test_a_hundred_folds_can_be_numbered(self):
        folds = draw_folds(np.arange(400) % 2, 100, 0, "ab")
        assert np.bincount(folds).tolist() == [4] * 100

    @pytest.mark.parametrize("counts", [[9, 3, 4], [9, 1, 9]])
    def test_a_class_of_fewer_rows_than_folds_is_in_some_and_that_is_said(self, counts):
        y = np.repeat([0, 1, 2], counts)
        folds = draw_folds(y, 5, 0, "abc")
        assert all(np.unique(folds[y == c]).size == min(5, n) for c, n in enumerate(counts))
        rare = ", ".join(f"{'abc'[c]} {n}" for c, n in enumerate(counts) if n < 5)
        assert check_folds(y, 5, "abc") == (
            f"Classes with fewer training rows than the 5 folds of the search: {rare}."
        )

    def test_classes_with_rows_for_all_folds_are_not_spoken_of(self):
        assert check_folds(np.repeat([0, 1, 2], 5), 5, "abc") == ""

    @pytest.mark.parametrize(
        ("counts", "message"),
        [
            ([4, 3, 1], r"5 training rows or more of a class, and the largest has 4\. Try --cv 4"),
            ([1, 1, 1], "the largest has 1. Add images, or leave out --search"),
            ([9, 1, 1], "two training rows or more of two classes.*leave out --search"),
        ],
    )
    def test_folds_that_can_not_be_drawn_are_refused_with_a_cure(self, counts, message):
        with pytest.raises(FitError, match=message):
            draw_folds(np.repeat([0, 1, 2], counts), 5, 0, "abc")

    def test_a_class_without_rows_is_no_hindrance(self):
        assert len(draw_folds(np.repeat([0, 2], 9), 5, 0, "abc")) == 18
