"""Write runs as one HTML page that needs no other file, and its figures and tables as files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from featstore import plotting
from featstore.config import PROJECTIONS
from featstore.environment import now, store_option, versions
from featstore.errors import ConfigError, FeatstoreError, RunError, StoreError
from featstore.io.files import atomic_write, write_output
from featstore.progress import Progress
from featstore.progress_bars import IN_NOTEBOOKS
from featstore.report import result_tables
from featstore.report.charts import check_projection
from featstore.report.explorer_page import DEFAULT_PAGE
from featstore.report.sections import Sections, n_steps
from featstore.report.summaries import summary_rows
from featstore.report.table import write_tables
from featstore.runs.names import group_by_images
from featstore.runs.ranking import Ranking
from featstore.runs.run import Run
from featstore.runs.scoring import find_scoring
from featstore.store.feature_store import FeatureStore
from featstore.text import percent

TOP = 100
"""Fits that a page shows of each dataset: more make a page that is slow to write and to read."""


def write_report(
    store: FeatureStore,
    runs: Sequence[Run],
    path: str | Path,
    *,
    files: str | Path | None = None,
    projection: str = PROJECTIONS[0],
    root: str | None = None,
    command: str | None = None,
    left_out: Sequence[str] = (),
    top: int | None = TOP,
    progress: Progress = IN_NOTEBOOKS,
) -> dict[str, Any]:
    """Write runs as one HTML page, and return the same as JSON-able values.

    Parameters
    ----------
    store : FeatureStore
        The store of the runs.
    runs : sequence of Run
        At least one.
    path : str or Path
        The page; it is replaced whole, or not at all.
    files : str or Path, optional
        Folder for the page's figures (PNG and SVG), its tables (Markdown and LaTeX) and
        ``report.json``.
    projection : str
        ``pca``, ``tsne`` or ``umap``, see :func:`featstore.report.project`.
    root : str, optional
        Folder of the images that the page shows; by default the one they were extracted from.
    command : str, optional
        The command that made everything, for the page.
    left_out : sequence of str
        What was left out, and why, for the page.
    top : int, optional
        Fits that the page shows of each dataset, by :func:`featstore.report.summarize`'s order; the
        best is among them. None for all.
    progress : Progress

    Returns
    -------
    dict
        ``report`` (the page), ``store``, ``created``, ``versions``, ``command``, ``runs``
        (:func:`featstore.report.summarize`, the fits shown), ``best`` by dataset (``run_id``,
        ``name`` and ``choice``, how it was chosen), ``published``
        (:func:`featstore.report.compare_published` by dataset), ``tables`` by name, ``mistakes`` by
        dataset, ``left_out`` and ``files``.

    Raises
    ------
    RunError
        When there are no runs, or all are damaged; some damaged ones are left out.
    ConfigError
        When the projection is unknown or not installed, or `top` is below 1.
    StoreError
        When the page can't be written.
    """
    if not runs:
        raise RunError(
            f"{store.address} holds no runs to report. Make one first, for example with: "
            "featstore fit --clf logreg"
        )
    check_projection(projection)
    if top is not None and top < 1:
        raise ConfigError(f"top is {top}; it must be 1 or more, or None for all.")
    whole, rankings, damaged = _rank(runs, top, progress)
    beyond = _beyond_top(rankings)
    for text in beyond:
        progress.say(f"Left out: {text}")
    shown = {run.run_id for ranking in rankings.values() for run in ranking.shown_runs}
    runs = [run for run in whole if run.run_id in shown]
    page = Sections(store, projection, root, progress)
    progress.start("Reporting", sum(map(n_steps, rankings.values())), "steps")
    try:
        sections = [page.section(title, ranking) for title, ranking in rankings.items()]
    finally:
        progress.stop()
    tables = (
        result_tables.published_table(result_tables.published_by_dataset(whole)),
        result_tables.datasets_table({title: own.shown_runs for title, own in rankings.items()}),
    )
    overview = [page.add_table(table) for table in tables if table]
    costs = result_tables.throughput_table(store, runs)
    if costs:
        page.add_table(costs)
    report = {
        "report": str(path),
        "store": store.address,
        "created": now(),
        "versions": versions(),
        "command": command,
        "left_out": [*left_out, *damaged, *beyond],
        **_results(rankings, sections),
        "tables": {table.name: table.to_dict() for table in page.tables},
        "mistakes": {s["title"]: [m["what"] for m in s["mistakes"]] for s in sections},
        "files": [],
    }
    text = _render(
        report=report,
        sections=sections,
        overview=overview,
        costs=costs,
        n_runs=sum(section["n_runs"] for section in sections),
        explorer=DEFAULT_PAGE if Path(path).with_name(DEFAULT_PAGE).is_file() else "",
        predict=_predict_commands(store, sections),
        commands=_commands(store, runs),
    )
    write_output(Path(path), text.encode())
    if files is not None:
        try:
            report["files"] = [str(file) for file in _write_files(page, Path(files), report)]
        except OSError as error:
            raise StoreError(f"{files} can't be written: {error.strerror or error}.") from error
    return report


def _render(**values: Any) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {
        "break_points": _break_points,
        # "mAP" has its own capitals.
        "capitalize_first": lambda text: text if text[1].isupper() else text[0].upper() + text[1:],
        "interval": lambda line: find_scoring(line["task"]).interval_text(line),
        "percent": percent,
        "score": lambda line: find_scoring(line["task"]).score_text(line),
        "scoring": lambda line: find_scoring(line["task"]),
        "zip": zip,
    }
    template = resources.files("featstore").joinpath("report.html").read_text(encoding="utf-8")
    return environment.from_string(template).render(**values)


def _rank(
    runs: Sequence[Run], top: int | None, progress: Progress
) -> tuple[Sequence[Run], dict[str, Ranking], list[str]]:
    """Return the runs without damaged ones, their rankings, and what is wrong with the damaged."""
    damaged: list[str] = []
    while True:
        groups = sorted(group_by_images(runs).items())
        rankings = {title: Ranking(own, top) for title, own in groups}
        broken = set()
        for run in (run for ranking in rankings.values() for run in ranking.shown_runs):
            try:
                # Read now, so that no section ends half made.
                _ = run.record, run.curves
            except RunError as error:
                progress.say(f"Passed over: {error}")
                damaged.append(str(error))
                broken.add(run.run_id)
        if not broken:
            return runs, rankings, damaged
        runs = [run for run in runs if run.run_id not in broken]
        if not runs:
            raise RunError("\n".join(["All runs to report are damaged.", *damaged]))


def _beyond_top(rankings: Mapping[str, Ranking]) -> list[str]:
    return [
        f"{ranking.n_left_out:,} of {len(ranking.all_lines):,} fits on {title}. The page shows the "
        f"best {len(ranking.lines):,}; --top shows more."
        for title, ranking in rankings.items()
        if ranking.n_left_out
    ]


def _results(
    rankings: Mapping[str, Ranking], sections: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the fits, and by dataset the best fit and what was published."""
    return {
        "runs": [row for title, own in rankings.items() for row in summary_rows(title, own)],
        "best": {
            s["title"]: {
                "run_id": s["best"]["run_id"],
                "name": s["best"]["name"],
                "choice": s["choice"],
            }
            for s in sections
        },
        "published": {s["title"]: s["published"] for s in sections if s["published"]},
    }


def _write_files(page: Sections, folder: Path, report: dict[str, Any]) -> list[Path]:
    written = write_tables(page.tables, folder)
    for name, draw in page.figures.items():
        written += plotting.write_figure(draw(), folder / name)
    place = folder / "report.json"
    with atomic_write(place) as temporary:
        text = json.dumps(report, indent=1, ensure_ascii=False)
        temporary.write_text(text, encoding="utf-8")
    return [*written, place]


def _predict_commands(store: FeatureStore, sections: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return what labels new images with the best run on each dataset."""
    option = store_option(store.address)
    return {s["id"]: f"featstore predict {s['best']['run_id']} images/{option}" for s in sections}


def _commands(store: FeatureStore, runs: Sequence[Run]) -> list[str]:
    """Return the commands that make the features and runs again, in order, each once."""
    parts = dict.fromkeys((p.set_id, p.layer) for run in runs for p in run.selection.features)
    extracting = []
    for set_id, layer in parts:
        with suppress(FeatstoreError):
            extracting.append(store.get(set_id).layer(layer).command)
    return list(dict.fromkeys([*extracting, *(run.record.command for run in runs)]))


def _break_points(text: str) -> list[str]:
    """Split a text into parts between which a line may break: words after a separator."""
    return re.split(r"(?<=[_./+:])(?=[^\W\d_]{3})", text)
