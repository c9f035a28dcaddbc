from __future__ import annotations

import subprocess
import sys

import click
import pytest

from featstore.cli import main
from featstore.cli.main import COMMANDS, _run
from featstore.errors import ConfigError


def test_help_lists_every_command(capsys):
    assert _run(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    assert _run([command, "--help"]) == 0
    assert "Usage: featstore" in capsys.readouterr().out


@pytest.mark.parametrize("args", [["extrakt"], ["extract"], ["fit", "--nonsense"], ["--nonsense"]])
def test_wrong_usage_is_2(args, capsys):
    assert _run(args) == 2
    assert "Usage" in capsys.readouterr().err


def test_an_unknown_command_is_answered_with_those_there_are(capsys):
    _run(["extrakt"])
    assert "extract, fit, predict" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ConfigError("limit is 0."), 1, "Error: limit is 0."),
        (OSError(28, "No space left on device", "/data/x"), 1, "/data/x: No space left"),
        (KeyboardInterrupt(), 130, "the same command goes on"),
    ],
)
def test_errors_become_exit_codes_and_one_paragraph(monkeypatch, capsys, error, code, text):
    def fail(**_):
        raise error

    monkeypatch.setattr(main.cli, "main", fail)
    assert _run([]) == code
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.out == ""


def test_the_end_of_a_file_is_no_ctrl_c(monkeypatch):
    # click makes the same of both.
    def fail(**_):
        raise click.exceptions.Abort from EOFError("a file ended")

    monkeypatch.setattr(main.cli, "main", fail)
    with pytest.raises(EOFError, match="a file ended"):
        _run([])


def test_the_installed_command_answers():
    code = "from featstore.cli.main import main; main(['--version'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("featstore, version ")
