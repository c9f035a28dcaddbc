"""Make a report's tables from runs and feature sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from featstore.errors import FeatstoreError
from featstore.report import paper
from featstore.report.rivals import rivals_table
from featstore.report.summaries import compare_published
from featstore.report.table import Cell, Table
from featstore.runs.names import differing_settings, join
from featstore.runs.ranking import BY_CV, GROUPS, Line, Ranking
from featstore.runs.run import Run
from featstore.runs.scoring import find_scoring
from featstore.store.feature_set import FeatureSet
from featstore.store.feature_store import FeatureStore
from featstore.store.format.layer_schema import LayerRecord
from featstore.text import NONE, join_some, model_text, nbytes_text, percent

SHORT_TITLES = {"sat4": "SAT-4", "sat6": "SAT-6", "ucmerced": "UC Merced"}
"""The paper's datasets in headings."""


BOLD = (
    "Bold: the best, and the others that no test tells from it at 5 %; for fits on other test "
    "images that is a z-test of the two scores."
)


def runs_table(name: str, title: str, ranking: Ranking) -> Table:
    """Return the table of all fits on the same images, the best first."""
    choice = ranking.choice
    bold = [choice.best["series"], *(line["series"] for line in choice.equal)]
    lines, scoring = ranking.lines, find_scoring(choice.best["task"])
    # A score that is the same in all rows as another one says nothing.
    scores = [c for c in scoring.columns if c.is_optional or c.is_shown(lines)]
    columns = {"run": [_run_cell(line) for line in lines]}
    for column in scores:
        is_ranking = column.key == scoring.score
        columns[column.title] = [
            Cell(
                column.cell(line) if is_ranking else column.text(line[column.key]),
                _number(line[column.key]),
                is_best=is_ranking and line["series"] in bold,
            )
            for line in lines
        ]
    columns |= {
        "train": [_count(line["n_train"]) for line in lines],
        "test": [_count(line["n_test"]) for line in lines],
        "ranked by": [Cell(line["ranked_by"]) for line in lines],
        "split": [Cell(line["split_text"] or NONE) for line in lines],
        "time (s)": [Cell(f"{line['duration_s']:,.1f}", line["duration_s"]) for line in lines],
    }
    groups = [group for group in GROUPS if any(line["ranked_by"] == group for line in lines)]
    order = f"by {'CV' if groups[0] == BY_CV else scoring.name}"
    if len(groups) > 1:
        order = (
            f"by group: {join_some([GROUPS[group] for group in groups])}. Scores of two groups "
            "have no common order"
        )
    repeated = " ± the deviation of repeats" if any(line["n_repeats"] > 1 for line in lines) else ""
    title_of_score = scoring.table_title[:1].upper() + scoring.table_title[1:]
    ranked = scoring.column(scoring.score).title
    return Table(
        name,
        f"All runs on {title}"
        if not ranking.n_left_out
        else f"The best {len(lines):,} of {len(ranking.all_lines):,} fits on {title}",
        tuple((heading, heading not in ("run", "ranked by", "split")) for heading in columns),
        [list(row) for row in zip(*columns.values(), strict=True)],
        f"{title_of_score}{repeated}. The order is {order}. {BOLD}",
        tuple(heading for heading in columns if heading not in ("run", ranked)),
        {
            **{column.title: column.legend for column in scores if column.legend},
            "train": "Train: number of training images.",
            "test": "Test: number of test images.",
            "split": "Split: how the images were divided; a random split tests on neighbors of "
            "training images.",
        },
    )


def _number(value: Any) -> float | None:
    """Return what a column is sorted by: a number, or the lower end of an interval."""
    found: float | None = value[0] if isinstance(value, list) else value
    return found


def _run_cell(line: Line) -> Cell:
    n_repeats = f"{line['n_repeats']} repeats" if line["n_repeats"] > 1 else ""
    converged = "" if line["converged"] else "not converged"
    return Cell(line["name"], None, line["run_id"], join([n_repeats, converged]))


def layers_table(name: str, title: str, ranking: Ranking) -> Table | None:
    """Return the scores of each network's early, deep and final layers, and of all three.

    It is the comparison of the paper's section 5. Only fits with the same settings, trained and
    tested on as many images, share a row; rows with fewer than two layers are left out. Without
    rows the table is None.
    """
    found: dict[tuple[Any, ...], dict[str, Line]] = {}
    for line in ranking.all_lines:
        if kind := paper.role(line["model"], line["layers"]):
            run = ranking.run(line)
            settings = (*run.outline.features.values(), *run.outline.fit.values())
            counts = (line["n_train"], line["n_test"])
            key = (_model(run), run.clf, *counts, run.outline.rows, *settings)
            own = found.setdefault(key, {})
            if kind not in own or own[kind]["created"] < line["created"]:
                own[kind] = line
    groups = [by_role for _, by_role in sorted(found.items()) if len(by_role) > 1]
    if not groups:
        return None
    first_runs = [ranking.run(next(iter(by_role.values()))) for by_role in groups]
    scoring = first_runs[0].scoring
    images = differing_settings([{(_model(run), run.clf): run.outline.rows} for run in first_runs])
    details = zip(_differing_features(first_runs), _differing_fits(first_runs), images, strict=True)
    rows = []
    for by_role, run, (features, fit, rows_of) in zip(groups, first_runs, details, strict=True):
        choice = ranking.choose(list(by_role.values()))
        bold = [choice.best, *choice.equal]
        cells = [Cell(_model(run), detail=features), Cell(run.clf, detail=join([fit, rows_of]))]
        for kind in paper.ROLES:
            if (own_line := by_role.get(kind)) is None:
                cells.append(Cell(NONE))
                continue
            layer = "" if kind == paper.ALL else own_line["layers"][0]
            value = own_line[scoring.score]
            text = scoring.text(value)
            cells.append(Cell(text, value, own_line["run_id"], layer, own_line in bold))
        rows.append(cells)
    columns = (("network", False), ("classifier", False), *((kind, True) for kind in paper.ROLES))
    return Table(
        name,
        f"Early, deep and final layers on {title}",
        columns,
        rows,
        f"Test {scoring.name}{' in %' if scoring.unit else ''}. {BOLD} The paper's claim is that "
        "earlier layers beside the final one do better than either alone. Maps are averaged over "
        "their positions, so that the first convolution alone has a few dozen features.",
    )


def study_tables(runs: Sequence[Run], store: FeatureStore) -> list[Table]:
    """Return the paper's Table 4 beside ours, and for each dataset layers and rivals compared."""
    by_dataset: dict[str, list[Run]] = {}
    for run in runs:
        by_dataset.setdefault(run.outline.summary["dataset"], []).append(run)
    tables = [published_table(published_by_dataset(runs))]
    for own in by_dataset.values():
        ranking = Ranking(own)
        tables.append(layers_table("layers", own[0].title, ranking))
        tables.append(rivals_table("rivals", own[0].title, ranking, store))
    return [table for table in tables if table]


def published_by_dataset(runs: Sequence[Run]) -> dict[str, list[dict[str, Any]]]:
    """Return :func:`compare_published` of each dataset of the paper that has runs."""
    # Images of one dataset may have come from several folders.
    by_dataset: dict[str, list[Run]] = {}
    for run in runs:
        by_dataset.setdefault(run.outline.summary["dataset"], []).append(run)
    found = {name: compare_published(name, own) for name, own in by_dataset.items()}
    return {name: lines for name, lines in found.items() if lines}


def published_table(published: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table | None:
    """Return the paper's Table 4 with ours beside it; None without runs on its datasets.

    `published` is :func:`compare_published` by dataset.
    """
    if not published:
        return None
    columns: list[tuple[str, bool]] = [("method", False)]
    methods = dict.fromkeys(row[0] for rows in paper.PUBLISHED.values() for row in rows)
    rows = {method: [Cell(method)] for method in methods}
    partial = []
    for dataset, short in SHORT_TITLES.items():
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
            detail = line.get("name", "")
            own = [Cell(percent(ours), ours, line.get("run_id"), detail, is_best=True)]
            rows[line["method"]] += [*own, Cell(text, difference)]
        for method in set(methods) - {line["method"] for line in published[dataset]}:
            rows[method] += [Cell(NONE), Cell(NONE)]
        partial += [
            f"{line['method'].split()[0]} on {short} ({line['n_train']:,} to train, "
            f"{line['n_test']:,} to test)"
            for line in published[dataset]
            if not line.get("full", True)
        ]
    note = (
        "Accuracy in %; difference in points. Published: Table 4 of Kadhim and Abed. Ours: the "
        "paper's method, early, deep and final layers side by side, or without such a run the "
        "final layer. Of several fits, cross-validation chooses, or the mean over repeats."
    )
    if partial:
        note += f" Not on all of the paper's images: {', '.join(partial)}."
    return Table(
        "published", "Beside the published results", tuple(columns), list(rows.values()), note
    )


def datasets_table(groups: Mapping[str, Sequence[Run]]) -> Table | None:
    """Return the images that the runs were trained and tested on, beside the paper's Table 3.

    `groups` is :func:`featstore.runs.names.group_by_images` of the runs. One group of
    images that is none of the paper's needs no table.
    """
    rows = []
    seen = set()
    for title, run in ((title, run) for title, runs in groups.items() for run in runs):
        told = run.outline.summary
        key = (title, told["n_train"], told["n_test"])
        if key in seen:
            continue
        seen.add(key)
        counts = run.record.rows
        theirs = paper.N_ROWS.get(run.selection.dataset)
        n_of_class = counts.n_train_of_class
        least = min(n_of_class, default=0)
        each = f"{least:,}" if n_of_class else NONE
        if max(n_of_class, default=0) > least:
            each += f" to {max(n_of_class):,}"
        rows.append(
            [
                Cell(title),
                _count(len(run.class_names)) if run.class_names else Cell(NONE),
                _count(counts.n_train),
                _count(counts.n_test),
                Cell(each, least),
                Cell(counts.test_split),
                Cell(f"{theirs[0]:,} + {theirs[1]:,}" if theirs else NONE),
            ]
        )
    has_theirs = any(row[-1].text != NONE for row in rows)
    if len(rows) == 1 and not has_theirs:
        return None
    note = "Images that classifiers were trained and tested on."
    if has_theirs:
        note += " The paper's: training and test images of its Table 3."
    if any(runs[0].title != title for title, runs in groups.items()):
        note += " Digits tell images of one name apart."
    headings = ("classes", "train", "test", "train of each class", "tested on", "the paper's")
    columns = [("dataset", False)]
    columns += [(heading, heading not in ("tested on", "the paper's")) for heading in headings]
    return Table("datasets", "Images", tuple(columns), rows, note, headings)


def throughput_table(store: FeatureStore, runs: Sequence[Run]) -> Table | None:
    """Return what extracting the runs' features took; None if the store has none of them."""
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
        # Layers of one pass were completed together, and share its duration.
        key = (set_id, record.completed, record.duration_s)
        passes.setdefault(key, []).append((layer, record, feature_set))
    rows = []
    for (_, _, duration_s), parts in passes.items():
        _, record, feature_set = parts[0]
        nbytes = sum(feature_set.matrix_nbytes(layer) for layer, _, _ in parts)
        rate = record.n_computed / duration_s if duration_s else 0.0
        facets, numerics = feature_set.facets, record.numerics
        rows.append(
            [
                Cell(model_text(facets.model, facets.weights)),
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
    numbers = ("images", "time (s)", "images/s", "stored")
    columns = [(column, False) for column in ("model", "layers of one pass", "dataset")]
    columns += [*((column, True) for column in numbers), ("by", False)]
    return Table(
        "throughput",
        "What the features cost",
        tuple(columns),
        rows,
        "Paid once: every further classifier reads the stored features. Images: those computed in "
        "the pass that completed the layers.",
        ("dataset", "images", "by"),
    )


def _model(run: Run) -> str:
    told = run.outline.summary
    return model_text(told["model"], told["weights"])


def _differing_features(runs: Sequence[Run]) -> list[str]:
    """For each run, return the settings that tell its features from those of the others."""
    settings = []
    for run in runs:
        own = run.outline.features
        # Pixel statistics read all bands in the images' own size, and weights belong to a network.
        is_network = bool(own["image_size"])
        settings.append({(_model(run) if k == "weights" else is_network, k): own[k] for k in own})
    return differing_settings(settings)


def _differing_fits(runs: Sequence[Run]) -> list[str]:
    """For each run, return the settings that tell it from others of its classifier."""
    return differing_settings(
        [{(run.clf, name): text for name, text in run.outline.fit.items()} for run in runs]
    )


def _count(n: int) -> Cell:
    return Cell(f"{n:,}", n)
