"""The options by which commands choose stored features and what is fitted to them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from . import console

OPTIONS = (
    click.option("--dataset", metavar="NAME", help="Dataset, or the folder that was extracted."),
    click.option(
        "--model",
        multiple=True,
        metavar="NAME[,NAME...]",
        help="Network whose features to use; a comma puts several side by side. May be repeated.",
    ),
    click.option(
        "--layers",
        multiple=True,
        metavar="NAME[,NAME...]",
        help="Layer to use; a comma puts several side by side. May be repeated.",
    ),
    click.option("--weights", metavar="NAME", help="Weights, where a network has several."),
    click.option("--bands", metavar="NAME", help="rgb or gray, where both were extracted."),
    click.option("--image-size", type=int, metavar="PX", help="Where several were extracted."),
    click.option("--precision", metavar="NAME", help="Where several were extracted."),
    click.option("--dtype", metavar="NAME", help="Where several were extracted."),
    click.option("--set", "set_id", metavar="SET", help="Feature set; see `featstore store ls`."),
    click.option(
        "--param",
        "params",
        multiple=True,
        metavar="NAME=VALUE",
        help="A parameter of the classifier, by scikit-learn's name; clf:NAME=VALUE for one of "
        "several classifiers. May be repeated.",
    ),
    click.option(
        "--epochs",
        "n_epochs",
        type=click.IntRange(min=1),
        metavar="N",
        help="Train mlp, sgd or softmax for just so many epochs, whatever the losses.",
    ),
    click.option(
        "--split-seed",
        type=click.IntRange(0, 2**32 - 1),
        metavar="N",
        help="Divide the rows anew into training and test.  [default: as the dataset does]",
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
        callback=lambda ctx, option, value: _nbytes(value),
        help="Memory that fits may take beside the features, as 8GB.  [default: what is free]",
    ),
    click.option(
        "--scheduler",
        metavar="ADDRESS",
        help="Dask scheduler whose workers do the work, as tcp://10.0.0.1:8786.  [default: "
        "workers on this machine]",
    ),
    click.option(
        "--n-jobs",
        type=click.IntRange(min=1),
        metavar="N",
        help="Fits at a time.  [default: the number of cores, or of the scheduler's workers]",
    ),
    click.option("--force", is_flag=True, help="Begin fits that can't be expected to end."),
)


def clf_option(default: str = "logreg", *, multiple: bool = True) -> console.Decorator:
    """Return the option ``--clf``."""
    names = "logreg, linear-svm, svm, mlp, sgd, softmax, ridge, lda, knn, nystroem-svm"
    several = "; all for each of them. May be repeated, or several with commas." if multiple else ""
    return click.option(
        "--clf",
        multiple=multiple,
        default=(default,) if multiple else default,
        metavar="NAME[,NAME...]" if multiple else "NAME",
        help=f"Classifier: {names}, or package.module:function for one of your own"
        f"{several}  [default: {default}]",
    )


def selecting_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that choose features and say how to train on them."""
    for option in reversed(OPTIONS):
        function = option(function)
    return function


def _nbytes(text: str | None) -> int | None:
    if text is None:
        return None
    from dask.utils import parse_bytes

    try:
        nbytes = int(parse_bytes(text))
    except (ValueError, OverflowError):
        nbytes = 0
    if nbytes <= 0:
        raise click.BadParameter(f"{text!r} is no amount of memory, as 8GB or 500MB.")
    return nbytes
