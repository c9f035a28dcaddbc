"""Fit linear classifiers by full passes: one product with the matrix serves all folds' problems.

Logistic regression and the linear SVM with squared hinge minimise

    mean of loss(y, X w + b) + |w|^2 / (2 C n)

which is smooth and strictly convex: any solver that reaches the optimum gives scikit-learn's
classifier. scikit-learn's own solvers read the matrix again for each step of each fold and C, and
reading takes most of the time. Here all folds' problems step together, so that one product with a
block of rows serves all; each C begins where the last one ended; and the steps are taken in
coordinates in which the features are nearly uncorrelated: some 10 steps instead of 30 to 150.
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

    It does if only ``C``, ``tol``, ``max_iter``, ``fit_intercept`` and parameters without an effect
    on the optimum differ from scikit-learn's defaults.
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
    """Fit an estimator that :func:`handles` in place; return whether it converged.

    `X` is (n_samples, n_features) float32 and may be read-only.
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
    """Set the attributes that the estimator's own ``fit`` to `X` and `y` would set."""
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
    """Return the accuracy on each held-out fold for each C, (len(values), n_folds) float64.

    Each fold's classifier is fitted on the other rows, standardised by these alone. `X` is
    standardised by all rows; `folds` is the fold that holds out each row, and every class has rows
    outside every fold.
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
    for block in row_blocks(len(X), X.shape[1], n_outputs=coef.shape[2]):
        for fold in range(len(models)):
            held_out = folds[block] == fold
            z = X[block][held_out] @ coef[fold] + intercept[fold]
            codes = (z[:, 0] > 0).astype(int) if z.shape[1] == 1 else z.argmax(axis=1)
            right[fold] += np.sum(classes[codes] == y[block][held_out])
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

    The values of C increase: each begins with the weights of the one before. The models of folds
    are fitted on standardised features, but apply to `X`.
    """
    problem: Objective
    if folds is None and is_wide(X):
        problem = WideObjective(estimator, X, y)
    else:
        problem = Objective(estimator, X, y, folds)
    problem.measure(threads)
    weights = [np.zeros((problem.n_features + 1, problem.n_outputs)) for _ in problem.counts]
    for C in values:
        minimisers = [
            LBFGS(start, problem.preconditioner(1.0 / (C * n)), estimator.tol, estimator.max_iter)
            for start, n in zip(weights, problem.counts, strict=True)
        ]
        while active := [i for i, minimiser in enumerate(minimisers) if not minimiser.is_done]:
            points = [minimisers[i].point for i in active]
            found = problem.evaluate(threads, active, points, C)
            results = [(minimisers[i], *pair) for i, pair in zip(active, found, strict=True)]
            threads.map(lambda result: result[0].tell(*result[1:]), results)
        weights = [minimiser.best for minimiser in minimisers]
        yield C, [problem.model(i, minimiser) for i, minimiser in enumerate(minimisers)]
