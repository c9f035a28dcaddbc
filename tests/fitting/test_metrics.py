import json

import numpy as np
import pytest

from featstore.fitting.evaluate import score


def test_numbers_worked_out_by_hand():
    y_true = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    y_pred = np.array([0, 0, 0, 1, 1, 0, 2, 2])
    result = score(y_true, y_pred, ("a", "b", "c"))
    assert result["accuracy"] == pytest.approx(6 / 8)
    assert result["average_accuracy"] == pytest.approx((3 / 4 + 1 / 2 + 1) / 3)
    # Agreement expected by chance: (4*4 + 2*2 + 2*2) / 64.
    assert result["kappa"] == pytest.approx((6 / 8 - 24 / 64) / (1 - 24 / 64))
    assert result["majority_accuracy"] == pytest.approx(4 / 8)
    assert result["confusion"] == [[3, 1, 0], [1, 1, 0], [0, 0, 2]]
    assert result["per_class"][0] == {
        "name": "a",
        "precision": pytest.approx(3 / 4),
        "recall": pytest.approx(3 / 4),
        "f1": pytest.approx(3 / 4),
        "support": 4,
    }
    json.dumps(result, allow_nan=False)


def test_classes_without_rows_or_predictions_give_no_nan():
    result = score(np.array([0, 0, 1]), np.array([0, 0, 0]), ("a", "b", "none here"))
    b, absent = result["per_class"][1:]
    assert (b["precision"], b["recall"], b["f1"]) == (0.0, 0.0, 0.0)
    assert (absent["recall"], absent["support"]) == (None, 0)
    # The class that has no rows does not lower the average.
    assert result["average_accuracy"] == pytest.approx(0.5)
    json.dumps(result, allow_nan=False)


def test_kappa_is_none_where_it_is_undefined():
    result = score(np.array([1, 1]), np.array([1, 1]), ("a", "b"))
    assert result["kappa"] is None
    assert result["accuracy"] == 1.0


def test_every_prediction_in_a_class_without_rows():
    result = score(np.array([0, 0]), np.array([1, 1]), ("a", "b"))
    assert (result["accuracy"], result["kappa"]) == (0.0, 0.0)
