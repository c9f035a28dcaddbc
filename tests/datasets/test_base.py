from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featstore.datasets.base import ArrayDataset, spread
from featstore.datasets.source import RGB, ArraySource
from featstore.errors import ConfigError


class Counting(ArraySource):
    """A source of 40 tiny images, of 2 classes, that counts what is read."""

    name = title = "counting"
    bands = RGB
    image_shape = (2, 2, 3)
    class_names = ("a", "b")
    labels = np.tile(np.array([0, 1], np.int32), 20)
    splits = np.repeat(np.array([0, 1], np.uint8), [30, 10])
    sample_ids = [f"s{i:02d}" for i in range(40)]
    n_read = 0

    def read_rows(self, rows: np.ndarray) -> np.ndarray:
        self.n_read += len(rows)
        return np.tile(rows.astype(np.uint8)[:, None, None, None], (1, *self.image_shape))

    def files(self) -> list[tuple[str, Path]]:
        return []

    def identity(self) -> dict[str, Any]:
        return {"dataset": self.name}


def test_subsets_of_subsets_share_the_source_and_keep_the_order() -> None:
    whole = ArrayDataset(Counting())
    odd = whole.subset(np.arange(1, 40, 2))
    some = odd.subset(np.array([0, 5, 19]))
    assert (len(whole), len(odd), len(some)) == (40, 20, 3)
    assert list(some.sample_ids) == ["s01", "s11", "s39"]
    assert some.labels.tolist() == [1, 1, 1]
    assert some.splits.tolist() == [0, 0, 1]
    assert some.read_block(1, 3)[:, 0, 0, 0].tolist() == [11, 39]
    assert some.read(0)[0, 0, 0] == 1
    assert whole.labels.tolist() == Counting.labels.tolist()
    assert some._source is whole._source
    assert whole._source.n_read == 3


def test_equal_subsets_have_equal_identities_and_others_not() -> None:
    whole = ArrayDataset(Counting())
    a, b = whole.subset(np.arange(5)), whole.subset(np.arange(1, 6))
    limited = ArrayDataset(Counting(), limit=10)
    identities = [d.identity() for d in (whole, a, b, limited, limited.subset(np.arange(5)))]
    assert all(x != y for i, x in enumerate(identities) for y in identities[:i])
    assert ArrayDataset(Counting()).subset(np.arange(5)).identity() == a.identity()


@pytest.mark.parametrize("rows", [[1, 1], [2, 1], [-1, 3], [38, 40]])
def test_rows_that_are_no_subset_are_refused(rows: list[int]) -> None:
    with pytest.raises(ConfigError):
        ArrayDataset(Counting()).subset(np.array(rows))


def test_an_empty_subset_is_empty() -> None:
    none = ArrayDataset(Counting()).subset(np.array([], int))
    assert len(none) == 0
    assert none.read_block(0, 0).shape == (0, 2, 2, 3)


def test_limit_keeps_classes_splits_and_proportions() -> None:
    limited = ArrayDataset(Counting(), limit=20)
    groups = list(zip(limited.splits.tolist(), limited.labels.tolist(), strict=True))
    assert len(limited) == 20
    assert [groups.count(g) for g in ((0, 0), (0, 1), (1, 0), (1, 1))] == [7, 7, 3, 3]


def test_a_limit_too_small_for_the_groups_names_the_least() -> None:
    with pytest.raises(ConfigError, match="give 4 or more"):
        len(ArrayDataset(Counting(), limit=3))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    groups=st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 2)), min_size=1, max_size=200),
    share=st.floats(0, 1.2),
)
def test_spread_is_exact_increasing_and_leaves_no_group_out(
    groups: list[tuple[int, int]], share: float
) -> None:
    labels = np.array([label for label, _ in groups], np.int32)
    splits = np.array([split for _, split in groups], np.uint8)
    limit = max(len(set(groups)), round(share * len(groups)))
    rows = spread(labels, splits, limit)
    assert len(rows) == min(limit, len(groups))
    assert (np.diff(rows) > 0).all()
    assert {groups[row] for row in rows} == set(groups)


def test_spread_reaches_from_a_groups_start_to_its_end() -> None:
    rows = spread(np.zeros(1000, np.int32), np.zeros(1000, np.uint8), 10)
    assert np.diff(rows).tolist() == [100] * 9
