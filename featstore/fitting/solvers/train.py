"""Training: one classifier on prepared rows, by the quickest solver that gives its optimum."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.kernel_approximation import Nystroem
from sklearn.pipeline import Pipeline

from featstore.config import FitConfig
from featstore.errors import FitError
from featstore.fitting.solvers import accelerators, epochs, linear, ridge_lda
from featstore.fitting.solvers.blocks import Samples, one_thread


@dataclass(frozen=True)
class Trained:
    """How a training went.

    Parameters
    ----------
    curves : Curves or None
        Loss and accuracy by epoch, of classifiers trained so.
    converged : bool
    solver : str
        What solved it: ``passes`` (``linear.py``), ``sums`` (``ridge_lda.py``), ``epochs``
        (``epochs.py``), ``scikit-learn``, ``scikit-learn-intelex`` or ``array API``.
    notes : list of str
        What the user should know of it.
    """

    curves: epochs.Curves | None
    converged: bool
    solver: str
    notes: list[str]


def train(
    model: Pipeline,
    X: np.ndarray,
    y: np.ndarray,
    config: FitConfig,
    validate: Callable[[Any], float] | None = None,
    *,
    records: bool = True,
) -> Trained:
    """Fit the classifier at the end of a pipeline in place.

    Parameters
    ----------
    model : Pipeline
        Its steps before the last are fitted, or left out.
    X : ndarray of shape (n_samples, n_features), float32
        As these steps leave it; may be read-only.
    y : ndarray of shape (n_samples,), int
    config : FitConfig
    validate, records
        See :func:`featstore.fitting.solvers.epochs.train`.

    Raises
    ------
    FitError
        When training diverges.
    """
    clf = model.named_steps["clf"]
    curves, finished = None, True
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if config.device != "cpu":
            solver = "array API"
            clf.set_params(**accelerators.gpu_params(clf))
            accelerators.fit_on_gpu(clf, X, y, config.device)
        elif config.intelex:
            solver = "scikit-learn-intelex"
            accelerators.fit_with_intelex(clf, X, y)
        elif epochs.trains_by_epochs(clf):
            solver = "epochs"
            with one_thread():
                curves = epochs.train(
                    clf, X, y, n_epochs=config.n_epochs, validate=validate, records=records
                )
            finished = curves.converged
        elif linear.handles(clf):
            solver, finished = "passes", linear.fit(clf, X, y)
        elif ridge_lda.handles(clf):
            solver = "sums"
            ridge_lda.fit(clf, X, y)
        else:
            solver = "scikit-learn"
            with one_thread():
                clf.fit(X, y)
    stopped = [w for w in caught if issubclass(w.category, ConvergenceWarning)]
    notes = []
    if not (converged := finished and not (stopped and curves is None)):
        iterations = clf.get_params().get("max_iter")
        notes.append(
            f"{config.clf} had not converged after max_iter={iterations} iterations. Raise it "
            "with --param max_iter=N, or penalise more (a smaller C, a larger alpha)."
        )
    others = [str(w.message) for w in caught if w not in stopped]
    notes.extend(f"scikit-learn says: {text}" for text in dict.fromkeys(others))
    return Trained(curves, converged, solver, notes)


def map_kernel(kernel: Nystroem, samples: Samples, n_fit: int) -> np.ndarray:
    """Fit a kernel's map to the first `n_fit` samples, and return all of them mapped.

    Parameters
    ----------
    kernel : Nystroem
        Fitted in place; with no more components than there are rows.
    samples : Samples
    n_fit : int

    Returns
    -------
    ndarray of shape (n_samples, n_components), float32
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
    """Turn what data or parameters that do not fit, or a user's own code, raise into a FitError."""
    try:
        yield
    except FitError:
        raise
    except (ValueError, TypeError, ArithmeticError, IndexError, RuntimeError) as error:
        raise FitError(f"{clf} can't be fitted: {error}") from error
    except MemoryError as error:
        raise FitError(
            f"{clf} found too little memory for {n_train:,} x {n_features:,} training features. "
            "Try sgd, --n-jobs 1, or a smaller layer."
        ) from error
    except Exception as error:
        if ":" not in clf:
            raise
        # The user's own code may raise anything, and other fits are to go on.
        raise FitError(f"{clf} can't be fitted: {type(error).__name__}: {error}") from error
