"""Save and load the fitted pipeline with skops, which stores no code and runs none."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from featstore.errors import RunError, StoreError

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

TRUSTED_TYPES = (
    "sklearn.compose._target.TransformedTargetRegressor",
    "sklearn.discriminant_analysis.LinearDiscriminantAnalysis",
    "sklearn.kernel_approximation.Nystroem",
    "sklearn.kernel_ridge.KernelRidge",
    "sklearn.linear_model._logistic.LogisticRegression",
    "sklearn.linear_model._ridge.Ridge",
    "sklearn.linear_model._ridge.RidgeClassifier",
    "sklearn.linear_model._stochastic_gradient.SGDClassifier",
    "sklearn.multiclass.OneVsRestClassifier",
    "sklearn.neighbors._classification.KNeighborsClassifier",
    "sklearn.neighbors._regression.KNeighborsRegressor",
    "sklearn.neural_network._multilayer_perceptron.MLPClassifier",
    "sklearn.neural_network._multilayer_perceptron.MLPRegressor",
    "sklearn.pipeline.Pipeline",
    "sklearn.preprocessing._data.MinMaxScaler",
    "sklearn.preprocessing._data.StandardScaler",
    "sklearn.preprocessing._label.LabelBinarizer",
    "sklearn.svm._classes.LinearSVC",
    "sklearn.svm._classes.SVC",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.multiclass._ConstantPredictor",
    "featstore.fitting.solvers.dbn.DeepBeliefNetwork",
    "featstore.fitting.solvers.similarity.SimilarityNeighbors",
    "featstore.fitting.solvers.triplet.TripletClassifier",
)
"""Types that the models of featstore's classifiers may hold, beside those that skops trusts."""


def _skops() -> ModuleType:
    """Import skops.io without all of scikit-learn.

    skops lists the estimators that it trusts, and for that imports all packages of scikit-learn,
    Dask and torch: seconds and 500 MB in every worker. See :func:`_estimator_names`.
    """
    import sklearn.utils

    listed = sklearn.utils.all_estimators
    sklearn.utils.all_estimators = list
    try:
        import skops.io
    finally:
        sklearn.utils.all_estimators = listed
    return skops.io  # type: ignore[no-any-return]


def _estimator_names() -> set[str]:
    """Return the names of scikit-learn's estimators, which skops trusts."""
    from sklearn.utils import all_estimators

    hidden = "torch" not in sys.modules
    if hidden:
        # A package of scikit-learn imports torch if it is installed.
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        found = [own for _, own in all_estimators()]
    finally:
        if hidden:
            del sys.modules["torch"]
    names = {f"{own.__module__}.{own.__name__}" for own in found}
    return {name for name in names if name.startswith("sklearn.")}


def save_model(model: Pipeline, path: Path) -> None:
    """Write a fitted pipeline; a zip file can't hold a time before 1980."""
    if (year := time.localtime(time.time()).tm_year) < 1980:
        raise StoreError(
            f"This machine's clock says {year}, and a model's file can't be older than 1980. Set "
            "the clock, then run the same command again."
        )
    _skops().dump(model, path)


def load_model(data: bytes, trusted: Sequence[str] = ()) -> Pipeline:
    """Return the fitted pipeline from the bytes of its file, without running code of the file.

    `trusted` names other types that it may hold, as ``package.module.Class``.
    """
    skops = _skops()
    allowed = {*TRUSTED_TYPES, *trusted}
    if trusted and os.getcwd() not in sys.path:
        # fit imported the user's classifier from the current folder.
        sys.path.insert(0, os.getcwd())
    try:
        untrusted = sorted(set(skops.get_untrusted_types(data=data)) - allowed)
        if any(name.startswith("sklearn.") for name in untrusted):
            allowed |= _estimator_names()
            untrusted = sorted(set(untrusted) - allowed)
    except Exception as error:
        raise RunError(f"it is not a skops file ({type(error).__name__}: {error})") from error
    if untrusted:
        raise RunError(
            f"it holds {', '.join(untrusted)}, which no classifier of featstore has and which may "
            "be meant to run code (if you trust it, name it with --trust)"
        )
    try:
        model = skops.loads(data, trusted=sorted(allowed))
    except Exception as error:
        raise RunError(f"{type(error).__name__}: {error}") from error
    from sklearn.pipeline import Pipeline

    if not isinstance(model, Pipeline):
        raise RunError(f"it holds a {type(model).__name__}, not a pipeline")
    return model
