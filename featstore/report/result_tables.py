"""Exhibits: the tables of a report, made from runs and feature sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from featstore.errors import FeatstoreError
from featstore.report import paper
from featstore.report.summaries import (
    Line,
    apart,
    features_settings,
    fit_settings,
    gather_repeats,
    listed,
    rows_text,
)
from featstore.report.table import NONE, Cell, Table, percent
from featstore.runs.run import Run
from featstore.store.feature_set import FeatureSet
from featstore.store.feature_store import FeatureStore
from featstore.store.format.schema import LayerRecord
from featstore.text import is_random, model_text, nbytes_text


def runs_table(name: str, title: str, runs: Sequence[Run]) -> Table:
    """Return the table of runs on one dataset, the best first; repeats of one fit as one row.

    Beside a network and a classifier stands in what its runs differ.
    """
    by_id = {run.run_id: run for run in runs}
    lines = gather_repeats([run.summary() for run in runs])
    ranked = sorted(lines, key=lambda line: -line["accuracy"])
    own = [by_id[line["run_id"]] for line in ranked]
    rows = []
    for line, features, fit in zip(ranked, _features_apart(own), _fits_apart(own), strict=True):
        n_repeats = line["n_repeats"]
        spread = f" ± {percent(line['accuracy_deviation'])}" if n_repeats > 1 else ""
        clf = line["clf"] + (f" × {n_repeats}" if n_repeats > 1 else "")
        rows.append(
            [
                Cell(model_text(line["model"], line["weights"]), None, line["run_id"], features),
                Cell(", ".join(line["layers"])),
                Cell(clf, detail=listed([fit, "" if line["converged"] else "not converged"])),
                Cell(percent(line["accuracy"]) + spread, line["accuracy"], is_best=True),
                _share(line["average_accuracy"]),
                Cell(NONE if line["kappa"] is None else f"{line['kappa']:.3f}", line["kappa"]),
                _share(line["majority_accuracy"]),
                _share(line["train_accuracy"]),
                _share(line["cv_accuracy"]),
                _count(line["n_train"]),
                _count(line["n_test"]),
                Cell(f"{line['duration_s']:,.1f}", line["duration_s"]),
            ]
        )
    numbers = ("accuracy", "average", "kappa", "majority", "training", "CV", "train", "test")
    columns = [(c, False) for c in ("model", "layers", "classifier")]
    columns += [(c, True) for c in (*numbers, "time (s)")]
    return Table(
        name,
        f"All runs on {title}",
        tuple(columns),
        rows,
        "Accuracies in %, of the test rows unless it says training. Majority: always naming the "
        "most frequent class. CV: of the cross-validation that chose the parameters. Train, test: "
        "rows.",
    )


def layers_table(name: str, title: str, runs: Sequence[Run]) -> Table | None:
    """Return the accuracies of each network's early, deep and final layers, and of all three.

    It is the comparison of the paper's section 5. Networks of which fewer than two of these have
    runs are left out; None is returned where all are.

    Parameters
    ----------
    name, title : str
    runs : sequence of Run
        On one dataset, oldest first; of several of a kind the latest counts. Only those that were
        trained and judged on as many images, read alike, with the same settings, are set side by
        side; beside their names stands in what rows differ.
    """
    by_id = {run.run_id: run for run in runs}
    found: dict[tuple[Any, ...], dict[str, Line]] = {}
    for line in gather_repeats([run.summary() for run in runs]):
        if kind := paper.role(line["model"], line["layers"]):
            run = by_id[line["run_id"]]
            asked = (*features_settings(run).values(), *fit_settings(run).values())
            counts = (line["n_train"], line["n_test"])
            key = (_model(run), run.clf, *counts, rows_text(run), *asked)
            found.setdefault(key, {})[kind] = line
    rows = []
    told = [by_role for _, by_role in sorted(found.items()) if len(by_role) > 1]
    own = [by_id[next(iter(by_role.values()))["run_id"]] for by_role in told]
    images = apart([{(_model(run), run.clf): rows_text(run)} for run in own])
    for by_role, run, features, fit, of_images in zip(
        told, own, _features_apart(own), _fits_apart(own), images, strict=True
    ):
        best = max(line["accuracy"] for line in by_role.values())
        cells = [
            Cell(_model(run), detail=features),
            Cell(run.clf, detail=listed([fit, of_images])),
        ]
        for kind in paper.ROLES:
            line = by_role.get(kind, {})
            if not line:
                cells.append(Cell(NONE))
                continue
            layer = "" if kind == paper.ROLES[-1] else line["layers"][0]
            value = line["accuracy"]
            cells.append(Cell(percent(value), value, line["run_id"], layer, value == best))
        rows.append(cells)
    if not rows:
        return None
    columns = (("network", False), ("classifier", False), *((kind, True) for kind in paper.ROLES))
    return Table(
        name,
        f"Early, deep and final layers on {title}",
        columns,
        rows,
        "Test accuracy in %. The paper's claim is that earlier layers beside the final one do "
        "better than either alone. Maps are averaged over their positions, so that the first "
        "convolution alone has a few dozen features.",
    )


def published_table(published: dict[str, list[dict[str, Any]]]) -> Table | None:
    """Return the paper's Table 4 with ours beside it; None without runs on its datasets.

    Parameters
    ----------
    published : dict of str to list of dict
        :func:`compare_published` by dataset, those without runs left out.
    """
    if not published:
        return None
    columns: list[tuple[str, bool]] = [("method", False)]
    methods = dict.fromkeys(row[0] for rows in paper.PUBLISHED.values() for row in rows)
    rows = {method: [Cell(method)] for method in methods}
    partial = []
    for dataset in paper.DATASETS:
        short = {"sat4": "SAT-4", "sat6": "SAT-6", "ucmerced": "UC Merced"}[dataset]
        columns += [(short, True)]
        theirs = {method: value for method, _, value in paper.PUBLISHED[dataset]}
        for method in methods:
            value = theirs.get(method)
            text = NONE if value is None else f"{100 * value:.5g}"
            rows[method].append(Cell(text, value))
        if dataset not in published:
            continue
        columns += [(f"ours on {short}", True), (f"difference on {short}", True)]
        for line in published[dataset]:
            ours, difference = line.get("ours"), line.get("difference")
            text = NONE if difference is None else f"{100 * difference:+.1f}"
            own = [Cell(percent(ours), ours, line.get("run_id"), is_best=True)]
            rows[line["method"]] += [*own, Cell(text, difference)]
        for method in set(methods) - {line["method"] for line in published[dataset]}:
            rows[method] += [Cell(NONE), Cell(NONE)]
        for line in published[dataset]:
            if not line.get("full", True):
                partial.append(
                    f"{line['method'].split()[0]} on {short} ({line['n_train']:,} to train, "
                    f"{line['n_test']:,} to test)"
                )
    note = (
        "Accuracy in %; difference in points. Published: Table 4 of Kadhim and Abed. Ours: the "
        "best run with that network, chosen by the very test rows that it is judged on."
    )
    if partial:
        note += f" Not on all of the paper's images: {', '.join(partial)}."
    return Table(
        "published", "Beside the published results", tuple(columns), list(rows.values()), note
    )


def datasets_table(groups: Mapping[str, Sequence[Run]]) -> Table:
    """Return what the runs were trained and judged on, beside the paper's Table 3.

    Parameters
    ----------
    groups : mapping of str to sequence of Run
        :func:`featstore.report.summaries.group_by_images` of them.
    """
    rows = []
    seen = set()
    is_alike = any(runs[0].selection.title != title for title, runs in groups.items())
    alike = " Of a name that several have, the digits tell the images apart." if is_alike else ""
    for title, run in ((title, run) for title, runs in groups.items() for run in runs):
        of = run.record.rows
        key = (title, of.n_train, of.n_test)
        if key in seen:
            continue
        seen.add(key)
        theirs = paper.N_ROWS.get(run.selection.dataset)
        n_of_class = of.n_train_of_class
        each = f"{min(n_of_class):,}"
        if max(n_of_class) > min(n_of_class):
            each += f" to {max(n_of_class):,}"
        rows.append(
            [
                Cell(title),
                _count(len(run.class_names)),
                _count(of.n_train),
                _count(of.n_test),
                Cell(each, min(n_of_class)),
                Cell(of.test_split),
                Cell(f"{theirs[0]:,} + {theirs[1]:,}" if theirs else NONE),
            ]
        )
    return Table(
        "datasets",
        "Images",
        (
            ("dataset", False),
            ("classes", True),
            ("train", True),
            ("test", True),
            ("train of each class", True),
            ("judged on", False),
            ("the paper's", False),
        ),
        rows,
        "Images that classifiers were trained and judged on; the paper's: training and test "
        "images of its Table 3." + alike,
    )


def throughput_table(store: FeatureStore, runs: Sequence[Run]) -> Table | None:
    """Return what extracting the runs' features took; None where no set is there any more."""
    used: dict[tuple[str, str], None] = {}
    for run in runs:
        used |= dict.fromkeys((f.set_id, f.layer) for f in run.selection.features)
    passes: dict[tuple[Any, ...], list[tuple[str, LayerRecord, FeatureSet]]] = {}
    for set_id, layer in used:
        try:
            feature_set = store.get(set_id)
            record = feature_set.layer(layer)
        except FeatstoreError:
            continue
        # Layers that were read together were completed together, and share what it took.
        key = (set_id, record.completed, record.duration_s)
        passes.setdefault(key, []).append((layer, record, feature_set))
    rows = []
    for (_, _, duration_s), parts in passes.items():
        _, record, feature_set = parts[0]
        nbytes = sum(feature_set.matrix_nbytes(layer) for layer, _, _ in parts)
        rate = record.n_computed / duration_s if duration_s else 0.0
        facets, numerics = feature_set.facets, record.numerics
        weights = str(facets.weights)
        rows.append(
            [
                Cell(facets.model, detail=weights if is_random(weights) else ""),
                Cell(", ".join(layer for layer, _, _ in parts)),
                Cell(facets.title),
                _count(record.n_computed),
                Cell(f"{duration_s:,.1f}", duration_s),
                Cell(f"{rate:,.1f}", rate),
                Cell(nbytes_text(nbytes), nbytes),
                Cell(f"{record.device}, {numerics.engine}, {facets.precision}"),
            ]
        )
    if not rows:
        return None
    return Table(
        "throughput",
        "What the features cost",
        (
            ("model", False),
            ("layers of one pass", False),
            ("dataset", False),
            ("images", True),
            ("time (s)", True),
            ("images/s", True),
            ("stored", True),
            ("by", False),
        ),
        rows,
        "Paid once: every further classifier reads the stored features. Images: those computed in "
        "the pass that completed the layers.",
    )


def _model(run: Run) -> str:
    return model_text(run.selection.model, run.selection.weights)


def _features_apart(runs: Sequence[Run]) -> list[str]:
    """Return what tells each run's features from the others'."""
    told = []
    for run in runs:
        settings = features_settings(run)
        # Pixel statistics are of all bands in their own size, and weights are a network's own.
        is_network = bool(settings["image_size"])
        told.append(
            {(_model(run) if k == "weights" else is_network, k): settings[k] for k in settings}
        )
    return apart(told)


def _fits_apart(runs: Sequence[Run]) -> list[str]:
    """Return what tells each run's settings from the others' of its classifier."""
    return apart([{(run.clf, k): text for k, text in fit_settings(run).items()} for run in runs])


def _share(value: float | None) -> Cell:
    return Cell(percent(value), value)


def _count(n: int) -> Cell:
    return Cell(f"{n:,}", n)
