from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import sys

import click
import pytest

from featstore.cli import guesses, main
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


def test_a_traceback_moves_no_cursor(capsys):
    try:
        raise KeyError("a\x1b[2J") from ValueError("b\x9b2J")
    except KeyError as error:
        main._show_fault(type(error), error, error.__traceback__)
    err = capsys.readouterr().err
    assert err.replace("\n", "").isprintable()
    assert "ValueError: b\\x9b2J" in err
    assert "KeyError" in err


def test_an_unknown_command_is_answered_with_the_commands(capsys):
    _run(["extrakt"])
    expected = "Did you mean extract or export? Commands are extract, import, train, fit"
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["fit", "--shots", "5"], "`featstore curve` has it: Numbers of training images"),
        (["fit", "--folds", "5"], "Use --cv: Folds"),
        (["fit", "--classifier", "svm"], "Use --clf: "),
        (["fit", "--model-name", "x"], "Use --model: "),
        (["fit", "--output", "x"], "Use --store: "),
        (["map", "--output", "x"], "Use --out: "),
        (["fit", "--C", "10"], "Use --param: "),
        (["extract", "--lr", "1"], "`featstore train` has --learning-rate: "),
        (["fit", "--limit", "5"], "Other commands have it: featstore extract, featstore train"),
        (["runs", "ls", "--top", "5"], "`featstore report` has it: "),
        (["fit", "--models", "x"], "Did you mean '--model'?"),
    ],
)
def test_an_option_of_another_name_or_command_is_found(args, expected, capsys):
    assert _run(args) == 2
    assert expected in capsys.readouterr().err


def test_every_option_that_is_offered_exists():
    offered = {name for names in guesses.ALIASES.values() for name in names}
    root = click.Context(main.cli)
    assert [name for name in offered if not dict(guesses._elsewhere(name, root, main.cli))] == []


def commands(command=main.cli, path=()):
    """Return the words of every command and group."""
    found = [path]
    if isinstance(command, click.Group):
        ctx = click.Context(command)
        for name in command.list_commands(ctx):
            found += commands(command.get_command(ctx, name), (*path, name))
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_page_of_help_fits_80_columns(words, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert _run([*words, "--help"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


@pytest.mark.parametrize("name", ["extract", "fit"])
def test_the_groups_of_a_help_hold_every_option_once(name, capsys):
    command = main.cli.get_command(click.Context(main.cli), name)
    grouped = [param for names in command.groups.values() for param in names]
    options = [param.name for param in command.params if isinstance(param, click.Option)]
    assert sorted(grouped) == sorted(options)
    assert _run([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n{heading}:\n" in out for heading in command.groups)


WRONG_NAMES = [
    (["extract", "--model", "resnet05", "--dataset", "demo"], "resnet50"),
    (["models", "show", "resnet05"], "resnet50"),
    (["fit", "--clf", "logrg"], "logreg"),
    (["curve", "--clf", "logrg"], "logreg"),
    (["fit", "--model", "resnet5"], "resnet50"),
    (["fit", "--layers", "fc100"], "fc1000"),
    (["fit", "--dataset", "dmo"], "demo"),
    (["curve", "--layers", "fc100"], "fc1000"),
    (["predict", "bets", "x.png"], "best"),
    (["map", "bets", "x.tif"], "best"),
    (["compare", "bets", "last"], "best"),
    (["report", "bets"], "best"),
    (["runs", "show", "bets"], "best"),
    (["store", "export", "x.csv", "--layers", "fc100"], "fc1000"),
    (["fit", "--modle", "x"], "--model"),
    (["store", "lss"], "ls"),
]


def test_wrong_names_are_answered_before_slow_modules_load(run):
    # In one process, since each takes a second to start.
    slow = ["torch", "sklearn", "scipy", "zarr", "dask", "obstore"]
    code = (
        "import json, sys\nfrom featstore.cli.main import _run\n"
        "for args in json.loads(sys.argv[1]):\n"
        "    print('# ', *args, file=sys.stderr)\n"
        "    _run(args)\n"
        f"print([m for m in {slow} if m in sys.modules])"
    )
    env = os.environ | {"FEATSTORE_STORE": str(run.path.parent.parent)}
    words = json.dumps([args for args, _ in WRONG_NAMES])
    done = subprocess.run(
        [sys.executable, "-c", code, words], capture_output=True, text=True, env=env
    )
    answers = done.stderr.split("# ")[1:]
    assert len(answers) == len(WRONG_NAMES)
    for answer, (args, hint) in zip(answers, WRONG_NAMES, strict=True):
        assert f"Did you mean {hint}" in answer.replace("'", ""), args
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ConfigError("limit is 0."), 1, "Error: limit is 0."),
        (OSError(28, "No space left on device", "/data/x"), 1, "/data/x: No space left"),
        (KeyboardInterrupt(), 130, "the same command continues"),
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


LISTED = "from featstore.cli.main import main; main(['runs', 'ls'])"


def test_runs_are_listed_without_importing_what_fits_them(run):
    code = "import sys; from featstore.cli.main import _run; _run(['runs', 'ls']);"
    code += " print(sorted({'sklearn', 'torch', 'matplotlib', 'dask', 'zarr'} & {*sys.modules}))"
    done = shell(f'"$PYTHON" -c "{code}"', run.path.parent.parent)
    assert done.stdout.splitlines()[-1] == "[]"


def shell(command, store, **env):
    """Run a shell's line, in which python is this one, on a store."""
    env = os.environ | {"FEATSTORE_STORE": str(store), "PYTHON": sys.executable, **env}
    return subprocess.run(["bash", "-c", command], capture_output=True, env=env, text=True)


def test_a_reader_that_is_gone_is_no_fault(run):
    store = run.path.parent.parent
    command = f'"$PYTHON" -c "{LISTED}" | head -0; echo ${{PIPESTATUS[0]}}'
    done = shell(command, store)
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_a_full_disk_at_stdout_is_an_error(run):
    done = shell(f'"$PYTHON" -c "{LISTED}" > /dev/full', run.path.parent.parent)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert done.stderr.endswith("No space left on device.\n")
    assert len(done.stderr.splitlines()) == 1


LOST = "Error: Stdout is closed, so that what the command prints is lost.\n"


@pytest.mark.parametrize(
    ("closed", "code", "said"), [(">&-", 1, LOST), ("2>&-", 0, ""), (">&- 2>&- <&-", 1, "")]
)
def test_a_closed_stdout_loses_the_results_and_a_closed_stderr_nothing(run, closed, code, said):
    done = shell(f'"$PYTHON" -c "{LISTED}" {closed}', run.path.parent.parent)
    assert (done.returncode, done.stderr) == (code, said)


def test_no_file_gets_the_descriptor_of_a_closed_stream(tmp_path):
    code = (
        "import os, sys; from featstore.cli.console import prepare_streams; prepare_streams();"
        "file = open(sys.argv[1], 'w'); streams = [f'/proc/self/fd/{n}' for n in range(3)];"
        "print([*map(os.readlink, streams)], file.fileno() > 2, os.get_inheritable(1),"
        "sys.stdin.read() == '', file=file)"
    )
    shell(f'"$PYTHON" -c "{code}" {tmp_path / "said"} >&- 2>&- <&-', tmp_path)
    null = repr([os.devnull] * 3)
    assert (tmp_path / "said").read_text() == f"{null} True True True\n"


MAPPED = "lib.so: failed to map segment from shared object"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (MemoryError(), "Memory is short (MemoryError). Its limit, `ulimit -v`, is 1000 kB."),
        (ImportError(f"read this\n{MAPPED}"), f"Memory is short ({MAPPED})."),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "--batch-size"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "Memory is short"),
        (RuntimeError("can't start new thread"), "`ulimit -u`, is 1024000. Raise the limit"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "OMP_NUM_THREADS=1"),
    ],
)
def test_a_shortage_of_memory_or_threads_is_told_with_the_cure(error, text, monkeypatch, capsys):
    def fail(**_):
        raise ValueError("while that was handled") from error

    monkeypatch.setattr(main.cli, "main", fail)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024_000, 1024_000))
    assert _run([]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("Error: ")
    assert text in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""


def test_another_error_is_a_fault(monkeypatch):
    def fail(**_):
        raise RuntimeError("a fault")

    monkeypatch.setattr(main.cli, "main", fail)
    with pytest.raises(RuntimeError, match="a fault"):
        _run([])


def test_a_library_that_finds_no_memory_is_told(tmp_path):
    code = "from featstore.cli.main import main; main(['models', 'show', 'resnet18'])"
    # What an earlier test found out about the network would be answered without the library.
    start = f"export FEATSTORE_CACHE={tmp_path}/cache; ulimit -v 1000000"
    done = shell(f'{start}; "$PYTHON" -c "{code}"', tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: Memory is short (")
    assert "`ulimit -v`, is 1000000 kB" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_space_in_which_libraries_hang_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (180_000 * 1024,) * 2)
    monkeypatch.setattr(
        main.cli, "get_command", lambda *_: click.Command("x", callback=pytest.fail)
    )
    assert _run(["runs"]) == 1
    said = capsys.readouterr().err
    assert "needs 524288 kB of address space" in said
    assert "`ulimit -v`, is 180000 kB. Raise the limit" in said


def test_the_installed_command_answers():
    code = "from featstore.cli.main import main; main(['--version'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stdout.startswith("featstore, version ")
