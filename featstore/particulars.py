"""Particulars: what a report says of one run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from featstore.config import model_text
from featstore.runs import Run
from featstore.tables import percent


def features_name(run: Run) -> str:
    """Return which features a run was fitted on, for people."""
    model = model_text(run.selection["model"], run.selection["weights"])
    return f"{model} {', '.join(run.selection['layers'])}"


def label(run: Run) -> str:
    """Return a run's features and classifier, for people."""
    return f"{features_name(run)} · {run.clf}"


def particulars(run: Run) -> dict[str, Any]:
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
        "feature sets": ", ".join(dict.fromkeys(run.selection["set_ids"])),
        "features' digest": run.selection["digest"],
        "run's key": record["key"],
        "folder": str(run.path),
    }
    return {
        "name": f"r-{run.run_id[-8:]}",
        "label": label(run),
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
        f"-fold cross-validation on the training rows, accuracy {percent(search['accuracy'])} % ± "
        f"{percent(search['deviation'])} over the folds"
    )
