"""Fit with accelerators on request; the result is a plain scikit-learn classifier.

scikit-learn-intelex trains the RBF SVM several times faster. PyTorch brings a GPU to the solvers of
scikit-learn that take arrays of any library.
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
"""Classifiers that compute on a GPU, and the parameters that they need for it."""


def check(config: FitConfig) -> None:
    """Refuse an accelerator that is missing, or that has no effect on the classifier."""
    if config.intelex:
        if config.clf != "svm":
            raise FitError(f"--intelex speeds up svm, not {config.clf}. Leave out --intelex.")
        if not find_spec("sklearnex"):
            raise FitError(
                "scikit-learn-intelex is not installed. Get it with: pip install "
                "scikit-learn-intelex, or leave out --intelex."
            )
    if config.device != "cpu":
        if config.clf not in ("logreg", "ridge", "lda"):
            raise FitError(
                f"scikit-learn computes logreg, ridge and lda on a GPU, not {config.clf}. "
                "Leave out --clf-device."
            )
        if config.search:
            raise FitError(
                "A search runs on the CPU, where one pass serves all folds. Leave out --clf-device "
                "or --search."
            )
        _check_gpu(config.device)


def _check_gpu(device: str) -> None:
    # Stage two needs torch for nothing else.
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        raise FitError(f"There is no CUDA GPU for --clf-device {device}. Leave it out.")
    _, _, index = device.partition(":")
    if index and int(index) >= torch.cuda.device_count():
        raise FitError(
            f"There is no GPU {index} for --clf-device {device}; there are "
            f"{torch.cuda.device_count()}, counted from 0."
        )


def worker_environment(device: str) -> dict[str, str]:
    """Return the variables that workers need to compute on a device."""
    return {} if device == "cpu" else {"SCIPY_ARRAY_API": "1"}


def versions(config: FitConfig) -> dict[str, str]:
    """Return the versions of the accelerators that a fit uses."""
    names = ["scikit-learn-intelex"] if config.intelex else []
    names += ["torch"] if config.device != "cpu" else []
    return {name: metadata.version(name) for name in names}


def gpu_params(estimator: Any) -> dict[str, Any]:
    """Return the parameters with which an estimator computes on a GPU."""
    return dict(ON_GPU[type(estimator)])


def fit_on_gpu(estimator: Any, X: np.ndarray, y: np.ndarray, device: str) -> None:
    """Fit an estimator in place through scikit-learn's array API, and bring the result back.

    The estimator has :func:`gpu_params`. The rows are copied to the device whole. SciPy must have
    been loaded with ``SCIPY_ARRAY_API=1`` in the environment.
    """
    if os.environ.get("SCIPY_ARRAY_API") != "1":
        raise FitError(
            "Computing on a GPU needs SciPy's array API. Start the scheduler's workers with "
            "SCIPY_ARRAY_API=1 in their environment."
        )
    torch = importlib.import_module("torch")
    try:
        with sklearn.config_context(array_api_dispatch=True):
            # A copy: PyTorch refuses read-only memory.
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
    """Fit an SVM in place by scikit-learn-intelex."""
    try:
        quick = importlib.import_module("sklearnex.svm").SVC(**estimator.get_params())
    except ImportError as error:
        # OpenVINO brings another version of a library that both load.
        raise FitError(
            f"scikit-learn-intelex can't be loaded ({error}). If this process ran a network "
            "before, fit in another one; or leave out --intelex."
        ) from error
    with warnings.catch_warnings():
        # It warns outside the main thread.
        warnings.filterwarnings("ignore", message=".*parallel backend is not supported")
        quick.fit(X, y)
    # A small fit by scikit-learn gives the names and types of the attributes to set.
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
