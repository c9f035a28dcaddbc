"""Costs: about how long a fit takes and what memory, before it is begun.

The rates are rough, of one core of a 2-core AVX2 machine with scikit-learn 1.9; they tell minutes
from hours, order fits so that the longest begin first, and refuse what would not end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
from sklearn.linear_model import SGDClassifier
from sklearn.neural_network import MLPClassifier

from featstore.config import FitConfig
from featstore.environment import available_cores
from featstore.errors import FitError
from featstore.fitting.classifiers import Classifier, find_classifier
from featstore.fitting.solvers import epochs, linear, ridge_lda
from featstore.fitting.solvers.epochs import EPOCH_NBYTES
from featstore.progress import Progress
from featstore.text import duration_text, nbytes_text

PASS_S = 2e-10
"""Seconds of one pass of a linear solver per row, feature and output."""


N_PASSES = 30
"""Passes that one penalty takes."""


PRODUCT_S = 5e-11
"""Seconds per multiplication in large products."""


SGD_S = 4e-9
"""Seconds of an epoch of SGDClassifier per row, feature and output."""


MLP_S = 4e-10
"""Seconds of an epoch of MLPClassifier per row and weight."""


N_EPOCHS = 25
"""Epochs after which most trainings no longer improve."""


SVC_S = 5e-10
"""Seconds that SVC takes per training row squared and feature, at the least: 10.2 s for 6,000 x
500, one core of a 2-core AVX512 machine."""


MAX_S = 4 * 3600.0
"""Longest time of a fit that is begun without --force."""


QUICK_S = 6.0
"""Time of all fits together up to which workers, which take 3 s to start, are not worth it."""


WORTH_SAYING_S = 30.0
"""Time from which it is said before a fit begins."""


FIXED_NBYTES = 150 * 10**6
"""What any training takes for blocks of rows, steps and the like."""


@dataclass(frozen=True)
class Shape:
    """How large a fit is.

    Parameters
    ----------
    n_train, n_judged : int
        Rows to train on, and to predict.
    n_features, n_classes : int
    """

    n_train: int
    n_judged: int
    n_features: int
    n_classes: int

    def __str__(self) -> str:
        return f"{self.n_train:,} x {self.n_features:,} training features"


@dataclass(frozen=True)
class Cost:
    """What a fit takes, about.

    Parameters
    ----------
    duration_s : float
        Time on one core.
    nbytes : int
        Memory beside the features, which are mapped from a file.
    """

    duration_s: float
    nbytes: int


def estimate(
    config: FitConfig, params: Mapping[str, Any], shape: Shape, n_candidates: int = 0
) -> Cost:
    """Return what one fit takes, and the search for its parameters, if any.

    Parameters
    ----------
    config : FitConfig
    params : mapping
        The classifier's, complete.
    shape : Shape
    n_candidates : int
        Settings that the search tries.
    """
    classifier = find_classifier(config.clf)
    steps = classifier.pipeline(params, 0).named_steps
    n, p, n_outputs = shape.n_train, shape.n_features, shape.n_classes
    size, clf = n * p, steps["clf"]
    n_fits = n_candidates * config.cv * (config.cv - 1) / config.cv
    duration_s, nbytes = 0.0, FIXED_NBYTES
    if "map" in steps:
        n_components = min(n, steps["map"].n_components)
        duration_s += 2 * PRODUCT_S * size * n_components
        p = n_components
        nbytes += 4 * n * p
    if linear.handles(clf):
        duration_s += N_PASSES * PASS_S * n * p * n_outputs
        nbytes += 8 * 24 * p * n_outputs * (config.cv if n_candidates else 1)
    elif ridge_lda.handles(clf):
        side = min(n, p)
        duration_s += PRODUCT_S * (2 * n * p * side + side**3)
        nbytes += 8 * 3 * side**2
        # One pass serves all settings of all folds.
        n_fits = (config.cv if n_candidates else 0) * (1 + n_candidates * side / max(n, p))
    elif epochs.trains_by_epochs(clf):
        n_epochs = config.n_epochs or min(N_EPOCHS, clf.max_iter)
        weights = p * n_outputs
        if isinstance(clf, MLPClassifier):
            widths = [p, *_widths(clf.hidden_layer_sizes), n_outputs]
            weights = sum(a * b for a, b in zip(widths, widths[1:], strict=False))
        rate = SGD_S if isinstance(clf, SGDClassifier) else MLP_S
        duration_s += n_epochs * n * weights * rate
        nbytes += 2 * min(4 * size, EPOCH_NBYTES) + 8 * 5 * weights
    elif config.clf == "svm":
        duration_s += SVC_S * n * size
        nbytes += 8 * size
    elif config.clf == "knn":
        nbytes += 4 * size if classifier.scaled else 0
    else:
        # LinearSVC's own solver keeps float64 as (index, value) pairs of 16 bytes besides.
        duration_s += 10 * N_PASSES * PASS_S * size * n_outputs
        nbytes += (24 if config.clf == "linear-svm" else 8) * size
    if classifier.predicts_slowly:
        duration_s += PRODUCT_S * n * p * shape.n_judged
    return Cost(duration_s * (1 + n_fits), nbytes)


def _widths(value: Any) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value)


def check(config: FitConfig, cost: Cost, shape: Shape, budget: int | None, *, force: bool) -> str:
    """Refuse what would not end or not fit, and return what is worth saying of the rest.

    Parameters
    ----------
    config : FitConfig
    cost : Cost
    shape : Shape
    budget : int or None
        Bytes of memory that may be taken; None for what is free.
    force : bool
        Refuse nothing.

    Raises
    ------
    FitError
        When it takes more than four hours, or more memory than there is.
    """
    classifier = find_classifier(config.clf)
    if cost.duration_s > MAX_S and not force:
        raise FitError(
            f"{config.clf} on {shape} would take some {cost.duration_s / 3600:,.0f} hours. "
            f"{_instead(classifier)}--force begins it all the same."
        )
    allowed = _allowed_nbytes(budget)
    if cost.nbytes > allowed and not force:
        whose = "are free" if budget is None else "are allowed by --memory"
        raise FitError(
            f"{config.clf} on {shape} takes some {nbytes_text(cost.nbytes)} of memory, and "
            f"{nbytes_text(allowed)} {whose}. {_instead(classifier)}--force begins it all the same."
        )
    if cost.duration_s < WORTH_SAYING_S:
        return ""
    return (
        f"{config.clf} on {shape}: some {duration_text(cost.duration_s)} on one core and "
        f"{nbytes_text(cost.nbytes)} of memory."
    )


def _allowed_nbytes(budget: int | None) -> int:
    return psutil.virtual_memory().available if budget is None else budget


def fits_at_a_time(
    nbytes: Sequence[int],
    n_jobs: int | None,
    scheduler: str | None,
    budget: int | None,
    *,
    force: bool,
    progress: Progress,
) -> int | None:
    """Return how many fits memory holds at a time, and say so where that is fewer than could be.

    Parameters
    ----------
    nbytes : sequence of int
        What each of the fits and of a search's trials takes, see :attr:`Cost.nbytes`.
    n_jobs : int or None
        How many are wanted; None for as many as there are cores or workers.
    scheduler : str or None
        Address of a Dask scheduler; what is free where its workers are is not known here.
    budget : int or None
        Bytes of memory that all may take; None for what is free.
    force : bool
        Whether to disregard memory.
    progress : Progress

    Returns
    -------
    int or None
        `n_jobs`, or fewer.
    """
    if force or not nbytes or (scheduler is not None and budget is None):
        return n_jobs
    allowed = _allowed_nbytes(budget)
    n_wanted = n_jobs or (len(nbytes) if scheduler is not None else available_cores())
    n = n_wanted = min(n_wanted, len(nbytes))
    largest = sorted(nbytes, reverse=True)
    while n > 1 and sum(largest[:n]) > allowed:
        n -= 1
    if n == n_wanted:
        return n_jobs
    how_many = f"{n} fits" if n > 1 else "One fit"
    progress.say(f"{how_many} at a time, for more would not find the memory.")
    return n


def _instead(classifier: Classifier) -> str:
    if classifier.name == "svm":
        return (
            "Its time grows with the square of the rows (scikit-learn#13209). Use nystroem-svm, "
            "which approximates its kernel, or linear-svm; "
        )
    if classifier.streams:
        return "Extract fewer images with --limit, or search less; "
    return "Use logreg, linear-svm, sgd, mlp, ridge or lda, which take rows in blocks; "
