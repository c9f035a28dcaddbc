from __future__ import annotations

from featstore.progress import SILENT


def test_nobody_has_to_listen():
    SILENT.start("Extracting", 2, "images")
    SILENT.advance(1)
    SILENT.say("a line")
    SILENT.stop()
