"""Nearest neighbors that vote by their similarity, as the evaluation of DINO has them."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.neighbors import KNeighborsClassifier


class SimilarityNeighbors(KNeighborsClassifier):  # type: ignore[misc]
    """Neighbors by cosine similarity, each with the vote ``exp(similarity / temperature)``.

    The similarity ignores the length of the features. Wu et al. 2018, arXiv:1805.01978; with
    temperature 0.07, the nearest-neighbor evaluation of DINO (Caron et al. 2021,
    arXiv:2104.14294). More neighbors than training rows are all rows.
    """

    def __init__(self, n_neighbors: int = 20, temperature: float = 0.07) -> None:
        super().__init__(n_neighbors, metric="cosine", algorithm="brute")
        self.temperature = temperature

    def fit(self, X: np.ndarray, y: np.ndarray) -> Self:
        """Keep the rows."""
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}; it must be above 0.")
        super().fit(X, y)
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return each class's share of the votes, (n_samples, n_classes)."""
        n_neighbors = min(self.n_neighbors, self.n_samples_fit_)
        distances, at = self.kneighbors(X, n_neighbors)
        # The nearest one's vote is 1: large exponents would overflow.
        votes = np.exp((distances[:, :1] - distances) / self.temperature)
        classes = self._y[at]
        shares = np.zeros((len(X), len(self.classes_)))
        np.add.at(shares, (np.arange(len(X))[:, None], classes), votes)
        found: np.ndarray = shares / shares.sum(axis=1, keepdims=True)
        return found

    def predict(self, X: np.ndarray) -> Any:
        """Return the class with the most votes."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]
