"""The classifiers: names, scikit-learn pipelines, and defaults with their reasons."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression, RidgeClassifier, SGDClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.utils import gen_batches

from featstore.errors import FitError

BLOCK_NBYTES = 64 * 2**20
"""Rows are scaled and predicted in blocks of about this size, so that no copy is large."""

TAKEN = {"random_state": "--seed", "n_jobs": "--n-jobs", "verbose": None, "warm_start": None}
"""Parameters that featstore sets itself, and the option that sets them."""


@dataclass(frozen=True)
class Classifier:
    """One classifier that can be asked for by name.

    Parameters
    ----------
    name : str
    estimator : callable
        The scikit-learn class.
    defaults : mapping
        Parameters in which it departs from scikit-learn's defaults.
    scaled : bool
        Whether features are standardised first, by the training rows' mean and deviation.
    float64_nbytes : int
        Bytes that the solver's own copies of the training rows take per value beside the
        float32 that it is given; 0 where it computes in float32.
    predicts_slowly : bool
        Whether a prediction costs the more, the more training rows there were.
    max_rows : int or None
        Training rows beyond which it does not end in reasonable time.
    """

    name: str
    estimator: Callable[..., BaseEstimator]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    scaled: bool = True
    float64_nbytes: int = 0
    predicts_slowly: bool = False
    max_rows: int | None = None

    def param_names(self) -> list[str]:
        """Return the names of the parameters that can be set."""
        return sorted(set(self.estimator().get_params(deep=False)) - TAKEN.keys())

    def params(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """Return the defaults with `own` in their places, checked.

        Raises
        ------
        FitError
            When there is no such parameter, or scikit-learn refuses a value.
        """
        for name in own:
            if name in TAKEN:
                cure = f"use {TAKEN[name]}" if TAKEN[name] else "featstore sets it"
                raise FitError(f"{name} is not a parameter of {self.name} to be given: {cure}.")
        valid = self.param_names()
        if unknown := sorted(set(own) - set(valid)):
            raise FitError(
                f"{self.name} has no parameter {', '.join(unknown)}. It has {', '.join(valid)}."
            )
        params = {**self.defaults, **own}
        try:
            self.estimator(**params)._validate_params()
        except (ValueError, TypeError) as error:
            raise FitError(f"{self.name} can't take these parameters: {error}") from error
        return params

    def pipeline(self, params: Mapping[str, Any], seed: int) -> Pipeline:
        """Return the unfitted pipeline; `params` as :meth:`params` returned them."""
        estimator = self.estimator(**params)
        if "random_state" in estimator.get_params(deep=False):
            estimator.set_params(random_state=seed)
        steps = [("scale", StandardScaler())] if self.scaled else []
        return Pipeline([*steps, ("clf", estimator)])


CLASSIFIERS = {
    classifier.name: classifier
    for classifier in (
        # On NWPU-RESISC45 (doi:10.1109/JPROC.2017.2675998), 12 classes of 70 + 30 images, with
        # ResNet-50 v1 features standardised: C=0.01 gives 86.4 % (fc1000) and 88.6 % (pool5).
        # More features than rows need the strong penalty.
        Classifier("logreg", LogisticRegression, {"C": 0.01, "max_iter": 1000}),
        # The same data: C=0.001 gives 86.1 % and 86.9 %. dual="auto" solves the primal when
        # rows exceed columns, as LinearSVC's manual advises. liblinear takes float64, and keeps
        # it as 16-byte (index, value) pairs besides.
        Classifier("linear-svm", LinearSVC, {"C": 0.001, "dual": "auto"}, float64_nbytes=24),
        # scikit-learn's C=1 and gamma="scale", which is 1 / n_features on standardised features.
        # scikit-learn#13209: beyond some ten thousand rows it does not end.
        Classifier(
            "svm", SVC, {"kernel": "rbf"}, float64_nbytes=8, predicts_slowly=True, max_rows=50_000
        ),
        Classifier("mlp", MLPClassifier, {"hidden_layer_sizes": (256,)}),
        # Logistic loss for probabilities; hinge, scikit-learn's default, has none.
        Classifier("sgd", SGDClassifier, {"loss": "log_loss"}),
        # The same data, 5-fold cross-validation on its training rows: alpha=200 gives 88.2 % and
        # 87.4 %; scikit-learn's alpha=1 gives 77.4 % and 82.7 %, for it nearly interpolates where
        # there are about as many features as rows.
        Classifier("ridge", RidgeClassifier, {"alpha": 200.0}),
        # k=5 on raw features, as Corley et al. 2023 (arXiv:2305.13456) have it: standardising
        # takes UC Merced from 90.7 % to 77 %. Trees do not help beyond some tens of dimensions.
        Classifier(
            "knn",
            KNeighborsClassifier,
            {"n_neighbors": 5, "algorithm": "brute"},
            scaled=False,
            predicts_slowly=True,
        ),
    )
}


def find_classifier(name: str) -> Classifier:
    """Return the classifier of that name.

    Raises
    ------
    FitError
        When there is none.
    """
    if name not in CLASSIFIERS:
        raise FitError(f"There is no classifier {name!r}; there are {', '.join(CLASSIFIERS)}.")
    return CLASSIFIERS[name]


def parse_param(text: str) -> tuple[str, Any]:
    """Parse ``name=value`` or ``clf:name=value`` as typed on the command line.

    The value is a Python literal (``0.1``, ``None``, ``True``, ``(256, 128)``); what is none is
    text.

    Raises
    ------
    FitError
        When there is no name or no ``=``.
    """
    name, equals, value = text.partition("=")
    name = name.strip()
    if not equals or not name:
        raise FitError(f"{text!r} is not name=value, as in C=0.1 or mlp:hidden_layer_sizes=(64,).")
    try:
        return name, ast.literal_eval(value.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return name, value.strip()


def aim_params(params: Mapping[str, Any], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Give each classifier the parameters meant for it.

    Parameters
    ----------
    params : mapping
        Values by ``name``, for all classifiers, or ``clf:name``, for one.
    names : sequence of str
        Names of the classifiers to be fitted.

    Returns
    -------
    dict
        For each classifier its own parameters, checked.

    Raises
    ------
    FitError
        When a parameter is aimed at a classifier that is not fitted, or is wrong.
    """
    aimed: dict[str, dict[str, Any]] = {name: {} for name in names}
    for key, value in params.items():
        owner, colon, param = key.rpartition(":")
        if colon and owner not in aimed:
            raise FitError(
                f"The parameter {key} is for {owner}, but only {', '.join(names)} will be fitted."
            )
        if not colon:
            for name in names:
                aimed[name].setdefault(param, value)
    for key, value in params.items():
        owner, colon, param = key.rpartition(":")
        if colon:
            aimed[owner][param] = value
    for name in names:
        try:
            find_classifier(name).params(aimed[name])
        except FitError as error:
            if len(names) == 1:
                raise
            raise FitError(
                f"{error} Aim a parameter at one classifier with clf:name=value."
            ) from error
    return aimed


@dataclass(frozen=True)
class Judgement:
    """What a fitted pipeline says of some rows.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,), int32
        Predicted classes, positions in the run's class names.
    scores : ndarray of shape (n_samples,), float32
        How sure it is of them.
    score_kind : str
        ``probability``, or ``decision value`` for a signed distance from the boundary.
    """

    labels: np.ndarray
    scores: np.ndarray
    score_kind: str


def judge(model: Pipeline, X: np.ndarray) -> Judgement:
    """Predict in blocks of rows, so that no copy of `X` is large.

    Parameters
    ----------
    model : Pipeline
        Fitted.
    X : ndarray of shape (n_samples, n_features)
        float32; may be a read-only memory map.
    """
    kind = "probability" if hasattr(model, "predict_proba") else "decision value"
    rate = model.predict_proba if kind == "probability" else model.decision_function
    # Where there is no decision function, predict is the largest probability. Elsewhere ties
    # (SVC's votes, SGD's clipped probabilities) make that differ.
    by_score = not hasattr(model, "decision_function")
    labels = np.empty(len(X), dtype=np.int32)
    scores = np.empty(len(X), dtype=np.float32)
    for rows in blocks(X):
        values = rate(X[rows])
        if values.ndim == 1:
            # Two classes have one decision value: positive for the second.
            values = np.stack([-values, values], axis=1)
        if by_score:
            columns = values.argmax(axis=1)
        else:
            columns = np.searchsorted(model.classes_, model.predict(X[rows]))
        labels[rows] = model.classes_[columns]
        scores[rows] = values[np.arange(len(columns)), columns]
    return Judgement(labels, scores, kind)


def blocks(X: np.ndarray) -> list[slice]:
    """Return slices of about 64 MiB of float32 that cover the rows of `X`."""
    n_rows = max(1, BLOCK_NBYTES // (4 * max(1, X.shape[1])))
    return list(gen_batches(len(X), n_rows))


def fit_scaler(scaler: StandardScaler, X: np.ndarray) -> None:
    """Fit `scaler` block by block.

    ``StandardScaler.fit`` makes a float64 copy of all of `X`, 2.25 times its size (measured
    with scikit-learn 1.9); in blocks the same numbers take 150 MB.
    """
    for rows in blocks(X):
        scaler.partial_fit(X[rows])
