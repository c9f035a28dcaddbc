"""Say what an option that a command lacks is called here, and which command has it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator

import click

ALIASES = {
    "--output": ("--out", "--store"),
    "--output-dir": ("--out", "--store"),
    "--out-dir": ("--out", "--store"),
    "--out": ("--store",),
    "--data": ("--dataset", "--root"),
    "--data-dir": ("--root", "--dataset"),
    "--input": ("--dataset", "--root"),
    "--images": ("--dataset", "--root"),
    "--model-name": ("--model",),
    "--backbone": ("--model",),
    "--network": ("--model",),
    "--arch": ("--model",),
    "--encoder": ("--model",),
    "--pretrained": ("--weights",),
    "--checkpoint": ("--weights",),
    "--size": ("--image-size",),
    "--features": ("--layers", "--set"),
    "--classifier": ("--clf",),
    "--estimator": ("--clf",),
    "--folds": ("--cv",),
    "--n-folds": ("--folds", "--cv"),
    "--kfold": ("--folds", "--cv"),
    "--k-fold": ("--folds", "--cv"),
    "--shot": ("--shots",),
    "--n-shots": ("--shots",),
    "--k-shot": ("--shots",),
    "--few-shot": ("--shots",),
    "--random-state": ("--seed",),
    "--random-seed": ("--seed",),
    "--n-epochs": ("--epochs",),
    "--max-epochs": ("--epochs",),
    "--num-epochs": ("--epochs",),
    "--lr": ("--learning-rate", "--param"),
    "--learning-rate": ("--param",),
    "--max-iter": ("--epochs", "--param"),
    "--n-neighbors": ("--param",),
    "--alpha": ("--param",),
    "--kernel": ("--param",),
    "--gamma": ("--param",),
    "--penalty": ("--param",),
    "--C": ("--param",),
    "--class-weight": ("--param",),
    "--test-size": ("--split-seed", "--splits"),
    "--train-size": ("--split-seed", "--splits", "--sizes"),
    "--val-split": ("--split-seed", "--splits"),
    "--jobs": ("--n-jobs", "--scheduler"),
    "--workers": ("--n-jobs", "--devices", "--scheduler"),
    "--num-workers": ("--n-jobs", "--devices", "--scheduler"),
    "--gpu": ("--device", "--devices", "--clf-device"),
    "--gpus": ("--devices", "--device", "--clf-device"),
    "--cuda": ("--device", "--devices", "--clf-device"),
    "--fp16": ("--precision",),
    "--half": ("--precision",),
    "--amp": ("--precision",),
    "--overwrite": ("--refit",),
}
"""Options by the names that other tools, or other commands, have for them: the likeliest first."""


NEAR = 0.85
"""Likeness from which an option of the command itself is a misspelled one."""


MAX_COMMANDS = 3
"""Commands up to which those that have an option are named."""


def explain(error: click.NoSuchOption, root: click.Group) -> click.UsageError:
    """Return a usage error that says where the option is; click's own if that is not known."""
    ctx, name = error.ctx, error.option_name
    if ctx is None:
        return error
    own = dict(_options(ctx, ctx.command))
    if difflib.get_close_matches(name, own, cutoff=NEAR):
        return error
    wanted = ALIASES.get(name, ())
    if (meant := next((one for one in wanted if one in own), None)) is not None:
        return click.UsageError(f"No such option {name!r}. Use {meant}: {own[meant]}.", ctx)
    for one in (name, *wanted):
        if found := dict(_elsewhere(one, ctx.find_root(), root)):
            called = "it" if one == name else one
            lines = [f"`{command}` has {called}: {text}." for command, text in found.items()]
            if len(found) > MAX_COMMANDS:
                lines = [f"Other commands have {called}: {', '.join(found)}."]
            return click.UsageError("\n".join([f"No such option {name!r}.", *lines]), ctx)
    return error


def _elsewhere(name: str, ctx: click.Context, group: click.Group) -> Iterator[tuple[str, str]]:
    """Yield each command below a group that has an option, with what the option does."""
    for command_name in group.list_commands(ctx):
        command = group.get_command(ctx, command_name)
        if command is None:
            continue
        inner = click.Context(command, ctx, command_name)
        if isinstance(command, click.Group):
            yield from _elsewhere(name, inner, command)
        if text := dict(_options(inner, command)).get(name):
            yield inner.command_path, text


def _options(ctx: click.Context, command: click.Command) -> Iterator[tuple[str, str]]:
    """Yield the long options of a command, each with the beginning of its help."""
    for param in command.get_params(ctx):
        if isinstance(param, click.Option):
            text = re.split(r"[.:;](?:\s|$)|\s+\[", param.help or "")[0]
            for name in (*param.opts, *param.secondary_opts):
                if name.startswith("--"):
                    yield name, text
