"""Memory and time of whole commands: on a matrix of gigabytes, or on many sets, runs and images.

    python benchmarks/bench_scale.py [--n-samples 400000] [--n-features 1000] [--clf logreg,sgd]
    python benchmarks/bench_scale.py --clf mlp,sgd --peer
    python benchmarks/bench_scale.py --growth 50000,500000,5000000
    python benchmarks/bench_scale.py --many [--n-sets 3000] [--n-runs 10000] [--n-images 65000]

The script writes synthetic features to a store. Each turn is `featstore fit --clf X` in a process
of its own, which starts with an empty cache: it decodes the matrix, standardises it, fits, tests
and writes the run. This takes three times the matrix's size on the disk (5 GB). --folder keeps the
store for the next time; without it, all files are deleted at the end.

With --peer, scikit-learn's own pipeline is fitted and tested on the same rows, from .npy files.

Resident memory includes pages of mapped files, which the system can take back; anonymous memory
does not. Both are peaks of the sum over the command's processes, sampled twenty times a second.

With --growth, sets of 16 features and more and more rows are written, listed, verified and fitted,
and the fit is answered from its run. `us a row` is the growth of CPU time since the set before.

With --many, the script copies the records of one small set and of a few runs, under other names,
and writes tiny images. Each command then runs twice: first without the store's index, or without
hashes of the images, and again with them. CPU seconds say more than seconds on a busy machine.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import click
import numpy as np
from features import Features, write_arrays, write_store
from results import FOLDER, save, table
from trees import resident, watch
from turns import FEATSTORE, Turn, in_fresh_process, without_empty_columns

from featstore.cli import console
from featstore.environment import available_cores
from featstore.extraction.extract import extract
from featstore.fitting.fit import fit as fit_runs
from featstore.io.files import file_sha256, json_digest, read_json, write_json
from featstore.runs.opening import list_runs, open_run
from featstore.store.feature_store import open_store

CLFS = "logreg,linear-svm,sgd,mlp"

FEW_SETS = 10
"""Sets of the store that a store of many is compared with."""

IMAGES_PER_CLASS = 1000


def arrays_of(path: Path) -> Path:
    """Return the folder of the .npy files beside a store."""
    return path.with_name(f"{path.name}-arrays")


def prepare(path: Path, features: Features, peer: bool) -> Turn:
    """Make the store, and a peer's arrays, if they are missing.

    Call it in a process of its own, which frees the memory.
    """
    if peer and not (arrays_of(path) / "n_train.npy").is_file():
        write_arrays(arrays_of(path), features)
    store = open_store(path)
    if not any(s.layers() for s in store.sets()):
        write_store(path, features)
    return {"n_samples": store.sets()[0].n_samples}


def fit(path: Path, features: Features, clf: str) -> Turn:
    """Run the command on a store without cache and runs, and return its measurements."""
    for name in ("cache", "runs"):
        shutil.rmtree(path / name, ignore_errors=True)
    words = [*FEATSTORE, "fit", "--clf", clf, "--store", str(path), "--json"]
    found, cpu_s = watch_cpu(words)
    (summary,) = json.loads(found["printed"])["runs"]
    run = open_run(path / "runs" / summary["run_id"])
    times = run.record.duration_s
    peak_mb, matrix_mb = found["peak RSS MB"], features.nbytes / 1e6
    return {
        "clf": clf,
        "seconds": found["seconds"],
        "CPU s": cpu_s,
        "load s": times["load"],
        "scale s": times["scale"],
        "fit s": times["fit"],
        "calibrate s": times["calibrate"],
        "evaluate s": times["evaluate"],
        "epochs": len(run.curves["loss"]) if run.curves else None,
        "peak RSS MB": peak_mb,
        "of matrix": peak_mb / matrix_mb,
        "anonymous MB": found["peak anonymous MB"],
        "test %": 100 * summary["accuracy"],
        "converged": "yes" if summary["converged"] else "no",
    }


def fit_peer(path: Path, clf: str) -> Turn:
    """Fit scikit-learn's own pipeline on the arrays of a folder, and return its measurements."""
    script = Path(__file__).with_name("contenders.py")
    words = [sys.executable, str(script), "fit_by_scikit_learn", str(path), "layer1", clf]
    found, cpu_s = watch_cpu(words)
    inside = json.loads(found["printed"].splitlines()[-1])
    return {
        "clf": f"{clf}, sklearn",
        "seconds": found["seconds"],
        "CPU s": cpu_s,
        "fit s": inside["inside s"],
        "peak RSS MB": found["peak RSS MB"],
        "anonymous MB": found["peak anonymous MB"],
        "test %": inside["mean test %"],
    }


def watch_cpu(words: Sequence[str]) -> tuple[Turn, float]:
    """Run a command, and return its measurements and its CPU seconds."""
    before = os.times()
    found = watch(words, resident)
    after = os.times()
    return found, sum(after[2:4]) - sum(before[2:4])


def measure_growth(place: Path, sizes: Sequence[int], seed: int) -> list[Turn]:
    """Return CPU time and memory of commands on sets of more and more rows."""
    rows: list[Turn] = []
    for n in sizes:
        path = place / f"{n} rows"
        script = Path(__file__).with_name("contenders.py")
        written = [sys.executable, str(script), "write_rows", str(path), str(n), str(seed)]
        stored = ["--store", str(path)]
        commands = {
            "write the set": written,
            "store ls": [*FEATSTORE, "store", "ls", *stored],
            "store verify": [*FEATSTORE, "store", "verify", *stored],
            "fit lda": [*FEATSTORE, "fit", "--clf", "lda", *stored],
            "fit lda, answered": [*FEATSTORE, "fit", "--clf", "lda", *stored],
        }
        for name, words in commands.items():
            turn, cpu_s = watch_cpu(words)
            smaller = next((row for row in reversed(rows) if row["command"] == name), None)
            growth_s = cpu_s - smaller["CPU s"] if smaller else 0.0
            rows.append(
                {
                    "command": name,
                    "rows": n,
                    "seconds": turn["seconds"],
                    "CPU s": cpu_s,
                    "us a row": 1e6 * growth_s / (n - smaller["rows"]) if smaller else None,
                    "peak RSS MB": turn["peak RSS MB"],
                }
            )
            console.say(f"{name}, {n:,} rows: {turn['seconds']:,.1f} s, CPU {cpu_s:,.1f} s")
    return sorted(rows, key=lambda row: [*commands].index(row["command"]))


def write_tiny_images(root: Path, n_images: int) -> Path:
    """Write images of 8 x 8 pixels of noise in class folders, unless they exist; return `root`."""
    # A BMP file of 24 bits a pixel, with its headers.
    sizes = [54, 40, 8, 8]
    head = b"BM" + (246).to_bytes(4, "little") + bytes(4)
    head += b"".join(number.to_bytes(4, "little") for number in sizes)
    head += bytes((1, 0, 24, 0)) + bytes(24)
    rng, n_classes = np.random.default_rng(0), max(3, n_images // IMAGES_PER_CLASS)
    for i in range(0 if root.exists() else n_images):
        folder = root / f"class{i * n_classes // n_images:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:07d}.bmp").write_bytes(head + rng.bytes(192))
    return root


def copy_sets(path: Path, n_sets: int) -> None:
    """Copy the one set of a store under other names, as sets of other images."""
    (original,) = open_store(path).sets()
    for i in range(1, n_sets):
        record = read_json(original.path / "set.json")
        record["key"]["copy"] = i
        record["facets"]["title"] += f" {i}"
        record["dataset"]["fingerprint"] = json_digest(i)
        name = f"{original.set_id.rpartition('-')[0]}-{json_digest(record['key'])[:12]}"
        shutil.copytree(original.path, path / "sets" / name)
        write_json(path / "sets" / name / "set.json", record)


def copy_runs(path: Path, n_runs: int) -> None:
    """Copy the runs of a store under other names, with other parameters and other mistakes."""
    originals, rng = list_runs(open_store(path)), np.random.default_rng(0)
    for i, run in zip(range(n_runs - len(originals)), itertools.cycle(originals), strict=False):
        folder = path / "runs" / f"{run.run_id[:-8]}{json_digest(i)[:8]}"
        shutil.copytree(run.path, folder, copy_function=os.link)
        record = read_json(folder / "metrics.json")
        head, *lines = (run.path / "predictions.csv").read_text(encoding="utf-8").splitlines()
        rows = [line.split(",") for line in lines]
        is_wrong = rng.random(len(rows)) < rng.uniform(0, 0.5)
        for row, wrong in zip(rows, is_wrong.tolist(), strict=True):
            row[3] = str(rng.choice(run.class_names)) if wrong else row[2]
        (folder / "predictions.csv").unlink()
        text = "\n".join([head, *map(",".join, rows)]) + "\n"
        (folder / "predictions.csv").write_text(text, encoding="utf-8")
        record["files"]["predictions.csv"] = file_sha256(folder / "predictions.csv")
        record["fit"]["params"]["copy"] = i
        test = record["metrics"]["test"]
        test["accuracy"] = sum(row[2] == row[3] for row in rows) / len(rows)
        write_json(folder / "metrics.json", record)


def twice(what: str, n: int, words: Sequence[str], forget: Path | None = None) -> list[Turn]:
    """Run a command without what the store knows of its records or images, and again with it."""
    if forget is not None:
        shutil.rmtree(forget, ignore_errors=True)
    found = []
    for which in ("first", "again"):
        turn, cpu_s = watch_cpu([*FEATSTORE, *words])
        found.append(
            {
                "command": what,
                "of": n,
                "which": which,
                "seconds": turn["seconds"],
                "CPU s": cpu_s,
                "peak RSS MB": turn["peak RSS MB"],
            }
        )
        console.say(f"{what}, {n:,}, {which}: {turn['seconds']:,.1f} s, CPU {cpu_s:,.1f} s")
    return found


def measure_many(place: Path, n_sets: int, n_runs: int, n_images: Sequence[int]) -> list[Turn]:
    """Return the time of commands on stores of many sets and runs, and on many images."""
    rows: list[Turn] = []
    images = write_tiny_images(place / "600 images", 3 * IMAGES_PER_CLASS // 5)
    for n in (FEW_SETS, n_sets):
        path = place / f"{n} sets"
        if not path.exists():
            extract("pixelstats", str(images), store=path)
            copy_sets(path, n)
        stored = ["--store", str(path)]
        again = ["extract", "--model", "pixelstats", str(images), *stored]
        rows += twice("extract, of stored sets", n, again, path / "cache" / "index")
        (set_id, *_) = [s.set_id for s in open_store(path).sets()]
        rows += twice("fit, of stored sets", n, ["fit", "--set", set_id, *stored])
    path = place / f"{n_runs} runs"
    if not path.exists():
        extract("pixelstats", str(images), store=path)
        fit_runs(path, ["logreg", "lda", "ridge", "mlp"])
        copy_runs(path, n_runs)
    stored, index = ["--store", str(path)], path / "cache" / "index"
    rows += twice("runs ls", n_runs, ["runs", "ls", *stored], index)
    page = str(place / "report.html")
    rows += twice("report of the best 100", n_runs, ["report", "--out", page, *stored], index)
    for n in n_images:
        images, path = write_tiny_images(place / f"{n} images", n), place / f"{n} rows"
        words = ["extract", "--model", "pixelstats", str(images), "--store", str(path)]
        rows += twice("extract, of images", n, words)
    return rows


@click.command()
@click.option("--n-samples", default=400_000, show_default=True)
@click.option("--n-features", default=1000, show_default=True)
@click.option("--n-test", type=int, help="Rows to test on.  [default: a tenth]")
@click.option("--clf", "clfs", default=CLFS, show_default=True, metavar="NAME[,NAME...]")
@click.option("--peer", is_flag=True, help="Fit scikit-learn's own pipelines, too.")
@click.option("--many", is_flag=True, help="Measure many sets, runs and images instead.")
@click.option("--growth", metavar="N,N,...", help="Measure sets of these many rows instead.")
@click.option("--n-sets", default=3000, show_default=True)
@click.option("--n-runs", default=10_000, show_default=True)
@click.option("--n-images", type=int, default=(65_000,), multiple=True, show_default=True)
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
    peer: bool,
    many: bool,
    growth: str | None,
    n_sets: int,
    n_runs: int,
    n_images: tuple[int, ...],
    seed: int,
    folder: Path | None,
    label: str,
    results: Path,
) -> None:
    """Measure memory and time of whole fits on a large matrix, or of commands on many things."""
    if growth:
        with nullcontext(folder) if folder else tempfile.TemporaryDirectory() as place:
            rows = measure_growth(Path(place), [int(n) for n in growth.split(",")], seed)
        title = f"Sets of 16 features and more and more rows, {available_cores()} cores"
        table(rows, title)
        save("growth", rows, title=title, device="cpu", label=label, folder=results)
        return
    if many:
        with nullcontext(folder) if folder else tempfile.TemporaryDirectory() as place:
            rows = measure_many(Path(place), n_sets, n_runs, n_images)
        title = (
            f"Whole commands on {available_cores()} cores, for which {os.getloadavg()[2]:.1f} "
            "processes ran or waited on average in the last 15 minutes"
        )
        table(rows, title)
        save("many", rows, title=title, device="cpu", label=label, folder=results)
        return
    features = Features(n_samples, n_features, n_test or n_samples // 10, seed)
    with nullcontext(folder) if folder else tempfile.TemporaryDirectory() as place:
        path = Path(place) / f"{n_samples}x{n_features}-{features.n_test}-{seed}"
        in_fresh_process(prepare, path, features, peer)
        rows = []
        for clf in clfs.split(","):
            rows.append(fit(path, features, clf))
            if peer:
                rows.append(dict.fromkeys(rows[-1]) | fit_peer(arrays_of(path), clf))
            for row in rows[-1 - peer :]:
                console.say(f"{row['clf']}: {row['seconds']:,.1f} s, {row['test %']:.2f} %")
    title = (
        f"featstore fit on {n_samples:,} x {n_features:,} features ({features.nbytes / 1e6:,.0f} "
        f"MB), {features.n_test:,} rows of them to test, {available_cores()} cores"
    )
    rows = without_empty_columns(rows)
    table(rows, title)
    save("scale", rows, title=title, device="cpu", label=label, folder=results)


if __name__ == "__main__":
    main()
