import warnings

import numpy as np
import pytest
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import log_loss
from sklearn.neural_network import MLPClassifier

from featstore.errors import FitError
from featstore.fitting.solvers.batches import MARGIN_LOSSES
from featstore.fitting.solvers.epochs import train, trains_by_epochs


@pytest.fixture
def data(tmp_path):
    """Return standardised X, a read-only memory map of float32, and y, of three classes."""
    rng = np.random.default_rng(0)
    y = (np.arange(300) % 3).astype(np.int32)
    X = rng.normal(size=(3, 10))[y] + rng.normal(size=(300, 10))
    np.save(tmp_path / "X.npy", ((X - X.mean(0)) / X.std(0)).astype(np.float32))
    return np.load(tmp_path / "X.npy", mmap_mode="r"), y


def mlp(**params):
    return MLPClassifier(**{"hidden_layer_sizes": (16,), "random_state": 3, **params})


def sgd(**params):
    return SGDClassifier(**{"loss": "log_loss", "random_state": 3, **params})


@pytest.mark.parametrize(
    "params",
    [
        {"max_iter": 12},
        {"max_iter": 200, "tol": 1e-2},
        {"max_iter": 9, "solver": "sgd", "learning_rate_init": 0.05},
        {
            "max_iter": 60,
            "solver": "sgd",
            "learning_rate": "adaptive",
            "learning_rate_init": 0.1,
            "tol": 1e-2,
            "n_iter_no_change": 2,
        },
        {"max_iter": 9, "solver": "sgd", "learning_rate": "invscaling"},
        {"max_iter": 5, "batch_size": 17},
    ],
)
def test_mlp_ends_with_the_weights_that_its_own_fit_gives(data, params):
    X, y = data
    # Shuffling partial_fit begins from the rows' own order each time, fit from the last order.
    mine, reference = mlp(**params, shuffle=False), mlp(**params, shuffle=False)
    curves = train(mine, X, y)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        reference.fit(X, y)
    assert len(curves.loss) == reference.n_iter_
    assert curves.converged == (not caught)
    for own, theirs in zip(mine.coefs_, reference.coefs_, strict=True):
        np.testing.assert_array_equal(own, theirs)
    np.testing.assert_array_equal(curves.loss, reference.loss_curve_)
    assert curves.score[-1] == pytest.approx(reference.score(X, y))


def test_shuffled_mlp_learns_as_well_as_its_own_fit(data):
    X, y = data
    mine = mlp(max_iter=300, tol=1e-3)
    curves = train(mine, X, y)
    reference = mlp(max_iter=300, tol=1e-3).fit(X, y)
    assert curves.converged
    assert len(curves.loss) == pytest.approx(reference.n_iter_, rel=0.2)
    assert curves.loss[-1] == pytest.approx(reference.loss_, rel=0.2)


def test_sgd_learns_as_well_as_its_own_fit_and_stops_by_itself(data):
    X, y = data
    mine = sgd()
    curves = train(mine, X, y)
    assert curves.converged
    assert 5 < len(curves.loss) < 1000
    assert mine.score(X, y) == pytest.approx(curves.score[-1])
    assert mine.score(X, y) > sgd().fit(X, y).score(X, y) - 0.05


def test_sgd_shuffles_anew_in_each_epoch(data):
    X, y = data
    mine, alike = sgd(max_iter=2, tol=None), sgd()
    train(mine, X, y)
    for _ in range(2):
        # What an integer random_state does: the same order twice.
        alike.partial_fit(X, y, classes=np.unique(y))
    assert not np.array_equal(mine.coef_, alike.coef_)


def test_losses_are_scikit_learns(data):
    X, y = data
    y = y % 2
    mine = sgd(max_iter=3, tol=None, alpha=0.1)
    curves = train(mine, X, y)
    assert curves.loss[-1] == pytest.approx(log_loss(y, mine.predict_proba(X)), rel=1e-4)


@pytest.mark.parametrize("loss", MARGIN_LOSSES)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_all_losses_of_sgd_fall(data, loss, n_classes):
    X, y = data
    curves = train(sgd(loss=loss, max_iter=20, tol=None, alpha=0.01), X, y % n_classes)
    assert len(curves.loss) == 20
    assert min(curves.loss[1:]) <= curves.loss[0]
    assert all(np.isfinite(curves.loss))


@pytest.mark.parametrize("make", [mlp, sgd])
class TestBoth:
    def test_the_same_seed_gives_the_same_bits(self, data, make):
        X, y = data
        results = []
        for seed in (5, 5, 6):
            estimator = make(random_state=seed, max_iter=4)
            curves = train(estimator, X, y)
            results.append((estimator.predict_proba(X), curves.loss))
        np.testing.assert_array_equal(results[0][0], results[1][0])
        assert results[0][1] == results[1][1]
        assert results[0][1] != results[2][1]

    def test_max_iter_is_kept_to_and_told(self, data, make):
        X, y = data
        curves = train(make(max_iter=3), X, y)
        assert (len(curves.loss), len(curves.score)) == (3, 3)
        assert not curves.converged

    def test_early_stopping_holds_rows_out_and_watches_them(self, data, make):
        X, y = data
        estimator = make(early_stopping=True, n_iter_no_change=3, max_iter=300, tol=1e-3)
        curves = train(estimator, X, y)
        assert curves.converged
        assert len(curves.validation_score) == len(curves.loss) < 300
        best = max(curves.validation_score)
        assert max(curves.validation_score[-3:]) <= best + 1e-9

    def test_parameters_are_left_as_they_were(self, data, make):
        X, y = data
        estimator = make(early_stopping=True, max_iter=5)
        before = estimator.get_params()
        train(estimator, X, y)
        assert estimator.get_params() == before


def test_mlp_keeps_the_weights_of_its_best_epoch(data):
    X, y = data
    noise = np.random.default_rng(1).permutation(y)
    estimator = mlp(early_stopping=True, n_iter_no_change=10, max_iter=60, validation_fraction=0.3)
    curves = train(estimator, X, noise)
    held = curves.validation_score
    assert held.index(max(held)) < len(held) - 1
    # The accuracy on all rows belongs to the best epoch, not to the last.
    share = 0.7 * curves.score[held.index(max(held))] + 0.3 * max(held)
    assert estimator.score(X, noise) == pytest.approx(share, abs=0.01)


def test_adaptive_sgd_lowers_its_rate_before_it_stops(data):
    X, y = data
    params = {"learning_rate": "adaptive", "eta0": 0.5, "max_iter": 500, "n_iter_no_change": 2}
    curves = train(sgd(**params), X, y)
    constant = train(sgd(**params | {"learning_rate": "constant"}), X, y)
    assert curves.converged
    assert curves.loss[-1] < constant.loss[-1]


def test_balanced_weights_work_by_epochs(data):
    X, y = data
    few = np.concatenate([np.flatnonzero(y == 0), np.flatnonzero(y == 1)[:8]])
    plain, balanced = sgd(max_iter=20, tol=None), sgd(max_iter=20, tol=None)
    balanced.set_params(class_weight="balanced")
    train(plain, X[few], y[few])
    train(balanced, X[few], y[few])
    assert balanced.class_weight == "balanced"
    assert np.sum(balanced.predict(X) == 1) > np.sum(plain.predict(X) == 1)


def test_divergence_is_an_error_with_a_cure(data):
    X, y = data
    with (
        np.errstate(all="ignore"),
        pytest.raises(FitError, match="failed in epoch .*learning_rate_init"),
    ):
        train(mlp(solver="sgd", learning_rate_init=1e30, activation="identity"), X, y)


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (mlp(), True),
        (mlp(solver="sgd"), True),
        (mlp(solver="lbfgs"), False),
        (sgd(), True),
        (sgd(loss="hinge"), True),
        (sgd(loss="huber"), False),
    ],
)
def test_what_has_no_epochs_to_show_is_left_to_its_own_fit(estimator, expected):
    assert trains_by_epochs(estimator) == expected


class TestNumberOfEpochs:
    @pytest.mark.parametrize("n_epochs", [1, 30])
    @pytest.mark.parametrize("make", [mlp, sgd])
    def test_it_is_kept_to_whatever_the_losses(self, data, make, n_epochs):
        X, y = data
        estimator = make(max_iter=5, tol=1e9, n_iter_no_change=1, early_stopping=True)
        before = estimator.get_params()
        curves = train(estimator, X, y, n_epochs=n_epochs)
        assert (len(curves.loss), len(curves.score)) == (n_epochs, n_epochs)
        assert curves.converged
        # All rows are trained on, since nothing is to be decided by some of them.
        assert curves.validation_score == []
        assert estimator.get_params() == before

    def test_the_first_epochs_are_those_of_a_longer_training(self, data):
        X, y = data
        short, long = train(mlp(), X, y, n_epochs=4), train(mlp(), X, y, n_epochs=9)
        assert long.loss[:4] == short.loss


@pytest.mark.parametrize("make", [mlp, sgd])
class TestValidation:
    def test_other_rows_are_judged_after_each_epoch_and_decide_nothing(self, data, make):
        X, y = data
        judged = []

        def validate(estimator):
            judged.append(estimator.score(X[:50], y[:50]))
            return judged[-1]

        watched, alone = make(max_iter=30, tol=1e-2), make(max_iter=30, tol=1e-2)
        curves = train(watched, X, y, validate=validate)
        assert curves.validation_score == judged
        assert len(judged) == len(curves.loss) > 3
        assert len(set(judged)) > 1
        assert train(alone, X, y).loss == curves.loss
        np.testing.assert_array_equal(watched.predict_proba(X), alone.predict_proba(X))

    def test_rows_held_out_come_first(self, data, make):
        X, y = data
        estimator = make(early_stopping=True, max_iter=4)
        curves = train(estimator, X, y, validate=lambda estimator: pytest.fail("not asked for"))
        assert len(curves.validation_score) == 4


@pytest.mark.parametrize("make", [mlp, sgd])
@pytest.mark.parametrize("early_stopping", [False, True])
def test_without_records_it_trains_the_same(data, make, early_stopping):
    X, y = data
    params = {"early_stopping": early_stopping, "max_iter": 30, "tol": 1e-2, "n_iter_no_change": 3}
    recorded, bare = make(**params), make(**params)
    first, second = train(recorded, X, y), train(bare, X, y, records=False)
    assert first.loss == second.loss
    assert first.validation_score == second.validation_score
    assert first.converged == second.converged
    np.testing.assert_array_equal(recorded.predict_proba(X), bare.predict_proba(X))


@pytest.fixture
def many(tmp_path):
    """Return 3,200 rows sorted by class, as datasets stand, as a read-only memory map, and y."""
    rng = np.random.default_rng(1)
    y = np.sort(np.arange(3200) % 4)
    X = rng.normal(size=(4, 10))[y] + rng.normal(size=(3200, 10))
    np.save(tmp_path / "many.npy", ((X - X.mean(0)) / X.std(0)).astype(np.float32))
    return np.load(tmp_path / "many.npy", mmap_mode="r"), y


@pytest.fixture
def shown(monkeypatch):
    """Let blocks be of 320 rows, and return the blocks that estimators are shown."""
    monkeypatch.setattr("featstore.fitting.solvers.epochs.EPOCH_NBYTES", 320 * 10 * 4)
    blocks = []
    for kind in (MLPClassifier, SGDClassifier):

        def spy(self, X, y, classes=None, partial_fit=kind.partial_fit):
            blocks.append((X, y))
            return partial_fit(self, X, y, classes=classes)

        monkeypatch.setattr(kind, "partial_fit", spy)
    return blocks


def rows_of(blocks):
    return np.sort(np.concatenate([X for X, _ in blocks]), axis=0)


def by_momentum(**params):
    """Return a network that scikit-learn's own steps train."""
    return mlp(**{"solver": "sgd", "learning_rate_init": 0.02, **params})


@pytest.mark.parametrize("make", [by_momentum, sgd])
class TestBlocks:
    def test_each_epoch_shows_every_row_once_in_another_order(self, many, make, shown):
        X, y = many
        curves = train(make(), X, y, n_epochs=2)
        assert [len(block) for block, _ in shown] == [320] * 20
        for epoch in (shown[:10], shown[10:]):
            np.testing.assert_array_equal(rows_of(epoch), np.sort(X, axis=0))
        assert not np.array_equal(shown[0][0], shown[10][0])
        assert len(curves.loss) == 2

    def test_rows_sorted_by_class_come_mixed(self, many, make, shown):
        X, y = many
        train(make(), X, y, n_epochs=2)
        assert np.mean([len(np.unique(labels)) for _, labels in shown]) > 2

    def test_they_are_learned_as_well_as_all_at_once(self, many, make, shown, monkeypatch):
        X, y = many
        curves = train(make(), X, y, n_epochs=20)
        n_blocks = len(shown)
        monkeypatch.undo()
        whole = train(make(), X, y, n_epochs=20)
        assert n_blocks == 10 * len(curves.loss)
        assert curves.score[-1] == pytest.approx(whole.score[-1], abs=0.03)
        assert curves.loss[-1] == pytest.approx(whole.loss[-1], rel=0.3)

    def test_the_same_seed_gives_the_same_bits(self, many, make, shown):
        X, y = many
        losses = [train(make(max_iter=3, random_state=s), X, y).loss for s in (1, 1, 2)]
        assert losses[0] == losses[1] != losses[2]

    def test_rows_held_out_are_never_shown(self, many, make, shown):
        X, y = many
        estimator = make(early_stopping=True, max_iter=200, n_iter_no_change=2, tol=1e-2)
        curves = train(estimator, X, y)
        assert curves.converged
        assert len(curves.validation_score) == len(curves.loss) < 200
        assert max(curves.validation_score) > 0.7
        n_blocks = -(-2880 // 320)
        assert len(shown) == n_blocks * len(curves.loss)
        for epoch in (shown[:n_blocks], shown[-n_blocks:]):
            assert sum(len(block) for block, _ in epoch) == 2880
            np.testing.assert_array_equal(rows_of(epoch), rows_of(shown[:n_blocks]))

    def test_a_block_lacks_no_class_that_other_blocks_have(self, many, make, shown):
        X, y = many
        y = y.copy()
        y[:3] = 7
        estimator = make()
        train(estimator, X, y, n_epochs=1)
        assert estimator.classes_.tolist() == [0, 1, 2, 3, 7]


def test_the_loss_of_blocks_is_the_mean_over_rows(many, shown):
    X, y = many
    # Without steps worth the name, all blocks are judged by the same weights.
    estimator = mlp(solver="sgd", learning_rate_init=1e-12, alpha=0.0)
    curves = train(estimator, X[:3000], y[:3000], n_epochs=1)
    assert [len(block) for block, _ in shown] == [320] * 9 + [3000 % 320]
    expected = log_loss(y[:3000], estimator.predict_proba(X[:3000]))
    assert curves.loss[0] == pytest.approx(expected, rel=1e-4)
