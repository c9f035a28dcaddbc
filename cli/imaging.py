"""The options that choose images and say how they are read, of several commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from featstore.config import LABEL_BY, TASKS, ExtractConfig

from . import completion, console


def reading_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which samples a dataset has, and their labels and splits."""
    options = (
        click.option(
            "--columns",
            metavar="NAME=COLUMN,...",
            callback=console.names_of(),
            help="Columns of a table that are not named path (or image), label, split, group, id: "
            "path=file,label=class.",
        ),
        click.option(
            "--task",
            type=click.Choice(TASKS),
            help="What a table's labels are.  [default: one class, or several where a label is a "
            "list or A;B]",
        ),
        click.option(
            "--splits",
            "split_files",
            metavar="TRAIN,TEST[,VAL]",
            callback=console.names_of(),
            shell_complete=completion.files,
            help="A published split: files that list each split's images, one name a line.",
        ),
        click.option(
            "--groups-from",
            metavar="COLUMN|regex:PATTERN|grid:SIZE",
            help="Keep the images of a group on one side of every split: by a table's column, by "
            "the sample ids, or by place on a grid in map units.",
        ),
        click.option(
            "--follow-links", is_flag=True, help="Read links that lead out of the folder of images."
        ),
    )
    return console.with_options(options)(function)


def scene_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say how scenes are divided into windows and labelled."""
    options = (
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
            default=LABEL_BY[0],
            show_default=True,
            help="The class of the polygons over more than half of a window, or over its middle.",
        ),
    )
    return console.with_options(options)(function)


SCENE_OPTIONS = ("window", "stride", "labels", "label_column", "label_by")
"""The parameters that :func:`scene_options` adds."""


READING_OPTIONS = ("columns", "task", "split_files", "groups_from", "follow_links")
"""The parameters that :func:`reading_options` adds."""


def value_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which bands and values of images are read."""
    options = (
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
            help="Values of image files that become black and white: 0,3000, or percentile:2,98 of "
            "the training images.",
        ),
        click.option(
            "--nodata",
            metavar="V",
            help="Value of pixels without data, or nan: they get their band's mean.  [default: "
            "refuse]",
        ),
    )
    return console.with_options(options)(function)


IMAGE_GROUPS = {
    "Images": (
        *("dataset", "root", "limit", "seed", *READING_OPTIONS),
        *("bands", "value_range", "nodata"),
    ),
    "Scenes": SCENE_OPTIONS,
}
"""Headings of the help, and the parameters below each."""


OPTIONS = (
    console.root_option,
    console.seed_option,
    reading_options,
    scene_options,
    click.option(
        "--dataset",
        metavar="NAME|FOLDER|...",
        shell_complete=completion.datasets,
        help="Dataset, see `featstore datasets`; or your images.",
    ),
    value_options,
    click.option("--limit", type=int, metavar="N", help="Use N images, spread over all classes."),
)


def image_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that choose images and say how they are read."""
    return console.with_options(OPTIONS)(function)
