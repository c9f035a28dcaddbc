"""Summaries: runs as lines of tables, repeats taken together, the paper's results beside."""

from __future__ import annotations

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from featstore.report import paper
from featstore.report.table import percent
from featstore.runs.run import Run
from featstore.store.format.run_schema import RowCounts, SearchResult
from featstore.text import is_random, model_text

Line = dict[str, Any]
"""What :meth:`featstore.runs.run.Run.summary` returns."""


def summarize(runs: Sequence[Run]) -> list[Line]:
    """Return each run's line of the table, by dataset, the best first.

    Parameters
    ----------
    runs : sequence of Run
        As :func:`featstore.runs.run.list_runs` returns them.

    Returns
    -------
    list of dict
        As :meth:`featstore.runs.run.Run.summary` returns them, with ``settings``: in what a run
        differs from others on the same layers of the same images with the same classifier,
        and the end of its name where that can't be told; mostly nothing.
    """
    alike: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        alike.setdefault((run.selection.title, label(run)), []).append(run)
    lines = []
    for own in alike.values():
        told = [
            {**features_settings(run), **fit_settings(run), "rows": rows_text(run)} for run in own
        ]
        texts = apart(told)
        kinds: dict[str, set[str]] = {}
        for run, text in zip(own, texts, strict=True):
            kinds.setdefault(text, set()).add(run.series)
        for run, text in zip(own, texts, strict=True):
            # Such as the type that features are stored in, or a classifier's source code.
            name = run.run_id[-8:] if len(kinds[text]) > 1 else ""
            lines.append(run.summary() | {"settings": listed([text, name])})
    return sorted(lines, key=lambda line: (line["title"], -line["accuracy"], line["run_id"]))


def gather_repeats(lines: Sequence[Line]) -> list[Line]:
    """Return the lines with the repeats of one fit as one, of their means and deviations.

    Parameters
    ----------
    lines : sequence of dict
        As :meth:`featstore.runs.run.Run.summary` returns them.

    Returns
    -------
    list of dict
        The same, in the order of each fit's first, with ``n_repeats``; and, where there are
        several, with ``accuracy_deviation`` and ``average_accuracy_deviation``, sample
        standard deviations (fractions). ``run_id`` is the best one's. Of runs that differ in
        nothing that is told of here, the newest counts.
    """
    series: dict[str, dict[tuple[int, int | None], Line]] = {}
    for line in lines:
        repeats = series.setdefault(line["series"], {})
        seeds = line["seed"], line["split_seed"]
        if seeds not in repeats or repeats[seeds]["created"] <= line["created"]:
            repeats[seeds] = line
    gathered = []
    for repeats in series.values():
        own = list(repeats.values())
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


def group_by_images(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Return the runs by the images that they are on, under titles that no others have.

    Folders of one name may hold other images; their titles then say which.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.selection.title, run.selection.fingerprint), []).append(run)
    n_of_title = Counter(title for title, _ in groups)
    return {
        title if n_of_title[title] == 1 else f"{title} (images {images[:6]})": own
        for (title, images), own in groups.items()
    }


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
    for method, network, published in paper.PUBLISHED.get(dataset, ()):
        line: dict[str, Any] = {"method": method, "published": published}
        ours = [
            run.summary()
            for run in runs
            if network
            and paper.network(run.selection.model) == network
            and not is_random(run.selection.weights)
        ]
        if ours:
            best = max(ours, key=lambda summary: summary["accuracy"])
            line |= {
                "ours": best["accuracy"],
                "difference": best["accuracy"] - published,
                "run_id": best["run_id"],
                "n_train": best["n_train"],
                "n_test": best["n_test"],
                "n_runs": len(ours),
                "full": (best["n_train"], best["n_test"]) == paper.N_ROWS[dataset],
            }
        lines.append(line)
    return lines


def features_name(run: Run) -> str:
    """Return which features a run was fitted on, for people."""
    model = model_text(run.selection.model, run.selection.weights)
    return f"{model} {', '.join(run.selection.layers)}"


def label(run: Run) -> str:
    """Return a run's features and classifier, for people."""
    return f"{features_name(run)} · {run.clf}"


def features_settings(run: Run) -> dict[str, str]:
    """Return what features of the same layers may differ in, for people.

    Returns
    -------
    dict of str to str
        ``bands``, ``image_size``, ``precision`` and ``weights``; of several sets, all they have.
        How maps were pooled is in the layers' names. Empty where there is no such thing.
    """
    parts = run.selection.features
    seen = [part.preprocess for part in parts]
    sizes = [f"{one.image_size} px" for one in seen if one.image_size]
    digests = [part.backbone.weights_sha256[:6] for part in parts]
    return {
        "bands": _joined(one.bands for one in seen),
        "image_size": _joined(sizes),
        "precision": run.selection.precision,
        # Files of one name may hold others.
        "weights": f"{run.selection.weights} ({_joined(digests)})",
    }


def fit_settings(run: Run) -> dict[str, str]:
    """Return what fits of one classifier to the same rows may differ in, for people.

    Returns
    -------
    dict of str to str
        What was asked for beside the seeds; empty where nothing was.
    """
    fit = run.record.fit
    search, grid = fit.search, fit.grid
    drawn = search in ("random", "halving")
    device = fit.device
    return {
        "params": ", ".join(f"{name}={value}" for name, value in fit.params.items()),
        "n_epochs": f"{fit.n_epochs} epochs" if fit.n_epochs else "",
        "search": f"{search} search" if search else "",
        "grid": json.dumps(grid)[1:-1].replace('"', "") if grid else "",
        "cv": f"{fit.cv} folds" if search else "",
        "n_candidates": f"{fit.n_candidates} candidates" if drawn else "",
        "device": "" if device == "cpu" else f"{device}",
        "intelex": "intelex" if fit.intelex else "",
        "drop_leaks": "leaks left out" if fit.drop_leaks else "",
    }


def rows_text(run: Run) -> str:
    """Return how many rows a run was fitted to and judged on, for people."""
    of = run.record.rows
    drawn = "" if run.record.fit.split_seed is None else ", drawn anew"
    return f"{of.n_train:,} to train, {of.n_test:,} to test{drawn}"


def apart(told: Sequence[Mapping[Any, str]]) -> list[str]:
    """Return the texts of each that are not the same wherever such a one is told."""
    found = defaultdict(set)
    for one in told:
        for what, text in one.items():
            found[what].add(text)
    return [listed(text for what, text in one.items() if len(found[what]) > 1) for one in told]


def listed(texts: Iterable[str]) -> str:
    """Return the texts that are not empty as a list in a sentence."""
    return ", ".join(filter(None, texts))


def differing_settings(run: Run) -> dict[str, Any]:
    """Return what a report says of one run beside its figures.

    Parameters
    ----------
    run : Run

    Returns
    -------
    dict
        ``name`` (an id within the page), ``label``, ``line``, ``facts`` (texts by heading),
        ``command``, ``notes``, ``val`` (metrics or None) and ``per_class``.
    """
    record = run.record
    line = run.summary()
    params = ", ".join(f"{key}={value}" for key, value in record.params.items())
    provenance = record.provenance
    facts = {
        "features": f"{line['n_features']:,} of {line['model']} {', '.join(line['layers'])}, "
        f"weights {line['weights']}, {run.selection.precision}",
        "images read as": _reading(run),
        "classifier": f"{run.clf}{f' ({params})' if params else ''}, seed {record.fit.seed}",
        "rows": f"{line['n_train']:,} to train, {line['n_test']:,} to test "
        f"({record.rows.test_split} split), {record.rows.n_masked:,} masked and "
        f"{record.rows.n_unlabelled:,} unlabelled left out{_leaks(record.rows)}",
        "search": _search(record.search),
        "time": ", ".join(f"{k} {v:.2f} s" for k, v in record.duration_s.items()),
        "peak memory": f"{line['peak_rss_nbytes'] / 1e6:,.0f} MB of the process, the features' "
        "memory map included",
        "made": f"{record.created} on {provenance.machine.processor} "
        f"({provenance.machine.n_cores} cores)",
        "versions": ", ".join(f"{k} {v}" for k, v in provenance.versions.items()),
        "feature sets": ", ".join(dict.fromkeys(run.selection.set_ids)),
        "features' digest": run.selection.digest,
        "run's key": record.key,
        "folder": str(run.path),
    }
    return {
        "name": f"r-{run.run_id[-8:]}",
        "label": label(run),
        "line": line,
        "facts": facts,
        "command": record.command,
        "notes": record.notes,
        "val": run.metrics.val,
        "per_class": [
            {**one.to_dict(), "n_train": n}
            for one, n in zip(run.metrics.test.per_class, record.rows.n_train_of_class, strict=True)
        ],
    }


def _joined(texts: Iterable[str]) -> str:
    return "+".join(dict.fromkeys(texts))


def _reading(run: Run) -> str:
    """Return how each set's images were read, and its maps pooled."""
    told: dict[str, list[str]] = {}
    for part in run.selection.features:
        size = part.preprocess.image_size
        how = f"{part.preprocess.bands}, " + (f"{size} px" if size else "in their own size")
        pools = told.setdefault(f"{part.set_id}: {how}", [])
        if part.pool and part.pool not in pools:
            pools.append(part.pool)
    lines = [
        how + (f", maps pooled by {' and '.join(pools)}" if pools else "")
        for how, pools in told.items()
    ]
    if len(lines) == 1:
        return lines[0].partition(": ")[2]
    return "; ".join(lines)


def _leaks(rows: RowCounts) -> str:
    if rows.n_dropped:
        return f", and {rows.n_dropped:,} test images that are also training images"
    if rows.n_leaked:
        return f"; {rows.n_leaked:,} test images are also training images"
    return ""


def _search(search: SearchResult | None) -> str:
    if search is None:
        return "none"
    best = ", ".join(f"{key}={value}" for key, value in search.best.items())
    return (
        f"{search.kind}, {best} of {len(search.candidates):,} settings by {search.cv}"
        f"-fold cross-validation on the training rows, accuracy {percent(search.accuracy)} % ± "
        f"{percent(search.deviation)} over the folds"
    )
