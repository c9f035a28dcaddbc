from __future__ import annotations

import io
import json

import pytest
from rich.cells import cell_len

from featstore import progress_bars
from featstore.cli import console, tables


def test_json_is_one_object_on_stdout(capsys):
    console.emit_json({"name": "Wälder", "n": 1})
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"name": "Wälder", "n": 1}
    assert captured.err == ""


def test_nothing_is_cut_where_there_is_no_terminal(capsys):
    tables.table(["run", "n"], [["a" * 120, "1"]], right=["n"])
    assert "a" * 120 in capsys.readouterr().out


def test_control_characters_in_names_are_escaped(capsys):
    tables.table(["name"], [["a\x1b[31m\nb\u202e"]])
    console.echo("c\x1b[0m\nd")
    console.say("e\x9b1m")
    out, err = capsys.readouterr()
    assert "a\\x1b[31m\\nb\\u202e" in out
    assert "c\\x1b[0m\nd\n" in out
    assert err == "e\\x9b1m\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


UNSAFE = "a\x1b]0;b\x07\x7f\x9b1m\u202e"


def test_json_is_exact_and_has_no_control_characters(capsys):
    console.emit_json({UNSAFE: [UNSAFE, "ä"]})
    out = capsys.readouterr().out
    assert json.loads(out) == {UNSAFE: [UNSAFE, "ä"]}
    assert "ä" in out
    assert out.replace("\n", "").isprintable()


def test_csv_is_exact_but_on_a_terminal(monkeypatch, capsys):
    console.emit_csv(lambda stream: stream.write(f"{UNSAFE}\n"))
    assert capsys.readouterr().out == f"{UNSAFE}\n"
    monkeypatch.setattr(console.sys, "stdout", Terminal())
    console.emit_csv(lambda stream: stream.write(f"{UNSAFE}\n"))
    assert console.sys.stdout.getvalue() == "a\\x1b]0;b\\x07\\x7f\\x9b1m\\u202e\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_that_stdout_can_t_encode_are_escaped(monkeypatch, encoding):
    raw = io.BytesIO()
    monkeypatch.setattr(console.sys, "stdout", io.TextIOWrapper(raw, encoding))
    console.prepare_streams()
    name = "wälder 中 \udcff"
    tables.table(["name"], [[name], ["x" * 30]])
    console.echo(name)
    console.emit_json({"name": name})
    console.sys.stdout.flush()
    table, text = raw.getvalue().decode(encoding).split("{")
    assert "\\udcff" in table
    assert ("中" in table) == (encoding == "utf-8")
    assert json.loads("{" + text) == {"name": name}
    assert ("─" * 30 in table) == (encoding == "utf-8") != ("-" * 30 in table)


def test_a_table_fits_the_columns_that_are_asked_for(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    rows = [["a-long-name-of-a-run-0a1b2c3d", "resnet50", "97.5"], ["中" * 30, "x", "1.0"]]
    tables.table(["run", "model", "accuracy"], rows, right=["accuracy"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(cell_len, lines)) <= 40
    (line,) = (line for line in lines if "97.5" in line)
    assert line.split()[0].startswith("a-long")
    assert line.split()[0].endswith("2c3d")
    assert "…" in line


def test_a_short_text_is_not_shortened():
    assert tables.shorten("abc", 3) == "abc"
    assert tables.shorten("abcdefghij", 5) == "ab…ij"


def test_markup_in_names_is_only_text(capsys):
    tables.table(["name"], [["[bold]field[/bold]"]])
    assert "[bold]field[/bold]" in capsys.readouterr().out


def test_logs_get_a_line_at_the_end_and_now_and_then(capsys, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(progress_bars.time, "monotonic", lambda: clock[0])
    with console.progress() as progress:
        progress.start("Extracting", 100, "images")
        for _ in range(5):
            clock[0] += 4
            progress.advance(20)
        progress.stop()
        progress.say("kept")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "Extracting: 80 of 100 images, 5.0 images/s, 4.0 s left",
        "Extracting: 100 of 100 images in 20.0 s, 5.0 images/s",
        "kept",
    ]


def test_terminals_get_a_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(console.sys, "stderr", terminal)
    with console.progress() as progress:
        progress.start("Fetching", 2_000_000, "bytes")
        progress.advance(2_000_000)
        progress.stop()
        progress.say("a line")
    shown = terminal.getvalue()
    assert "Fetching" in shown
    assert "2.0 MB of 2.0 MB" in shown
    assert "B/s" in shown
    assert "a line" in shown
