"""The options that choose images, and say how they are read: of ``extract`` and ``train``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from featstore.config import LABEL_BY, ExtractConfig

from . import completion, console

IMAGE_GROUPS = {
    "Images": (
        *("dataset", "root", "limit", "seed", *console.READING_OPTIONS),
        *("bands", "value_range", "nodata"),
    ),
    "Scenes": ("window", "stride", "labels", "label_column", "label_by"),
}
"""Headings of the help, and the parameters below each."""


OPTIONS = (
    console.root_option,
    console.seed_option,
    console.reading_options,
    click.option(
        "--dataset",
        metavar="NAME|FOLDER|TABLE",
        shell_complete=completion.datasets,
        help="Dataset, see `featstore datasets`; or your images.",
    ),
    click.option(
        "--bands",
        default=ExtractConfig.bands,
        show_default=True,
        metavar="NAMES",
        help="rgb, or gray for their luminance; of image files also all, or numbers or names: "
        "4,3,2.",
    ),
    click.option(
        "--range",
        "value_range",
        metavar="LOW,HIGH",
        help="Values of image files that become black and white: 0,3000, or percentile:2,98 of the "
        "training images.",
    ),
    click.option(
        "--nodata",
        metavar="V",
        help="Value of pixels without data, or nan: they get their band's mean.  [default: refuse]",
    ),
    click.option(
        "--window",
        type=click.IntRange(1),
        metavar="PX",
        help="Side of the windows of --dataset scene.",
    ),
    click.option(
        "--stride",
        type=click.IntRange(1),
        metavar="PX",
        help="From one window to the next.  [default: --window]",
    ),
    click.option(
        "--labels",
        metavar="FILE",
        shell_complete=completion.files,
        help="Polygons that give windows their classes: GeoPackage, Shapefile, GeoJSON.",
    ),
    click.option("--label-column", metavar="NAME", help="Column of the polygons' classes."),
    click.option(
        "--label-by",
        type=click.Choice(LABEL_BY),
        default=ExtractConfig.label_by,
        show_default=True,
        help="The class of the polygons over more than half of a window, or over its middle.",
    ),
    click.option("--limit", type=int, metavar="N", help="Use N images, spread over all classes."),
)


def image_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that choose images and say how they are read."""
    for option in reversed(OPTIONS):
        function = option(function)
    return function
