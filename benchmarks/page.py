"""Write docs/benchmarks.md and its plot from the stored results.

    python benchmarks/page.py

The same results give the same page.
"""

from __future__ import annotations

import json
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
        "The same image files, network and layer for all: `featstore.extract` from files to the "
        "store; the bare forward pass, which is the network alone, by featstore's own engine at "
        "its precision and batch size, on pixels that are in memory already; a script as tutorials "
        "have it (DataLoader, PIL transforms, float32, `np.save`); and "
        "[thingsvision](https://github.com/ViCCo-Group/thingsvision). Rates are of the steady "
        "state. `%` says where featstore's time went. Peak memory is each one's own process, the "
        "script's loader processes not counted.",
    ),
    "gpu": (
        "One GPU",
        "Images in SAT-4's format and size, from a MATLAB file to the store. The whole command "
        "counts from the start of Python to its end.",
    ),
    "forward": (
        "Engines",
        "The forward pass alone. Plain PyTorch is torchvision's network in channels_last; "
        "featstore's engines take pixels as bytes and normalise inside; bare OpenVINO and ONNX "
        "Runtime sessions are made by hand. `1 - cosine` is of the features with those of plain "
        "PyTorch in float32, for the worst image.",
    ),
    "fidelity": (
        "What half precision costs",
        "Stored features beside those computed in float32, on real images: `1 - cosine` for the "
        "worst image, and the test accuracy of a logistic regression on them.",
    ),
    "decode": (
        "Decoding",
        "Files in the page cache, read by featstore's loader for a network of 224 px (large JPEGs "
        "are decoded at a fraction of their size), in full, and by Pillow in one thread.",
    ),
    "preprocess": (
        "Preprocessing",
        "Raw images to the network's square: featstore a batch at a time on the device, Pillow's "
        "resize, and torchvision's PIL transforms, the latter two in one thread.",
    ),
    "memory": (
        "Memory",
        "Whole commands over files in SAT-4's format. The file's images are in memory once, as "
        "bytes; beside them, memory should not grow with their number.",
    ),
    "fit-search": (
        "A search",
        "Logistic regression's C by cross-validation on synthetic features (low rank and noise, "
        "four classes of which the best rule labels 80 % right). The same rows, folds and "
        "tolerance for all. `featstore fit --search grid` is the whole command: it decodes the "
        "store, searches, fits with the best C, judges, and writes the run. GridSearchCV is "
        "scikit-learn's, of StandardScaler and LogisticRegression, on all cores; "
        "[dask-ml](https://ml.dask.org)'s, and scikit-learn's under joblib's Dask backend, have a "
        "cluster of one process a core. `seconds` are from the start of Python to its end; "
        "`inside s` leaves out Python's start, imports, the loading of the peers' arrays and the "
        "start of their cluster. `peak PSS` is summed over all processes of a contender, shared "
        "pages counted once. `speed` and `memory` are GridSearchCV's 1. The goals: at least twice "
        "GridSearchCV's speed with at most 0.6 of its memory, a best cross-validated accuracy "
        "within 0.2 points of its own, and faster than both that use Dask.",
    ),
    "fit-together": (
        "Many fits",
        "Classifiers on several layers, each fitted and judged, the store's cache warm. `seconds` "
        "are inside the process, the start of featstore's workers among them; `of one call` "
        "divides them by those of one call of `featstore.fit_each`, so that it is the speed-up "
        "over a loop, and `per core` divides that by the cores. The goal: 0.85 per core over the "
        "same fits in a loop in one process. A loop takes all cores for fits in which threads "
        "help; the one on a single core shows how well the work is spread. Loops side by side, a "
        "core each, the layers shared out by hand, are what the machine gives at the most. "
        "scikit-learn's loop fits and scores only; the others also compute the runs' metrics, "
        "predictions and figures, and write them.",
    ),
    "fit-traffic": (
        "What goes through Dask's scheduler",
        "Paths, settings and scores, never features: `sent` and `returned` are the pickled tasks "
        "and results, `all messages` is what the process of the scheduler and its client reads "
        "and writes in all, what these two tell each other counted twice and the workers' "
        "heartbeats, which go by time, included. The goal: under 1 MB, and about the same however "
        "many rows there are.",
    ),
    "scale": (
        "A matrix of gigabytes",
        "`featstore fit --clf X` as a command, from an undecoded store to the written run. "
        "Resident memory counts the pages of the mapped files (the decoded matrix and its "
        "standardised training rows) that happen to be in memory, and that the system takes back "
        "when it needs them; anonymous memory is what the process keeps for itself. The goals: "
        "at most 2.2 times the matrix resident, and at most 1,000 MB anonymous.",
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

Machines are noisy, so that all comparisons are ratios within one run: the contenders take turns,
several times round, and the tables show medians, with the lowest and the highest rate. `make bench`
measures anew on the machine at hand and writes this page; the single measurements with their
provenance are in `benchmarks/results/`. Peers take part where they are installed:
`pip install -r benchmarks/requirements.txt`.
"""

NO_GPU = """\
**No GPU has been measured yet**: all figures here are of CPUs. On a machine with a GPU,
`python benchmarks/bench_gpu.py` measures all there is to measure in under eight minutes, without a
network. The figure to stand beside is timm's: 12,400 images/s for ResNet50's compiled forward pass
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
    for path in sorted(folder.glob("*.json")):
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
    heading = None
    for record in records:
        title, about = SECTIONS[record["benchmark"]]
        if title != heading:
            heading = title
            parts.append(f"## {title}\n\n{about}\n")
        if record.get("title"):
            parts.append(f"{record['title']}:\n")
        parts += [_table(record["rows"]), _provenance(record)]
    return "\n".join(parts)


def _table(rows: Sequence[dict[str, Any]]) -> str:
    columns = list(rows[0])
    is_number = [any(isinstance(row.get(c), int | float) for row in rows) for c in columns]
    lines = [columns, ["---:" if number else "---" for number in is_number]]
    lines += [[text(row.get(c)).replace("|", "\\|") for c in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _provenance(record: Record) -> str:
    machine = record["machine"]
    packages = [f"{k} {v}" for k, v in record["versions"].items() if v != "not installed"]
    device = f", {record['device']}" if record.get("device") else ""
    return (
        f"`{record['command']}`, {record['measured'][:10]}, {machine['processor']}, "
        f"{machine['n_cores']} cores, {machine['memory_nbytes'] / 1e9:.0f} GB{device}. "
        f"{', '.join(packages)}.\n"
    )


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
                axes.annotate(
                    text(float(rate)),
                    (highest, place),
                    xytext=(4, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=8,
                )
        axes.set_yticks(range(len(models)), models)
        axes.invert_yaxis()
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
