"""Stage two compared with scikit-learn and Dask: one search, many fits, and network traffic.

    python benchmarks/bench_fit.py [--parts search,together,traffic] [--repeats 2]

search
    A grid of C of logistic regression by cross-validation: `featstore fit --search grid`, as a
    command, from its store to the written run; scikit-learn's GridSearchCV on all cores; and, if
    they are installed (requirements.txt), dask-ml's GridSearchCV and scikit-learn's with joblib's
    Dask backend, each on a cluster of one process for each core. All have the same rows, folds and
    tolerance. Peers read arrays from .npy files.
together
    Classifiers on several layers in one call of `featstore.fit_each`, compared with the same fits
    one after the other in one process: by featstore, with the threads of all cores and on a single
    core, and by plain scikit-learn pipelines. Parallel loops on one core each, with the layers
    divided by hand, show the most that the machine can give. The store's cache is warm. featstore
    calibrates probabilities and scores training rows, which the pipelines don't do; one turn of the
    one call leaves calibration out. CPU seconds, of whole commands, say more than seconds on a busy
    machine.
traffic
    Bytes that fits and searches send through Dask's scheduler, for two numbers of rows.

Each turn is a command of its own (contenders.py). Memory is the proportional set size, summed
over all its processes twenty times a second: a page that several processes share counts once.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import click
from features import Features, decode, write_arrays, write_store
from results import FOLDER, save, table
from trees import last_json, watch
from turns import Turn, divide, summary, take_timed_turns, without_empty_columns

from featstore.environment import available_cores
from featstore.fitting.classifiers import find_classifier
from featstore.store.feature_store import open_store

CLFS = "logreg,linear-svm,ridge,lda,sgd,softmax,knn"
QUICK_CLFS = "logreg,linear-svm,ridge,lda,sgd"
GRID_SEARCH_CV = "GridSearchCV"
ONE_CALL = "featstore, one call"
NOT_CALIBRATED = "featstore, one call, not calibrated"
SIDE_BY_SIDE = "featstore, loops side by side"
SEARCH_COLUMNS = (
    "seconds",
    "speed",
    "inside s",
    "peak PSS MB",
    "memory",
    "CV %",
    "C",
    "test %",
    "note",
)
TOGETHER_COLUMNS = (
    "fits",
    "seconds",
    "of one call",
    "per core",
    "command s",
    "CPU s",
    "peak PSS MB",
    "mean test %",
)


def run(name: str, folder: Path, *arguments: str) -> Turn:
    """Run a contender's command, and return the measurements from outside and inside."""
    script = Path(__file__).with_name("contenders.py")
    return last_json(watch([sys.executable, str(script), name, str(folder), *arguments]))


def run_peer(package: str, name: str, folder: Path, *arguments: str) -> Turn:
    """Run a peer's command if it is installed; otherwise its note says why it can't run."""
    if importlib.util.find_spec(package) is None:
        return {"note": "not installed"}
    try:
        return run(name, folder, *arguments)
    except subprocess.CalledProcessError as error:
        return {"note": (error.stderr.strip().splitlines() or ["failed"])[-1]}


def compare_searches(features: Features, n_folds: int, repeats: int, folder: Path) -> list[Turn]:
    """Let featstore and the peers search in turns, and return a row for each turn."""
    write_store(folder / "store", features)
    write_arrays(folder, features)
    values = [str(C) for C in find_classifier("logreg").space(features.n_features)["C"]]
    settings = str(features.seed), str(n_folds)

    def featstore() -> Turn:
        # Only the extracted features remain of the round before.
        for name in ("cache", "runs"):
            shutil.rmtree(folder / "store" / name, ignore_errors=True)
        return run("search_featstore", folder, *settings)

    turns = take_timed_turns(
        {
            "featstore": featstore,
            GRID_SEARCH_CV: partial(run, "search_scikit_learn", folder, *settings, *values),
            "dask-ml": partial(run_peer, "dask_ml", "search_dask_ml", folder, *settings, *values),
            f"{GRID_SEARCH_CV}, Dask": partial(
                run_peer, "distributed", "search_joblib_dask", folder, *settings, *values
            ),
        },
        repeats,
    )
    divide(turns, GRID_SEARCH_CV, "seconds", "speed", by_own=True)
    divide(turns, GRID_SEARCH_CV, "peak PSS MB", "memory")
    return turns


def compare_loops(
    features: Features, n_layers: int, clfs: str, repeats: int, folder: Path
) -> list[Turn]:
    """Let one call and the loops take turns, and return a row for each turn."""
    layers = [f"layer{number}" for number in range(1, n_layers + 1)]
    write_store(folder / "store", features, layers)
    write_arrays(folder, features, layers)
    decode(open_store(folder / "store"))

    def inside(name: str) -> Turn:
        before = os.times()
        found = run(name, folder, ",".join(layers), clfs)
        after = os.times()
        found["CPU s"] = sum(after[2:4]) - sum(before[2:4])
        return {**found, "command s": found["seconds"], "seconds": found.pop("inside s")}

    turns = take_timed_turns(
        {
            ONE_CALL: partial(inside, "fit_together"),
            NOT_CALIBRATED: partial(inside, "fit_together_without_calibration"),
            "featstore, a loop": partial(inside, "fit_in_a_loop"),
            "featstore, a loop on one core": partial(inside, "fit_in_a_loop_on_one_core"),
            SIDE_BY_SIDE: partial(inside, "fit_in_loops_side_by_side"),
            "scikit-learn, a loop": partial(inside, "fit_by_scikit_learn"),
        },
        repeats,
    )
    divide(turns, ONE_CALL, "seconds", "of one call")
    for turn in turns:
        if turn["contender"] not in (ONE_CALL, NOT_CALIBRATED, SIDE_BY_SIDE):
            turn["per core"] = turn["of one call"] / available_cores()
    return turns


def count_traffic(features: Features, clfs: str, folder: Path) -> Turn:
    """Return the bytes that fits and searches on these features send through the scheduler."""
    write_store(folder / "store", features)
    found = run("count_messages", folder, clfs)
    columns = ("tasks", "sent kB", "returned kB", "all messages kB", "heartbeats kB")
    size = {"rows": features.n_samples, "features kB": features.nbytes / 1e3}
    return {**size, **{column: found[column] for column in columns}, "seconds": found["seconds"]}


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


@click.command()
@click.option("--parts", default="search,together,traffic", show_default=True)
@click.option("--search-shape", default="10000,1000", show_default=True, metavar="ROWS,COLUMNS")
@click.option("--n-folds", default=5, show_default=True)
@click.option(
    "--together-shape", default="4,5000,512", show_default=True, metavar="LAYERS,ROWS,COLUMNS"
)
@click.option("--clf", "clfs", default=CLFS, show_default=True, metavar="NAME[,NAME...]")
@click.option("--traffic-rows", default="2000,20000", show_default=True, metavar="N,N")
@click.option("--repeats", default=2, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--results", default=FOLDER, type=click.Path(path_type=Path), show_default=True)
def main(
    parts: str,
    search_shape: str,
    n_folds: int,
    together_shape: str,
    clfs: str,
    traffic_rows: str,
    repeats: int,
    seed: int,
    results: Path,
) -> None:
    """Compare searches and fits with scikit-learn's and Dask's, and count the scheduler's bytes."""
    if "search" in parts.split(","):
        n_train, n_features = _numbers(search_shape)
        n_test = n_train // 10
        features = Features(n_train + n_test, n_features, n_test, seed)
        with tempfile.TemporaryDirectory() as folder:
            turns = compare_searches(features, n_folds, repeats, Path(folder))
        rows = without_empty_columns(summary(turns, SEARCH_COLUMNS))
        title = f"12 values of C, {n_folds} folds, {n_train:,} x {n_features:,} features to train"
        table(rows, f"{title}; medians of {repeats} rounds")
        save("fit-search", rows, turns, title=title, device="cpu", folder=results)
    if "together" in parts.split(","):
        n_layers, n_train, n_features = _numbers(together_shape)
        n_test = n_train // 10
        features = Features(n_train + n_test, n_features, n_test, seed)
        with tempfile.TemporaryDirectory() as folder:
            turns = compare_loops(features, n_layers, clfs, repeats, Path(folder))
        rows = without_empty_columns(summary(turns, TOGETHER_COLUMNS))
        title = (
            f"{clfs.replace(',', ', ')} on {n_layers} layers of {n_train:,} x {n_features:,} "
            f"features to train, {available_cores()} cores"
        )
        table(rows, f"{title}; medians of {repeats} rounds")
        save("fit-together", rows, turns, title=title, device="cpu", folder=results)
    if "traffic" in parts.split(","):
        rows = []
        for n_samples in _numbers(traffic_rows):
            features = Features(n_samples, 64, n_samples // 10, seed)
            with tempfile.TemporaryDirectory() as folder:
                rows.append(count_traffic(features, QUICK_CLFS, Path(folder)))
        title = f"{QUICK_CLFS.replace(',', ', ')}, each searched for by a grid and fitted"
        table(rows, title)
        save("fit-traffic", rows, title=title, device="cpu", folder=results)


if __name__ == "__main__":
    main()
