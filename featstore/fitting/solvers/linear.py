"""Fit linear classifiers by full passes: one product with the matrix serves all folds' problems.

Logistic regression and the linear SVM with squared hinge minimise

    mean of loss(y, X w + b) + |w|^2 / (2 C n)

which is smooth and strictly convex: any solver that reaches the optimum gives scikit-learn's
classifier. Of several classes that an image may have, each has such a problem; all are solved
together. scikit-learn's own solvers read the matrix again for each step of each fold and C, and
reading takes most of the time. Here all folds' problems step together, so that one product with a
block of rows serves all; each C begins where the last one ended; and the steps are taken in
coordinates in which the features are nearly uncorrelated: some 10 steps instead of 30 to 150.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.svm import LinearSVC

from featstore.fitting.solvers import one_vs_rest
from featstore.fitting.solvers.blocks import Threads, row_blocks, shared_threads
from featstore.fitting.solvers.lbfgs import LBFGS
from featstore.fitting.solvers.linear_loss import Model, Objective, WideObjective, is_wide
from featstore.fitting.solvers.scaling import standardise
from featstore.runs.scoring.influence import mean_average_precision

Estimator: TypeAlias = LogisticRegression | LinearSVC | OneVsRestClassifier
"""OneVsRestClassifier is of one of the others; `y` is then (n_samples, n_classes) of 0 and 1."""


def handles(estimator: BaseEstimator) -> bool:
    """Return whether :func:`fit` gives what the estimator's own ``fit`` would.

    It does if only ``C``, ``tol``, ``max_iter``, ``fit_intercept`` and parameters without an effect
    on the optimum differ from scikit-learn's defaults.
    """
    estimator = one_vs_rest.base_of(estimator)
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


def fit(estimator: Estimator, X: np.ndarray, y: np.ndarray) -> tuple[bool, Objective]:
    """Fit an estimator that :func:`handles` in place.

    `X` is (n_samples, n_features) float32 and may be read-only. Returns whether it converged, and
    what :func:`fit_without` takes.
    """
    base = one_vs_rest.base_of(estimator)
    with shared_threads() as threads:
        problem = _problem(base, X, y, threads)
        ((_, (model,)),) = _minimise(problem, base, [base.C], threads)
    put(estimator, model, X, y)
    return model.converged, problem


def fit_without(
    estimator: Estimator, X: np.ndarray, y: np.ndarray, folds: np.ndarray, problem: Objective
) -> list[Estimator]:
    """Return the estimator as it would be without each fold's rows, by `problem` of all rows.

    All folds are fitted in one pass. They begin without weights: where the penalty is weak, those
    of all rows would leave a slope below the tolerance, and the fold's rows would still be in them.
    See :func:`.train.fit_without`.
    """
    base = one_vs_rest.base_of(estimator)
    with shared_threads() as threads:
        ((_, models),) = _minimise(problem.without(folds), base, [base.C], threads)
    fitted: list[Any] = [clone(estimator) for _ in models]
    for one, model in zip(fitted, models, strict=True):
        put(one, model, X, y)
    return fitted


def fit_path(
    estimator: Estimator, X: np.ndarray, y: np.ndarray, values: Sequence[float]
) -> list[Estimator]:
    """Return the estimator fitted with each C; see :func:`fit`."""
    fitted: list[Any] = [clone(estimator) for _ in values]
    for one, C in zip(fitted, values, strict=True):
        one_vs_rest.base_of(one).set_params(C=C)
    order = np.argsort(values)
    with shared_threads() as threads:
        base = one_vs_rest.base_of(estimator)
        found = solve(base, X, y, [values[i] for i in order], threads)
        for i, (_, (model,)) in zip(order, found, strict=True):
            put(fitted[i], model, X, y)
    return fitted


def put(estimator: Estimator, model: Model, X: np.ndarray, y: np.ndarray) -> None:
    """Set the attributes that the estimator's own ``fit`` to `X` and `y` would set."""
    if isinstance(estimator, OneVsRestClassifier):
        fitted = [clone(estimator.estimator) for _ in model.coef.T]
        for c, one in enumerate(fitted):
            own = replace(model, coef=model.coef[:, [c]], intercept=model.intercept[[c]])
            put(one, own, X, np.arange(2))
        one_vs_rest.put(estimator, fitted, X, y)
        return
    estimator.classes_ = np.unique(y)
    estimator.coef_ = np.ascontiguousarray(model.coef.T, dtype=X.dtype)
    estimator.intercept_ = model.intercept.astype(X.dtype)
    is_svm = isinstance(estimator, LinearSVC)
    estimator.n_iter_ = model.n_iter if is_svm else np.array([model.n_iter], dtype=np.int32)
    estimator.n_features_in_ = X.shape[1]


def cross_validate(
    estimator: Estimator,
    X: np.ndarray,
    y: np.ndarray,
    folds: np.ndarray,
    values: Sequence[float],
) -> np.ndarray:
    """Return the accuracy on each held-out fold for each C, (len(values), n_folds) float64.

    Of several classes that an image may have, it is the mean average precision. Each fold's
    classifier is fitted on the other rows, standardised by these alone. `X` is standardised by all
    rows; `folds` is the fold that holds out each row, and every class has rows outside every fold.
    """
    base = one_vs_rest.base_of(estimator)
    n_folds = int(folds.max()) + 1
    order = list(np.argsort(values))
    ordered = [values[i] for i in order]
    scores = np.empty((len(values), n_folds))
    with shared_threads() as threads:
        if is_wide(X):
            paths = threads.map(
                lambda fold: _wide_fold(base, X, y, ordered, folds != fold), range(n_folds)
            )
            found = [list(models) for models in zip(*paths, strict=True)]
        else:
            found = [models for _, models in solve(base, X, y, ordered, threads, folds)]
    for i, models in zip(order, found, strict=True):
        scores[i] = (_accuracies if y.ndim == 1 else _precisions)(models, X, y, folds)
    return scores


def _wide_fold(
    estimator: LogisticRegression | LinearSVC,
    X: np.ndarray,
    y: np.ndarray,
    values: Sequence[float],
    trains: np.ndarray,
) -> list[Model]:
    scaled, mean, scale = standardise(X[trains])
    models = []
    for _, (model,) in solve(estimator, scaled, y[trains], values, Threads()):
        coef = model.coef / scale[:, None]
        models.append(replace(model, coef=coef, intercept=model.intercept - mean @ coef))
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


def _precisions(
    models: Sequence[Model], X: np.ndarray, Y: np.ndarray, folds: np.ndarray
) -> np.ndarray:
    """Return each fold's model's mean average precision on the rows of its fold."""
    found = np.empty(len(models))
    for fold, model in enumerate(models):
        held_out = np.flatnonzero(folds == fold)
        coef, intercept = model.coef.astype(np.float32), model.intercept.astype(np.float32)
        blocks = row_blocks(len(held_out), X.shape[1], n_outputs=coef.shape[1])
        z = np.concatenate([X[held_out[block]] @ coef + intercept for block in blocks])
        found[fold] = mean_average_precision(Y[held_out], z).value
    return found


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
    problem = _problem(estimator, X, y, threads, folds)
    yield from _minimise(problem, estimator, values, threads)


def _problem(
    estimator: LogisticRegression | LinearSVC,
    X: np.ndarray,
    y: np.ndarray,
    threads: Threads,
    folds: np.ndarray | None = None,
) -> Objective:
    problem: Objective
    if folds is None and is_wide(X):
        problem = WideObjective(estimator, X, y)
    else:
        problem = Objective(estimator, X, y, folds)
    problem.measure(threads)
    return problem


def _minimise(
    problem: Objective,
    estimator: LogisticRegression | LinearSVC,
    values: Sequence[float],
    threads: Threads,
) -> Iterator[tuple[float, list[Model]]]:
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
