"""Write docs/benchmarks.md and its plot from the stored results.

    python benchmarks/page.py

The same results give the same page.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from results import FOLDER, text

from featstore.cli import console
from featstore.plotting import PALETTE, STYLE

Record = dict[str, Any]

DOCS = Path(__file__).parent.parent / "docs"
PLOT = Path("images") / "benchmarks.png"

SECTIONS = {
    "extract": (
        "Extraction",
        "All contenders have the same image files, network and layer. featstore is "
        "`featstore.extract`, from files to the store. The bare forward pass is the network "
        "alone, with featstore's engine, precision and batch size, on pixels that are already in "
        "memory. The usual script is that of tutorials (DataLoader, PIL transforms, float32, "
        "`np.save`). The last one is [thingsvision](https://github.com/ViCCo-Group/thingsvision). "
        "Where the processor multiplies bfloat16, featstore is measured in it and in float32; "
        "`--precision auto` takes bfloat16 for networks whose features it keeps. The script and "
        "thingsvision compute in float32, as they do by default. featstore compiles a network "
        "only where that pays: not for a few hundred images of a small network. Reading and "
        "resizing take a share of the cores, which the bare pass has for itself: it shows where a "
        "network is fast. Rates are of the steady state. `%` shows where featstore's time went. "
        "Peak memory is of the main process, without the script's loader processes.",
    ),
    "gpu": (
        "One GPU",
        "Images in SAT-4's format and size, from a MATLAB file to the store. The whole command "
        "counts from the start of Python to its end.",
    ),
    "forward": (
        "Engines",
        "The forward pass alone. Plain PyTorch is torchvision's network in channels_last; "
        "featstore's engines take pixels as bytes and normalise them, and compute a network's "
        "first layers in float32. Bare OpenVINO and ONNX Runtime are plain sessions. `1 - cosine` "
        "compares the features with those of plain PyTorch in float32, for the worst image.",
    ),
    "fidelity": (
        "What half precision costs",
        "Stored features compared with float32 features, on real images: `1 - cosine` for the "
        "worst image, and the test accuracy of a logistic regression.",
    ),
    "decode": (
        "Decoding",
        "Files in the page cache, read by featstore's loader for a network of 224 px (large JPEGs "
        "are decoded at a fraction of their size), in full, and by Pillow in one thread. The goal: "
        "at least 1.5 times Pillow on two cores.",
    ),
    "preprocess": (
        "Preprocessing",
        "Raw images to the network's square: by featstore in batches on the device, by Pillow's "
        "resize, and by torchvision's PIL transforms, the latter two in one thread.",
    ),
    "statistics": (
        "Models without a network",
        "Images in memory to features, on all cores, without reading and writing. `images/CPU s` "
        "counts the time of the cores: what one core does, also on a busy machine.",
    ),
    "memory": (
        "Memory",
        "Whole commands over files in SAT-4's format. The file's images are in memory once, as "
        "bytes. All other memory should not grow with their number.",
    ),
    "fit-search": (
        "A search",
        "A search for logistic regression's C by cross-validation on synthetic features (low rank "
        "and noise; the best possible rule labels 80 % of the four classes right). All contenders "
        "have the same rows, folds and tolerance. `featstore fit --search grid` is the whole "
        "command: it decodes the store, searches, fits with the best C, tests, and writes the run. "
        "GridSearchCV is scikit-learn's, with StandardScaler and LogisticRegression, on all cores. "
        "[dask-ml](https://ml.dask.org)'s, and scikit-learn's with joblib's Dask backend, have a "
        "cluster of one process for each core. `seconds` are from the start of Python to its end; "
        "`inside s` leaves out Python's start, imports, the loading of the peers' arrays and the "
        "start of their cluster. `peak PSS` is the sum over all processes of a contender, with "
        "shared pages counted once. `speed` and `memory` are relative to GridSearchCV. The goals: "
        "at least twice GridSearchCV's speed with at most 0.6 of its memory, a best "
        "cross-validated accuracy within 0.2 points of its own, and faster than both that use "
        "Dask.",
    ),
    "fit-together": (
        "Many fits",
        "Classifiers on several layers are fitted and tested, with a warm cache. `seconds` are "
        "inside the process, with the start of featstore's workers. `of one call` divides them by "
        "those of one call of `featstore.fit_each`: it is the speed-up over a loop. `per core` "
        "divides that by the cores. The goal: 0.85 per core over the same fits in a loop in one "
        "process. A loop uses all cores for fits in which threads help; the loop on a single core "
        "shows how well the work is spread. Parallel loops on one core each, with the layers "
        "divided by hand, show the most that the machine can give. scikit-learn's loop fits the "
        "same pipelines by its own methods and only scores test rows; the others also score "
        "training rows, calibrate probabilities, compute the runs' metrics and predictions, and "
        "write them. One row shows the one call without calibration. `CPU s` are those of whole "
        "commands.",
    ),
    "fit-traffic": (
        "Traffic through Dask's scheduler",
        "Paths, settings and scores pass through the scheduler, but never features. `sent` and "
        "`returned` are the pickled tasks and results. `all messages` is everything that the "
        "process of scheduler and client reads and writes: messages between the two count twice, "
        "and the workers' heartbeats, whose number depends on the time, count too. The goal: under "
        "1 MB, and about the same for any number of rows.",
    ),
    "scale": (
        "A matrix of gigabytes",
        "`featstore fit --clf X` as a command, from an undecoded store to the written run. "
        "Resident memory includes pages of the mapped files (the decoded matrix and its "
        "standardised training rows), which the system can take back; anonymous memory does not. "
        "The goals: at most 2.2 times the matrix resident, and at most 1,000 MB anonymous. Of the "
        "classifiers that are trained by epochs, `sklearn` is scikit-learn's own pipeline on the "
        "same rows, whose `fit s` are those of scaling, fitting and testing. The goal: a quarter "
        "of its time, with an accuracy within 0.2 points.",
    ),
    "growth": (
        "More and more rows",
        "Whole commands on generated sets of 16 features. `us a row` is the CPU time by which a "
        "command grew since the set before, for each further row: it should stay the same.",
    ),
    "defaults": (
        "Default parameters",
        "Each classifier's default beside other values of its parameters, on features of "
        "NWPU-RESISC45 (part of it: 12 classes of 70 training images, or of 14) and EuroSAT (10 "
        "classes of 7). Points of accuracy that are lost to the best value of each set, by 5-fold "
        "cross-validation on the training images; test images are not used. `few features` are "
        "sets of fewer than 1,000 features, `few images` those of fewer than 20 training images of "
        "each class; of these, the best value is partly luck. `softmax`, `sgd` and `triplet` "
        "take minutes for each set: `softmax` has the two smallest sets of each kind, the others "
        "the smallest. The machine was busy, on which scores do not depend.",
    ),
    "many": (
        "Many sets, runs and images",
        "`first` is without the store's index of its records, or computes the images' features; "
        "`again` finds that records and images have not changed. Sets and runs are copies of small "
        "ones under other names, images have 8 x 8 pixels. CPU seconds are those of all processes. "
        "The goals: 10,000 runs listed in 2 s, a report of the best 100 of them in 20 s, and no "
        "minute to find that a million images have not changed.",
    ),
    "sink": (
        "The store's chunks and codec",
        "Writing and reading features; sizes are fractions of the raw bytes.",
    ),
}
"""Benchmarks in the page's order: heading and introduction."""

INTRO = """\
# Benchmarks

<!-- Written by benchmarks/page.py. -->

Machines are noisy, so all comparisons are ratios within one run: the contenders take turns, several
times, and the tables show medians, with the lowest and the highest rate. `make bench` measures on
your machine and writes this page. `benchmarks/results/` has the single measurements with their
provenance. To include the peers: `pip install -r benchmarks/requirements.txt`.
"""

NO_GPU = """\
**No GPU has been measured yet**: all figures here are of CPUs. On a machine with a GPU,
`python benchmarks/bench_gpu.py` runs all measurements in under eight minutes, without network
access. The figure to compare with is timm's: 12,400 images/s for ResNet50's compiled forward pass
on an RTX 5090.
"""

BARS = {
    "bare forward": PALETTE[6],
    "featstore": PALETTE[0],
    "thingsvision": PALETTE[4],
    "usual script": PALETTE[1],
}
"""Contenders in the plot, from the top, with their colours."""


def load_records(folder: Path) -> list[Record]:
    """Return all results that have a section, in the page's order."""
    records = []
    # After results without a label come those with one.
    for path in sorted(folder.glob("*.json"), key=lambda path: path.stem):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["benchmark"] in SECTIONS:
            records.append(record)
        else:
            console.say(f"{path.name} is of no benchmark that the page knows: left out.")
    order = list(SECTIONS)
    return sorted(records, key=lambda record: order.index(record["benchmark"]))


def page(records: Sequence[Record], *, has_plot: bool) -> str:
    """Return the page as Markdown."""
    parts = [INTRO]
    gpus = sorted({r["device"] for r in records if r.get("device", "").startswith("cuda")})
    parts.append(f"GPUs measured: {', '.join(gpus)}.\n" if gpus else NO_GPU)
    if has_plot:
        parts.append(f"![Images per second by network and contender]({PLOT.as_posix()})\n")
    shared = _shared(records)
    if shared:
        parts.append(f"All results, unless they say otherwise: {_facts(shared)}\n")
    heading = None
    for record in records:
        title, about = SECTIONS[record["benchmark"]]
        if title != heading:
            heading = title
            parts.append(f"## {title}\n\n{about}\n")
        if record.get("title"):
            parts.append(f"{record['title']}:\n")
        own = {k: value for k, value in _told(record).items() if shared.get(k) != value}
        facts = f", {_facts(own)}" if own else "."
        measured = f"`{record['command']}`, {record['measured'][:10]}{facts}\n"
        parts += [_table(record["rows"]), measured]
    return "\n".join(parts)


def _table(rows: Sequence[dict[str, Any]]) -> str:
    columns = list(rows[0])
    is_number = [any(isinstance(row.get(c), int | float) for row in rows) for c in columns]
    lines = [columns, ["---:" if number else "---" for number in is_number]]
    lines += [[text(row.get(c)).replace("|", "\\|") for c in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _told(record: Record) -> dict[str, str]:
    """Return a result's machine, under an empty name, and the versions of its packages."""
    machine, device = record["machine"], record.get("device", "")
    memory = f"{machine['memory_nbytes'] / 1e9:.0f} GB"
    gpu = f", {device}" if device.startswith("cuda") else ""
    told = {"": f"{machine['processor']}, {machine['n_cores']} cores, {memory}{gpu}"}
    if "instructions" in record:
        told["with"] = record["instructions"]
    return told | {k: v for k, v in record["versions"].items() if v != "not installed"}


def _shared(records: Sequence[Record]) -> dict[str, str]:
    """Return what most results tell."""
    told: dict[str, list[str]] = {}
    for record in records:
        for name, value in _told(record).items():
            told.setdefault(name, []).append(value)
    most = {name: Counter(values).most_common(1)[0] for name, values in told.items()}
    return {name: value for name, (value, n) in most.items() if 2 * n > len(told[name])}


def _facts(told: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}".strip() for name, value in told.items()) + "."


def plot(record: Record) -> Figure:
    """Draw an extraction benchmark's rates: a group of bars for each network."""
    rows = record["rows"]
    models = list(dict.fromkeys(row["model"] for row in rows))
    names = [name for name in BARS if any(row["contender"] == name for row in rows)]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7, 0.6 + len(models) * (0.25 * len(names) + 0.2)), dpi=150)
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        for at, name in enumerate(names):
            own = {row["model"]: row for row in rows if row["contender"] == name}
            shown = [model for model in models if model in own]
            rates = [own[model]["images/s"] for model in shown]
            low = [rate - own[m]["lowest"] for rate, m in zip(rates, shown, strict=True)]
            high = [own[m]["highest"] - rate for rate, m in zip(rates, shown, strict=True)]
            height = 0.8 / len(names)
            y = [models.index(model) + height * (at - (len(names) - 1) / 2) for model in shown]
            axes.barh(
                y,
                rates,
                0.9 * height,
                xerr=[low, high],
                color=BARS[name],
                label=name,
                error_kw={"elinewidth": 0.8},
            )
            for place, model in zip(y, shown, strict=True):
                rate, highest = own[model]["images/s"], own[model]["highest"]
                # The peers' precision is not always that of the group.
                precision = own[model].get("precision", "")
                other = f" in {precision}" if ", " in model and precision not in model else ""
                axes.annotate(
                    text(float(rate)) + other,
                    (highest, place),
                    xytext=(4, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8,
                )
        axes.set_yticks(range(len(models)), models)
        axes.invert_yaxis()
        axes.set_xlim(right=1.1 * max(row["highest"] for row in rows))
        axes.set_xlabel(f"images per second, {record['device']}; whiskers: lowest and highest")
        axes.set_title(record["title"])
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0 + 0.3 / len(models)), ncols=4)
    return figure


def write(results: Path, docs: Path) -> None:
    """Write the page, and the plot if it has results."""
    records = load_records(results)
    extractions = [record for record in records if record["benchmark"] == "extract"]
    (docs / PLOT).parent.mkdir(parents=True, exist_ok=True)
    if extractions:
        with mpl.rc_context(STYLE):
            # Without matplotlib's version, the file changes only with the picture.
            plot(extractions[0]).savefig(docs / PLOT, metadata={"Software": None})
    content = page(records, has_plot=bool(extractions))
    (docs / "benchmarks.md").write_text(content, encoding="utf-8")


@click.command()
@click.option("--results", default=FOLDER, type=click.Path(path_type=Path), show_default=True)
@click.option("--docs", default=DOCS, type=click.Path(path_type=Path), show_default=True)
def main(results: Path, docs: Path) -> None:
    """Write the page from the results."""
    write(results, docs)
    console.say(f"Written: {docs / 'benchmarks.md'}")


if __name__ == "__main__":
    main()
