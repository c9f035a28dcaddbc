from __future__ import annotations

import io
import json

from featstore.cli import console


def test_json_is_one_object_on_stdout(capsys):
    console.emit_json({"name": "Wälder", "n": 1})
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"name": "Wälder", "n": 1}
    assert captured.err == ""


def test_nothing_is_cut_where_there_is_no_terminal(capsys):
    console.table(["run", "n"], [["a" * 120, "1"]], right=["n"])
    assert "a" * 120 in capsys.readouterr().out


def test_markup_in_names_is_only_text(capsys):
    console.table(["name"], [["[bold]field[/bold]"]])
    assert "[bold]field[/bold]" in capsys.readouterr().out


def test_logs_get_a_line_at_the_end_and_now_and_then(capsys, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
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
    class Terminal(io.StringIO):
        def isatty(self):
            return True

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
