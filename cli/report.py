"""``featstore report``: all runs as a table and as one HTML page."""

from __future__ import annotations

import click

from . import completion, console


@click.command()
@click.argument("names", metavar="[RUN]...", nargs=-1, shell_complete=completion.run_names)
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
    shell_complete=completion.folders,
    help="Folder of the images that the page shows.  [default: the one they were extracted from]",
)
@console.dataset_option("Only the runs on this dataset or folder.")
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    metavar="N",
    help="Fits that the page shows of each dataset, the best first.",
)
@console.store_option
@console.json_option
def command(
    names: tuple[str, ...],
    out: str,
    files: str | None,
    projection: str,
    root: str | None,
    dataset: str | None,
    top: int,
    store: str,
    as_json: bool,
) -> None:
    """Show all runs, or the named ones, and write them as one HTML page.

    RUN is the id of a run, part of its id, a tag, last, best, best:DATASET or a run's folder.

    \b
    featstore report --dataset sat4 --out sat4.html
    """  # noqa: D301 - click wants the character itself
    from .fit import show_tables

    with console.progress() as progress:
        opened = console.open_store(store, progress, names)
        named = {run.run_id: run for run in (console.open_run(n, opened) for n in names)}
        from featstore.report.write import write_report
        from featstore.runs.names import runs_on
        from featstore.runs.opening import list_runs

        runs = list(named.values()) or list_runs(opened, progress)
        if dataset is not None:
            runs = runs_on(runs, dataset)
        report = write_report(
            opened,
            runs,
            out,
            files=files,
            projection=projection,
            root=root,
            top=top,
            progress=progress,
        )
    if as_json:
        console.emit_json(report)
        return
    show_tables(report["runs"])
    for title, best in report["best"].items():
        console.echo(f"The best run on {title} is {best['run_id']}")
        if best["choice"]:
            console.echo(best["choice"])
    console.echo(f"The page: {out}")
    if files:
        console.echo(f"Its figures and tables: {files}")
