from types import SimpleNamespace

import numpy as np
import pytest

from featstore.errors import FitError
from featstore.fitting.evaluate import check_features
from featstore.fitting.solvers.blocks import Samples
from featstore.fitting.splits import Split


def check(X, train=slice(0, 60), test=slice(60, 80), val=None, notes=None):
    names = np.array([f"image{i}" for i in range(len(X))])
    selection = SimpleNamespace(n_features=X.shape[1], sample_ids=names)
    split = Split(train, test, val, "test", 0, 0)
    features = {use: Samples(X, rows) for use, rows in split.uses().items()}
    return check_features(selection, split, features, [] if notes is None else notes)


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

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("row", [0, 59, 60, 99])
    def test_features_that_are_no_numbers_are_named(self, X, value, row):
        X[row, [2, 7]] = value
        with pytest.raises(
            FitError, match=rf"row {row} \(image{row}\), columns 2, 7\..*store verify.*fp32"
        ):
            check(X, val=slice(80, 100))

    def test_rows_are_named_by_their_numbers_where_they_are_scattered(self, X):
        X[41, 0] = np.nan
        with pytest.raises(FitError, match=r"1 rows .* row 41 \(image41\)"):
            check(X, train=np.array([3, 17, 40, 41, 58]))

    def test_rows_that_are_not_used_may_be_anything(self, X):
        X[[85, 30]] = np.nan
        assert check(X, train=np.setdiff1d(np.arange(60), [30])) == 0

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

    def test_nothing_but_constants_is_refused(self, X):
        X[:60] = 2.0
        with pytest.raises(FitError, match="All 9 features are the same in every training row"):
            check(X)

    def test_of_many_columns_some_are_named(self, X):
        X[:60, :8] = 0.0
        notes = []
        check(X, notes=notes)
        assert "(columns 0, 1, 2, 3, 4 and 3 more)" in notes[0]
