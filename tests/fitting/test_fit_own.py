import sys

import numpy as np
import pytest

from featstore.errors import FitError, RunError
from featstore.fitting import estimators
from featstore.fitting.fit import fit, fit_each


def test_it_is_fitted_evaluated_and_kept_as_any_other(make_store, own):
    store = make_store()
    clf = f"{own.stem}:forest"
    (run,) = fit(store, clf, params={"max_depth": 4})
    assert run.clf == clf
    assert run.metrics.test.accuracy > 0.8
    assert run.record.params == {"max_depth": 4}
    assert run.record.solver == "scikit-learn"
    with pytest.raises(RunError, match=r"it holds sklearn\.tree\._tree\.Tree, which.*--trust"):
        _ = run.model
    model = run.load_model(["sklearn.tree._tree.Tree"])
    assert model.named_steps["clf"].get_params()["max_depth"] == 4
    X = store.select().memmap()
    assert np.mean(model.predict(X) == store.select().y) > 0.8
    (again,) = fit_each(store, clf, params={"max_depth": 4})
    assert again.reused


def test_it_can_be_searched(make_store, own):
    clf = f"{own.stem}:forest"
    grid = {"max_depth": [1, 5]}
    (run,) = fit(make_store(), clf, search="grid", grid=grid, cv=3)
    assert run.record.params == {"max_depth": 5}
    with pytest.raises(FitError, match="featstore knows no values to try"):
        fit(make_store(title="again", seed=1), clf, dataset="again", search="grid")


@pytest.mark.parametrize("error", ["ValueError", "KeyError", "RuntimeError"])
@pytest.mark.parametrize("search", [None, "grid"])
def test_one_that_raises_fails_and_spares_the_others(make_store, own, error, search):
    grid = {f"{own.stem}:Breaks:error": [error]} if search else None
    params = {} if search else {f"{own.stem}:Breaks:error": error}
    fits = fit_each(
        make_store(), [f"{own.stem}:Breaks", "ridge"], search=search, grid=grid, params=params
    )
    assert "it broke" in str(fits[0].error)
    assert fits[1].run


@pytest.mark.parametrize("name", ["LinearRegression", "number", "nothing"])
def test_what_is_no_classifier_is_refused_before_any_work(make_store, own, name):
    store = make_store()
    with pytest.raises(FitError, match=f"{own.stem}:{name} "):
        fit(store, f"{own.stem}:{name}")
    assert not store.runs_dir.exists()


def test_another_source_is_another_run(make_store, own):
    store = make_store()
    clf = f"{own.stem}:forest"
    (first,) = fit(store, clf)
    text = own.read_text()
    own.write_text(text.replace("n_estimators=5", "n_estimators=60"))
    del sys.modules[own.stem]
    estimators.import_estimator.cache_clear()
    (second,) = fit_each(store, clf)
    assert not second.reused
    assert second.run.record.key != first.record.key
