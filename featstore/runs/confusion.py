"""Confusion matrices in a run's record: counts of all pairs of classes, or only those that occur.

Up to 100 classes, a record holds one row of counts for each true class. With more, it holds
``[true, predicted, count]`` for each pair that occurs: 10,000 classes have a hundred million pairs,
and at most one pair per test row occurs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from featstore.store.format.run_scores import MAX_DENSE_CLASSES

if TYPE_CHECKING:
    from scipy.sparse import csr_array


def count_pairs(y_true: np.ndarray, y_pred: np.ndarray, n_classes: int) -> csr_array:
    """Return how often each class was predicted for each true one, (n_classes, n_classes) int64."""
    from scipy.sparse import coo_array

    ones = np.ones(len(y_true), dtype=np.int64)
    return coo_array((ones, (y_true, y_pred)), shape=(n_classes, n_classes)).tocsr()


def to_record(counts: csr_array) -> list[list[int]]:
    """Return a matrix of counts as a record holds it."""
    if counts.shape[0] <= MAX_DENSE_CLASSES:
        return [list(map(int, row)) for row in counts.toarray()]
    pairs = counts.tocoo()
    triples: list[list[int]] = np.column_stack([*pairs.coords, pairs.data]).tolist()
    return triples


def from_record(confusion: Sequence[Sequence[int]], n_classes: int) -> csr_array:
    """Return the matrix of counts that a record holds, (n_classes, n_classes) int64."""
    from scipy.sparse import coo_array, csr_array

    if n_classes <= MAX_DENSE_CLASSES:
        return csr_array(np.asarray(confusion, dtype=np.int64))
    true, predicted, count = np.asarray(confusion, dtype=np.int64).reshape(-1, 3).T
    return coo_array((count, (true, predicted)), shape=(n_classes, n_classes)).tocsr()
