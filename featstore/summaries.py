"""Summaries: runs as lines of tables, repeats taken together, the paper's results beside."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from featstore import paper
from featstore.config import is_random, json_digest
from featstore.particulars import (
    apart,
    features_settings,
    fit_settings,
    label,
    listed,
    rows_text,
)
from featstore.runs import Run

Line = dict[str, Any]
"""What :meth:`featstore.runs.Run.summary` returns."""


def summarize(runs: Sequence[Run]) -> list[Line]:
    """Return each run's line of the table, by dataset, the best first.

    Parameters
    ----------
    runs : sequence of Run
        As :func:`featstore.runs.list_runs` returns them.

    Returns
    -------
    list of dict
        As :meth:`featstore.runs.Run.summary` returns them, with ``settings``: in what a run differs
        from others on the same layers of the same images with the same classifier, for people, and
        the end of its name where that can't be told; mostly nothing.
    """
    alike: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        alike.setdefault((run.selection["title"], label(run)), []).append(run)
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
        As :meth:`featstore.runs.Run.summary` returns them.

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
        images = run.selection.get("fingerprint") or json_digest(run.class_names)
        groups.setdefault((run.selection["title"], images), []).append(run)
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
            and paper.network(run.selection["model"]) == network
            and not is_random(run.selection["weights"])
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
