"""What the commands share: options, tables, progress and JSON."""

from __future__ import annotations

import errno
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click
from click.core import ParameterSource

from featstore.config import PROJECTIONS
from featstore.environment import DEFAULT_STORE
from featstore.progress_bars import Lines, open_bars
from featstore.text import printable, printable_json

from . import completion

if TYPE_CHECKING:
    from featstore.progress import Progress
    from featstore.runs.run import Run
    from featstore.store.feature_store import FeatureStore

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

store_option: Decorator = click.option(
    "--store",
    envvar="FEATSTORE_STORE",
    default=DEFAULT_STORE,
    show_default=True,
    show_envvar=True,
    metavar="DIR|URL",
    shell_complete=completion.folders,
    help="Folder of the feature store, or its URL, as in s3://bucket/prefix.",
)
root_option: Decorator = click.option(
    "--root",
    envvar="FEATSTORE_DATA",
    show_envvar=True,
    metavar="DIR",
    shell_complete=completion.folders,
    help="Folder that holds the dataset's files, or a parent that has it under its name; for scene "
    "the raster.  [default: data]",
)
json_option: Decorator = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object and nothing else on stdout."
)
seed_option: Decorator = click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    default=0,
    show_default=True,
    metavar="N",
    help="Seed of the random numbers.",
)

device_option: Decorator = click.option(
    "--device", default="auto", show_default=True, metavar="DEV", help="auto, cpu, cuda or cuda:N."
)
trust_option: Decorator = click.option(
    "--trust",
    "trusted",
    multiple=True,
    metavar="TYPE",
    help="Type in your own classifier, package.module.Class, whose code may run. May be repeated.",
)
projection_option: Decorator = click.option(
    "--projection",
    type=click.Choice(PROJECTIONS),
    default=PROJECTIONS[0],
    show_default=True,
    help="How features are drawn in two dimensions; tsne takes a minute for 10,000 images, umap "
    "compiles for some 20 s and needs umap-learn.",
)
yes_option: Decorator = click.option("--yes", "-y", is_flag=True, help="Remove without asking.")
run_argument: Decorator = click.argument("run", shell_complete=completion.run_names)

set_option: Decorator = click.option(
    "--set",
    "set_id",
    metavar="SET",
    shell_complete=completion.set_names,
    help="Feature set, by its name or path, or newest: the last one made; see `featstore store "
    "ls`.",
)


def dataset_option(text: str = "Dataset, or the folder that was extracted.") -> Decorator:
    """Return the option ``--dataset`` of commands that read the store."""
    return click.option("--dataset", metavar="NAME", help=text, shell_complete=completion.titles)


class GroupedCommand(click.Command):
    """A command whose help lists its options in groups, by :attr:`groups`."""

    groups: Mapping[str, Sequence[str]] = {}
    """Headings, and the names of the parameters below each."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, a section for each group."""
        records = {
            str(param.name): record
            for param in self.get_params(ctx)
            if isinstance(param, click.Option)
            and (record := param.get_help_record(ctx)) is not None
        }
        for heading, names in self.groups.items():
            with formatter.section(heading):
                formatter.write_dl([records.pop(name) for name in names])
        with formatter.section("Other options"):
            formatter.write_dl(list(records.values()))


def with_options(options: Sequence[Decorator]) -> Decorator:
    """Return a decorator that adds options, the first one first in the help."""

    def add(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return add


def grouped(groups: Mapping[str, Sequence[str]]) -> type[GroupedCommand]:
    """Return the class of a command whose help lists its options in these groups."""
    return type("Grouped", (GroupedCommand,), {"groups": groups})


def names_of(
    check: Callable[[str], object] | None = None,
) -> Callable[[click.Context, click.Parameter, Any], list[str]]:
    """Return a callback that splits names at commas, and checks each."""

    def callback(ctx: click.Context, param: click.Parameter, value: Any) -> list[str]:
        values = [value] if isinstance(value, str) else value or ()
        names = [name.strip() for text in values for name in text.split(",")]
        for name in names:
            if check is not None:
                check(name)
        return names

    return callback


def given(ctx: click.Context, names: Iterable[str]) -> dict[str, str]:
    """Return the parameters that the command line gives, each with its option."""
    options = {param.name: max(param.opts, key=len) for param in ctx.command.params}
    return {
        name: options[name]
        for name in names
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }


STDERR = 2
"""The last of the descriptors that a process finds open."""


class ClosedStdout(io.TextIOBase):
    """What stands for a stdout that was closed: printing results to it is an error."""

    def write(self, text: str) -> int:
        """Refuse a text."""
        raise OSError(errno.EBADF, "Stdout is closed, so that what the command prints is lost")


def prepare_streams() -> None:
    """Open closed streams on the null device, and let stdout and stderr take every text.

    What they can't encode is escaped. A closed stdout refuses every text.
    """
    # Otherwise the next file that is opened gets the descriptor, and what C code prints.
    while (handle := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        os.set_inheritable(handle, True)
    os.close(handle)
    if sys.stdin is None:
        sys.stdin = Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            null = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, ClosedStdout() if name == "stdout" else null)
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def discard(stream: Any) -> None:
    """Send what is left in a broken stream to the null device."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def echo(text: object = "") -> None:
    """Print text on stdout."""
    click.echo(printable(str(text), "\n"), file=sys.stdout)


def echo_sheets(paths: Sequence[Path]) -> None:
    """Print the paths of contact sheets: of several, the first and the last."""
    if len(paths) > 1:
        echo(f"The contact sheets: {paths[0]} to {paths[-1]}")
    elif paths:
        echo(f"The contact sheet: {paths[0]}")


def emit_json(value: Any) -> None:
    """Print one JSON object on stdout."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=1)
    click.echo(printable_json(text), file=sys.stdout)


def emit_csv(write: Callable[[TextIO], None]) -> None:
    """Print what `write` gives to stdout: exactly, but for what a terminal can't show."""
    if not sys.stdout.isatty():
        write(sys.stdout)
        return
    shown = io.StringIO()
    write(shown)
    echo(shown.getvalue().removesuffix("\n"))


def say(line: str) -> None:
    """Print a line for people on stderr; a reader that is gone stops nothing."""
    with suppress(BrokenPipeError):
        click.echo(printable(line, "\n"), file=sys.stderr)


def confirm_removal(question: str) -> None:
    """Ask before something is removed; end with 1 if the answer is no."""
    try:
        if click.confirm(printable(question), err=True):
            return
    except click.Abort:
        if sys.stdin.isatty():
            raise
        click.echo(file=sys.stderr)
    say("Nothing was removed.")
    raise click.exceptions.Exit(1)


def open_store(
    store: str, progress: Progress | None = None, named: Sequence[str | None] = ()
) -> FeatureStore:
    """Open the store that a command reads; its module is imported when a command needs it.

    A folder that does not exist is refused, unless one of `named` is the folder of a run or set.
    """
    from featstore.errors import StoreError
    from featstore.store.feature_store import open_store

    opened = open_store(store) if progress is None else open_store(store, progress)
    names = [name for name in named if name]
    has_own_store = any("://" in name or Path(name).is_dir() for name in names)
    if "://" not in store and not opened.path.is_dir() and not has_own_store:
        raise StoreError(
            f"There is no store at {store}: no such folder. Name another with --store or "
            "FEATSTORE_STORE, or make one, for example with: featstore extract --model resnet50 "
            "--dataset sat4"
        )
    return opened


def open_run(name: str, store: FeatureStore) -> Run:
    """Open the run that a name means, and say which one it is."""
    from featstore.runs.find import is_alias
    from featstore.runs.opening import open_run

    run = open_run(name, store)
    if is_alias(name, store):
        say(f"{name} is {run.run_id}")
    return run


def shown(path: str | Path) -> str:
    """Return a path relative to the current folder, if it lies in it."""
    if "://" not in str(path) and Path(path).is_relative_to(Path.cwd()):
        return str(Path(path).relative_to(Path.cwd()))
    return str(path)


@contextmanager
def progress(*, keeps_rates: bool = True) -> Iterator[Progress]:
    """Yield a progress that writes to stderr: bars on a terminal, quiet lines elsewhere.

    Without `keeps_rates`, the rates of phases are not left for the reader in the end.
    """
    if not sys.stderr.isatty():
        yield Lines(say, says_ends=keeps_rates)
        return
    from rich.console import Console

    with open_bars(Console(stderr=True), keeps_bars=keeps_rates) as bars:
        yield bars
