"""NeighborSearch: the stored images whose features are most like those of an image."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from featstore.config import METRICS, SPLITS
from featstore.datasets.base import FileDataset
from featstore.datasets.decode import decode
from featstore.datasets.formats.image_list import UnlabelledSource, find_images
from featstore.errors import ConfigError, DatasetNotFoundError, ImageError, RunError, SelectionError
from featstore.extraction.encode import Encoder
from featstore.fitting.solvers.blocks import Samples
from featstore.fitting.solvers.scaling import fit_scaler
from featstore.fitting.splits import features_of
from featstore.inference.contact_sheet import N_COLUMNS, SIDE_PX, Strip, Tile, draw_sheet
from featstore.inference.nearest_rows import nearest
from featstore.inference.source_images import Originals
from featstore.io.fingerprints import FingerprintCache
from featstore.plotting import write_png
from featstore.progress import SILENT, Progress
from featstore.runs.run import Run, open_run
from featstore.store.feature_store import FeatureStore, open_store
from featstore.store.selection import Selection

ALL = "all"
"""Every split."""


PAGE_ROWS = 12
"""Rows of pictures on a contact sheet."""


@dataclass(frozen=True)
class Neighbor:
    """A stored image that is among the most like a query.

    Parameters
    ----------
    row : int
        Row of the feature set.
    sample_id : str
    label : str or None
        Name of its class, if it has one.
    split : str
        ``train``, ``test`` or ``val``; of a run that drew its own, the run's.
    distance : float
        Cosine distance, or Euclidean one.
    """

    row: int
    sample_id: str
    label: str | None
    split: str
    distance: float


@dataclass(frozen=True)
class Query:
    """One image, and what is most like it.

    Parameters
    ----------
    name : str
        The image's path, or the id of a stored sample.
    row : int or None
        Row of the stored sample.
    label : str or None
        Its class; None of new images.
    neighbors : tuple of Neighbor
        Nearest first; the stored sample itself is not among them.
    error : str or None
        Why there are none, where the image can't be read.
    """

    name: str
    row: int | None
    label: str | None
    neighbors: tuple[Neighbor, ...] = ()
    error: str | None = None

    @property
    def shares(self) -> dict[str, float]:
        """Each class's share of the neighbors that have one, the largest first."""
        labels = [one.label for one in self.neighbors if one.label is not None]
        # Of equal shares the nearer class is first.
        return {label: n / len(labels) for label, n in Counter(labels).most_common()}

    @property
    def majority(self) -> str | None:
        """Name of the class that most neighbors have."""
        return next(iter(self.shares), None)


@dataclass(frozen=True)
class NeighborSearch:
    """What :func:`find_neighbors` found.

    Parameters
    ----------
    set_id : str
        The feature set; of several whose features stand side by side, the first.
    layers : tuple of str
    metric : str
    split : str
        Which rows were looked among.
    n_rows : int
        How many these are.
    queries : tuple of Query
    """

    set_id: str
    layers: tuple[str, ...]
    metric: str
    split: str
    n_rows: int
    queries: tuple[Query, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return all as JSON-able values, each query's ``shares`` among them."""
        queries = [asdict(query) | {"shares": query.shares} for query in self.queries]
        return asdict(self) | {"layers": list(self.layers), "queries": queries}


def find_neighbors(
    run_or_set: Run | str | Path,
    images: Sequence[str | Path],
    *,
    store: str | Path | FeatureStore = "feature-store",
    k: int = 8,
    layers: str | None = None,
    metric: str = METRICS[0],
    split: str | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> NeighborSearch:
    """Find the stored images whose features are most like those of each image.

    Features are standardised first: by a run's training rows, or by all rows of a feature set.

    Parameters
    ----------
    run_or_set : Run, str or Path
        A run, its name or its folder; or the name of a feature set.
    images : sequence of str or Path
        Images, folders of images, or ids of stored samples.
    store : str, Path or FeatureStore
        The store that it lies in.
    k : int
        How many to find for each.
    layers : str, optional
        A layer of the feature set, or several with commas to put them side by side; needed where
        it has several.
    metric : str
        ``cosine`` or ``euclidean``, see :func:`featstore.inference.nearest_rows.nearest`.
    split : str, optional
        Look only among the rows of a split, or of ``all``; by default among a run's training
        rows, or all rows of a feature set.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:i``; stored samples need none.
    progress : Progress
        Told how it goes on.

    Raises
    ------
    ConfigError
        When `k`, `metric` or `split` can't be used, or a run is given `layers`.
    DatasetNotFoundError
        When an image is neither there nor a stored sample.
    SelectionError
        When there is no such run or feature set, its layers have to be chosen, or the split has
        no rows.
    WeightsError
        When the weights that new images need are not to be had.

    Examples
    --------
    >>> import featstore
    >>> found = featstore.find_neighbors("my-run", ["new.jpg"])  # doctest: +SKIP
    >>> found.queries[0].shares  # doctest: +SKIP
    """
    if k < 1:
        raise ConfigError(f"k is {k}; ask for one neighbor or more.")
    opened = open_store(store, progress)
    among = _rows_of(run_or_set, opened, layers, split)
    selection = among.selection
    X = selection.memmap()
    scaler = fit_scaler(Samples(X, among.fitted))

    def answers(features: np.ndarray, n: int) -> Iterator[list[Neighbor]]:
        rows, distances = nearest(X, among.rows, features, n, scaler=scaler, metric=metric)
        for pairs in zip(rows.tolist(), distances.tolist(), strict=True):
            yield [among.neighbor(*pair) for pair in zip(*pairs, strict=True)]

    queries = _queries(images, selection)
    stored = [i for i, query in enumerate(queries) if query.row is not None and not query.error]
    own = np.array([queries[i].row for i in stored], np.int64)
    for i, found in zip(stored, answers(X[own], k + 1), strict=True):
        others = [one for one in found if one.row != queries[i].row]
        queries[i] = replace(queries[i], neighbors=tuple(others[:k]))
    new = [i for i, query in enumerate(queries) if query.row is None]
    if new:
        dataset = FileDataset(UnlabelledSource([Path(queries[i].name) for i in new]))
        cache = FingerprintCache(opened.cache_dir / "fingerprints")
        encoder = Encoder(selection.feature_specs, dataset.bands, device, cache, progress)
        for block in encoder.blocks(dataset, "Encoding", progress):
            each = answers(block.X[block.readable], k)
            for row in range(block.start, block.stop):
                error = block.errors.get(row)
                neighbors = tuple(next(each)) if error is None else ()
                queries[new[row]] = replace(queries[new[row]], neighbors=neighbors, error=error)
    return NeighborSearch(
        selection.parts[0][0],
        selection.layers,
        metric,
        among.split,
        len(among.rows),
        tuple(queries),
    )


@dataclass(frozen=True)
class _Candidates:
    """The rows to look among."""

    selection: Selection
    rows: np.ndarray
    fitted: np.ndarray
    splits: np.ndarray
    split: str

    def neighbor(self, row: int, distance: float) -> Neighbor:
        selection = self.selection
        return Neighbor(
            row,
            str(selection.sample_ids[row]),
            _label(selection, row),
            str(self.splits[row]),
            distance,
        )


def _label(selection: Selection, row: int) -> str | None:
    label = int(selection.y[row])
    return selection.class_names[label] if label >= 0 else None


def _rows_of(
    run_or_set: Run | str | Path, store: FeatureStore, layers: str | None, split: str | None
) -> _Candidates:
    if split not in (None, ALL, *SPLITS):
        raise ConfigError(f"split is {split!r}; it must be one of {', '.join((ALL, *SPLITS))}.")
    found = run_or_set if isinstance(run_or_set, Run) else _open(run_or_set, store)
    if isinstance(found, Run):
        if layers is not None:
            raise ConfigError(
                f"{found.run_id} is a run, which has its layers. Leave --layers out, or name a "
                "feature set."
            )
        selection, used = features_of(found, store)
        usable = np.zeros(selection.n_samples, dtype=bool)
        splits = np.array(SPLITS)[selection.splits]
        for use, rows in used.uses().items():
            usable[rows] = True
            splits[rows] = use
        name, split = found.run_id, split or "train"
        fitted = usable & (splits == "train")
    else:
        selection = store.select(set_id=found, layers=layers)
        usable = fitted = selection.valid
        splits = np.array(SPLITS)[selection.splits]
        name, split = found, split or ALL
    rows = np.flatnonzero(usable if split == ALL else usable & (splits == split))
    if not rows.size:
        there = ", ".join(np.unique(splits[usable]).tolist())
        raise SelectionError(
            f"{name} has no rows of the split {split}; choose of {there} with --split."
            if there
            else f"{name} has no rows with features: none of its images could be read."
        )
    return _Candidates(selection, rows, np.flatnonzero(fitted), splits, split)


def _open(name: str | Path, store: FeatureStore) -> Run | str:
    """Return the run, or the full name of the feature set, that goes by a name."""
    try:
        return open_run(name, store)
    except RunError as no_run:
        try:
            return store.get(str(name)).set_id
        except SelectionError as no_set:
            raise SelectionError(
                f"{name} is neither a run nor a feature set. {no_run}\n{no_set}"
            ) from no_set


def _queries(images: Sequence[str | Path], selection: Selection) -> list[Query]:
    queries = []
    for image in images:
        if Path(image).exists():
            queries += [Query(str(path), None, None) for path in find_images([image])]
            continue
        rows = np.flatnonzero(selection.sample_ids == str(image))
        if not rows.size:
            raise DatasetNotFoundError(
                f"{image} is not there: name an image, a folder of images, or a sample of "
                f"{selection.parts[0][0]}, such as {selection.sample_ids[0]}."
            )
        row = int(rows[0])
        masked = f"{image} has no features, for its image could not be read."
        error = None if selection.valid[row] else masked
        queries.append(Query(str(image), row, _label(selection, row), error=error))
    return queries


def write_sheets(
    found: NeighborSearch,
    path: str | Path,
    *,
    store: str | Path | FeatureStore = "feature-store",
    root: str | Path | None = None,
    progress: Progress = SILENT,
) -> list[Path]:
    """Draw each query beside its neighbors, as PNG figures.

    Parameters
    ----------
    found : NeighborSearch
    path : str or Path
        The figure. Where there is more than fits one, they are numbered: ``neighbors-1.png``,
        ``neighbors-2.png``, ...
    store : str, Path or FeatureStore
        The store that the features lie in.
    root : str or Path, optional
        Where the stored images are; by default where they were extracted from. Those that are
        not to be had are shown as gray tiles.
    progress : Progress
        Told why, and how it goes on.

    Returns
    -------
    list of Path
        The figures; none where no query has neighbors.

    Raises
    ------
    StoreError
        When a figure can't be written.
    """
    opened = open_store(store, progress)
    pictures = _Pictures(Originals(opened, found.set_id, root, progress), progress)
    queries = [query for query in found.queries if query.neighbors]
    if not queries:
        return []
    n_lines = math.ceil(max(len(query.neighbors) for query in queries) / N_COLUMNS)
    n_queries = max(1, PAGE_ROWS // n_lines)
    pages = [queries[i : i + n_queries] for i in range(0, len(queries), n_queries)]
    path, written = Path(path), []
    width = len(str(len(pages)))
    progress.start("Drawing", len(queries), "images")
    try:
        for i, page in enumerate(pages, start=1):
            numbered = path.with_name(f"{path.stem}-{i:0{width}}{path.suffix}")
            target = path if len(pages) == 1 else numbered
            write_png(draw_sheet([pictures.strip(query) for query in page]), target)
            written.append(target)
            progress.advance(len(page))
    finally:
        progress.stop()
    return written


class _Pictures:
    """Tiles of queries and neighbors."""

    def __init__(self, originals: Originals, progress: Progress) -> None:
        self._originals = originals
        self._reason = originals.unavailable_reason()
        if self._reason is not None:
            progress.say(f"Stored images are shown as gray tiles. {self._reason}")

    def strip(self, query: Query) -> Strip:
        """Return a query's row of pictures."""
        expected = query.label or query.majority
        guessed = f"Query: {query.majority}?" if query.majority else "Query"
        title = f"Query: {query.label}" if query.label else guessed
        tiles = [
            Tile(
                self._stored(one.row),
                one.label or "no class",
                one.sample_id,
                f"{one.distance:.3f}" if one.distance < 10 else f"{one.distance:.1f}",
                None if one.label is None else one.label == expected,
            )
            for one in query.neighbors
        ]
        return Strip(Tile(self._query(query), title, query.name), tiles)

    def _query(self, query: Query) -> np.ndarray | None:
        if query.row is not None:
            return self._stored(query.row)
        try:
            return decode(Path(query.name), SIDE_PX)
        except ImageError:
            return None

    def _stored(self, row: int) -> np.ndarray | None:
        if self._reason is not None:
            return None
        try:
            return self._originals.image(row, SIDE_PX)
        except ImageError:
            return None
