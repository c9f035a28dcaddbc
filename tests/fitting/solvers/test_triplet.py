import numpy as np
import pytest
from sklearn.base import clone
from sklearn.neighbors import KNeighborsClassifier

from featstore.errors import FitError
from featstore.fitting.classifiers import find_classifier
from featstore.fitting.solvers import triplet
from featstore.fitting.solvers.triplet import TripletClassifier, triplet_loss


def noisy(n=240, n_classes=4, n_features=60, seed=0):
    """Return rows whose classes lie in few of many directions."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_classes
    X = rng.normal(size=(n, n_features))
    X[:, :5] += np.random.default_rng(9).normal(size=(n_classes, 5))[y]
    return X.astype(np.float32), y


def small(**params):
    return TripletClassifier(**{"n_components": 16, "n_iter": 120, "random_state": 3, **params})


def test_the_gradient_is_that_of_the_loss():
    rng = np.random.default_rng(0)
    X, labels = rng.normal(size=(20, 6)), np.arange(20) % 3
    projection = rng.normal(size=(6, 4))
    _, gradient = triplet_loss(projection, X, labels)
    for at in np.ndindex(projection.shape):
        step = np.zeros_like(projection)
        step[at] = 1e-6
        up, down = (triplet_loss(projection + sign * step, X, labels)[0] for sign in (1, -1))
        assert gradient[at] == pytest.approx((up - down) / 2e-6, abs=1e-6)


def test_the_loss_is_of_the_hardest_triplets():
    X, labels = np.array([[1.0, 0], [0, 1], [-1, 0], [0.6, 0.8]]), np.array([0, 0, 1, 1])
    far = [np.sqrt(2), np.sqrt(2), np.sqrt(3.2), np.sqrt(3.2)]
    near = [np.sqrt(0.8), np.sqrt(0.4), np.sqrt(2), np.sqrt(0.4)]
    expected = np.mean([np.log(1 + np.exp(a - b)) for a, b in zip(far, near, strict=True)])
    assert triplet_loss(np.eye(2), X, labels)[0] == pytest.approx(expected)


def test_neighbors_are_of_the_same_class_more_often_than_before():
    X, y = noisy()
    X_new, y_new = noisy(seed=1)
    learned = small().fit(X, y)
    points, new = learned.transform(X), learned.transform(X_new)
    np.testing.assert_allclose(np.linalg.norm(new, axis=1), 1, rtol=1e-5)
    plain = KNeighborsClassifier().fit(X, y).score(X_new, y_new)
    assert KNeighborsClassifier().fit(points, y).score(new, y_new) > plain + 0.1
    assert learned.score(X_new, y_new) > plain + 0.1


@pytest.mark.parametrize("head", ["mean", "svm"])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_scores_agree_with_the_predicted_classes(head, n_classes, tmp_path):
    X, y = noisy(n_classes=n_classes)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    names = np.array([3, 5, 8, 9])[y]
    one = clone(small(head=head)).fit(mapped, names)
    values, predicted = one.decision_function(X), one.predict(X)
    assert (predicted == names).mean() > 0.85
    if n_classes == 2:
        np.testing.assert_array_equal(predicted, np.where(values > 0, 5, 3))
    else:
        np.testing.assert_array_equal(predicted, one.classes_[values.argmax(axis=1)])


def test_the_same_seed_gives_the_same_projection():
    X, y = noisy()
    first, again, other = (
        small(n_iter=5, random_state=seed).fit(X, y).components_ for seed in (1, 1, 2)
    )
    assert first.dtype == np.float32
    assert first.tobytes() == again.tobytes() != other.tobytes()


def test_few_rows_rare_classes_and_equal_rows_are_taken(monkeypatch):
    X, y = noisy(n=9, n_classes=4)
    one = small().fit(X, y)
    assert one.components_.shape[1] <= 9
    assert np.isfinite(one.decision_function(X)).all()
    y[:8] = 0
    y[8] = 1
    assert set(small().fit(X, y).predict(X)) <= {0, 1}
    X[:] = X[0]
    X[8] = -X[0]
    assert np.isfinite(small().fit(X, y).decision_function(np.zeros((2, 60), np.float32))).all()
    monkeypatch.setattr(triplet, "MAX_ROWS", 50)
    X, y = noisy()
    assert small().fit(X, y).score(X, y) > 0.8


@pytest.mark.parametrize(("name", "value"), [("head", "tree"), ("n_iter", 0), ("C", -1.0)])
def test_a_value_that_is_out_of_its_range_is_refused(name, value):
    with pytest.raises(FitError, match=f"triplet can't take.*'{name}'"):
        find_classifier("triplet").params({name: value})
