"""Legends: the colours of a map's classes, and the sidecar that tells GDAL their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from featstore.figures import PALETTE

Colour = tuple[int, int, int]

LIGHTNESS = (0.35, 0.9)
"""Of further colours, 0 (black) to 1 (white): neither ink nor paper."""

N_CHOSEN = 256
"""Colours that are chosen for their distance; further ones merely differ."""

# Red, green and blue light as those see it who lack the cones for long, medium or short waves:
# Machado, Oliveira and Fernandes 2009 (doi:10.1109/TVCG.2009.113), severity 1.
VISIONS = np.array(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ],
    ]
)

# Light to cones' signals to Oklab, in which distances are as they are seen: Ottosson 2020.
CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
OKLAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def class_colours(n_classes: int) -> list[Colour]:
    """Return as many colours as there are classes, red, green and blue from 0 to 255; all differ.

    The first are the figures' palette. Each further one is that which is farthest from all before,
    as seen by those of four kinds of colour vision who tell it worst from the nearest.
    """
    first = np.array([np.rint(255 * np.array(to_rgb(name))) for name in PALETTE], np.int64)
    if n_classes <= len(first):
        return _as_tuples(first[:n_classes])
    levels = max(16, int(np.ceil((4 * n_classes) ** (1 / 3))))
    axis = np.rint(np.linspace(0, 255, levels)).astype(np.int64)
    others = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3)
    lightness = _seen(others)[0, :, 0]
    others = others[(lightness > LIGHTNESS[0]) & (lightness < LIGHTNESS[1])]
    others = others[~(others[:, None] == first).all(axis=2).any(axis=1)]
    seen, chosen = _seen(np.concatenate([first, others])), list(range(len(first)))
    distance = np.min([_distance(seen, at) for at in chosen], axis=0)
    while len(chosen) < min(n_classes, N_CHOSEN):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, _distance(seen, chosen[-1]))
    # Those after them are the farthest from the chosen ones.
    rest = np.setdiff1d(np.argsort(-distance, kind="stable"), chosen, assume_unique=True)
    every = np.concatenate([chosen, rest]).astype(np.int64)[:n_classes]
    return _as_tuples(np.concatenate([first, others])[every])


def _seen(colours: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return colours in Oklab, (visions, n, 3): lightness, green to red, blue to yellow."""
    level = colours / 255
    light = np.where(level <= 0.04045, level / 12.92, ((level + 0.055) / 1.055) ** 2.4)
    cones = np.clip(light @ VISIONS.transpose(0, 2, 1), 0, 1) @ CONES.T
    return np.asarray(np.cbrt(cones) @ OKLAB.T)


def _distance(seen: NDArray[np.float64], at: int) -> NDArray[np.float64]:
    """Return how far each colour is from one, for whom they are the nearest, (n,)."""
    distance: NDArray[np.float64] = np.linalg.norm(seen - seen[:, [at]], axis=2).min(axis=0)
    return distance


def _as_tuples(colours: NDArray[np.int64]) -> list[Colour]:
    return [(red, green, blue) for red, green, blue in colours.tolist()]


def write_names(path: Path, class_names: Sequence[str], colours: Sequence[Colour]) -> None:
    """Write the sidecar from which GDAL reads what a map's labels are called.

    GeoTIFF has no place for that. It holds both the names by label and a table of attributes.
    """
    root = ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(root, "PAMRasterBand", band="1")
    names = ElementTree.SubElement(band, "CategoryNames")
    for name in class_names:
        ElementTree.SubElement(names, "Category").text = name
    table = ElementTree.SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    # Types and usages by GDAL's numbers: integers and text; value, name, red, green, blue.
    columns = [("Value", 0, 5), ("Class", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8)]
    for i, (title, kind, usage) in enumerate(columns):
        column = ElementTree.SubElement(table, "FieldDefn", index=str(i))
        ElementTree.SubElement(column, "Name").text = title
        ElementTree.SubElement(column, "Type").text = str(kind)
        ElementTree.SubElement(column, "Usage").text = str(usage)
    for label, (name, colour) in enumerate(zip(class_names, colours, strict=True)):
        row = ElementTree.SubElement(table, "Row", index=str(label))
        for value in (label, name, *colour):
            ElementTree.SubElement(row, "F").text = str(value)
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(path, encoding="utf-8")
