import sys
import types

import pytest

from featstore import progress_bars
from featstore.progress_bars import InNotebooks, Lines, amount_text, is_notebook, rate_text


@pytest.fixture
def notebook(monkeypatch):
    """Let this process look like the kernel of a notebook."""
    shell = type("ZMQInteractiveShell", (), {})()
    module = types.SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", module)


def work(progress):
    progress.start("Study", 2, "steps")
    progress.start("Extracting", 4, "images")
    progress.advance(4)
    progress.say("a line")
    progress.stop()
    progress.advance(2)
    progress.stop()


def test_outside_of_notebooks_nothing_is_shown(capsys):
    assert not is_notebook()
    work(InNotebooks())
    assert capsys.readouterr() == ("", "")


def test_without_widgets_a_notebook_shows_lines(notebook, monkeypatch, capsys):
    monkeypatch.setattr(progress_bars, "find_spec", lambda name: None)
    progress = InNotebooks()
    work(progress)
    progress.say("between")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a line"
    assert lines[1].startswith("Extracting: 4 of 4 images in ")
    assert lines[2].startswith("Study: 2 of 2 steps in ")
    assert lines[3] == "between"


def test_with_widgets_a_notebook_shows_bars(notebook, monkeypatch, capsys):
    monkeypatch.setattr(progress_bars, "find_spec", lambda name: object())
    work(InNotebooks())
    out = capsys.readouterr().out
    assert "a line" in out
    assert "Study" in out
    assert "2 of 2 steps" in out


def test_each_public_function_shows_its_progress_in_notebooks():
    import inspect

    import featstore

    functions = [getattr(featstore, name) for name in featstore.__all__]
    with_progress = [
        inspect.signature(one).parameters["progress"].default
        for one in functions
        if callable(one) and "progress" in inspect.signature(one).parameters
    ]
    assert len(with_progress) == 11
    assert all(isinstance(default, InNotebooks) for default in with_progress)


def test_amounts_and_rates_are_in_their_units():
    assert amount_text(3, 4, "images") == "3 of 4 images"
    assert amount_text(3e6, 4e6, "bytes") == "3.0 MB of 4.0 MB"
    assert rate_text(0.5, "fits") == "2.0 s each"
    assert rate_text(2e6, "bytes") == "2.0 MB/s"


def test_lines_say_the_end_of_a_phase():
    said = []
    lines = Lines(said.append)
    work(lines)
    assert [line.partition(":")[0] for line in said] == ["a line", "Extracting", "Study"]


def test_the_last_line_of_a_phase_is_said_once(monkeypatch):
    clock, said = types.SimpleNamespace(now=0.0), []
    monkeypatch.setattr(progress_bars, "time", types.SimpleNamespace(monotonic=lambda: clock.now))
    lines = Lines(said.append)
    lines.start("Fitting", 2, "fits")
    for clock.now in (20.0, 40.0):
        lines.advance(1)
    lines.stop()
    assert said == [
        "Fitting: 1 of 2 fits, 20.0 s each, 20.0 s left",
        "Fitting: 2 of 2 fits in 40.0 s, 20.0 s each",
    ]
