"""Fits and learning curves on a worker process, which starts once for all tests."""

import pickle

import dask
import numpy as np
import pytest
from distributed import LocalCluster
from makers import Listener

from featstore.errors import FitError
from featstore.fitting.fit import fit, fit_each
from featstore.fitting.learning_curve import learning_curve
from featstore.parallel.worker_pool import WorkerPool
from featstore.runs.opening import list_runs


@pytest.fixture(scope="module")
def scheduler():
    """Return the address of its scheduler."""
    with (
        dask.config.set({"distributed.worker.profile.enabled": False}),
        LocalCluster(
            n_workers=1, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
        ) as cluster,
    ):
        yield cluster.scheduler_address


def test_workers_give_the_same_bits_as_this_process_and_one_failure_spares_the_others(
    make_store, overlapping, scheduler, monkeypatch
):
    sent = []
    submit = WorkerPool.submit

    def spy(self, address, function, task):
        sent.append(len(pickle.dumps(task)))
        return submit(self, address, function, task)

    monkeypatch.setattr(WorkerPool, "submit", spy)
    X, y = overlapping(400)
    store = make_store(400, X=X, y=y)
    names = ["logreg", "lda", "sgd", "sklearn.naive_bayes:GaussianNB", "knn"]
    options = {"search": "random", "n_candidates": 2, "cv": 3}
    options["grid"] = {f"{names[3]}:var_smoothing": [0.1, 1.0], "knn:n_neighbors": [5000, 6000]}
    listener = Listener()
    there = fit_each(store, names, scheduler=scheduler, progress=listener, **options)
    # One task each for those that share a pass; a fold and a setting each for the others.
    assert [(phase.what, phase.n_done) for phase in listener.phases] == [
        ("Searching", 2 + 2 * 3 + 2 * 3 + 2 * 3),
        ("Fitting", 4),
    ]
    assert len(sent) == sum(phase.total for phase in listener.phases)
    assert max(sent) < 20_000
    assert listener.lines[0].startswith("Dask's dashboard")
    models = [one.run.model.named_steps["clf"] for one in there[:2]]
    here = fit_each(store, names, n_jobs=1, refit=True, **options)
    for one, other in zip(there[:4], here[:4], strict=True):
        assert one.run.run_id == other.run.run_id
        assert one.run.record.search == other.run.record.search
        assert one.run.metrics == other.run.metrics
        assert one.run.curves == other.run.curves
    for model, one in zip(models, here[:2], strict=True):
        np.testing.assert_array_equal(model.coef_, one.run.model.named_steps["clf"].coef_)
        np.testing.assert_array_equal(model.intercept_, one.run.model.named_steps["clf"].intercept_)
    for failed in (there[4], here[4]):
        assert "Expected n_neighbors <= n_samples" in str(failed.error)
    assert len(list_runs(store)) == 4
    with pytest.raises(FitError, match=r"1 of 5 fits failed; the runs of the others are kept\.\n"):
        fit(store, names, n_jobs=1, **options)


def test_the_same_seed_is_the_same_curve_on_workers_too(make_store, overlapping, scheduler):
    X, y = overlapping()
    store = make_store(X=X, y=y)
    settings = {"sizes": [40, 100], "repeats": 3, "seed": 3}
    (here,) = learning_curve(store, "logreg", n_jobs=1, **settings)
    (other,) = learning_curve(store, "logreg", n_jobs=1, **(settings | {"seed": 40}))
    assert here != other
    assert len(set(here.points[0].scores)) > 1
    (there,) = learning_curve(store, "logreg", scheduler=scheduler, **settings)
    assert there == here
