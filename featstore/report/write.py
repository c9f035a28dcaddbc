"""The report: runs -> one HTML page that needs nothing else, its figures and tables as files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from featstore import plotting
from featstore.environment import now, versions
from featstore.errors import FeatstoreError, RunError, StoreError
from featstore.io.files import atomic_write, resolve_link
from featstore.progress import SILENT, Progress
from featstore.report import result_tables
from featstore.report.sections import Sections
from featstore.report.summaries import compare_published, group_by_images, summarize
from featstore.report.table import percent, write_tables
from featstore.runs.pictures import draw_missing_pictures
from featstore.runs.run import Run
from featstore.store.feature_store import FeatureStore


def write_report(
    store: FeatureStore,
    runs: Sequence[Run],
    path: str | Path,
    *,
    files: str | Path | None = None,
    projection: str = "auto",
    root: str | None = None,
    command: str | None = None,
    left_out: Sequence[str] = (),
    progress: Progress = SILENT,
) -> dict[str, Any]:
    """Write runs as one HTML page, and return the same as JSON-able values.

    Parameters
    ----------
    store : FeatureStore
        Where they come from.
    runs : sequence of Run
        At least one.
    path : str or Path
        The page; it is replaced whole, or not at all.
    files : str or Path, optional
        Folder for the page's figures (PNG and SVG), its tables (Markdown and LaTeX) and
        ``report.json``.
    projection : str
        How features are drawn in two dimensions, see :func:`featstore.report.charts.project`.
    root : str, optional
        Where the images are that the page shows; by default where they were extracted from.
    command : str, optional
        What made all of it, to be shown.
    left_out : sequence of str
        What had to be left out, and why.
    progress : Progress
        Told how it goes on.

    Returns
    -------
    dict
        ``report`` (the page), ``store``, ``created``, ``versions``, ``runs``
        (:func:`featstore.report.summaries.summarize`), ``published``
        (:func:`featstore.report.summaries.compare_published` by dataset), ``tables`` by name,
        ``mistakes`` by dataset, ``left_out`` and ``files``.

    Raises
    ------
    RunError
        When there are no runs, or all are damaged; of several, damaged ones are left out.
    ConfigError
        When the projection can't be had.
    StoreError
        When the page can't be written.
    """
    if not runs:
        raise RunError(
            f"{store.address} holds no runs to report. Make one first, for example with: "
            "featstore fit --clf logreg"
        )
    runs, damaged = _whole(runs, progress)
    draw_missing_pictures(runs, progress)
    left_out = [*left_out, *damaged]
    path, page = Path(path), Sections(store, projection, root)
    summaries = summarize(runs)
    groups = dict(sorted(group_by_images(runs).items()))
    progress.start("Reporting", len(groups), "datasets")
    sections = []
    try:
        for title, own in groups.items():
            sections.append(page.section(title, own))
            progress.advance(1)
    finally:
        progress.stop()
    published = {s["title"]: s["published"] for s in sections if s["published"]}
    # A dataset's images may have come from several folders, each of which has a section.
    by_dataset = {
        name: lines
        for name in dict.fromkeys(run.selection.dataset for run in runs)
        if (lines := compare_published(name, [r for r in runs if r.selection.dataset == name]))
    }
    overview = [
        page.keep(table)
        for table in (
            result_tables.published_table(by_dataset),
            result_tables.datasets_table(groups),
        )
        if table
    ]
    costs = result_tables.throughput_table(store, runs)
    if costs:
        page.keep(costs)
    report = {
        "report": str(path),
        "store": store.address,
        "created": now(),
        "versions": versions(),
        "command": command,
        "left_out": left_out,
        "runs": summaries,
        "published": published,
        "tables": {table.name: table.to_dict() for table in page.tables},
        "mistakes": {s["title"]: [m["what"] for m in s["mistakes"]] for s in sections},
        "files": [],
    }
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"percent": percent, "kappa": _kappa}
    template = resources.files("featstore").joinpath("report.html").read_text(encoding="utf-8")
    text = environment.from_string(template).render(
        report=report,
        sections=sections,
        overview=overview,
        costs=costs,
        commands=_commands(store, runs),
    )
    place = path
    try:
        with atomic_write(resolve_link(path)) as temporary:
            temporary.write_text(text, encoding="utf-8")
        if files is not None:
            place = Path(files)
            report["files"] = [str(file) for file in _write_files(page, place, report)]
    except OSError as error:
        raise StoreError(f"{place} can't be written: {error.strerror or error}.") from error
    return report


def _whole(runs: Sequence[Run], progress: Progress) -> tuple[list[Run], list[str]]:
    """Return the runs whose curves can be read, and what is wrong with the others."""
    whole, damaged = [], []
    for run in runs:
        try:
            # Read here, so that no section is left half made.
            _ = run.curves
        except RunError as error:
            progress.say(f"Passed over: {error}")
            damaged.append(str(error))
        else:
            whole.append(run)
    if not whole:
        raise RunError("\n".join(["All runs to report are damaged.", *damaged]))
    return whole, damaged


def _write_files(page: Sections, folder: Path, report: dict[str, Any]) -> list[Path]:
    written = write_tables(page.tables, folder)
    for name, figure in page.figures.items():
        written += plotting.write_figure(figure, folder / name)
    place = folder / "report.json"
    with atomic_write(place) as temporary:
        text = json.dumps(report, indent=1, ensure_ascii=False)
        temporary.write_text(text, encoding="utf-8")
    return [*written, place]


def _commands(store: FeatureStore, runs: Sequence[Run]) -> list[str]:
    """Return what to type to make the features and runs again, in order, nothing twice."""
    extracting: list[str] = []
    for run in runs:
        for part in run.selection.features:
            try:
                record = store.get(part.set_id).layer(part.layer)
            except FeatstoreError:
                continue
            extracting.append(record.command)
    return list(dict.fromkeys([*extracting, *(run.record.command for run in runs)]))


def _kappa(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
