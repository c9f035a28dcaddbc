"""``featstore report``: all runs as a table and as one HTML page."""

from __future__ import annotations

import click

from . import console


@click.command()
@click.option(
    "--out",
    default="report.html",
    show_default=True,
    metavar="FILE",
    help="The page; it holds all its figures and needs no network.",
)
@click.option(
    "--files",
    metavar="DIR",
    help="Also write its figures (PNG, SVG), tables (Markdown, LaTeX) and report.json to a folder.",
)
@console.projection_option
@click.option(
    "--root",
    metavar="DIR",
    help="Folder of the images that the page shows.  [default: the one they were extracted from]",
)
@click.option("--dataset", metavar="NAME", help="Only the runs on this dataset or folder.")
@console.store_option
@console.json_option
def command(
    out: str,
    files: str | None,
    projection: str,
    root: str | None,
    dataset: str | None,
    store: str,
    as_json: bool,
) -> None:
    """Show all runs, and write them as one HTML page.

    \b
    featstore report --dataset sat4 --out sat4.html
    """  # noqa: D301 - click wants the character itself
    from featstore.report.write import write_report
    from featstore.runs.ranking import runs_on
    from featstore.runs.run import list_runs
    from featstore.store.feature_store import open_store

    from .fit import show_tables

    with console.progress() as progress:
        opened = open_store(store, progress)
        runs = list_runs(opened, progress)
        if dataset is not None:
            runs = runs_on(runs, dataset)
        report = write_report(
            opened, runs, out, files=files, projection=projection, root=root, progress=progress
        )
    if as_json:
        console.emit_json(report)
        return
    show_tables(report["runs"])
    for title, best in report["best"].items():
        click.echo(f"The best run on {title} is {best['run_id']}")
        if best["choice"]:
            click.echo(best["choice"])
    click.echo(f"The page: {out}")
    if files:
        click.echo(f"Its figures and tables: {files}")
