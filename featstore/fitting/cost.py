"""Estimate the time and memory of a fit before it begins, and refuse what would not end.

The rates are rough: one core of a 2-core AVX2 machine, scikit-learn 1.9. They tell minutes from
hours, and let the longest fits begin first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from featstore.config import FitConfig
from featstore.environment import available_cores
from featstore.errors import FitError
from featstore.fitting.estimators import Classifier, unwrapped
from featstore.progress import Progress
from featstore.text import duration_text, nbytes_text

PASS_S = 2e-10
"""Seconds of one pass of a linear solver per row, feature and output."""


N_PASSES = 30
"""Passes of a linear solver for one penalty."""


PRODUCT_S = 5e-11
"""Seconds per multiplication in large products."""


SGD_S = 4e-9
"""Seconds of an epoch of SGDClassifier per row, feature and output."""


MLP_S = 4e-10
"""Seconds of an epoch of MLPClassifier per row and weight."""


LARGE_BATCHES_S = 1e-10
"""The same by Adam, also of SGDClassifier on many rows: 1.5 s for 60,000 x 1,000, 256 hidden units,
on two cores."""


ROW_S = 1.5e-6
"""Seconds of an epoch by Adam per row, with any number of weights."""


RBM_S = 3e-9
"""Seconds of an epoch of a Boltzmann machine per row and weight: 0.5 s for 840 rows, 20 epochs,
108 x 100 weights."""


CALIBRATION_SHARE = 0.8
"""Time of calibrating probabilities, as a share of the fit's."""


TRIPLET_S = 2e-3
"""Seconds of a batch of triplets."""


N_EPOCHS = 25
"""Epochs after which most trainings stop improving."""


N_LINEAR_EPOCHS = 150
"""The same for a network without hidden layers."""


SVC_S = 5e-10
"""Least seconds of SVC per training row squared and feature: 10.2 s for 6,000 x 500, one core of a
2-core AVX512 machine."""


MAX_S = 4 * 3600.0
"""Longest time of a fit that begins without --force."""


QUICK_S = 6.0
"""Time of all fits together that justifies workers, which take 3 s to start."""


WORTH_SAYING_S = 30.0
"""Time of a fit that is worth saying before it begins."""


FIXED_NBYTES = 150 * 10**6
"""Memory of any training for blocks of rows, steps and the like."""


@dataclass(frozen=True)
class Shape:
    """Size of a fit: rows to train on and to predict, features, and classes; 1 for a number."""

    n_train: int
    n_predicted: int
    n_features: int
    n_classes: int

    def __str__(self) -> str:
        return f"{self.n_train:,} x {self.n_features:,} training features"


@dataclass(frozen=True)
class Cost:
    """Rough time of a fit on one core, and its memory beside the features' memory map."""

    duration_s: float
    nbytes: int


def estimate(
    classifier: Classifier,
    config: FitConfig,
    params: Mapping[str, Any],
    shape: Shape,
    n_candidates: int = 0,
) -> Cost:
    """Return the cost of one fit with complete `params`, and of a search of `n_candidates`."""
    from featstore.fitting.solvers import epochs, linear, ridge_lda, ridge_targets

    steps = classifier.pipeline(params, 0).named_steps
    n, p, n_outputs = shape.n_train, shape.n_features, shape.n_classes
    size, clf = n * p, unwrapped(steps["clf"])
    # Of several classes, each has a classifier of its own.
    n_models = 1 if clf is steps["clf"] else n_outputs
    n_fits = float(n_candidates * max(1, config.n_folds - 1))
    duration_s, nbytes = 0.0, FIXED_NBYTES
    if "map" in steps:
        n_components = min(n, steps["map"].n_components)
        duration_s += 2 * PRODUCT_S * size * n_components
        p = n_components
        nbytes += 4 * n * p
    if linear.handles(clf):
        duration_s += N_PASSES * PASS_S * n * p * n_outputs
        nbytes += 8 * 24 * p * n_outputs * (config.cv if n_candidates else 1)
    elif ridge_lda.handles(clf) or ridge_targets.handles(clf):
        side = min(n, p)
        n_models = 1 if ridge_targets.handles(steps["clf"]) else n_models
        duration_s += n_models * PRODUCT_S * (2 * n * p * side + side**3)
        nbytes += 8 * 3 * side**2 + 8 * p * n_outputs * max(1, n_candidates)
        # One pass serves all settings of all folds.
        n_fits = (config.cv if n_candidates else 0) * (1 + n_candidates * side / max(n, p))
    elif epochs.trains_by_epochs(clf):
        own = _of_epochs(classifier, config, clf, n, p, n_outputs)
        duration_s += own.duration_s
        nbytes += own.nbytes
    elif config.clf == "svm":
        duration_s += n_models * SVC_S * n * size
        nbytes += 8 * size + 8 * n * n_outputs
    elif config.clf == "kernel-ridge":
        duration_s += PRODUCT_S * (n * size + n**3)
        nbytes += 8 * (size + 2 * n**2)
    elif config.clf == "triplet":
        own = _of_triplets(clf, n, p)
        duration_s += own.duration_s
        nbytes += own.nbytes
    elif config.clf in ("knn", "similarity-knn"):
        nbytes += 4 * size if classifier.scaled else 0
    else:
        # LinearSVC's own solver also keeps (index, value) pairs of 16 bytes.
        duration_s += 10 * N_PASSES * PASS_S * size * n_outputs
        nbytes += (24 if config.clf == "linear-svm" else 8) * size
    if classifier.predicts_slowly:
        duration_s += PRODUCT_S * n * p * shape.n_predicted
    stops_early = getattr(clf, "early_stopping", False) and config.n_epochs is None
    if config.calibrate and shape.n_classes > 1 and not stops_early:
        # A fit without a fifth of the rows; a scaler writes its rows to a file.
        n_fits += CALIBRATION_SHARE
        nbytes += 0 if "scale" in steps else 4 * size
    return Cost(duration_s * (1 + n_fits), nbytes)


def _of_epochs(
    classifier: Classifier, config: FitConfig, clf: Any, n: int, p: int, n_outputs: int
) -> Cost:
    """Return the cost of training `n` rows of `p` features by epochs."""
    from featstore.fitting.solvers import batches, epochs

    n_epochs = config.n_epochs or min(N_EPOCHS, clf.max_iter)
    weights, rate, row_s = p * n_outputs, SGD_S, 0.0
    if hasattr(clf, "hidden_layer_sizes"):
        rate = MLP_S
        widths = [p, *_widths(clf.hidden_layer_sizes), n_outputs]
        weights = sum(a * b for a, b in zip(widths, widths[1:], strict=False))
        if len(widths) == 2:
            n_epochs = config.n_epochs or min(N_LINEAR_EPOCHS, clf.max_iter)
    if batches.handles(clf, n):
        rate, row_s = LARGE_BATCHES_S, ROW_S
    duration_s = n_epochs * n * (row_s + weights * rate)
    # The machines of dbn come first, and its features are copied.
    duration_s += getattr(clf, "rbm_epochs", 0) * n * weights * RBM_S
    nbytes = 4 * n * p if classifier.ranged else 0
    nbytes += 2 * min(4 * n * p, epochs.EPOCH_NBYTES) + 8 * 5 * weights
    return Cost(duration_s, nbytes)


def _of_triplets(clf: Any, n: int, p: int) -> Cost:
    """Return the cost of learning a projection from triplets of `n` rows of `p` features."""
    from featstore.fitting.solvers import triplet

    # Rows are projected once, and some of them many times.
    rows = min(n, triplet.N_ROWS * clf.n_iter)
    n_projected = rows * triplet.N_INPUTS + n * clf.n_components
    duration_s = PRODUCT_S * p * n_projected + TRIPLET_S * clf.n_iter
    nbytes = 4 * n_projected + 4 * p * min(n, triplet.MAX_ROWS) + 12 * min(n, p) ** 2
    return Cost(duration_s, nbytes)


def _widths(value: Any) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value)


def check(
    classifier: Classifier, cost: Cost, shape: Shape, budget: int | None, *, force: bool
) -> str:
    """Refuse a fit of over four hours or beyond the memory; return what is worth saying of another.

    `budget` is the memory that fits may take, in bytes; None for what is free. `force` refuses
    nothing.
    """
    if cost.duration_s > MAX_S and not force:
        raise FitError(
            f"{classifier.name} on {shape} would take some {cost.duration_s / 3600:,.0f} hours. "
            f"{_alternative(classifier)}--force begins it all the same."
        )
    allowed = _allowed_nbytes(budget)
    if cost.nbytes > allowed and not force:
        whose = "are free" if budget is None else "are allowed by --memory"
        raise FitError(
            f"{classifier.name} on {shape} takes some {nbytes_text(cost.nbytes)} of memory, and "
            f"{nbytes_text(allowed)} {whose}. {_alternative(classifier)}--force begins it all the "
            "same."
        )
    if cost.duration_s < WORTH_SAYING_S:
        return ""
    return (
        f"{classifier.name} on {shape}: some {duration_text(cost.duration_s)} on one core and "
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
    """Return `n_jobs`, or the fewer fits that memory holds at a time, and say so.

    `nbytes` is the memory of each fit, and of each task of a search. With a `scheduler`, only a
    `budget` bounds them: the free memory of its workers is not known here.
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
    progress.say(f"Running {f'{n} fits' if n > 1 else 'one fit'} at a time: memory is short.")
    return n


def _alternative(classifier: Classifier) -> str:
    if classifier.name == "svm":
        return (
            "Its time grows with the square of the rows (scikit-learn#13209). Use nystroem-svm, "
            "which approximates its kernel, or linear-svm; "
        )
    if classifier.name == "kernel-ridge":
        return "Its time and memory grow with the square of the rows. Use ridge, mlp or knn; "
    if classifier.streams:
        return "Extract fewer images with --limit, or search less; "
    return "Use logreg, linear-svm, sgd, mlp, ridge or lda, which take rows in blocks; "
