"""Fit one classifier for each of several classes that an image may have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.multiclass import OneVsRestClassifier, _ConstantPredictor
from sklearn.preprocessing import LabelBinarizer

T = TypeVar("T")


def base_of(estimator: BaseEstimator) -> Any:
    """Return the classifier that is fitted for each class; other estimators as they are."""
    return estimator.estimator if isinstance(estimator, OneVsRestClassifier) else estimator


def put(
    estimator: OneVsRestClassifier, fitted: Sequence[BaseEstimator], X: np.ndarray, Y: np.ndarray
) -> None:
    """Set the attributes that the estimator's own ``fit`` to `X` and `Y` would set."""
    estimator.label_binarizer_ = LabelBinarizer(sparse_output=True).fit(Y)
    estimator.classes_ = estimator.label_binarizer_.classes_
    estimator.estimators_ = list(fitted)
    estimator.n_features_in_ = X.shape[1]


def fit_each(
    estimator: OneVsRestClassifier,
    X: np.ndarray,
    Y: np.ndarray,
    fit: Callable[[Any, np.ndarray, np.ndarray], T],
) -> list[T]:
    """Fit one classifier for each column of `Y` by ``fit(classifier, X, y)``; return its results.

    A class that all rows have, or none, is predicted for all, or none.
    """
    fitted, results = [], []
    for y in Y.T:
        if (y == y[0]).all():
            fitted.append(_ConstantPredictor().fit(X, y[:1]))
            continue
        fitted.append(clone(estimator.estimator))
        results.append(fit(fitted[-1], X, y))
    put(estimator, fitted, X, Y)
    return results
