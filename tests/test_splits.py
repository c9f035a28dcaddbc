from types import SimpleNamespace

import numpy as np
import pytest

from featstore.errors import FitError
from featstore.splits import n_rows, row_numbers, split_rows

TRAIN, TEST, VAL = 0, 1, 2


def selection(y, splits, valid=None, names=("a", "b")):
    y = np.array(y, np.int32)
    return SimpleNamespace(
        y=y,
        splits=np.array(splits, np.uint8),
        valid=np.ones(len(y), bool) if valid is None else np.array(valid, bool),
        class_names=names,
    )


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
        (selection([0, 1], [TRAIN, TRAIN]), "no rows to test with.*test/ folder"),
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
