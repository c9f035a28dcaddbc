from __future__ import annotations

from xml.etree import ElementTree

from featstore.inference.maps.styles import write_qgis_style


def test_a_qgis_style_has_each_classs_name_and_color(tmp_path):
    names = ["forest & <trees>", "river", "x\udcff"]
    write_qgis_style(tmp_path / "map.qml", names[:2], [(22, 73, 28), (28, 105, 198)])
    root = ElementTree.parse(tmp_path / "map.qml").getroot()
    assert root.tag == "qgis"
    (renderer,) = root.iterfind("pipe/rasterrenderer")
    assert (renderer.get("type"), renderer.get("band")) == ("paletted", "1")
    entries = [dict(entry.items()) for entry in renderer.iterfind("colorPalette/paletteEntry")]
    assert entries == [
        {"value": "0", "color": "#16491c", "alpha": "255", "label": "forest & <trees>"},
        {"value": "1", "color": "#1c69c6", "alpha": "255", "label": "river"},
    ]
    # A name's bytes that are not UTF-8 are no error.
    write_qgis_style(tmp_path / "map.qml", names, [(0, 0, 0)] * 3)
