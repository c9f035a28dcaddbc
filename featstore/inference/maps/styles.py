"""Write the files from which GDAL reads a map's class names, and QGIS their colours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

from featstore.inference.maps.colors import Color, color_hex


def write_names(path: Path, class_names: Sequence[str], colors: Sequence[Color]) -> None:
    """Write GDAL's sidecar: names by label, and a table of attributes.

    GeoTIFF has no place for the names.
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
    for label, (name, color) in enumerate(zip(class_names, colors, strict=True)):
        row = ElementTree.SubElement(table, "Row", index=str(label))
        for value in (label, name, *color):
            ElementTree.SubElement(row, "F").text = str(value)
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(path, encoding="utf-8")


def write_qgis_style(path: Path, class_names: Sequence[str], colors: Sequence[Color]) -> None:
    """Write a QGIS style, which QGIS applies to the map of the same name."""
    root = ElementTree.Element("qgis", version="3.0", styleCategories="Symbology")
    pipe = ElementTree.SubElement(root, "pipe")
    renderer = ElementTree.SubElement(
        pipe, "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1"
    )
    palette = ElementTree.SubElement(renderer, "colorPalette")
    for label, (name, color) in enumerate(zip(class_names, colors, strict=True)):
        ElementTree.SubElement(
            palette,
            "paletteEntry",
            value=str(label),
            color=color_hex(color),
            alpha="255",
            label=name,
        )
    ElementTree.indent(root)
    head = b"<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
    path.write_bytes(head + ElementTree.tostring(root, encoding="utf-8"))
