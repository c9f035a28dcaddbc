from featstore.fitting.fit import fit
from featstore.runs.frame import to_pandas
from featstore.runs.opening import list_runs


def test_runs_are_rows_of_a_table_the_best_first(make_store):
    store = make_store()
    fit(store, ["knn", "lda"], n_jobs=1)
    runs = list_runs(store)
    table = to_pandas(runs)
    assert set(table.run_id) == {run.run_id for run in runs}
    assert table.accuracy.is_monotonic_decreasing
    best = next(run for run in runs if run.run_id == table.run_id[0])
    assert table.accuracy[0] == best.metrics.test.accuracy


def test_no_runs_are_an_empty_table():
    assert to_pandas([]).empty
