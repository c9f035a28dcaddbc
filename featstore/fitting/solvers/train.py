"""Train one classifier on scaled rows, by the quickest solver that reaches its optimum."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.kernel_approximation import Nystroem
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline

from featstore.config import FitConfig
from featstore.errors import FitError
from featstore.fitting.solvers import (
    accelerators,
    epochs,
    linear,
    one_vs_rest,
    ridge_lda,
    ridge_targets,
)
from featstore.fitting.solvers.blocks import Samples, one_thread
from featstore.fitting.solvers.dbn import fit_range
from featstore.fitting.solvers.linear_loss import Objective

CURES = {
    r"n_neighbors = \d+, n_samples_fit = (\d+)": "Use --param n_neighbors=N with N up to {}.",
    r"least populated class": "Add images of the rare classes, or switch early stopping off with "
    "--param early_stopping=False.",
    r"can't start new thread|Resource temporarily unavailable": "The system starts no more threads "
    "for you (`ulimit -u`). Raise the limit, end other programs, or use OMP_NUM_THREADS=1 and "
    "--n-jobs 1.",
}
"""What helps against errors of scikit-learn, by a pattern of their text."""


@dataclass(frozen=True)
class Trained:
    """How a training went.

    `solver` is ``passes`` (``linear.py``), ``sums`` (``ridge_lda.py``, ``ridge_targets.py``),
    ``epochs`` (``epochs.py``), ``scikit-learn``, ``scikit-learn-intelex`` or ``array API``.
    `curves` are of classifiers trained by epochs. `notes` are for the user. `kept` is what quickens
    fits without some of the rows.
    """

    solver: str
    converged: bool = True
    curves: epochs.Curves | None = None
    notes: Sequence[str] = ()
    kept: Objective | ridge_lda.RowSums | None = None


def train(
    model: Pipeline,
    X: np.ndarray,
    y: np.ndarray,
    config: FitConfig,
    validate: Callable[[Any], float] | None = None,
    *,
    records: bool = True,
) -> Trained:
    """Fit a pipeline's steps after the scaler in place.

    `X` is (n_samples, n_features) float32 as the scaler leaves it, and may be read-only. `y` is
    (n_samples,) of classes, int, or of numbers, float; or (n_samples, n_classes) of 0 and 1.
    `validate` and `records` are those of :func:`featstore.fitting.solvers.epochs.train`.
    """
    if (y == y[0]).all():
        what = "of one class" if y.dtype.kind in "iu" and y.ndim == 1 else "labelled alike"
        raise FitError(
            f"All {len(y):,} rows to train on are {what}; two or more different labels are needed."
        )
    if "range" in model.named_steps:
        X = fit_range(model.named_steps["range"], X)
    if "map" in model.named_steps:
        X = map_kernel(model.named_steps["map"], Samples(X, slice(0, len(X))), len(X))
    clf = model.named_steps["clf"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = _fit(clf, X, y, config, validate, records)
    stopped = [w for w in caught if issubclass(w.category, ConvergenceWarning)]
    notes = []
    if not (converged := found.converged and not (stopped and found.curves is None)):
        iterations = one_vs_rest.base_of(clf).get_params().get("max_iter")
        notes.append(
            f"{config.clf} had not converged after max_iter={iterations} iterations. Raise it "
            "with --param max_iter=N, or penalise more (a smaller C, a larger alpha)."
        )
    others = [str(w.message) for w in caught if w not in stopped]
    notes.extend(f"scikit-learn says: {text}" for text in dict.fromkeys(others))
    return replace(found, converged=converged, notes=notes)


def _fit(
    clf: Any,
    X: np.ndarray,
    y: np.ndarray,
    config: FitConfig,
    validate: Callable[[Any], float] | None,
    records: bool,
) -> Trained:
    """Fit a classifier in place by the quickest solver."""
    if config.device != "cpu":
        clf.set_params(**accelerators.gpu_params(clf))
        accelerators.fit_on_gpu(clf, X, y, config.device)
        return Trained("array API")
    if config.intelex:
        accelerators.fit_with_intelex(clf, X, y)
        return Trained("scikit-learn-intelex")
    if epochs.trains_by_epochs(clf):
        with one_thread():
            curves = epochs.train(
                clf, X, y, n_epochs=config.n_epochs, validate=validate, records=records
            )
        return Trained("epochs", curves.converged, curves)
    if linear.handles(clf):
        converged, objective = linear.fit(clf, X, y)
        return Trained("passes", converged, kept=objective)
    if ridge_lda.handles(clf):
        return Trained("sums", kept=ridge_lda.fit(clf, X, y))
    if ridge_targets.handles(clf):
        ridge_targets.fit(clf, X, y)
        return Trained("sums")
    if isinstance(clf, OneVsRestClassifier):
        return _fit_each_class(clf, X, y, config)
    with one_thread():
        clf.fit(X, y)
    return Trained("scikit-learn")


def fit_without(
    clf: Any, X: np.ndarray, y: np.ndarray, folds: np.ndarray, trained: Trained
) -> list[Any] | None:
    """Return a fitted classifier as it would be without each fold's rows; None if that is slow.

    `X` is standardised by all rows, for the folds too: their own means and deviations would change
    the penalty a little. `folds` is the fold that leaves out each row, or -1, and every class has
    rows outside every fold.
    """
    if isinstance(trained.kept, Objective):
        return linear.fit_without(clf, X, y, folds, trained.kept)
    if trained.kept is not None:
        return ridge_lda.fit_without(clf, X, y, folds, trained.kept)
    return None


def _fit_each_class(
    clf: OneVsRestClassifier, X: np.ndarray, Y: np.ndarray, config: FitConfig
) -> Trained:
    """Fit a classifier for each class by itself."""
    base = clf.estimator
    if epochs.trains_by_epochs(base):
        with one_thread():
            curves = one_vs_rest.fit_each(
                clf,
                X,
                Y,
                lambda one, X, y: epochs.train(one, X, y, n_epochs=config.n_epochs, records=False),
            )
        return Trained("epochs", all(one.converged for one in curves))
    if ridge_lda.handles(base):
        one_vs_rest.fit_each(clf, X, Y, ridge_lda.fit)
        return Trained("sums")
    with one_thread():
        one_vs_rest.fit_each(clf, X, Y, lambda one, X, y: one.fit(X, y))
    return Trained("scikit-learn")


def map_kernel(kernel: Nystroem, samples: Samples, n_fit: int) -> np.ndarray:
    """Fit a kernel's map to the first `n_fit` samples, and return all of them mapped.

    The map has no more components than rows to fit. The result is (n_samples, n_components)
    float32.
    """
    kernel.n_components = min(kernel.n_components, n_fit)
    with one_thread():
        kernel.fit(samples.take(slice(0, n_fit)))
        mapped = np.empty((len(samples), kernel.n_components), dtype=np.float32)
        for block in samples.blocks():
            mapped[block] = kernel.transform(samples.take(block))
    return mapped


@contextmanager
def explained(clf: str, n_train: int, n_features: int) -> Iterator[None]:
    """Turn what unfit data, parameters or a user's own code raise into a FitError with a cure."""
    try:
        yield
    except FitError:
        raise
    except (ValueError, TypeError, ArithmeticError, IndexError, RuntimeError) as error:
        raise FitError(f"{clf} can't be fitted: {error}{_cure(str(error))}") from error
    except MemoryError as error:
        raise FitError(
            f"{clf} found too little memory for {n_train:,} x {n_features:,} training features. "
            "Try sgd, --n-jobs 1, or a smaller layer."
        ) from error
    except Exception as error:
        if ":" not in clf:
            raise
        # The user's own code may raise anything, and the other fits must run.
        raise FitError(f"{clf} can't be fitted: {type(error).__name__}: {error}") from error


def _cure(error: str) -> str:
    for pattern, cure in CURES.items():
        if found := re.search(pattern, error):
            return f"{'' if error.endswith('.') else '.'} {cure.format(*found.groups())}"
    return ""
