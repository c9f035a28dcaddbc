"""The contenders of bench_fit.py, each a command of its own.

    python benchmarks/contenders.py NAME FOLDER ARGUMENT...

The last line of output is a JSON object. ``inside s`` leaves out the start of Python, imports, the
loading of arrays and the start of the user's own Dask cluster. It includes everything that
featstore does itself, such as reading its store and starting its workers. Each contender imports
only what it needs, because imports take time and memory, too.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Found = dict[str, Any]


def search_featstore(folder: Path, seed: str, n_folds: str) -> Found:
    """Search by ``featstore fit --search grid``."""
    import featstore.cli.fit
    import featstore.fitting  # noqa: F401 - all imports come before the clock starts
    from featstore.cli.main import main
    from featstore.runs.opening import list_runs
    from featstore.store.feature_store import open_store

    words = ["fit", "--clf", "logreg", "--search", "grid", "--cv", n_folds, "--seed", seed]
    with _clock() as inside, contextlib.redirect_stdout(io.StringIO()):
        try:
            main([*words, "--store", str(folder / "store"), "--json"])
        except SystemExit as end:
            if end.code:
                raise
    (run,) = list_runs(open_store(folder / "store"))
    search = run.record.search
    return {
        **inside,
        "C": search.best["C"],
        "CV %": 100 * search.accuracy,
        "test %": 100 * run.metrics.test.accuracy,
    }


def search_scikit_learn(folder: Path, seed: str, n_folds: str, *values: str) -> Found:
    """Search by scikit-learn's GridSearchCV on all cores."""
    from sklearn.model_selection import GridSearchCV

    return _search(GridSearchCV, folder, seed, n_folds, values)


def search_joblib_dask(folder: Path, seed: str, n_folds: str, *values: str) -> Found:
    """Search by scikit-learn's GridSearchCV, which joblib spreads over a Dask cluster."""
    from joblib import parallel_config
    from sklearn.model_selection import GridSearchCV

    with _dask_cluster(), parallel_config("dask"):
        return _search(GridSearchCV, folder, seed, n_folds, values)


def search_dask_ml(folder: Path, seed: str, n_folds: str, *values: str) -> Found:
    """Search by dask-ml's GridSearchCV on a Dask cluster."""
    from dask_ml.model_selection import GridSearchCV

    with _dask_cluster():
        return _search(GridSearchCV, folder, seed, n_folds, values)


def _search(
    search: Callable[..., Any], folder: Path, seed: str, n_folds: str, values: Sequence[str]
) -> Found:
    """Search as in scikit-learn's manual, over the folds that featstore draws."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    X, y, X_test, y_test = _arrays(folder, "layer1")
    model = Pipeline([("scale", StandardScaler()), ("clf", LogisticRegression(max_iter=1000))])
    grid = {"clf__C": [float(value) for value in values]}
    folds = StratifiedKFold(int(n_folds), shuffle=True, random_state=int(seed))
    with _clock() as inside:
        done = search(model, grid, cv=folds, n_jobs=-1).fit(X, y)
        accuracy = done.score(X_test, y_test)
    return {
        **inside,
        "C": float(done.best_params_["clf__C"]),
        "CV %": 100 * float(done.best_score_),
        "test %": 100 * float(accuracy),
    }


def _arrays(folder: Path, layer: str) -> tuple[Any, Any, Any, Any]:
    """Return X and y to train on, and X and y to test on, as views."""
    import numpy as np

    X, y = np.load(folder / f"X-{layer}.npy"), np.load(folder / "y.npy")
    n_train = int(np.load(folder / "n_train.npy"))
    return X[:n_train], y[:n_train], X[n_train:], y[n_train:]


@contextmanager
def _dask_cluster() -> Iterator[None]:
    """Start a process for each core, as Dask's default cluster."""
    from dask.distributed import Client, LocalCluster

    n_cores = len(os.sched_getaffinity(0))
    with (
        LocalCluster(
            n_workers=n_cores, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        Client(cluster),
    ):
        yield


def fit_together(folder: Path, layers: str, clfs: str, *, calibrate: bool = True) -> Found:
    """Fit all classifiers on all layers in one call."""
    from featstore.fitting.fit import fit_each, raise_failures

    with _clock() as inside:
        fits = fit_each(
            folder / "store",
            clfs.split(","),
            layers=layers.split(","),
            calibrate=calibrate,
            refit=True,
        )
    raise_failures(fits)
    return {**inside, **_accuracy([one.run.metrics.test.accuracy for one in fits])}


def fit_together_without_calibration(folder: Path, layers: str, clfs: str) -> Found:
    """Do the same without calibrating probabilities, as the loop of scikit-learn does."""
    return fit_together(folder, layers, clfs, calibrate=False)


def fit_in_a_loop(folder: Path, layers: str, clfs: str) -> Found:
    """Fit one classifier after the other in this process, by featstore."""
    from featstore.fitting.fit import fit_each, raise_failures

    accuracies = []
    with _clock() as inside:
        for layer in layers.split(","):
            for clf in clfs.split(","):
                fits = fit_each(folder / "store", clf, layers=layer, n_jobs=1, refit=True)
                raise_failures(fits)
                accuracies += [one.run.metrics.test.accuracy for one in fits]
    return {**inside, **_accuracy(accuracies)}


def fit_in_a_loop_on_one_core(folder: Path, layers: str, clfs: str, core: str = "0") -> Found:
    """Do the same on one core."""
    os.sched_setaffinity(0, [sorted(os.sched_getaffinity(0))[int(core)]])
    return fit_in_a_loop(folder, layers, clfs)


def fit_in_loops_side_by_side(folder: Path, layers: str, clfs: str) -> Found:
    """Divide the layers among such loops, one for each core."""
    names = layers.split(",")
    n_loops = min(len(names), len(os.sched_getaffinity(0)))
    words = [sys.executable, __file__, fit_in_a_loop_on_one_core.__name__, str(folder)]
    loops = [
        subprocess.Popen(
            [*words, ",".join(names[core::n_loops]), clfs, str(core)], stdout=subprocess.PIPE
        )
        for core in range(n_loops)
    ]
    found = [json.loads(loop.communicate()[0]) for loop in loops]
    n_fits = sum(one["fits"] for one in found)
    return {
        "inside s": max(one["inside s"] for one in found),
        "fits": n_fits,
        "mean test %": sum(one["mean test %"] * one["fits"] for one in found) / n_fits,
    }


def fit_by_scikit_learn(folder: Path, layers: str, clfs: str) -> Found:
    """Fit and test featstore's pipelines, one after the other, by scikit-learn's own methods."""
    # The only part of featstore in use: which estimators it has, with which parameters.
    from featstore.fitting.classifiers import find_classifier

    arrays = {layer: _arrays(folder, layer) for layer in layers.split(",")}
    accuracies = []
    with _clock() as inside:
        for X, y, X_test, y_test in arrays.values():
            for name in clfs.split(","):
                classifier = find_classifier(name)
                model = classifier.pipeline(classifier.params({}, *X.shape), 0).fit(X, y)
                accuracies.append(model.score(X_test, y_test))
    return {**inside, **_accuracy(accuracies)}


def _accuracy(values: Sequence[float]) -> Found:
    return {"fits": len(values), "mean test %": 100 * sum(values) / len(values)}


def count_messages(folder: Path, clfs: str) -> Found:
    """Search and fit on workers, and count the bytes that go through Dask's scheduler.

    Workers run the fits even if these are quick. Scheduler and client run in this process, and the
    count is of all messages that it reads and writes; messages between the two count twice.
    """
    import cloudpickle
    from distributed.comm import tcp

    from featstore.fitting import cost, fit
    from featstore.parallel.task_pool import TaskPool

    cost.QUICK_S = 0.0
    columns = ("sent kB", "returned kB", "all messages kB", "heartbeats kB")
    found: Found = {"tasks": 0, **dict.fromkeys(columns, 0.0)}
    run, write, from_frames = TaskPool.run, tcp.TCP.write, tcp.from_frames

    def counting_run(self: Any, function: Any, tasks: Any, *more: Any, **options: Any) -> Any:
        outcomes = run(self, function, tasks, *more, **options)
        found["tasks"] += len(tasks)
        for task, outcome in zip(tasks, outcomes, strict=True):
            found["sent kB"] += len(cloudpickle.dumps((function, task))) / 1e3
            found["returned kB"] += len(cloudpickle.dumps(outcome.value)) / 1e3
        return outcomes

    def count(message: Any, nbytes: int) -> None:
        found["all messages kB"] += nbytes / 1e3
        beats = isinstance(message, dict) and (
            message.get("op") == "heartbeat_worker" or "heartbeat-interval" in message
        )
        found["heartbeats kB"] += nbytes / 1e3 if beats else 0.0

    async def counting_write(self: Any, message: Any, *more: Any, **options: Any) -> Any:
        nbytes = await write(self, message, *more, **options)
        count(message, nbytes)
        return nbytes

    async def counting_from_frames(frames: Any, **options: Any) -> Any:
        # Reading empties the frames.
        nbytes = sum(memoryview(frame).nbytes for frame in frames)
        message = await from_frames(frames, **options)
        count(message, nbytes)
        return message

    TaskPool.run, tcp.TCP.write = counting_run, counting_write
    tcp.from_frames = counting_from_frames
    fits = fit.fit_each(folder / "store", clfs.split(","), search="grid", n_jobs=2)
    fit.raise_failures(fits)
    return found


def write_rows(folder: Path, n_samples: str, seed: str) -> Found:
    """Write a set of 16 features, unless it exists (bench_scale.py)."""
    from features import Features, write_store

    n = int(n_samples)
    if not folder.exists():
        write_store(folder, Features(n, 16, n // 10, int(seed)))
    return {}


@contextmanager
def _clock() -> Iterator[Found]:
    """Yield a dict that gets the seconds at the end."""
    found: Found = {}
    began = time.perf_counter()
    yield found
    found["inside s"] = time.perf_counter() - began


if __name__ == "__main__":
    name, folder, *arguments = sys.argv[1:]
    print(json.dumps(globals()[name](Path(folder), *arguments)))
