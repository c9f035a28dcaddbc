"""The options that choose stored features and say how to fit classifiers on them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from featstore.config import CLASSIFIER_NAMES, REGRESSOR_NAMES, TASKS, check_classifier
from featstore.environment import store_option
from featstore.text import parse_nbytes

from . import completion, console

if TYPE_CHECKING:
    from featstore.progress import Progress
    from featstore.store.feature_set import FeatureSet
    from featstore.store.feature_store import FeatureStore


def parsed_by(parse: Callable[[str], Any]) -> Callable[[Any, Any, str | None], Any]:
    """Return a callback that parses an option's text, if the option is given."""

    def callback(ctx: click.Context, option: click.Parameter, text: str | None) -> Any:
        try:
            return None if text is None else parse(text)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return callback


def next_fit(
    opened: FeatureStore, found: FeatureSet, layers: Sequence[str], store: str
) -> str | None:
    """Return the command that fits on a feature set; None if it has no labels."""
    from featstore.store.query import selecting_options

    info = found.info.dataset
    if not info.class_names and not info.target_names:
        return None
    clf = "ridge" if info.task == TASKS[2] else "logreg"
    options = selecting_options(opened.sets(), found, layers)
    return shlex.join(["featstore", "fit", "--clf", clf, *options]) + store_option(store)


OPTIONS = (
    console.dataset_option(),
    click.option(
        "--model",
        multiple=True,
        metavar="NAME[,NAME...]",
        shell_complete=completion.stored_models,
        help="Network that made the features; commas put several side by side. May be repeated.",
    ),
    click.option(
        "--layers",
        multiple=True,
        metavar="NAME[,NAME...]",
        shell_complete=completion.stored_layers,
        help="Layer to use; commas put several side by side. May be repeated.",
    ),
    click.option("--weights", metavar="NAME", help="Weights, if the store has several."),
    click.option("--bands", metavar="NAME", help="rgb or gray, if the store has both."),
    click.option(
        "--image-size", type=int, metavar="PX", help="Image size, if the store has several."
    ),
    click.option("--precision", metavar="NAME", help="Precision, if the store has several."),
    click.option("--dtype", metavar="NAME", help="Stored type, if the store has several."),
    console.set_option,
    click.option(
        "--param",
        "params",
        multiple=True,
        metavar="NAME=VALUE",
        help="Parameter of the classifier by scikit-learn's name; clf:NAME=VALUE for one of "
        "several classifiers. May be repeated.",
    ),
    click.option(
        "--epochs",
        "n_epochs",
        type=click.IntRange(min=1),
        metavar="N",
        help="Train mlp, dbn, sgd or softmax for this number of epochs, whatever the losses.",
    ),
    click.option(
        "--split-seed",
        type=click.IntRange(0, 2**32 - 1),
        metavar="N",
        help="Draw a new split into training and test rows.  [default: the dataset's split]",
    ),
    click.option(
        "--drop-leaks",
        is_flag=True,
        help="Leave out test images that are also among the training images.",
    ),
    click.option(
        "--memory",
        "memory_nbytes",
        metavar="SIZE",
        callback=parsed_by(parse_nbytes),
        help="Memory that fits may take beside the features, e.g. 8GB.  [default: what is free]",
    ),
    click.option(
        "--scheduler",
        metavar="ADDRESS",
        help="Dask scheduler whose workers do the work, e.g. tcp://10.0.0.1:8786.  [default: "
        "workers on this machine]",
    ),
    click.option(
        "--n-jobs",
        type=click.IntRange(min=1),
        metavar="N",
        help="Fits at a time.  [default: the number of cores, or of the scheduler's workers]",
    ),
    click.option(
        "--force", is_flag=True, help="Begin fits that would take hours or too much memory."
    ),
)


def _check_classifiers(ctx: click.Context, option: click.Parameter, value: Any) -> Any:
    """Split names at commas where several may be given, and refuse a wrong one."""
    if not isinstance(value, str):
        return console.names_of(lambda name: name == "all" or check_classifier(name))(
            ctx, option, value
        )
    return check_classifier(value)


def check_names(store: str, options: Mapping[str, Any], progress: Progress) -> FeatureStore:
    """Open the store, and refuse a name that it lacks before slow modules are imported."""
    opened = console.open_store(store, progress, [options["set_id"]])
    names = ("dataset", "model", "layers", "set_id")
    opened.check_names(**{name: options[name] for name in names})
    return opened


def clf_option(*, multiple: bool = True) -> console.Decorator:
    """Return the option ``--clf``."""
    names = ", ".join(CLASSIFIER_NAMES)
    several = "; all for each of them. May be repeated, or several with commas." if multiple else ""
    return click.option(
        "--clf",
        multiple=multiple,
        callback=_check_classifiers,
        shell_complete=completion.classifiers,
        default=("logreg",) if multiple else "logreg",
        metavar="NAME[,NAME...]" if multiple else "NAME",
        help=f"Classifier: {names}, or package.module:function for one of your own; for numbers "
        f"{', '.join(REGRESSOR_NAMES[:-1])} or {REGRESSOR_NAMES[-1]}"
        f"{several}  [default: logreg]",
    )


def selecting_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that choose features and say how to train on them."""
    return console.with_options(OPTIONS)(function)
