import numpy as np
import pytest
from conftest import blobs
from makers import Listener

from featstore.errors import FitError
from featstore.fitting.fit import fit, fit_each
from featstore.fitting.solvers import linear


@pytest.mark.parametrize(("search", "n"), [("grid", 12), ("random", 7), ("halving", 7)])
def test_the_best_is_fitted_and_all_that_was_tried_is_recorded(make_store, overlapping, search, n):
    store = make_store(X=overlapping()[0])
    (run,) = fit(store, "logreg", search=search, n_candidates=7, cv=3, seed=4)
    record = run.record.search
    assert (record.kind, record.cv, record.seed) == (search, 3, 4)
    assert len(record.candidates) == n
    assert all(len(entry["scores"]) == 3 for entry in record.candidates)
    best = max(entry["mean"] for entry in record.candidates)
    assert record.accuracy == best
    assert record.best in [entry["params"] for entry in record.candidates if entry["mean"] == best]
    assert run.record.params == {"C": record.best["C"], "max_iter": 1000}
    assert record.best == {"C": run.model.named_steps["clf"].C}
    assert run.record.fit.search == search
    assert f"--search {search} --cv 3" in run.record.command
    assert not list(store.cache_dir.glob("scratch/*"))


def test_it_finds_what_a_bad_default_does_not(make_store, overlapping):
    store = make_store(X=overlapping()[0])
    params = {"n_neighbors": 1}
    (bad,) = fit(store, "knn", params=params)
    grid = {"n_neighbors": [1, 40], "metric": ["euclidean"], "weights": ["uniform"]}
    (good,) = fit(store, "knn", search="grid", grid=grid, cv=3)
    assert good.record.params["n_neighbors"] == 40
    assert good.metrics.test.accuracy > bad.metrics.test.accuracy


def test_asked_for_again_it_is_answered_from_its_run(make_store, overlapping):
    store = make_store(X=overlapping()[0])
    (first,) = fit_each(store, "ridge", search="grid")
    for more in ({}, {"n_candidates": 3}, {"params": {}}):
        (again,) = fit_each(store, "ridge", search="grid", **more)
        assert again.reused
        assert again.run.record == first.run.record
    keys = {first.run.record.key}
    for more in (
        {"search": None},
        {"search": "random"},
        {"cv": 4},
        {"seed": 1},
        {"grid": {"alpha": [1.0, 2.0]}},
        {"params": {"fit_intercept": False}},
    ):
        (other,) = fit_each(store, "ridge", **{"search": "grid", **more})
        assert not other.reused
        keys.add(other.run.record.key)
    assert len(keys) == 7
    (again,) = fit_each(store, "ridge", cv=9, n_candidates=3)
    assert again.reused


def test_test_rows_have_no_part_in_it(make_store, overlapping):
    options = {"clf": "lda", "search": "grid", "cv": 3}
    X, y = overlapping()
    (first,) = fit(make_store(X=X, y=y, title="a"), dataset="a", **options)
    X[240:] = np.random.default_rng(0).normal(0, 1e5, size=(80, 20))
    y[240:] = y[240:][::-1]
    (second,) = fit(make_store(X=X, y=y, title="b"), dataset="b", **options)
    assert first.record.search == second.record.search
    assert first.metrics.test.accuracy > second.metrics.test.accuracy


def test_classifiers_are_searched_together_and_one_failure_spares_the_others(
    make_store, overlapping
):
    listener = Listener()
    store = make_store(X=overlapping()[0])
    fits = fit_each(
        store,
        ["logreg", "knn", "ridge"],
        search="grid",
        grid={"knn:n_neighbors": [500, 600], "knn:weights": ["uniform"]},
        cv=3,
        progress=listener,
    )
    assert [one.error is None for one in fits] == [True, False, True]
    assert "None of the 4 settings of knn could be fitted" in str(fits[1].error)
    assert "Expected n_neighbors <= n_samples" in str(fits[1].error)
    assert "Use --param n_neighbors=N with N up to 160." in str(fits[1].error)
    assert len(listener.lines) == 3
    phases = [(phase.what, phase.total) for phase in listener.phases]
    assert phases == [("Searching", 14), ("Fitting", 2)]


def test_what_there_is_nothing_to_search_for_is_refused_and_others_go_on(make_store):
    fits = fit_each(make_store(), ["logreg", "ridge"], search="grid", params={"ridge:alpha": 1.0})
    assert fits[0].run
    assert "nothing to search for ridge" in str(fits[1].error)


def test_classes_rarer_than_the_folds_are_searched_and_that_is_said(make_store):
    _, y = blobs(320, 20)
    y[np.flatnonzero(y == 2)[3:]] = 1
    listener = Listener()
    (run,) = fit(make_store(y=y), search="grid", progress=listener)
    assert run.record.search.cv == 5
    assert run.record.rows.n_train_of_class[2] == 3
    (line,) = (line for line in listener.lines if "folds" in line)
    assert line.endswith("than the 5 folds of the search: grassland 3.")


def test_folds_that_can_not_be_drawn_are_refused_with_a_cure_before_any_work(make_store):
    fits = fit_each(make_store(), ["logreg", "ridge"], search="grid", cv=61)
    assert all("the largest has 60. Try --cv 60." in str(one.error) for one in fits)


def test_halving_leaves_rows_enough_of_rare_classes(make_store):
    X, y = blobs(1600, 20)
    y[y == 3] = 2
    y[:1200:100] = 3
    store = make_store(1600, X=X, y=y)
    (run,) = fit(store, "logreg", search="halving", n_candidates=9)
    assert run.record.search.kind == "halving"


def test_halving_tries_many_on_few_rows_and_the_best_on_all(make_store, overlapping):
    X, y = overlapping(1600)
    store = make_store(1600, X=X, y=y)
    (run,) = fit(store, "ridge", search="halving", n_candidates=9)
    assert sorted({e["n_rows"] for e in run.record.search.candidates}) == [400, 1200]
    assert run.record.rows.n_train == 1200


def test_values_that_are_given_twice_all_get_their_scores(make_store, overlapping):
    store = make_store(X=overlapping()[0])
    for clf in ("logreg", "knn"):
        grid = (
            {"C": [0.1, 0.1]} if clf == "logreg" else {"n_neighbors": [1, 1], "metric": ["cosine"]}
        )
        (run,) = fit(store, clf, search="grid", grid=grid, cv=2)
        means = [entry["mean"] for entry in run.record.search.candidates]
        assert None not in means


@pytest.mark.parametrize("row", [5, 310])
def test_features_that_are_no_numbers_are_named_before_a_search(make_store, row, monkeypatch):
    X, _ = blobs(320, 20)
    X[row, 7] = np.nan
    monkeypatch.setattr(linear, "cross_validate", lambda *args: pytest.fail("searched"))
    with pytest.raises(FitError, match=rf"row {row} .*columns 7\."):
        fit(make_store(X=X), "logreg", search="grid")
