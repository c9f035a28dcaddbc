"""``featstore map``: map the classes of a scene."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from featstore.progress_bars import rate_text
from featstore.text import duration_text, number_text

from . import completion, console, tables

if TYPE_CHECKING:
    from featstore.inference.maps.result import NumberMap, SceneMap


@click.command()
@console.run_argument
@click.argument("scene", required=False, shell_complete=completion.files)
@click.option(
    "--from-store",
    is_flag=True,
    help="Take the features of a stored scene, and run no network. The scene is that of RUN, or of "
    "--set.",
)
@console.set_option
@click.option(
    "--out",
    metavar="FILE",
    help="The GeoTIFF to write.  [default: the scene's name with -classes.tif, in this folder]",
)
@click.option(
    "--preview", metavar="FILE", help="The picture to write, a PNG file.  [default: beside --out]"
)
@click.option(
    "--window",
    type=click.IntRange(min=1),
    metavar="PX",
    help="Side of a window that is classified, in pixels of the scene.  [default: that of RUN's "
    "training images]",
)
@click.option(
    "--stride",
    type=click.IntRange(min=1),
    metavar="PX",
    help="Side of a cell of the map, in pixels of the scene.  [default: --window]",
)
@click.option(
    "--bands",
    metavar="N,N,...",
    help="The scene's band for each of RUN's, e.g. 4,3,2.  [default: those of the training images]",
)
@click.option(
    "--range",
    "value_range",
    metavar="LOW,HIGH",
    help="Values that become black and white.  [default: those of the training images]",
)
@click.option(
    "--probability", is_flag=True, help="Write the class's probability (%) as a second band."
)
@click.option(
    "--familiarity",
    is_flag=True,
    help="Write how familiar the windows are (%) as the last band, and hatch those that are unlike "
    "the training images.",
)
@click.option(
    "--reject",
    type=click.FloatRange(0, 1),
    default=0.0,
    metavar="SHARE",
    help="Leave cells empty whose familiarity is below SHARE, such as 0.05.",
)
@click.option(
    "--colors",
    metavar="FILE",
    help="Colours of classes: a CSV file of lines class,#rrggbb, or a JSON object.  [default: by "
    "the classes' names, water blue and trees green]",
)
@click.option(
    "--vector",
    metavar="FILE",
    help="Write the classes as polygons, too: .gpkg, .geojson or .fgb.",
)
@console.store_option
@console.device_option
@console.trust_option
@console.json_option
def command(
    run: str,
    scene: str | None,
    from_store: bool,
    set_id: str | None,
    out: str | None,
    preview: str | None,
    window: int | None,
    stride: int | None,
    bands: str | None,
    value_range: str | None,
    probability: bool,
    familiarity: bool,
    reject: float,
    colors: str | None,
    vector: str | None,
    store: str,
    device: str,
    trusted: tuple[str, ...],
    as_json: bool,
) -> None:
    """Map the classes or numbers of SCENE, a GeoTIFF of any size, with the model of RUN.

    The scene is cut into cells; each gets the class of the window around it, or the number. The map
    is a GeoTIFF that lies upon the scene, with a picture of both; of classes, it has a style for
    QGIS. With --from-store or
    --set, the features come from the store, and SCENE is the name of one of its scenes.

    \b
    featstore map my-run scene.tif
    featstore map my-run scene.tif --window 64 --stride 16 --bands 4,3,2
    featstore map my-run --from-store
    """  # noqa: D301 - click wants the character itself
    if scene is None and not from_store and set_id is None:
        raise click.UsageError("Give a scene, or --from-store.")
    numbers, ends = _numbers(bands), _ends(value_range)
    with console.progress(keeps_rates=False) as progress:
        opened = console.open_store(store, progress, [run])
        chosen = console.open_run(run, opened)
        from featstore.inference.maps.map_scene import map_scene
        from featstore.inference.maps.result import NumberMap

        done = map_scene(
            chosen,
            scene,
            out,
            from_store=from_store,
            set_id=set_id,
            store=opened,
            window=window,
            stride=stride,
            bands=numbers,
            value_range=ends,
            probability=probability,
            familiarity=familiarity,
            reject=reject,
            colors=colors,
            preview=preview,
            vector=vector,
            device=device,
            trusted=trusted,
            progress=progress,
        )
    if as_json:
        console.emit_json(done.to_dict())
    elif isinstance(done, NumberMap):
        show_numbers(done)
    else:
        show(done)


def _numbers(text: str | None) -> list[int] | None:
    try:
        return None if text is None else [int(word) for word in text.split(",")]
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not a list of whole numbers; use e.g. 4,3,2.", param_hint="--bands"
        ) from None


def _ends(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is not a pair of numbers; use e.g. 0,3000.", param_hint="--range"
        ) from None
    return low, high


def show(done: SceneMap) -> None:
    """Print the result of mapping a scene."""
    _show_cells(done, f"{sum(done.counts):,} classified")
    ranked = sorted(zip(done.counts, done.shares, done.class_names, strict=True), reverse=True)
    rows = [[name, f"{count:,}", f"{100 * share:.1f}"] for count, share, name in ranked if count]
    columns = ["class", "cells", "share of the area (%)"]
    tables.table(columns, rows, right=columns[1:])
    _show_rate(sum(done.counts) + done.n_rejected, done)
    _show_familiarity(done)
    console.echo(f"The map: {done.path} (class names: {done.sidecar}; QGIS style: {done.style})")
    console.echo(f"The picture: {done.preview}")
    if done.calibration:
        console.say(f"The probabilities are {done.calibration}.")
    if done.vector:
        console.echo(f"The polygons: {done.vector}")
    console.echo("Next: open the map in QGIS, upon the scene.")


def show_numbers(done: NumberMap) -> None:
    """Print the result of mapping a scene's numbers."""
    _show_cells(done, f"{done.n_rows * done.n_cols - done.n_empty:,} predicted")
    ends = [number_text(value) for value in (done.lowest, done.highest, done.mean)]
    console.echo(f"{done.target_name}: {ends[0]} to {ends[1]}; {ends[2]} on average")
    _show_rate(done.n_rows * done.n_cols - done.n_empty, done)
    _show_familiarity(done)
    console.echo(f"The map: {done.path}")
    console.echo(f"The picture: {done.preview}")
    console.echo("Next: open the map in QGIS, upon the scene.")


def _show_familiarity(done: SceneMap | NumberMap) -> None:
    """Print how many windows are unlike the training images."""
    if done.n_unfamiliar or done.n_rejected:
        are = "window is" if done.n_unfamiliar == 1 else "windows are"
        cells = "cell is" if done.n_rejected == 1 else "cells are"
        left = f"; {done.n_rejected:,} {cells} left empty" if done.n_rejected else ""
        console.echo(f"{done.n_unfamiliar:,} {are} unlike the training images{left}.")


def _show_rate(n_windows: int, done: SceneMap | NumberMap) -> None:
    """Print the rate of the windows alone, and the time of all."""
    rate, whole = rate_text(done.windows_per_s, "windows"), duration_text(done.duration_s)
    windows = "1 window" if n_windows == 1 else f"{n_windows:,} windows"
    console.echo(f"{windows} at {rate}; {whole} with opening and drawing")


def _show_cells(done: SceneMap | NumberMap, what: str) -> None:
    """Print how many cells the map has."""
    console.echo(
        f"{done.n_rows:,} x {done.n_cols:,} cells of {done.stride} x {done.stride} pixels, from "
        f"windows of {done.window} x {done.window}: {what}"
        + (f", {done.n_empty:,} beyond the scene or without data." if done.n_empty else ".")
    )
