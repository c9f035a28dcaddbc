from __future__ import annotations

import pytest

from featstore.progress import SILENT
from featstore.text import nbytes_text


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "2 kB"), (4.2e6, "4.2 MB"), (3e12, "3.0 TB")],
)
def test_bytes_for_people(nbytes, text):
    assert nbytes_text(nbytes) == text


def test_nobody_has_to_listen():
    SILENT.start("Extracting", 2, "images")
    SILENT.advance(1)
    SILENT.say("a line")
    SILENT.stop()
