"""Accelerators: solvers beside scikit-learn's own, for those who ask for them.

scikit-learn-intelex trains the RBF SVM several times faster; PyTorch brings a GPU to those of
scikit-learn's solvers that take arrays of any library. Either leaves a plain scikit-learn
classifier.
"""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Mapping
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import numpy as np
import sklearn
from sklearn.base import clone
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.svm import SVC

from featstore.config import FitConfig
from featstore.errors import FitError

ON_GPU: Mapping[type, Mapping[str, Any]] = {
    LogisticRegression: {"solver": "lbfgs"},
    RidgeClassifier: {"solver": "svd"},
    LinearDiscriminantAnalysis: {"solver": "svd", "shrinkage": None},
}
"""What computes on a GPU, and the parameters that it takes for that."""


def check(config: FitConfig) -> None:
    """Refuse what was asked for and is not there, or has no bearing on the classifier.

    Raises
    ------
    FitError
        When scikit-learn-intelex is not installed, or nothing is computed by it; when there is
        no GPU, or the classifier does not compute on one.
    """
    if config.intelex:
        if config.clf != "svm":
            raise FitError(f"--intelex speeds up svm; it has nothing for {config.clf}.")
        if not find_spec("sklearnex"):
            raise FitError(
                "scikit-learn-intelex is not installed. Get it with: pip install "
                '"featstore[intelex]", or leave out --intelex.'
            )
    if config.device != "cpu":
        if config.clf not in ("logreg", "ridge", "lda"):
            raise FitError(
                f"scikit-learn does not compute {config.clf} on a GPU; it does logreg, ridge and "
                "lda. Leave out --clf-device."
            )
        if config.search:
            raise FitError(
                "A search is computed on the CPU, where one pass serves all folds. Leave out "
                "--clf-device or --search."
            )
        _check_gpu(config.device)


def _check_gpu(device: str) -> None:
    # Stage two has no other use for it.
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        raise FitError(f"There is no CUDA GPU for --clf-device {device}. Leave it out.")
    _, _, index = device.partition(":")
    if index and int(index) >= torch.cuda.device_count():
        raise FitError(
            f"There is no GPU {index} for --clf-device {device}; there are "
            f"{torch.cuda.device_count()}, counted from 0."
        )


def versions(config: FitConfig) -> dict[str, str]:
    """Return the versions of the accelerators that a fit uses."""
    names = ["scikit-learn-intelex"] if config.intelex else []
    names += ["torch"] if config.device != "cpu" else []
    return {name: metadata.version(name) for name in names}


def gpu_params(estimator: Any) -> dict[str, Any]:
    """Return the parameters with which an estimator computes on a GPU."""
    return dict(ON_GPU[type(estimator)])


def fit_on_gpu(estimator: Any, X: np.ndarray, y: np.ndarray, device: str) -> None:
    """Fit through scikit-learn's array API, and bring the result back.

    Parameters
    ----------
    estimator : LogisticRegression, RidgeClassifier or LinearDiscriminantAnalysis
        With :func:`gpu_params`; fitted in place. SciPy must have been loaded with
        ``SCIPY_ARRAY_API=1`` in the environment.
    X : ndarray of shape (n_samples, n_features), float32
        Copied to the device whole.
    y : ndarray of shape (n_samples,), int
    device : str
        PyTorch's name of it.

    Raises
    ------
    FitError
        When the device's memory does not hold it.
    """
    if os.environ.get("SCIPY_ARRAY_API") != "1":
        raise FitError(
            "SciPy was loaded without its array API, which computing on a GPU takes. Start the "
            "workers of the scheduler with SCIPY_ARRAY_API=1 in their environment."
        )
    torch = importlib.import_module("torch")
    try:
        with sklearn.config_context(array_api_dispatch=True):
            # A copy, for PyTorch wants memory that it could write.
            rows = torch.from_numpy(np.array(X)).to(device)
            estimator.fit(rows, torch.from_numpy(y.astype(np.int64)).to(device))
    except torch.cuda.OutOfMemoryError as error:
        raise FitError(
            f"{len(X):,} x {X.shape[1]:,} training features do not fit the memory of {device}. "
            "Leave out --clf-device."
        ) from error
    for name, value in vars(estimator).items():
        if torch.is_tensor(value):
            setattr(estimator, name, value.cpu().numpy())
    binarizer = getattr(estimator, "_label_binarizer", None)
    if binarizer is not None:
        binarizer.classes_ = np.asarray(estimator.classes_)


def fit_with_intelex(estimator: SVC, X: np.ndarray, y: np.ndarray) -> None:
    """Fit an SVM by scikit-learn-intelex, and put the result into scikit-learn's.

    Parameters
    ----------
    estimator : SVC
        Fitted in place.
    X : ndarray of shape (n_samples, n_features), float32
    y : ndarray of shape (n_samples,), int
    """
    quick = importlib.import_module("sklearnex.svm").SVC(**estimator.get_params())
    with warnings.catch_warnings():
        # It speaks up when it is not asked from a main thread.
        warnings.filterwarnings("ignore", message=".*parallel backend is not supported")
        quick.fit(X, y)
    # What scikit-learn's has when it is fitted, at no cost, and in its types.
    first = np.concatenate([np.flatnonzero(y == c)[:2] for c in np.unique(y)])
    pattern = clone(estimator).fit(X[first], y[first])
    params = estimator.get_params()
    for name, value in vars(pattern).items():
        if name in params:
            continue
        found = getattr(quick, name, value)
        if isinstance(value, np.ndarray):
            found = np.ascontiguousarray(found, dtype=value.dtype)
        setattr(estimator, name, found)
