from types import SimpleNamespace

import pytest
from makers import Listener

from featstore.config import FitConfig
from featstore.errors import FitError
from featstore.fitting import cost
from featstore.fitting.classifiers import CLASSIFIERS, find_classifier
from featstore.fitting.cost import Cost, Shape, estimate

SMALL = Shape(n_train=1_680, n_predicted=420, n_features=2_048, n_classes=21)
LARGE = Shape(n_train=324_000, n_predicted=81_000, n_features=4_096, n_classes=6)


def cost_of(name, shape=SMALL, params=None, n_candidates=0, **options):
    config = FitConfig(name, **options)
    clf = find_classifier(name)
    return estimate(clf, config, clf.params(params or {}), shape, n_candidates)


def more(shape, **changes):
    return Shape(**{**vars(shape), **changes})


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_more_of_anything_never_costs_less(name):
    base = cost_of(name)
    assert base.duration_s >= 0
    assert 10**8 < base.nbytes < 10**9
    for changes in ({"n_train": 16_800}, {"n_features": 20_480}, {"n_classes": 210}):
        larger = cost_of(name, more(SMALL, **changes))
        assert larger.duration_s >= base.duration_s
        assert larger.nbytes >= base.nbytes
    searched = cost_of(name, n_candidates=12, search="grid")
    assert searched.duration_s >= base.duration_s


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_small_data_take_seconds(name):
    assert cost_of(name).duration_s < 120


@pytest.mark.parametrize("name", [name for name, c in CLASSIFIERS.items() if c.streams])
def test_what_streams_takes_no_more_memory_for_more_rows(name):
    assert cost_of(name, LARGE).nbytes < 2.5e9
    assert cost_of(name, more(LARGE, n_train=10**8)).nbytes == cost_of(name, LARGE).nbytes
    assert cost_of(name, LARGE).nbytes < 4 * LARGE.n_train * LARGE.n_features


def test_the_time_of_an_exact_svm_grows_with_the_square_of_the_rows():
    once = cost_of("svm", more(SMALL, n_train=10_000, n_predicted=1)).duration_s
    twice = cost_of("svm", more(SMALL, n_train=20_000, n_predicted=1)).duration_s
    assert twice == pytest.approx(4 * once, rel=0.01)
    hours = cost_of("svm", Shape(400_000, 1, 1_000, 6)).duration_s / 3600
    assert 10 < hours < 100


def test_searches_that_share_their_passes_cost_little_more():
    alone, searched = (
        cost_of("ridge", LARGE),
        cost_of("ridge", LARGE, n_candidates=100, search="grid"),
    )
    assert searched.duration_s < 20 * alone.duration_s
    searched = cost_of("knn", n_candidates=10, search="grid", cv=5, calibrate=False)
    alone = cost_of("knn", calibrate=False)
    assert searched.duration_s == pytest.approx(41 * alone.duration_s)
    # Calibration fits once more, and holds a copy of the rows.
    calibrated = cost_of("knn")
    assert calibrated.duration_s == pytest.approx(1.8 * alone.duration_s)
    assert calibrated.nbytes - alone.nbytes == 4 * SMALL.n_train * SMALL.n_features


def test_epochs_that_are_asked_for_are_counted():
    assert cost_of("mlp", n_epochs=500).duration_s == pytest.approx(
        500 * cost_of("mlp", n_epochs=1).duration_s
    )
    assert cost_of("mlp", params={"max_iter": 5}).duration_s < cost_of("mlp").duration_s
    wide = cost_of("mlp", params={"hidden_layer_sizes": (2048, 1024)})
    assert wide.duration_s > 5 * cost_of("mlp").duration_s
    assert wide.nbytes > cost_of("mlp").nbytes


def test_a_kernels_map_takes_memory_by_its_components():
    few, many = (cost_of("nystroem-svm", LARGE, {"n_components": n}).nbytes for n in (100, 2000))
    assert many - few > 0.9 * 4 * LARGE.n_train * 1900


def test_what_is_left_to_scikit_learns_solver_costs_memory():
    quick, own = cost_of("linear-svm", LARGE), cost_of("linear-svm", LARGE, {"loss": "hinge"})
    assert own.nbytes > 20 * LARGE.n_train * LARGE.n_features > quick.nbytes
    assert own.duration_s > quick.duration_s


def check(name, duration_s=1.0, nbytes=10**6, budget=10**9, *, force=False):
    return cost.check(find_classifier(name), Cost(duration_s, nbytes), SMALL, budget, force=force)


def test_what_takes_seconds_is_not_spoken_of():
    assert check("knn") == ""


def test_what_takes_long_is_said():
    text = check("mlp", 600.0, 3 * 10**8)
    assert text == (
        "mlp on 1,680 x 2,048 training features: some 10 min on one core and 300.0 MB of memory."
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("svm", "square of the rows.*Use nystroem-svm, which approximates its kernel, or linear-s"),
        ("mlp", "--limit, or search less"),
        ("knn", "Use logreg, linear-svm, sgd, mlp, ridge or lda, which take rows in blocks"),
        ("nystroem-svm", "Use logreg"),
    ],
)
def test_what_would_not_end_or_fit_is_refused_with_others_named(name, message):
    with pytest.raises(FitError, match=rf"some 10 hours\. .*{message}.*--force") as caught:
        check(name, 36_000.0)
    assert f"{name} on 1,680 x 2,048 training features" in str(caught.value)
    with pytest.raises(FitError, match=rf"2\.0 GB of memory, and 1\.0 GB are allowed.*{message}"):
        check(name, nbytes=2 * 10**9)
    assert "10 h" in check(name, 36_000.0, 2 * 10**9, force=True)


def test_what_is_free_is_the_budget_where_none_is_given(monkeypatch):
    monkeypatch.setattr(cost.psutil, "virtual_memory", lambda: SimpleNamespace(available=5 * 10**6))
    assert check("knn", nbytes=5 * 10**6, budget=None) == ""
    with pytest.raises(FitError, match=r"5\.1 MB of memory, and 5\.0 MB are free"):
        check("knn", nbytes=51 * 10**5, budget=None)


def test_classifiers_of_ones_own_are_reckoned_with():
    assert cost_of("sklearn.naive_bayes:GaussianNB").nbytes > 8 * 1_680 * 2_048
    with pytest.raises(FitError, match="Use logreg"):
        check("sklearn.naive_bayes:GaussianNB", nbytes=2 * 10**9)


@pytest.mark.parametrize(
    ("nbytes", "options", "n"),
    [
        ([5, 5, 5], {}, None),
        ([50, 50, 5], {}, 2),
        ([30, 30, 60], {}, 2),
        ([30] * 100, {"n_jobs": 8}, 3),
        ([30] * 100, {"n_jobs": 3}, 3),
        ([500], {}, None),
        ([500] * 9, {"force": True}, None),
        # Of the memory of a scheduler's workers nothing is known here.
        ([500] * 9, {"scheduler": "tcp://there:1", "budget": None}, None),
        ([50] * 9, {"scheduler": "tcp://there:1"}, 2),
        ([], {}, None),
    ],
)
def test_no_more_fits_at_a_time_than_memory_holds(nbytes, options, n, monkeypatch):
    monkeypatch.setattr(cost, "available_cores", lambda: 4)
    listener = Listener()
    given = {"n_jobs": None, "scheduler": None, "budget": 100, "force": False} | options
    assert cost.fits_at_a_time(nbytes, progress=listener, **given) == n
    assert len(listener.lines) == (n != given["n_jobs"])
