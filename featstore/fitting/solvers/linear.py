"""Linear classifiers by full passes: every fold's problem in one product with the matrix.

Logistic regression and the linear SVM with squared hinge minimise

    mean of loss(y, X w + b) + |w|^2 / (2 C n)

which is smooth and strictly convex, so that any solver that gets there gives scikit-learn's
classifier. scikit-learn's own reads the matrix once and again for each step of each fold and C;
reading it is what takes the time. Here all folds' problems take their steps together, so that
one product with a block of rows serves all; each C begins where the last one ended; and the
steps are taken in coordinates in which the features are about uncorrelated, which takes some
10 steps where it were 30 to 150.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from featstore.fitting.solvers.blocks import Threads, row_blocks, shared_threads
from featstore.fitting.solvers.lbfgs import LBFGS
from featstore.fitting.solvers.linear_loss import Model, Objective, WideObjective, is_wide
from featstore.fitting.solvers.scaling import moments


def handles(estimator: BaseEstimator) -> bool:
    """Return whether :func:`fit` gives what the estimator's own ``fit`` would.

    It does where only ``C``, ``tol``, ``max_iter``, ``fit_intercept`` and what has no bearing on
    the optimum are not scikit-learn's defaults.
    """
    if type(estimator) not in (LogisticRegression, LinearSVC):
        return False
    free = {"C", "tol", "max_iter", "fit_intercept", "random_state", "n_jobs", "verbose", "dual"}
    defaults = inspect.signature(type(estimator)).parameters
    params = estimator.get_params(deep=False)
    if isinstance(estimator, LogisticRegression) and params["dual"]:
        return False
    return all(
        name in free or value is defaults[name].default or value == defaults[name].default
        for name, value in params.items()
    )


def fit(estimator: LogisticRegression | LinearSVC, X: np.ndarray, y: np.ndarray) -> bool:
    """Fit `estimator` in place; return whether it converged.

    Parameters
    ----------
    estimator : LogisticRegression or LinearSVC
        One that :func:`handles`.
    X : ndarray of shape (n_samples, n_features), float32
        May be read-only.
    y : ndarray of shape (n_samples,), int
    """
    with shared_threads() as threads:
        ((_, (model,)),) = solve(estimator, X, y, [estimator.C], threads)
    put(estimator, model, X, y)
    return model.converged


def fit_path(
    estimator: LogisticRegression | LinearSVC,
    X: np.ndarray,
    y: np.ndarray,
    values: Sequence[float],
) -> list[LogisticRegression | LinearSVC]:
    """Return the estimator fitted with each C; see :func:`fit`."""
    fitted: list[Any] = [clone(estimator).set_params(C=C) for C in values]
    order = np.argsort(values)
    with shared_threads() as threads:
        found = solve(estimator, X, y, [values[i] for i in order], threads)
        for i, (_, (model,)) in zip(order, found, strict=True):
            put(fitted[i], model, X, y)
    return fitted


def put(
    estimator: LogisticRegression | LinearSVC, model: Model, X: np.ndarray, y: np.ndarray
) -> None:
    """Make of `estimator` what its own ``fit`` to `X` and `y` leaves."""
    estimator.classes_ = np.unique(y)
    estimator.coef_ = np.ascontiguousarray(model.coef.T, dtype=X.dtype)
    estimator.intercept_ = model.intercept.astype(X.dtype)
    is_svm = isinstance(estimator, LinearSVC)
    estimator.n_iter_ = model.n_iter if is_svm else np.array([model.n_iter], dtype=np.int32)
    estimator.n_features_in_ = X.shape[1]


def cross_validate(
    estimator: LogisticRegression | LinearSVC,
    X: np.ndarray,
    y: np.ndarray,
    folds: np.ndarray,
    values: Sequence[float],
) -> np.ndarray:
    """Return the accuracy on each held-out fold for each C.

    Each fold's problem is that of its other rows, standardised by these alone.

    Parameters
    ----------
    estimator : LogisticRegression or LinearSVC
        One that :func:`handles`; its C does not matter.
    X : ndarray of shape (n_samples, n_features), float32
        Standardised by all rows.
    y : ndarray of shape (n_samples,), int
    folds : ndarray of shape (n_samples,), int
        In which fold each row is held out.
    values : sequence of float
        Values of C.

    Returns
    -------
    ndarray of shape (len(values), n_folds), float64
    """
    n_folds = int(folds.max()) + 1
    order = list(np.argsort(values))
    ordered = [values[i] for i in order]
    scores = np.empty((len(values), n_folds))
    with shared_threads() as threads:
        if is_wide(X):
            paths = threads.map(
                lambda fold: _wide_fold(estimator, X, y, ordered, folds != fold), range(n_folds)
            )
            found = [list(models) for models in zip(*paths, strict=True)]
        else:
            found = [models for _, models in solve(estimator, X, y, ordered, threads, folds)]
    for i, models in zip(order, found, strict=True):
        scores[i] = _accuracies(models, X, y, folds)
    return scores


def _wide_fold(
    estimator: LogisticRegression | LinearSVC,
    X: np.ndarray,
    y: np.ndarray,
    values: Sequence[float],
    trains: np.ndarray,
) -> list[Model]:
    rows = X[trains]
    found = moments(rows)
    scaled = ((rows - found.mean) / found.scale).astype(np.float32)
    models = []
    for _, (model,) in solve(estimator, scaled, y[trains], values, Threads()):
        coef = model.coef / found.scale[:, None]
        models.append(replace(model, coef=coef, intercept=model.intercept - found.mean @ coef))
    return models


def _accuracies(
    models: Sequence[Model], X: np.ndarray, y: np.ndarray, folds: np.ndarray
) -> np.ndarray:
    """Return each fold's model's accuracy on the rows of its fold."""
    classes = np.unique(y)
    coef = np.stack([model.coef for model in models]).astype(np.float32)
    intercept = np.stack([model.intercept for model in models]).astype(np.float32)
    right = np.zeros(len(models))
    for block in row_blocks(*X.shape):
        for fold in range(len(models)):
            held = folds[block] == fold
            z = X[block][held] @ coef[fold] + intercept[fold]
            guess = (z[:, 0] > 0).astype(int) if z.shape[1] == 1 else z.argmax(axis=1)
            right[fold] += np.sum(classes[guess] == y[block][held])
    share: np.ndarray = right / np.bincount(folds, minlength=len(models))
    return share


def solve(
    estimator: LogisticRegression | LinearSVC,
    X: np.ndarray,
    y: np.ndarray,
    values: Sequence[float],
    threads: Threads,
    folds: np.ndarray | None = None,
) -> Iterator[tuple[float, list[Model]]]:
    """Yield each C with its model, or with a model for each held-out fold.

    Parameters
    ----------
    estimator : LogisticRegression or LinearSVC
        One that :func:`handles`.
    X : ndarray of shape (n_samples, n_features), float32
    y : ndarray of shape (n_samples,), int
    values : sequence of float
        Values of C, increasing: each begins with the weights of the one before.
    threads : Threads
        Who share the work.
    folds : ndarray of shape (n_samples,), int, optional
        In which fold each row is held out. Models of folds are of standardised features, but
        apply to `X`.
    """
    problem: Objective
    if folds is None and is_wide(X):
        problem = WideObjective(estimator, X, y)
    else:
        problem = Objective(estimator, X, y, folds)
    problem.measure(threads)
    weights = [np.zeros((problem.n_features + 1, problem.n_outputs)) for _ in problem.counts]
    for C in values:
        descents = [
            LBFGS(start, problem.preconditioner(1.0 / (C * n)), estimator.tol, estimator.max_iter)
            for start, n in zip(weights, problem.counts, strict=True)
        ]
        while active := [i for i, descent in enumerate(descents) if not descent.is_done]:
            points = [descents[i].point for i in active]
            found = problem.evaluate(threads, active, points, C)
            told = [(descents[i], *pair) for i, pair in zip(active, found, strict=True)]
            threads.map(lambda one: one[0].tell(*one[1:]), told)
        weights = [descent.best for descent in descents]
        yield C, [problem.model(i, descent) for i, descent in enumerate(descents)]
