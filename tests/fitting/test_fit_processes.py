import subprocess
import sys
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import blobs
from makers import Listener

from featstore.errors import FitError
from featstore.fitting import cost, worker
from featstore.fitting.fit import fit, fit_each
from featstore.fitting.learning_curve import learning_curve
from featstore.fitting.plan import PlanOptions, fit_configs, plan_fit
from featstore.fitting.solvers.blocks import Samples
from featstore.fitting.tasks import find_task
from featstore.parallel.task_pool import TaskPool
from featstore.runs.opening import list_runs


def test_fits_that_take_long_run_side_by_side_on_workers_of_this_machine(make_store, monkeypatch):
    monkeypatch.setattr(cost, "QUICK_S", 0)
    store, seen = make_store(), []

    def spy(self, function, tasks, done, *, is_quick):
        seen.append((self.n_jobs, len(tasks), is_quick))
        for index, task in enumerate(tasks):
            done(index, SimpleNamespace(value=function(*task), error=None))

    monkeypatch.setattr(TaskPool, "run", spy)
    fit(store, ["ridge", "knn"], n_jobs=2)
    assert seen == [(2, 2, False)]


def test_a_task_whose_run_is_kept_by_now_is_answered_from_it(make_store, monkeypatch):
    # Another process has finished it, or the worker that did so died when it drew the pictures.
    store = make_store()
    (run,) = fit(store, "ridge")
    (config,) = fit_configs("ridge", None, None, {}, find_task("classification"))
    options = PlanOptions({}, "", refit=False, force=False, budget=None)
    task = plan_fit(store.select(), config, options).task
    assert task.run_id == run.run_id
    monkeypatch.setattr(worker, "_fit", lambda *args: pytest.fail("fitted again"))
    assert worker.fit_task(task) == worker.FittedRun(str(run.path), is_new=False)


def test_fewer_fits_go_on_at_a_time_where_memory_is_short(make_store, monkeypatch):
    monkeypatch.setattr(cost, "QUICK_S", 0)
    listener = Listener()
    store = make_store()
    fit(store, ["knn", "logreg"], n_jobs=2, memory_nbytes=2 * 10**8, progress=listener)
    assert "Running one fit at a time: memory is short." in listener.lines
    assert not any("dashboard" in line for line in listener.lines)


def test_no_copy_of_the_matrix_is_made(make_store, monkeypatch):
    # Blocks are so small that a copy of all rows would stand out.
    of_rows = Samples.blocks
    monkeypatch.setattr(Samples, "blocks", lambda self, *_, **more: of_rows(self, 2**18))
    for name in (
        "linear_loss.CACHED_NBYTES",
        "ridge_lda.CACHED_NBYTES",
        "scaling.CACHED_NBYTES",
        "epochs.EPOCH_NBYTES",
    ):
        monkeypatch.setattr(f"featstore.fitting.solvers.{name}", 2**18)
    monkeypatch.setattr("featstore.fitting.solvers.linear_loss.N_SAMPLED", 100)
    X, y = blobs(4_000, 500)
    store = make_store(4_000, X=X, y=y)
    fit(store, "logreg", params={"max_iter": 1}, calibrate=False)
    for clf, params in (
        ("sgd", {"max_iter": 2, "early_stopping": False}),
        ("logreg", {"max_iter": 3}),
    ):
        tracemalloc.start()
        fit(store, clf, params=params)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        # Not even the scaled training rows, three quarters of all, are in memory.
        assert peak < 0.5 * X.nbytes, clf


class TestScratch:
    def scratch(self, store):
        # Beside each folder lies its lock.
        return [path for path in (store.cache_dir / "scratch").glob("*") if path.is_dir()]

    def test_standardised_rows_are_there_while_fits_go_on_and_shared(self, make_store, monkeypatch):
        store = make_store()
        seen = []

        def spy(task):
            run = worker.fit_task(task)
            (folder,) = self.scratch(store)
            seen.append({path.name for path in folder.glob("*.npy")})
            return run

        monkeypatch.setattr("featstore.fitting.dispatch.fit_task", spy)
        fit(store, ["logreg", "ridge", "sgd"])
        assert len(seen) == 3
        # One of all training rows, and one of those without the fold that calibrates sgd.
        assert len(set.union(*seen)) == 2
        assert self.scratch(store) == []

    @pytest.mark.parametrize("error", [FitError("odd"), KeyError("bug"), KeyboardInterrupt()])
    @pytest.mark.parametrize("place", ["fit_task", "cross_validate_task"])
    def test_they_are_gone_whatever_happens(self, make_store, monkeypatch, error, place):
        store = make_store()

        def fails(task):
            (self.scratch(store)[0] / "rows.npy").write_bytes(b"rows")
            raise error

        monkeypatch.setattr(f"featstore.fitting.dispatch.{place}", fails)
        with pytest.raises(type(error)):
            fit(store, search="grid")
        assert self.scratch(store) == []
        assert list_runs(store) == []

    def test_a_full_disk_is_an_error_of_the_fit(self, make_store, monkeypatch):
        store = make_store()
        store.select().memmap()
        usage = SimpleNamespace(free=1000)
        monkeypatch.setattr(
            "featstore.fitting.solvers.scaling.shutil.disk_usage", lambda path: usage
        )
        fits = fit_each(store, ["logreg", "knn"])
        assert "The standardised copy of 240 x 20 features takes 19 kB" in str(fits[0].error)
        assert fits[1].run

    def test_workers_in_another_folder_find_them(self, make_store, tmp_path, monkeypatch):
        make_store()
        monkeypatch.chdir(tmp_path)
        seen = []
        run_all = TaskPool.run
        monkeypatch.setattr(
            TaskPool,
            "run",
            lambda self, function, tasks, *rest, **options: (
                seen.extend(task for (task,) in tasks)
                or run_all(self, function, tasks, *rest, **options)
            ),
        )
        fit("store", "lda", search="grid", grid={"shrinkage": [0.1, 0.2]}, cv=2)
        learning_curve("store", "lda", sizes=[100], repeats=1)
        assert len(seen) == 3
        assert {Path(task.scratch).parent for task in seen} == {tmp_path / "store/cache/scratch"}


SCRIPT = """
import importlib, pkgutil, sys
import matplotlib.backends.backend_agg, matplotlib.backends.backend_svg
from matplotlib.figure import Figure
import featstore.fitting, featstore.report, featstore.runs
for package in (featstore.fitting, featstore.report, featstore.runs):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
from featstore.fitting.fit import fit
from featstore.report.write import write_report
from featstore.runs.opening import list_runs, open_run
from featstore.store.feature_store import open_store

# To draw takes seconds, and imports nothing more.
svg = "<svg width='1' height='1'></svg>"
Figure.savefig = lambda self, target, *, format, **_: target.write(
    b"PNG" if format == "png" else svg
)
store = open_store(sys.argv[1])
(run,) = fit(store, "sgd")
print(*open_run(run.path).model.predict(store.select().memmap()[:4]))
write_report(store, list_runs(store), sys.argv[1] + "/report.html", projection="pca")
assert "torch" not in sys.modules, "torch was imported"
"""


def test_a_process_that_fits_and_reports_never_imports_torch(make_store, pytestconfig):
    # As strict as the tests are: old packages warn of what older ones still did.
    action = "error" if "error" in pytestconfig.getini("filterwarnings") else "ignore"
    done = subprocess.run(
        [sys.executable, "-W", action, "-c", SCRIPT, str(make_store().path)],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert (done.stdout, done.stderr) == ("0 1 2 3\n", "")
