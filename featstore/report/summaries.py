"""Summarize runs as rows of tables and in words, with the paper's results beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from featstore.fitting.protocols import PROTOCOLS
from featstore.report import paper
from featstore.runs.names import group_by_images, join, short_name
from featstore.runs.ranking import Line, Ranking
from featstore.runs.run import Run
from featstore.runs.scoring import Scoring
from featstore.store.format.run_schema import RowCounts, SearchResult
from featstore.text import is_random, nbytes_text, percent


def summarize(runs: Sequence[Run]) -> list[Line]:
    """Return a row for each fit, by dataset, the best first; repeats of a fit are one row.

    First come fits whose parameters were searched, by the score of the cross-validation; then fits
    with redrawn splits, by their mean test score; then all others, by their test score.

    Parameters
    ----------
    runs : sequence of Run
        As :func:`featstore.runs.opening.list_runs` returns them. Of repeats with the same seeds the
        newest counts.

    Returns
    -------
    list of dict
        What :meth:`featstore.runs.run.Run.summary` returns for the run nearest to the mean,
        with the means of the repeats, and

        - ``name``, the fit's name in all tables and figures, and ``settings``, the part of it that
          tells fits of the same layers and classifier apart;
        - ``n_repeats``, ``run_ids``, ``scores``, and of several repeats
          ``accuracy_deviation`` and ``average_accuracy_deviation``, sample standard deviations
          (fractions);
        - ``ranked_by``: ``cross-validation``, ``repeated splits`` or ``test``;
        - ``split_text``: how the images were divided, with the seeds of drawn splits;
        - ``is_best`` and ``is_equal`` (to the best, at 5 %).
    """
    groups = sorted(group_by_images(runs).items())
    return [row for title, own in groups for row in summary_rows(title, Ranking(own))]


def summary_rows(title: str, ranking: Ranking) -> list[Line]:
    """Return the rows of :func:`summarize` that are on the images of one title."""
    choice = ranking.choice
    equal = [line["series"] for line in choice.equal]
    return [
        line | {"title": title, "is_best": line is choice.best, "is_equal": line["series"] in equal}
        for line in ranking.lines
    ]


@dataclass(frozen=True)
class BestFit:
    """The best run on some images, and how it was chosen."""

    title: str
    run: Run
    text: str


def best_fits(runs: Sequence[Run]) -> list[BestFit]:
    """Return the best of the runs on each dataset."""
    found = []
    for title, own in sorted(group_by_images(runs).items()):
        ranking = Ranking(own)
        found.append(BestFit(title, ranking.run(ranking.choice.best), ranking.choice.text))
    return found


def compare_published(dataset: str, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Set the paper's Table 4 beside ours.

    Ours is the paper's method: the early, deep and final layers side by side; without such a run
    the final layer, and without either the other layers. Of several fits, cross-validation chooses,
    or the mean over repeats.

    Parameters
    ----------
    dataset : str
        Datasets that the table does not have give an empty list.
    runs : sequence of Run
        Runs on it. Those with random weights are passed over.

    Returns
    -------
    list of dict
        ``method``, ``published``, and, for the methods with runs, ``ours``, ``difference``
        (fractions), ``run_id``, ``name``, ``n_train``, ``n_test``, ``n_runs`` (rows it was chosen
        from) and ``full`` (whether on all images of the paper).
    """
    if dataset not in paper.PUBLISHED:
        return []
    ranking = Ranking([run for run in runs if not is_random(run.outline.summary["weights"])])
    lines = []
    for method, name, published in paper.PUBLISHED[dataset]:
        line: dict[str, Any] = {"method": method, "published": published}
        if chosen := rows_of_method(ranking, name):
            best = ranking.choose(chosen).best
            line |= {
                "ours": best["accuracy"],
                "difference": best["accuracy"] - published,
                "run_id": best["run_id"],
                "name": best["name"],
                "n_train": best["n_train"],
                "n_test": best["n_test"],
                "n_runs": len(chosen),
                "full": (best["n_train"], best["n_test"]) == paper.N_ROWS[dataset],
            }
        lines.append(line)
    return lines


def rows_of_method(ranking: Ranking, method: str) -> list[Line]:
    """Return the rows of a method of the paper: of a network those of all three layers, if any."""
    ours = [
        line for line in ranking.all_lines if paper.method_of(line["model"], line["clf"]) == method
    ]
    roles = [paper.role(line["model"], line["layers"]) for line in ours]
    wanted = next((kind for kind in (paper.ALL, paper.FINAL) if kind in roles), None)
    return [line for line, kind in zip(ours, roles, strict=True) if wanted in (None, kind)]


def describe_run(run: Run) -> dict[str, Any]:
    """Return what a report says of one run beside its figures.

    ``id`` (unique in the page), ``facts`` (texts by heading), ``command``, ``notes``, ``val`` (a
    text, or empty) and ``per_class`` (:class:`.ClassTable` or None).
    """
    record = run.record
    rows, fit, provenance = record.rows, record.fit, record.provenance
    params = ", ".join(f"{key}={value}" for key, value in record.params.items())
    facts = {
        "features": f"{run.selection.n_features:,} of {short_name(run).rpartition(' · ')[0]}, "
        f"weights {run.selection.weights}, {run.selection.precision}",
        "images read as": _reading_text(run),
        "classifier": f"{run.clf}{f' ({params})' if params else ''}, seed {fit.seed}",
        "rows": f"{rows.n_train:,} to train, {rows.n_test:,} to test "
        f"({join([f'{rows.test_split} split', rows.split])}), {rows.n_masked:,} masked and "
        f"{rows.n_unlabelled:,} unlabelled left out{_leaks_text(rows)}",
        "search": _search_text(record.search, run.scoring),
        **_protocol_text(fit.protocol),
        **_probabilities_text(run),
        "time": ", ".join(f"{name} {value:.2f} s" for name, value in record.duration_s.items()),
        "peak memory": f"{nbytes_text(record.peak_rss_nbytes)} of the process, the features' "
        "memory map included",
        "made": f"{record.created[:19]} UTC on {provenance.machine.processor} "
        f"({provenance.machine.n_cores} cores)",
        "versions": ", ".join(f"{k} {v}" for k, v in provenance.versions.items()),
        "feature sets": ", ".join(dict.fromkeys(run.selection.set_ids)),
        "features' digest": run.selection.digest,
        "run's key": record.key,
        "folder": str(run.path),
    }
    return {
        "id": f"r-{run.run_id[-8:]}",
        "facts": facts,
        "command": record.command,
        "notes": record.notes,
        "val": run.scoring.val_text(record),
        "per_class": run.scoring.class_table(record),
    }


def _reading_text(run: Run) -> str:
    """Return how each set's images were read, and its maps pooled."""
    pools: dict[str, dict[str, None]] = {}
    for part in run.selection.features:
        size = part.preprocess.image_size
        shape = f"{size} px" if size else "in their own size"
        own = pools.setdefault(f"{part.set_id}: {part.preprocess.bands}, {shape}", {})
        own |= {part.pool: None} if part.pool else {}
    lines = [
        reading + (f", maps pooled by {' and '.join(own)}" if own else "")
        for reading, own in pools.items()
    ]
    return lines[0].partition(": ")[2] if len(lines) == 1 else "; ".join(lines)


def _leaks_text(rows: RowCounts) -> str:
    cut = f"; {rows.n_cut_groups:,} groups in both" if rows.n_cut_groups else ""
    if rows.n_dropped:
        return f", and {rows.n_dropped:,} test images that are also training images{cut}"
    if rows.n_leaked:
        return f"; {rows.n_leaked:,} test images are also training images{cut}"
    return cut


def _protocol_text(name: str | None) -> dict[str, str]:
    """Return what a run's protocol is, with its source and what is not known of it."""
    if name is None:
        return {}
    protocol = PROTOCOLS.get(name)
    return {"protocol": name if protocol is None else f"{name}. {protocol.text}"}


def _probabilities_text(run: Run) -> dict[str, str]:
    """Return whether a run's probabilities are calibrated, and how well they hold."""
    if not (how := run.calibration_text):
        return {}
    ece = run.outline.summary["ece"]
    return {"probabilities": how + ("" if ece is None else f"; ECE {percent(ece)} %")}


def _search_text(search: SearchResult | None, scoring: Scoring) -> str:
    if search is None:
        return "none"
    mean = scoring.text(getattr(search, scoring.score))
    best = ", ".join(f"{key}={value}" for key, value in search.best.items())
    if search.kind == "validation":
        return (
            f"{best} of {len(search.candidates):,} settings by the validation images, or a tenth "
            f"of the training images, {scoring.name} {mean}{scoring.unit}; then fitted to both"
        )
    return (
        f"{search.kind}, {best} of {len(search.candidates):,} settings by {search.cv}"
        f"-fold cross-validation on the training rows, {scoring.name} {mean}{scoring.unit} ± "
        f"{scoring.text(search.deviation)} over the folds"
    )
