"""The table of the methods that the paper compares itself with, as they score here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from featstore.config import TASKS
from featstore.errors import FeatstoreError
from featstore.io.files import read_json
from featstore.models.names import PIXEL_MODEL
from featstore.report import paper
from featstore.report.summaries import rows_of_method
from featstore.report.table import Cell, Table
from featstore.runs.compare import Comparison, compare
from featstore.runs.ranking import Line, Ranking
from featstore.runs.run import Run
from featstore.store.feature_store import FeatureStore
from featstore.text import NONE, percent


def rivals_table(name: str, title: str, ranking: Ranking, store: FeatureStore) -> Table | None:
    """Return the rivals' scores beside those of the paper's method; None without a rival.

    Images with several classes, or with a number, have no table: the paper's have one class. The
    paper's method is that of the first of its networks, ResNet50 before all, that has a run.
    """
    if ranking.all_lines[0]["task"] != TASKS[0]:
        return None
    methods = {method: rows_of_method(ranking, method) for method in (*paper.RIVALS, PIXEL_MODEL)}
    if not any(methods[method] for method in paper.RIVALS):
        return None
    found = {method: ranking.choose(rows).best for method, rows in methods.items() if rows}
    reference = _reference(ranking)
    dataset = next(iter(found.values()))["dataset"]
    published = {method: value for _, method, value in paper.PUBLISHED.get(dataset, ())}
    versus = ranking.run(reference) if reference else None
    rows = []
    if reference:
        told = published.get(paper.network(reference["model"]))
        rows.append(_row("The paper's method", reference, told, ranking, None, store))
    for method, line in found.items():
        label = paper.RIVALS[method][0] if method in paper.RIVALS else "Pixel statistics"
        rows.append(_row(label, line, published.get(method), ranking, versus, store))
    departures = " ".join(paper.RIVALS[m][1] for m in paper.RIVALS if m in found)
    columns = (
        ("method", False),
        ("published", True),
        ("ours", True),
        ("95 % interval", False),
        ("difference", True),
        ("p", True),
        ("network (s)", True),
        ("features (s)", True),
        ("fit (s)", True),
    )
    difference = (
        "Difference: points more than the paper's method, and p of McNemar's test on the same "
        "test images, or of the sign-flip test on their groups. "
        if reference
        else ""
    )
    return Table(
        name,
        f"Methods that the paper compares itself with, on {title}",
        columns,
        rows,
        f"Test accuracy in %. {difference}Network, features and fit: what training the network, "
        f"computing the features and the fit took on this machine. {departures} {paper.WORTH}",
    )


def _reference(ranking: Ranking) -> Line | None:
    """Return the best row of the paper's method, of the first of its networks that has one."""
    own = [line["model"] for line in ranking.all_lines if _is_method(line)]
    for network in dict.fromkeys((*paper.MODELS[::-1], *own)):
        if rows := [line for line in rows_of_method(ranking, network) if _is_method(line)]:
            return ranking.choose(rows).best
    return None


def _is_method(line: Line) -> bool:
    return paper.role(line["model"], line["layers"]) in (paper.ALL, paper.FINAL)


def _row(
    label: str,
    line: Line,
    published: float | None,
    ranking: Ranking,
    versus: Run | None,
    store: FeatureStore,
) -> list[Cell]:
    run = ranking.run(line)
    low_high = line["accuracy_interval"]
    compared = _compare(run, versus) if versus else None
    difference = compared.difference if compared else None
    network_s, features_s = _durations(run, store)
    return [
        Cell(label, None, line["run_id"], line["name"]),
        Cell(f"{100 * published:.5g}" if published else NONE, published),
        Cell(run.scoring.column("accuracy").cell(line), line["accuracy"]),
        Cell(" to ".join(map(percent, low_high)) if low_high else NONE),
        Cell(NONE if difference is None else f"{100 * difference:+.1f}", difference),
        Cell(f"{compared.p_value:.2g}" if compared else NONE),
        _seconds(network_s),
        _seconds(features_s),
        _seconds(line["duration_s"]),
    ]


def _compare(run: Run, reference: Run) -> Comparison | None:
    try:
        found = compare(run, reference)
    except FeatstoreError:
        # Their test images differ.
        return None
    return found if isinstance(found, Comparison) else None


def _durations(run: Run, store: FeatureStore) -> tuple[float | None, float | None]:
    """Return what training the weights and computing the features took; None if not known."""
    network_s = features_s = None
    passes: dict[tuple[Any, ...], float] = {}
    for one in run.selection.features:
        try:
            feature_set = store.get(one.set_id)
            record = feature_set.layer(one.layer)
        except FeatstoreError:
            continue
        # Layers of one pass share its duration.
        passes[one.set_id, record.completed] = record.duration_s
        if feature_set.info.dataset.trained is not None:
            network_s = _training_s(feature_set.info.backbone.weights_path)
    if passes:
        features_s = sum(passes.values())
    return network_s, features_s


def _training_s(weights: str | None) -> float | None:
    """Return the duration that the record beside trained weights names."""
    try:
        return float(read_json(Path(weights or "").with_suffix(".json"))["duration_s"])
    except (FeatstoreError, KeyError, TypeError, ValueError):
        return None


def _seconds(value: float | None) -> Cell:
    return Cell(NONE if value is None else f"{value:,.1f}", value)
