"""Memory and time of stage two on a matrix of gigabytes: whole commands, one for each classifier.

    python benchmarks/bench_scale.py [--n-samples 400000] [--n-features 1000] [--clf logreg,sgd]

A store is filled with synthetic features block by block, then each turn is `featstore fit --clf X`
in a process of its own, which begins with nothing in the store's cache: it decodes the matrix,
standardises it, fits, judges and writes the run. On the disk that takes three times the matrix's
size (5 GB), under --folder, which keeps the store for the next time; without it all is removed in
the end.

Resident memory counts pages of the mapped files that are in memory, which the system takes back
when it needs them; anonymous memory is what no file stands behind. Both are the peaks of the sums
over the command's processes, looked at twenty times a second.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from contextlib import nullcontext
from pathlib import Path

import click
from features import Features, write_store
from results import FOLDER, save, table
from trees import resident, watch
from turns import FEATSTORE, Turn, in_fresh_process, without_empty_columns

from featstore.cli import console
from featstore.environment import available_cores
from featstore.runs.run import open_run
from featstore.store.feature_store import open_store

CLFS = "logreg,linear-svm,sgd,mlp"


def prepare(path: Path, features: Features) -> Turn:
    """Make the store, unless it is there; call it in a process whose memory goes away with it."""
    store = open_store(path)
    if not any(s.layers() for s in store.sets()):
        write_store(path, features)
    return {"n_samples": store.sets()[0].n_samples}


def fit(path: Path, features: Features, clf: str) -> Turn:
    """Run the command on a store without cache and runs, and return what it took."""
    for name in ("cache", "runs"):
        shutil.rmtree(path / name, ignore_errors=True)
    words = [*FEATSTORE, "fit", "--clf", clf, "--store", str(path), "--json"]
    found = watch(words, resident)
    (summary,) = json.loads(found["printed"])["runs"]
    run = open_run(path / "runs" / summary["run_id"])
    times = run.record.duration_s
    peak_mb, matrix_mb = found["peak RSS MB"], features.nbytes / 1e6
    return {
        "clf": clf,
        "seconds": found["seconds"],
        "load s": times["load"],
        "fit s": times["fit"],
        "evaluate s": times["evaluate"],
        "epochs": len(run.curves["loss"]) if run.curves else None,
        "peak RSS MB": peak_mb,
        "of matrix": peak_mb / matrix_mb,
        "anonymous MB": found["peak anonymous MB"],
        "test %": 100 * summary["accuracy"],
        "converged": "yes" if summary["converged"] else "no",
    }


@click.command()
@click.option("--n-samples", default=400_000, show_default=True)
@click.option("--n-features", default=1000, show_default=True)
@click.option("--n-test", type=int, help="Rows to test on.  [default: a tenth]")
@click.option("--clf", "clfs", default=CLFS, show_default=True, metavar="NAME[,NAME...]")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Where to put the store, and keep it."
)
@click.option("--label", default="", help="What tells the result's file from others.")
@click.option("--results", default=FOLDER, type=click.Path(path_type=Path), show_default=True)
def main(
    n_samples: int,
    n_features: int,
    n_test: int | None,
    clfs: str,
    seed: int,
    folder: Path | None,
    label: str,
    results: Path,
) -> None:
    """Measure memory and time of whole fits on a large matrix."""
    features = Features(n_samples, n_features, n_test or n_samples // 10, seed)
    with nullcontext(folder) if folder else tempfile.TemporaryDirectory() as place:
        path = Path(place) / f"{n_samples}x{n_features}-{features.n_test}-{seed}"
        in_fresh_process(prepare, path, features)
        rows = []
        for clf in clfs.split(","):
            rows.append(fit(path, features, clf))
            console.say(f"{clf}: {rows[-1]['seconds']:,.1f} s")
    title = (
        f"featstore fit on {n_samples:,} x {n_features:,} features ({features.nbytes / 1e6:,.0f} "
        f"MB), {features.n_test:,} rows of them to test, {available_cores()} cores"
    )
    rows = without_empty_columns(rows)
    table(rows, title)
    save("scale", rows, title=title, device="cpu", label=label, folder=results)


if __name__ == "__main__":
    main()
