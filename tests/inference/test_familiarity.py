from __future__ import annotations

import numpy as np
import pytest

from featstore.fitting.solvers.blocks import Samples
from featstore.inference import familiarity
from featstore.inference.familiarity import Familiarity


def rows(n, seed, center=0.0):
    """Return rows whose columns have very different sizes."""
    random_state = np.random.default_rng(seed)
    X = random_state.gamma(0.5, size=(n, 20)) + center
    return (X * np.geomspace(0.001, 1000, 20)).astype(np.float32)


def expected(X, train):
    """Return shares computed the long way."""
    scale = np.sqrt(np.square(train.astype(np.float64)).mean(axis=0))

    def cosines(a, b):
        a, b = a / scale, b / scale
        a /= np.linalg.norm(a, axis=1, keepdims=True)
        return a @ (b / np.linalg.norm(b, axis=1, keepdims=True)).T

    own = cosines(train, train)
    np.fill_diagonal(own, -1)
    distances, own = 1 - cosines(X, train).max(axis=1), 1 - own.max(axis=1)
    return np.mean(own >= distances[:, None], axis=1)


def test_it_is_the_share_of_training_rows_that_lie_as_far_from_their_fellows():
    train, new = rows(300, 0), rows(40, 1)
    found = Familiarity.fit(Samples(train, slice(0, 300)))
    np.testing.assert_allclose(found.of(new), expected(new, train), atol=1 / 300)
    assert found.of(train[:5]).tolist() == [1] * 5
    assert found.of(-new).tolist() == [0] * 40
    assert found.of(new[:0]).shape == (0,)
    # What changes the unit of a column changes nothing.
    units = np.geomspace(1e-3, 1e3, 20).astype(np.float32)
    other = Familiarity.fit(Samples(train * units, slice(0, 300)))
    np.testing.assert_allclose(other.of(new * units), found.of(new), atol=1 / 300)


def test_new_rows_of_the_same_kind_are_as_familiar_as_training_rows():
    found = Familiarity.fit(Samples(rows(2000, 0), slice(0, 2000)))
    assert np.mean(found.of(rows(2000, 1)) < 0.1) == pytest.approx(0.1, abs=0.03)


def test_of_many_training_rows_as_many_are_drawn_as_fit_into_memory(monkeypatch):
    monkeypatch.setattr(familiarity, "N_REFERENCE", 100)
    monkeypatch.setattr(familiarity, "N_MEASURED", 50)
    train = rows(1000, 0)
    found = Familiarity.fit(Samples(train, np.arange(0, 1000, 2)))
    again = Familiarity.fit(Samples(train, np.arange(0, 1000, 2)))
    assert found.neighbors.n_samples_fit_ == 100
    assert found.distances.shape == (50,)
    np.testing.assert_array_equal(found.of(train), again.of(train))


def test_constant_columns_copies_and_too_few_rows():
    assert Familiarity.fit(Samples(rows(1, 0), slice(0, 1))) is None
    train = rows(50, 0)
    train[:, 3] = 0
    train[10:30] = train[0]
    found = Familiarity.fit(Samples(train, slice(0, 50)))
    assert np.isfinite(found.of(rows(50, 1))).all()
    # A row of zeros is at right angles to all others.
    assert found.of(np.zeros((1, 20), np.float32)).tolist() == [0]
