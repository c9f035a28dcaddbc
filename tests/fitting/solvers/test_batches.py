import copy

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import SGDClassifier
from sklearn.neural_network import MLPClassifier, MLPRegressor

from featstore.fitting.solvers import batches
from featstore.fitting.solvers.batches import MARGIN_LOSSES, SLOPES, Batches, handles
from featstore.fitting.solvers.blocks import Threads, shared_threads
from featstore.fitting.solvers.dbn import DeepBeliefNetwork
from featstore.fitting.solvers.epochs import train


@pytest.fixture(autouse=True)
def large(monkeypatch):
    """Let few rows be many, and parts and pieces be small."""
    monkeypatch.setattr(batches, "MANY_ROWS", 0)
    monkeypatch.setattr(batches, "PART_ROWS", 64)
    monkeypatch.setattr(batches, "PIECE_VALUES", 50)


@pytest.fixture(scope="module")
def data():
    """Return standardised X, float32, and y, of three classes."""
    rng = np.random.default_rng(0)
    y = np.arange(600) % 3
    X = rng.normal(size=(3, 10))[y] + rng.normal(size=(600, 10))
    return ((X - X.mean(0)) / X.std(0)).astype(np.float32), y


def mlp(**params):
    return MLPClassifier(**{"hidden_layer_sizes": (16,), "random_state": 3, **params})


def sgd(**params):
    return SGDClassifier(**{"loss": "log_loss", "random_state": 3, **params})


TARGETS = {
    "three classes": (mlp, lambda y: y),
    "two classes": (mlp, lambda y: y % 2),
    "several classes": (mlp, lambda y: np.stack([y == 1, y > 0], axis=1).astype(np.int8)),
    "a number": (
        lambda **params: MLPRegressor(hidden_layer_sizes=(16,), random_state=3, **params),
        lambda y: (y - 1.0).astype(np.float32),
    ),
}


def weights_of(network):
    return [*network.coefs_, *network.intercepts_]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_the_steps_of_a_network_are_scikit_learns(data, target, activation):
    X, y = data
    make, of = TARGETS[target]
    y = of(y)
    theirs = make(batch_size=len(X), alpha=0.3, activation=activation)
    more = {} if target == "a number" else {"classes": np.unique(y) if y.ndim == 1 else [0, 1]}
    theirs.partial_fit(X, y, **more)
    mine = copy.deepcopy(theirs)
    # A new optimizer begins with its first step.
    del theirs._optimizer
    state = Batches(mine, len(X), Threads())
    for _ in range(5):
        theirs.partial_fit(X, y)
        loss = state.epoch(X, y, np.arange(len(X)))
    assert loss == pytest.approx(theirs.loss_, rel=1e-5)
    for own, other in zip(weights_of(mine), weights_of(theirs), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("n_rows", [600, 90])
def test_few_rows_take_the_batches_and_penalties_of_scikit_learns_own_fit(
    data, n_rows, monkeypatch
):
    monkeypatch.setattr(batches, "MANY_ROWS", 40_000)
    X, y = data[0][:n_rows], data[1][:n_rows]
    # The last of the batches has fewer rows, and so a stronger penalty.
    params = {"alpha": 5.0, "shuffle": False, "max_iter": 4}
    params |= {"batch_size": 170} if n_rows == 600 else {}
    theirs, mine = mlp(**params), mlp(**params)
    with pytest.warns(ConvergenceWarning):
        theirs.fit(X, y)
    # The first weights, as a step of no length leaves them.
    mine.set_params(learning_rate_init=1e-30).partial_fit(X, y, classes=[0, 1, 2])
    mine.set_params(learning_rate_init=theirs.learning_rate_init)
    state = Batches(mine, n_rows, Threads())
    losses = [state.epoch(X, y, np.arange(n_rows)) for _ in range(4)]
    np.testing.assert_allclose(losses, theirs.loss_curve_, rtol=1e-5)
    for own, other in zip(weights_of(mine), weights_of(theirs), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("loss", SLOPES)
def test_slopes_are_those_of_the_losses(loss):
    z = np.linspace(-3, 3, 50)
    step = 1e-6
    numeric = (MARGIN_LOSSES[loss](z + step) - MARGIN_LOSSES[loss](z - step)) / (2 * step)
    np.testing.assert_allclose(SLOPES[loss](z), numeric, atol=1e-4)


@pytest.mark.parametrize(
    ("n_classes", "class_weight"), [(3, None), (3, "balanced"), (2, {0: 3.0, 1: 0.5})]
)
def test_sgd_comes_as_near_to_its_objective_as_by_single_rows(
    data, n_classes, class_weight, monkeypatch
):
    monkeypatch.setattr(batches, "SMALL_BATCH", 20)
    X, y = data
    y = np.where(np.arange(len(y)) % 5, y, 0) % n_classes
    params = {"alpha": 0.01, "class_weight": class_weight}
    mine = sgd(**params)
    curves = train(mine, X, y, n_epochs=60, records=False)
    theirs = sgd(**params, max_iter=60, tol=None).fit(X, y)
    weights = theirs._expanded_class_weight

    def objective(one):
        values = one.decision_function(X).reshape(len(X), -1)
        own = y[:, None] == (np.arange(n_classes) if n_classes > 2 else 1)
        rest = weights[0] if n_classes == 2 else 1.0
        costs = np.where(own, weights if n_classes > 2 else weights[1], rest)
        losses = costs * MARGIN_LOSSES["log_loss"](np.where(own, values, -values))
        return losses.mean(axis=0).sum() + 0.5 * params["alpha"] * np.sum(one.coef_**2)

    assert objective(mine) < objective(theirs) + 1e-3
    assert len(curves.loss) == 60
    assert mine.coef_.shape == theirs.coef_.shape


@pytest.mark.parametrize("make", [mlp, sgd])
def test_training_is_scikit_learns_in_all_else(data, make, monkeypatch):
    monkeypatch.setattr(batches, "SMALL_BATCH", 20)
    X, y = data
    estimator = make(early_stopping=True, n_iter_no_change=5, max_iter=300, tol=1e-3)
    before = estimator.get_params()
    curves = train(estimator, X, y + 5)
    assert curves.converged
    assert len(curves.validation_score) == len(curves.score) == len(curves.loss) < 300
    assert estimator.get_params() == before
    assert estimator.classes_.tolist() == [5, 6, 7]
    assert estimator.score(X, y + 5) > make(tol=0.01).fit(X, y).score(X, y) - 0.05


@pytest.mark.parametrize("make", [mlp, sgd])
def test_threads_and_records_change_no_bit(data, make, monkeypatch):
    X, y = data
    found = []
    for n_threads, records in ((1, True), (3, False)):
        monkeypatch.setattr(
            "featstore.fitting.solvers.blocks.available_threads", lambda n=n_threads: n
        )
        with shared_threads() as threads:
            assert threads._n_threads == n_threads
        estimator = make(batch_size=300) if make is mlp else make()
        curves = train(estimator, X, y, n_epochs=5, records=records)
        found.append((estimator.predict_proba(X), curves.loss))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_an_epoch_has_each_row_once_in_batches_that_grow_with_the_rows(data, monkeypatch):
    X, y = data
    shown = []
    descend = Batches._descend
    monkeypatch.setattr(
        Batches, "_descend", lambda s, X, y, part: shown.append(part) or descend(s, X, y, part)
    )
    train(mlp(), X, y, n_epochs=2)
    rows = [row for _, part in shown for row in part]
    assert sorted(rows[:600]) == sorted(rows[600:]) == list(range(600)) != rows[:600]
    sizes = [
        Batches(train_few(data), n, Threads()).n_in_batch for n in (600, 40_000, 100_000, 10**7)
    ]
    assert sizes == [200, 200, 500, 1000]


def train_few(data):
    X, y = data
    return mlp().partial_fit(X, y, classes=[0, 1, 2])


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (mlp(), True),
        (mlp(solver="sgd"), False),
        (mlp(shuffle=False), False),
        (MLPRegressor(loss="poisson"), False),
        (DeepBeliefNetwork(), False),
        (sgd(), True),
        (sgd(learning_rate="constant", eta0=0.1), False),
        (sgd(penalty="l1"), False),
        (sgd(average=True), False),
    ],
)
def test_what_is_for_single_rows_or_small_batches_stays_theirs(estimator, expected, monkeypatch):
    monkeypatch.setattr(batches, "MANY_ROWS", 40_000)
    assert handles(estimator, 40_001) == expected
    # A network's batches are scikit-learn's; a linear model's are for many rows.
    assert handles(estimator, 40_000) == (expected and not isinstance(estimator, SGDClassifier))
