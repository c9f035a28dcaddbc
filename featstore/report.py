"""The report: runs -> table rows, JSON, and one HTML page that needs nothing else."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from featstore import figures
from featstore.errors import RunError, StoreError
from featstore.files import replacing
from featstore.provenance import now, versions
from featstore.runs import Run
from featstore.store import FeatureStore

PUBLISHED: dict[str, tuple[tuple[str, str | None, float], ...]] = {
    "sat4": (
        ("DeepSat (Basu et al. 2015)", None, 0.97946),
        ("SatCNN, agile CNN (Zhong et al. 2017)", None, 0.9965),
        ("Triplet networks (Liu & Huang 2018)", None, 0.9972),
        ("AlexNet features", "alexnet", 0.84),
        ("VGG19 features", "vgg19", 0.89),
        ("GoogLeNet features", "googlenet", 0.91),
        ("ResNet50 features (proposed)", "resnet50", 0.958),
    ),
    "sat6": (
        ("DeepSat (Basu et al. 2015)", None, 0.93916),
        ("SatCNN, agile CNN (Zhong et al. 2017)", None, 0.9954),
        ("Triplet networks (Liu & Huang 2018)", None, 0.9965),
        ("AlexNet features", "alexnet", 0.82),
        ("VGG19 features", "vgg19", 0.84),
        ("GoogLeNet features", "googlenet", 0.89),
        ("ResNet50 features (proposed)", "resnet50", 0.941),
    ),
    "ucmerced": (
        ("Triplet networks (Liu & Huang 2018)", None, 0.9799),
        ("AlexNet features", "alexnet", 0.87),
        ("VGG19 features", "vgg19", 0.89),
        ("GoogLeNet features", "googlenet", 0.90),
        ("ResNet50 features (proposed)", "resnet50", 0.98),
    ),
}
"""Method, its network where it is one of ours, and accuracy, by dataset: Table 4 of Kadhim and
Abed, *Convolutional Neural Network for Satellite Image Classification*."""

FULL_ROWS = {"sat4": (400_000, 100_000), "sat6": (324_000, 81_000), "ucmerced": (1_470, 630)}
"""Training and test images of the paper's Table 3."""

MAX_CURVES = 8
"""Curves that one figure still shows apart."""


def summarize(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return each run's line of the table, by dataset, the best first.

    Parameters
    ----------
    runs : sequence of Run
        As :func:`featstore.runs.list_runs` returns them.
    """
    lines = [run.summary() for run in runs]
    return sorted(lines, key=lambda line: (line["title"], -line["accuracy"], line["run_id"]))


def gather_repeats(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines with the repeats of one fit as one, of their means and deviations.

    Parameters
    ----------
    lines : sequence of dict
        As :meth:`featstore.runs.Run.summary` returns them.

    Returns
    -------
    list of dict
        The same, in the order of each fit's first, with ``n_repeats``; and, where there are
        several, with ``accuracy_deviation`` and ``average_accuracy_deviation``, sample
        standard deviations (fractions). ``run_id`` is the best one's.
    """
    series: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        series.setdefault(line["series"], []).append(line)
    gathered = []
    for own in series.values():
        if len(own) == 1:
            gathered.append(own[0] | {"n_repeats": 1})
            continue
        line = max(own, key=lambda one: one["accuracy"]) | {"n_repeats": len(own)}
        for name in ("accuracy", "average_accuracy", "train_accuracy", "kappa", "cv_accuracy"):
            values = [one[name] for one in own if one[name] is not None]
            line[name] = statistics.fmean(values) if values else None
            if name.endswith("accuracy") and name[0] == "a":
                line[f"{name}_deviation"] = statistics.stdev(values)
        line["duration_s"] = sum(one["duration_s"] for one in own)
        line["converged"] = all(one["converged"] for one in own)
        gathered.append(line)
    return gathered


def compare_published(dataset: str, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Set the paper's Table 4 beside the best run of each of its networks.

    Parameters
    ----------
    dataset : str
        Datasets that the table does not have give an empty list.
    runs : sequence of Run
        Runs on it.

    Returns
    -------
    list of dict
        ``method``, ``published``, and, where there are such runs, ``ours``, ``difference``
        (fractions), ``run_id``, ``n_train``, ``n_test``, ``n_runs`` (of which it is the best)
        and ``full`` (whether on all the images of the paper).
    """
    lines = []
    for method, network, published in PUBLISHED.get(dataset, ()):
        line: dict[str, Any] = {"method": method, "published": published}
        ours = [run.summary() for run in runs if network and _network(run) == network]
        if ours:
            best = max(ours, key=lambda summary: summary["accuracy"])
            line |= {
                "ours": best["accuracy"],
                "difference": best["accuracy"] - published,
                "run_id": best["run_id"],
                "n_train": best["n_train"],
                "n_test": best["n_test"],
                "n_runs": len(ours),
                "full": (best["n_train"], best["n_test"]) == FULL_ROWS[dataset],
            }
        lines.append(line)
    return lines


def _network(run: Run) -> str:
    # The two stride arrangements of ResNet-50 are the same row of the paper's table.
    return str(run.selection["model"]).removesuffix("_v1")


def write_report(store: FeatureStore, runs: Sequence[Run], path: str | Path) -> dict[str, Any]:
    """Write runs as one HTML page, and return the same as JSON-able values.

    Parameters
    ----------
    store : FeatureStore
        Where they come from.
    runs : sequence of Run
        At least one.
    path : str or Path
        The page; it is replaced whole, or not at all.

    Returns
    -------
    dict
        ``report`` (the page), ``store``, ``created``, ``versions``, ``runs``
        (:func:`summarize`) and ``published`` (:func:`compare_published` by dataset).

    Raises
    ------
    RunError
        When there are no runs, or one is damaged.
    StoreError
        When the page can't be written.
    """
    if not runs:
        raise RunError(
            f"{store.path} holds no runs to report. Make one first, for example with: "
            "featstore fit --clf logreg"
        )
    path = Path(path)
    summaries = summarize(runs)
    by_id = {run.run_id: run for run in runs}
    sections = []
    for title in dict.fromkeys(line["title"] for line in summaries):
        lines = [line for line in summaries if line["title"] == title]
        sections.append(_section(title, lines, [by_id[line["run_id"]] for line in lines]))
    report = {
        "report": str(path),
        "store": str(store.path),
        "created": now(),
        "versions": versions(),
        "runs": summaries,
        "published": {s["title"]: s["published"] for s in sections if s["published"]},
    }
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"percent": _percent, "kappa": _kappa, "seconds": _seconds}
    template = resources.files("featstore").joinpath("report.html").read_text(encoding="utf-8")
    page = environment.from_string(template).render(report=report, sections=sections)
    try:
        with replacing(path) as temporary:
            temporary.write_text(page, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"{path} can't be written: {error.strerror or error}.") from error
    return report


def _section(title: str, lines: list[dict[str, Any]], runs: list[Run]) -> dict[str, Any]:
    name = f"d-{runs[0].run_id[-8:]}"
    gathered = sorted(gather_repeats(lines), key=lambda line: -line["accuracy"])
    return {
        "name": name,
        "title": title,
        "n_classes": len(runs[0].class_names),
        "lines": gathered,
        "published": compare_published(runs[0].selection["dataset"], runs),
        "bars": _svg(
            figures.draw_accuracies(gathered), f"{name}-bars", f"Test accuracies on {title}"
        ),
        "curves": _overlays(title, runs),
        "runs": [_details(run, line) for run, line in zip(runs, lines, strict=True)],
    }


def _overlays(title: str, runs: list[Run]) -> list[dict[str, Any]]:
    """Return a figure for each classifier that several runs trained by epochs."""
    groups = []
    for clf in sorted({run.clf for run in runs}):
        trained = [run for run in runs if run.clf == clf and run.curves]
        if len(trained) < 2:
            continue
        shown = {_features(run): run.curves or {} for run in trained[:MAX_CURVES]}
        what = f"Training accuracy and loss of {clf} by epoch on {title}"
        svg = _svg(figures.draw_curves(shown), f"c-{trained[0].run_id[-8:]}", what)
        groups.append({"clf": clf, "svg": svg, "n_left_out": len(trained) - len(shown)})
    return groups


def _details(run: Run, line: dict[str, Any]) -> dict[str, Any]:
    record = run.record
    name = f"r-{run.run_id[-8:]}"
    confusion = figures.draw_confusion(run.metrics["test"]["confusion"], run.class_names)
    what = f"{_label(run)} on {line['dataset']}"
    params = ", ".join(f"{key}={value}" for key, value in record["params"].items())
    provenance = record["provenance"]
    facts = {
        "features": f"{line['n_features']:,} of {line['model']} {', '.join(line['layers'])}, "
        f"weights {line['weights']}, {run.selection['precision']}",
        "classifier": f"{run.clf}{f' ({params})' if params else ''}, seed {record['fit']['seed']}",
        "rows": f"{line['n_train']:,} to train, {line['n_test']:,} to test "
        f"({record['rows']['test_split']} split), {record['rows']['n_masked']:,} masked and "
        f"{record['rows']['n_unlabelled']:,} unlabelled left out{_leaks(record['rows'])}",
        "search": _search(record["search"]),
        "time": ", ".join(f"{k} {v:.2f} s" for k, v in record["duration_s"].items()),
        "peak memory": f"{line['peak_rss_nbytes'] / 1e6:,.0f} MB of the process, the features' "
        "memory map included",
        "made": f"{record['created']} on {provenance['machine']['processor']} "
        f"({provenance['machine']['n_cores']} cores)",
        "versions": ", ".join(f"{k} {v}" for k, v in provenance["versions"].items()),
        "feature sets": ", ".join(run.selection["set_ids"]),
        "features' digest": run.selection["digest"],
        "run's key": record["key"],
        "folder": str(run.path),
    }
    return {
        "name": name,
        "label": _label(run),
        "line": line,
        "facts": facts,
        "command": record["command"],
        "notes": record["notes"],
        "val": run.metrics["val"],
        "per_class": [
            {**one, "n_train": n}
            for one, n in zip(
                run.metrics["test"]["per_class"], record["rows"]["n_train_of_class"], strict=True
            )
        ],
        "confusion": _svg(confusion, f"{name}-confusion", f"Confusion matrix of {what}"),
        "curves": _svg(
            figures.draw_curves({run.clf: run.curves}),
            f"{name}-curves",
            f"Training accuracy and loss by epoch of {what}",
        )
        if run.curves
        else "",
    }


def _leaks(rows: Mapping[str, Any]) -> str:
    if rows["n_dropped"]:
        return f", and {rows['n_dropped']:,} test images that are also training images"
    if rows["n_leaked"]:
        return f"; {rows['n_leaked']:,} test images are also training images"
    return ""


def _search(search: Mapping[str, Any] | None) -> str:
    if search is None:
        return "none"
    best = ", ".join(f"{key}={value}" for key, value in search["best"].items())
    return (
        f"{search['kind']}, {best} of {len(search['candidates']):,} settings by {search['cv']}"
        f"-fold cross-validation on the training rows, accuracy {_percent(search['accuracy'])} % ± "
        f"{_percent(search['deviation'])} over the folds"
    )


def _features(run: Run) -> str:
    return f"{run.selection['model']} {', '.join(run.selection['layers'])}"


def _label(run: Run) -> str:
    return f"{_features(run)} · {run.clf}"


def _svg(figure: Any, name: str, description: str) -> Markup:
    # matplotlib escapes the text that it draws, to_svg the description.
    return Markup(figures.to_svg(figure, name, description))  # noqa: S704


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _kappa(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _seconds(value: float) -> str:
    return f"{value:,.1f}"
