from __future__ import annotations

import pytest

from featstore.report.table import Cell, Table, write_tables
from featstore.text import NONE, percent


@pytest.fixture
def table():
    rows = [
        [Cell("a|b_c"), Cell("90.5", 0.905, "run-1", "fc8", is_best=True)],
        [Cell("50 % & more"), Cell(NONE)],
    ]
    return Table("mine", "My title", (("method", False), ("accuracy", True)), rows, "A note.")


def test_markdown_keeps_columns_apart(table):
    lines = table.to_markdown().splitlines()
    assert lines[0] == "**My title**"
    assert [line.replace("\\|", "").count("|") for line in lines if line.startswith("|")] == [3] * 4
    assert "a\\|b_c" in lines[4]
    assert "90.5 (fc8)" in lines[4]
    assert lines[-1] == "A note."


def test_latex_is_escaped(table):
    text = table.to_latex()
    assert text.startswith("% My title. A note.\n\\begin{tabular}{lr}")
    assert r"a|b\_c" in text
    assert r"50 \% \& more" in text
    assert "& --" in " ".join(text.split())


def test_json_has_numbers_where_there_are_any(table):
    assert table.to_dict()["rows"] == [
        {"method": "a|b_c", "accuracy": 0.905},
        {"method": "50 % & more", "accuracy": NONE},
    ]


def test_a_heading_that_two_columns_share_is_refused():
    with pytest.raises(ValueError, match="several columns 'difference'.*of its own"):
        Table("mine", "My title", (("a", False), ("difference", True), ("difference", True)), [])


def test_each_table_becomes_two_files(table, tmp_path):
    written = write_tables([table], tmp_path / "new")
    assert [path.name for path in written] == ["mine.md", "mine.tex"]
    assert written[0].read_text(encoding="utf-8") == table.to_markdown()
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == ["mine.md", "mine.tex"]


def test_shown_leaves_out_what_tells_nothing_and_explains_the_rest():
    columns = (("run", False), ("accuracy", True), ("CV", True), ("test", True), ("time", True))
    rows = [
        [Cell(name), Cell("100.0", 1.0), Cell(NONE), Cell("80", 80), Cell(time)]
        for name, time in (("a", "1"), ("b", "2"))
    ]
    legend = {"CV": "CV explained.", "time": "Time explained.", "test": "Test explained."}
    table = Table("t", "T", columns, rows, "Note.", ("test", "time"), legend)
    shown = table.shown()
    # The accuracy is a result, and stays though all are the same.
    assert [name for name, _ in shown.columns] == ["run", "accuracy", "time"]
    assert [[cell.text for cell in row] for row in shown.rows] == [
        ["a", "100.0", "1"],
        ["b", "100.0", "2"],
    ]
    assert shown.note == "Note. Time explained. The same in all rows: test 80."
    assert "CV" not in table.to_markdown()
    assert r"\textbackslash" not in table.to_latex()
    assert set(table.to_dict()["rows"][0]) == {"run", "accuracy", "CV", "test", "time"}
    # One row has no constant columns.
    one = Table("t", "T", columns, rows[:1], "", ("test", "time"))
    assert [name for name, _ in one.shown().columns] == ["run", "accuracy", "test", "time"]


def test_percent():
    assert (percent(0.98765), percent(None)) == ("98.8", NONE)
