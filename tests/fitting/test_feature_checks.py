import numpy as np
import pytest

from featstore.errors import FitError
from featstore.fitting.evaluate import check_features
from featstore.fitting.solvers.blocks import Samples


def check(X, train=slice(0, 60), notes=None):
    return check_features(Samples(X, train), [] if notes is None else notes)


@pytest.fixture
def X():
    return np.random.default_rng(0).normal(size=(100, 9)).astype(np.float32)


@pytest.fixture(params=[None, 3], ids=["one block", "blocks of 3 rows"])
def _blocks(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(
            Samples,
            "blocks",
            lambda self, **_: [slice(i, i + 3) for i in range(0, len(self), 3)],
        )


@pytest.mark.usefixtures("_blocks")
class TestFeatures:
    def test_good_features_are_not_spoken_of(self, X):
        notes = []
        assert check(X, notes=notes) == 0
        assert notes == []

    def test_columns_that_are_constant_where_it_is_trained_are_counted_and_named(self, X):
        X[:60, [1, 8]] = 3.5
        notes = []
        assert check(X, notes=notes) == 2
        assert notes == [
            "2 of 9 features are the same in every training row (columns 1, 8); they tell nothing."
        ]

    def test_columns_that_are_constant_elsewhere_are_not(self, X):
        X[60:80, 4] = 1.0
        X[1:60, 5] = 1.0
        assert check(X) == 0

    def test_scattered_training_rows_are_those_that_count(self, X):
        X[[3, 17, 40, 58], 2] = 7.0
        assert check(X, train=np.array([3, 17, 40, 58])) == 1
        assert check(X, train=np.array([3, 17, 40, 41])) == 0

    def test_nothing_but_constants_is_refused(self, X):
        X[:60] = 2.0
        with pytest.raises(FitError, match="All 9 features are the same in every training row"):
            check(X)

    def test_of_many_columns_some_are_named(self, X):
        X[:60, :8] = 0.0
        notes = []
        check(X, notes=notes)
        assert "(columns 0, 1, 2, 3, 4 and 3 more)" in notes[0]
