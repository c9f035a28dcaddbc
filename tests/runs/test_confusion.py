import json
import tracemalloc

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, confusion_matrix

from featstore.fitting.evaluate import score
from featstore.plotting import to_png
from featstore.runs.charts import MAX_SHOWN, draw_confusion
from featstore.runs.confusion import count_pairs, from_record, to_record
from featstore.store.format.run_scores import MAX_DENSE_CLASSES


def labels(n_classes, n_samples=2000):
    """Return true labels, and predictions of which a fifth are drawn at random."""
    rng = np.random.default_rng(n_classes)
    y_true = rng.integers(0, n_classes, n_samples)
    y_pred = np.where(rng.random(n_samples) < 0.8, y_true, rng.integers(0, n_classes, n_samples))
    return y_true, y_pred


def names(n_classes):
    return [f"class {c}" for c in range(n_classes)]


@pytest.mark.parametrize("n_classes", [2, MAX_DENSE_CLASSES, MAX_DENSE_CLASSES + 1, 300])
def test_a_record_holds_all_pairs_or_those_that_occur_and_gives_them_back(n_classes):
    y_true, y_pred = labels(n_classes)
    whole = confusion_matrix(y_true, y_pred, labels=np.arange(n_classes))
    record = to_record(count_pairs(y_true, y_pred, n_classes))
    json.dumps(record)
    if n_classes <= MAX_DENSE_CLASSES:
        assert record == whole.tolist()
    else:
        assert len(record) == np.count_nonzero(whole)
        assert all(whole[true, predicted] == n for true, predicted, n in record)
    np.testing.assert_array_equal(from_record(record, n_classes).toarray(), whole)


@pytest.mark.parametrize("n_classes", [2, 5, 150])
def test_kappa_is_scikit_learns(n_classes):
    y_true, y_pred = labels(n_classes)
    kappa = score(y_true, y_pred, names(n_classes))["kappa"]
    assert kappa == pytest.approx(cohen_kappa_score(y_true, y_pred), abs=1e-12)


def test_ten_thousand_classes_are_scored_and_drawn_in_little_memory():
    y_true, y_pred = labels(10_000, 30_000)
    tracemalloc.start()
    scores = score(y_true, y_pred, names(10_000))
    fig = draw_confusion(scores["confusion"], names(10_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # Counts of all pairs would take 800 MB.
    assert peak < 100e6
    assert len(scores["confusion"]) <= 30_000
    assert to_png(fig).startswith(b"\x89PNG")


def test_of_many_classes_those_that_are_confused_most_are_shown_in_order():
    n_classes = 1000
    y_true = np.arange(n_classes).repeat(20)
    y_pred = y_true.copy()
    # Class 700 + i has 10 - i rows that are taken for class 600.
    for i in range(10):
        y_pred[(700 + i) * 20 : (700 + i) * 20 + 10 - i] = 600
    confusion = to_record(count_pairs(y_true, y_pred, n_classes))
    ax = draw_confusion(confusion, names(n_classes)).axes[0]
    shown = [text.get_text() for text in ax.get_yticklabels()]
    assert shown[:11] == ["class 600", *(f"class {700 + i}" for i in range(10))]
    assert len(shown) == MAX_SHOWN
    assert ax.get_title(loc="left") == "The 60 of 1,000 classes that are confused most"
    share = np.asarray(ax.images[0].get_array())
    # Of all rows of the class, whether their predicted class is shown or not.
    assert share[1, 0] == pytest.approx(10 / 20)
    assert share[1, 1] == pytest.approx(10 / 20)
    assert share[0, 0] == 1


def test_up_to_sixty_classes_are_all_shown_in_their_own_order():
    y_true, y_pred = labels(MAX_SHOWN)
    confusion = to_record(count_pairs(y_true, y_pred, MAX_SHOWN))
    ax = draw_confusion(confusion, names(MAX_SHOWN)).axes[0]
    assert [text.get_text() for text in ax.get_yticklabels()] == names(MAX_SHOWN)
    assert ax.get_title(loc="left") == ""
