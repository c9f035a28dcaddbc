"""What tests of fits share: features that are hard to tell apart, and a user's own code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import blobs


@pytest.fixture
def overlapping() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """Return what makes features of classes that are hard to tell apart, and labels."""

    def make(n: int = 320) -> tuple[np.ndarray, np.ndarray]:
        X, y = blobs(n, 20, seed=2)
        return X + np.random.default_rng(5).normal(0, 4, size=X.shape).astype(np.float32), y

    return make


OWN = """
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression

number = 7

def forest(n_estimators=5):
    return RandomForestClassifier(n_estimators)

class Breaks(ClassifierMixin, BaseEstimator):
    def __init__(self, error="ValueError"):
        self.error = error

    def fit(self, X, y):
        raise getattr(__import__("builtins"), self.error)("it broke")
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of a module with classifiers, named unlike any other test's."""
    folder = tmp_path / "code"
    folder.mkdir()
    path = folder / f"own_{tmp_path.name}.py"
    path.write_text(OWN)
    monkeypatch.syspath_prepend(folder)
    return path
