import numpy as np
import pytest
from sklearn.base import clone
from sklearn.neural_network import BernoulliRBM
from sklearn.preprocessing import MinMaxScaler

from featstore.errors import FitError
from featstore.fitting.classifiers import find_classifier
from featstore.fitting.solvers import dbn, epochs
from featstore.fitting.solvers.dbn import DeepBeliefNetwork, fit_range


@pytest.fixture
def data():
    """Return X between 0 and 1, sorted by class, and y, of three classes."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(3, dtype=np.int32), 30)
    X = 2 * rng.normal(size=(3, 8))[y] + rng.normal(size=(90, 8))
    return fit_range(MinMaxScaler(), X.astype(np.float32)), y


def network(**params):
    return DeepBeliefNetwork(**{"hidden_layer_sizes": (12, 6), "random_state": 4, **params})


def test_layers_begin_as_stacked_machines(data, monkeypatch):
    X, y = data
    begun = []

    class Watched(DeepBeliefNetwork):
        def _initialize(self, y, layer_units, dtype):
            super()._initialize(y, layer_units, dtype)
            begun.append([w.copy() for w in (*self.coefs_, *self.intercepts_)])

    params = network(rbm_epochs=3).get_params()
    one = Watched(**params)
    one.partial_fit(X, y, classes=[0, 1, 2])
    rng = np.random.RandomState(4)
    below = X[rng.permutation(len(X))]
    for layer, width in enumerate((12, 6)):
        machine = BernoulliRBM(width, learning_rate=0.06, n_iter=3, random_state=rng).fit(below)
        np.testing.assert_array_equal(begun[0][layer], machine.components_.T)
        np.testing.assert_array_equal(begun[0][3 + layer], machine.intercept_hidden_)
        below = machine.transform(below)
    # All layers are then trained with labels.
    for own, first in zip((*one.coefs_, *one.intercepts_), begun[0], strict=True):
        assert (own != first).any()
    assert not hasattr(one, "_machines")
    one.partial_fit(X, y)
    assert len(begun) == 1


def test_the_same_seed_gives_the_same_network(data):
    X, y = data
    first, again, other, plain = (
        network(tol=1e-3, **own) for own in ({}, {}, {"random_state": 5}, {"rbm_epochs": 0})
    )
    for one in (first, again, other, plain):
        curves = epochs.train(one, X, y)
        assert curves.converged
        assert one.score(X, y) > 0.9
        assert one.get_params()["random_state"] in (4, 5)
    weights = [[w.tobytes() for w in one.coefs_] for one in (first, again, other, plain)]
    assert weights[0] == weights[1]
    assert weights[2] != weights[0] != weights[3]


def test_it_is_an_estimator_of_scikit_learn(data):
    X, y = data
    one = clone(network(max_iter=900)).fit(X, y)
    assert one.score(X, y) > 0.9
    assert one.predict_proba(X).shape == (90, 3)
    several = network().fit(X, np.stack([y > 0, y > 1], axis=1).astype(int))
    assert several.predict(X).shape == (90, 2)


def test_rows_are_brought_between_0_and_1_block_by_block(monkeypatch):
    X = np.random.default_rng(1).normal(size=(50, 4)).astype(np.float32) * [1, 1e6, 1e-6, 0]
    expected = MinMaxScaler().fit_transform(X)
    monkeypatch.setattr(dbn, "row_blocks", lambda *shape: [slice(0, 7), slice(7, 50)])
    scaler = MinMaxScaler(clip=True)
    np.testing.assert_allclose(fit_range(scaler, X), expected, atol=1e-6)
    beyond = scaler.transform(1e9 * np.ones((1, 4)))
    assert beyond.max() <= 1
    assert beyond.min() >= 0


@pytest.mark.parametrize(
    ("name", "value"), [("rbm_epochs", -1), ("rbm_learning_rate", 0), ("hidden_layer_sizes", "few")]
)
def test_a_value_that_is_out_of_its_range_is_refused(name, value):
    with pytest.raises(FitError, match=f"dbn can't take.*'{name}'"):
        find_classifier("dbn").params({name: value})
