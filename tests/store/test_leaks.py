import numpy as np
import pytest

from featstore.errors import CorruptionError
from featstore.store.leaks import TrainedRows

MASK = np.arange(10) < 4


def test_trained_rows_come_back_from_their_record():
    record = TrainedRows(MASK, "a.pth", "--seed 1").to_record()
    found = TrainedRows.from_record(**record, n_samples=10)
    assert found.mask.tolist() == MASK.tolist()
    assert (found.weights, found.options) == ("a.pth", "--seed 1")


def test_a_test_row_that_trained_the_weights_is_a_leak_unless_a_training_row_is_its_copy():
    rows, first_rows = TrainedRows(MASK, "a.pth", ""), np.arange(10)
    train, test = np.array([0, 1, 8]), np.array([2, 3, 9])
    assert rows.leak(first_rows, train, test).startswith("2 of the 3 test images trained the w")
    first_rows[[2, 3]] = [0, 1]
    assert rows.leak(first_rows, train, test) is None
    assert rows.leak(np.arange(10), train, np.array([8, 9])) is None


def test_a_record_of_another_number_of_rows_is_refused(make_store):
    record = TrainedRows(MASK, "a.pth", "").to_record()
    (feature_set,) = make_store(dataset_info={"trained": record}).sets()
    with pytest.raises(CorruptionError, match="trained has 16 rows of 320"):
        _ = feature_set.trained_rows
