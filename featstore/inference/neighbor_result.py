"""The result of a search for neighbors: each image with the stored images most like it."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from featstore.config import TASKS


@dataclass(frozen=True)
class Neighbor:
    """A stored image that is near a query.

    Parameters
    ----------
    row : int
        Row of the feature set.
    sample_id : str
    label : str or None
        Name of its class, names of its classes, or its number; None without one.
    split : str
        ``train``, ``test`` or ``val``; of a run that drew its own split, the run's.
    distance : float
        Cosine or Euclidean distance.
    labels : tuple of str or None
        Names of its classes, if images may have several; none of a number; otherwise None.
    """

    row: int
    sample_id: str
    label: str | None
    split: str
    distance: float
    labels: tuple[str, ...] | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of its classes; of a number there are none."""
        if self.labels is not None:
            return self.labels
        return () if self.label is None else (self.label,)


@dataclass(frozen=True)
class Query:
    """One image and its neighbors.

    Parameters
    ----------
    name : str
        The image's path, or the id of a stored sample.
    row : int or None
        Row of the stored sample.
    label : str or None
        The stored sample's class, classes or number; new images have None.
    neighbors : tuple of Neighbor
        Nearest first, without the stored sample itself.
    error : str or None
        Why the image has no neighbors, if it can't be read.
    """

    name: str
    row: int | None
    label: str | None
    neighbors: tuple[Neighbor, ...] = ()
    error: str | None = None

    @property
    def shares(self) -> dict[str, float]:
        """Share of the labelled neighbors that have each class, the largest first."""
        n_labelled = sum(one.label is not None for one in self.neighbors)
        classes = [name for one in self.neighbors for name in one.classes]
        # Counter keeps the nearer class first among equal shares.
        return {name: n / n_labelled for name, n in Counter(classes).most_common()}

    @property
    def majority(self) -> str | None:
        """Name of the most frequent class among the neighbors."""
        return next(iter(self.shares), None)


@dataclass(frozen=True)
class NeighborSearch:
    """The result of :func:`featstore.find_neighbors`.

    Parameters
    ----------
    set_id : str
        The feature set; with features of several sets side by side, the first.
    layers : tuple of str
    metric : str
        ``cosine``, ``euclidean``, or the id of the run whose projection was used.
    split : str
        The split that was searched, or ``all``.
    n_rows : int
        Number of rows that were searched.
    queries : tuple of Query
    task : str
        What a label is, one of :data:`featstore.config.TASKS`.
    """

    set_id: str
    layers: tuple[str, ...]
    metric: str
    split: str
    n_rows: int
    queries: tuple[Query, ...]
    task: str = TASKS[0]

    def __repr__(self) -> str:
        return f"NeighborSearch({self.set_id!r}, {len(self.queries):,} images)"

    def to_dict(self) -> dict[str, Any]:
        """Return all fields, and each query's ``shares``, as JSON-able values."""
        queries = [asdict(query) | {"shares": query.shares} for query in self.queries]
        return asdict(self) | {"layers": list(self.layers), "queries": queries}
