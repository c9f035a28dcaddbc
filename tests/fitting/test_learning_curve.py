import numpy as np
import pytest
from conftest import blobs, tagged
from makers import Listener

from featstore.errors import ConfigError, FitError
from featstore.fitting.curve_sizes import draw_shots
from featstore.fitting.fit import fit
from featstore.fitting.learning_curve import learning_curve
from featstore.runs.opening import list_runs


def noisy(make_store, **more):
    X, y = blobs(400, 12)
    X += np.random.default_rng(5).normal(size=X.shape).astype(np.float32) * 3
    return make_store(400, 12, X=X, y=y, **more)


def test_accuracy_grows_and_ends_where_a_fit_does(make_store):
    store = noisy(make_store)
    (curve,) = learning_curve(store, "lda")
    sizes = [point.n_train for point in curve.points]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == 300
    assert [len(point.scores) for point in curve.points] == [3] * (len(sizes) - 1) + [1]
    means = [np.mean(point.scores) for point in curve.points]
    assert means[-1] > means[0] + 0.1
    (run,) = fit(store, "lda")
    assert curve.points[-1].scores[0] == run.metrics.test.accuracy
    assert curve.points[-1].train_scores[0] == run.metrics.train.accuracy
    assert curve.params == run.record.params
    assert curve.n_test == 100


def test_it_leaves_no_runs_and_no_scratch(make_store):
    store = noisy(make_store)
    learning_curve(store, "ridge", sizes=[50], repeats=1)
    assert list_runs(store) == []
    assert list((store.cache_dir / "scratch").iterdir()) == []


def test_a_curve_for_each_selection(make_store):
    X, y = blobs(320, 20)
    store = make_store(layers={"fc1000": X, "conv1": X[:, :5].copy()})
    curves = learning_curve(store, "knn", layers=["fc1000", "conv1"], sizes=[100], repeats=1)
    assert [curve.layers for curve in curves] == [("fc1000",), ("conv1",)]


@pytest.mark.parametrize("clf", ["nystroem-svm", "knn", "sgd"])
def test_maps_and_unscaled_and_epochs(make_store, clf):
    (curve,) = learning_curve(make_store(), clf, sizes=[60], repeats=1)
    assert curve.points[0].scores[0] > 0.9


def test_what_can_not_be_is_refused(make_store):
    store = make_store()
    message = "A size is 500; with 240 training rows it may be from 5 to 236, or 240"
    with pytest.raises(ConfigError, match=message):
        learning_curve(store, sizes=[500])
    with pytest.raises(ConfigError, match="whole number"):
        learning_curve(store, repeats=0)
    with pytest.raises(FitError, match="--memory"):
        learning_curve(store, memory_nbytes=1000)
    with pytest.raises(FitError, match="n_neighbors"):
        learning_curve(store, "knn", params={"n_neighbors": 50}, sizes=[20], n_jobs=1)


@pytest.mark.parametrize("n_samples", [12, 24, 32])
def test_few_images_have_a_curve_too(make_store, n_samples):
    (curve,) = learning_curve(make_store(n_samples, 6), "lda", repeats=2)
    n_train = n_samples * 3 // 4
    assert curve.points[-1].n_train == n_train
    assert all(point.n_train in {n_train, *range(n_train - 3)} for point in curve.points)


def test_memory_bounds_how_many_are_trained_at_a_time(make_store, monkeypatch):
    monkeypatch.setattr("featstore.fitting.cost.QUICK_S", 0.0)
    listener = Listener()
    settings = {"sizes": [40, 100], "memory_nbytes": 160 * 10**6, "n_jobs": 2}
    learning_curve(make_store(), "knn", progress=listener, **settings)
    assert listener.lines == ["Running one fit at a time: memory is short."]


def test_shots_are_images_of_each_class(make_store):
    store = noisy(make_store)
    (curve,) = learning_curve(store, "ridge", shots=[10, 1], repeats=4)
    assert [(point.n_shots, point.n_train) for point in curve.points] == [(1, 4), (10, 40)]
    assert all(len(point.scores) == 4 and point.deviation > 0 for point in curve.points)
    assert curve.points[1].mean > curve.points[0].mean
    assert learning_curve(store, "ridge", shots=[1, 10], repeats=4) == [curve]


def test_more_shots_include_the_fewer():
    y = np.random.default_rng(0).permutation(np.repeat([0, 2, 5], [40, 9, 20]))
    one, nine = (draw_shots(y, k, 3) for k in (1, 9))
    assert set(one) < set(nine)
    assert np.bincount(y[nine]).tolist() == [9, 0, 9, 0, 0, 9]
    assert (np.diff(nine) > 0).all()
    assert set(draw_shots(y, 1, 4)) != set(one)


def test_shots_that_a_class_lacks_are_refused(make_store, tmp_path):
    store = make_store()
    with pytest.raises(ConfigError, match="61 shots are not possible: .* has 60 training images"):
        learning_curve(store, shots=[1, 61])
    with pytest.raises(ConfigError, match="Give sizes or shots"):
        learning_curve(store, shots=[1], sizes=[50])
    with pytest.raises(ConfigError, match="one class each; those of tags are not"):
        learning_curve(tagged(tmp_path / "tags"), shots=[1])
