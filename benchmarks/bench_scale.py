"""Memory and time of stage two on a matrix of gigabytes: whole commands, one for each classifier.

    python benchmarks/bench_scale.py [--n-samples 400000] [--n-features 1000] [--clf logreg,sgd]

The script writes synthetic features to a store. Each turn is `featstore fit --clf X` in a process
of its own, which starts with an empty cache: it decodes the matrix, standardises it, fits, tests
and writes the run. This takes three times the matrix's size on the disk (5 GB). --folder keeps the
store for the next time; without it, all files are deleted at the end.

Resident memory includes pages of mapped files, which the system can take back; anonymous memory
does not. Both are peaks of the sum over the command's processes, sampled twenty times a second.
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
    """Make the store if it is missing; call it in a process of its own, which frees the memory."""
    store = open_store(path)
    if not any(s.layers() for s in store.sets()):
        write_store(path, features)
    return {"n_samples": store.sets()[0].n_samples}


def fit(path: Path, features: Features, clf: str) -> Turn:
    """Run the command on a store without cache and runs, and return its measurements."""
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
