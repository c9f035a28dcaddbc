"""The ``featstore`` command: finds the subcommands and turns errors into exit codes."""

from __future__ import annotations

import gc
import importlib
import io
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

from . import console
from .shortage import check_address_space, shortage_text

COMMANDS = {
    "extract": "Turn a dataset's images into features, once.",
    "import": "Store features that were computed elsewhere.",
    "train": "Train a network on a dataset's training images, for extract.",
    "fit": "Train and evaluate classifiers on stored features.",
    "predict": "Label new images with a trained classifier.",
    "map": "Map the classes of a whole scene.",
    "export": "Write a trained classifier, with its network, as one ONNX file.",
    "neighbors": "Show the stored images that are most like others.",
    "suspects": "Find labels that look wrong, and near-copies across splits.",
    "explore": "Explore images on a map of their features, in a browser.",
    "curve": "Show how accuracy grows with the number of training images.",
    "compare": "Test whether one of two runs is better than the other.",
    "runs": "List, show, tag and remove runs.",
    "report": "Show all runs, and write them as one HTML page.",
    "reproduce": "Run the paper's comparison of networks and layers, and report it.",
    "datasets": "List, show and get datasets.",
    "models": "List networks and their layers.",
    "store": "List, show, verify, remove and export stored features.",
    "demo": "Run everything on generated images, in minutes.",
}


class LazyGroup(click.Group):
    """A group that imports a command when it is called, which keeps help quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which they are used."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"featstore.cli.{cmd_name}")
        command: click.Command = module.command
        command.name = cmd_name
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or list all commands."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            if args and args[0] not in COMMANDS:
                from featstore.text import did_you_mean

                hint = did_you_mean(args[0], COMMANDS)
                raise click.UsageError(
                    f"No such command {args[0]!r}.{hint} Commands are {', '.join(COMMANDS)}.", ctx
                ) from None
            raise


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rs-featstore")
def cli() -> None:
    """Frozen CNN features for remote-sensing images: extract once, classify in minutes.

    \b
    featstore extract --model resnet50 --dataset sat4
    featstore fit --clf logreg
    """  # noqa: D301 - click wants the character itself
    check_address_space()


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line; the exit code is 0, 1 (error), 2 (usage) or 130 (Ctrl-C)."""
    sys.excepthook = _show_fault
    # Imports make a million objects, and none of them is garbage: to look at them again and again
    # while they load, and once more while the process ends, takes a quarter of the imports' time.
    gc.set_threshold(10_000, 20, 50)
    try:
        code = _run(args)
    finally:
        gc.freeze()
    sys.exit(code)


def _show_fault(*fault: Any) -> None:
    """Print a traceback, whose message may name files."""
    console.say("".join(traceback.format_exception(*fault)).rstrip("\n"))


def _run(args: Sequence[str] | None) -> int:
    console.prepare_streams()
    try:
        try:
            return _call(args)
        finally:
            # A full disk or a closed pipe shows here, and not while the process ends.
            sys.stdout.flush()
    except BrokenPipeError:
        console.discard(sys.stdout)
        return 1
    except OSError as error:
        console.discard(sys.stdout)
        console.say(f"Error: stdout: {error.strerror or error}.")
        return 1


def _call(args: Sequence[str] | None) -> int:
    from featstore.errors import FeatstoreError

    try:
        result: Any = cli.main(args=args, prog_name="featstore", standalone_mode=False)
    except click.exceptions.Abort as error:
        # click turns an EOFError into an Abort as well, which is a fault and no Ctrl-C.
        if isinstance(error.__cause__, EOFError):
            raise error.__cause__ from None
        return _interrupted()
    except KeyboardInterrupt:
        return _interrupted()
    except click.ClickException as error:
        if isinstance(error, click.NoSuchOption):
            from .guesses import explain

            error = explain(error, cli)
        shown = io.StringIO()
        error.show(shown)
        console.say(shown.getvalue().rstrip("\n"))
        return error.exit_code
    except FeatstoreError as error:
        console.say(f"Error: {error}")
        return 1
    except BrokenPipeError:
        raise
    except Exception as error:
        if (text := shortage_text(error)) is None:
            if not isinstance(error, OSError):
                raise
            place = f"{error.filename}: " if error.filename else ""
            text = f"{place}{error.strerror or error}."
        console.say(f"Error: {text}")
        return 1
    return result if isinstance(result, int) else 0


def _interrupted() -> int:
    console.say("Interrupted. What is in the store is kept; the same command continues.")
    return 130
