"""Find the stored images whose features are most like those of an image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, groupby
from pathlib import Path

import numpy as np

from featstore.config import METRICS, SPLITS
from featstore.datasets.base import FileDataset
from featstore.datasets.formats.image_list import UnlabelledSource
from featstore.errors import ConfigError, DatasetNotFoundError, SelectionError
from featstore.extraction.encode import Encoder
from featstore.fitting.run_features import features_of, refuse_layers
from featstore.fitting.tasks import find_task
from featstore.inference.given_images import GivenImage, ImageFile, as_files, each_image
from featstore.inference.metrics import Metric, find_metric
from featstore.inference.nearest_rows import nearest
from featstore.inference.neighbor_result import Neighbor, NeighborSearch, Query
from featstore.io.fingerprints import FingerprintCache
from featstore.progress import Progress
from featstore.progress_bars import IN_NOTEBOOKS
from featstore.runs.find import open_run_or_set
from featstore.runs.run import Run
from featstore.store.feature_store import FeatureStore, open_store
from featstore.store.selection import Selection

ALL = "all"
"""Every split."""


def find_neighbors(
    run_or_set: Run | str | Path,
    images: GivenImage | Iterable[GivenImage],
    *,
    store: str | Path | FeatureStore | None = None,
    k: int = 8,
    layers: str | None = None,
    metric: str = METRICS[0],
    split: str | None = None,
    device: str = "auto",
    progress: Progress = IN_NOTEBOOKS,
) -> NeighborSearch:
    """Find the stored images whose features are most like those of each image.

    Features are standardised first: by a run's training rows, or by all rows of a feature set.

    Parameters
    ----------
    run_or_set : Run, str or Path
        A run, its name or its folder; or the name of a feature set.
    images : str, Path, ndarray, PIL.Image.Image, binary file, or several of these
        Images, folders of images, or ids of stored samples; see :func:`featstore.predict`.
    store : str, Path or FeatureStore
        The store of the run or feature set.
    k : int
        Number of neighbors of each image.
    layers : str, optional
        A layer of the feature set, or several with commas to put them side by side; required if
        the set has several.
    metric : str
        ``cosine`` or ``euclidean``, see :func:`featstore.inference.nearest`; or a run of
        ``--clf triplet`` on the same features, whose projection they are compared in, by cosine.
    split : str, optional
        The rows to search: a split, or ``all``; by default a run's training rows, or all rows
        of a feature set.
    device : str
        Where the network runs on new images: ``auto``, ``cpu``, ``cuda`` or ``cuda:i``.
    progress : Progress

    Raises
    ------
    ConfigError
        When `k`, `metric` or `split` is not valid, or `layers` is given with a run.
    DatasetNotFoundError
        When an image is neither a file nor a stored sample.
    SelectionError
        When the run or feature set is not found, its layers have to be chosen, or the split has
        no rows.
    WeightsError
        When weights that new images need are missing.

    Examples
    --------
    >>> import featstore
    >>> found = featstore.find_neighbors("my-run", ["new.jpg"])  # doctest: +SKIP
    >>> found.queries[0].shares  # doctest: +SKIP
    """
    if k < 1:
        raise ConfigError(f"k is {k}; ask for one neighbor or more.")
    opened = open_store(store, progress)
    candidates = _find_candidates(run_or_set, opened, layers, split)
    selection = candidates.selection
    learned = find_metric(metric, selection, candidates.fitted, opened)
    given = list(each_image(images))
    is_stored = [isinstance(image, str | Path) and not Path(image).exists() for image in given]
    new = [image for image, stored in zip(given, is_stored, strict=True) if not stored]
    with as_files(new, progress) as files:
        queries, rows = _queries(given, is_stored, files, selection)
        stored = [i for i, query in enumerate(queries) if query.row is not None and not query.error]
        with_neighbors = candidates.of_stored([queries[i] for i in stored], learned, k)
        for i, query in zip(stored, with_neighbors, strict=True):
            queries[i] = query
        if files:
            dataset = FileDataset(UnlabelledSource([file.path for file in files]))
            cache = FingerprintCache(opened.cache_dir / "fingerprints")
            encoder = Encoder(selection.feature_specs, dataset, device, cache, progress)
            for block in encoder.blocks("Encoding", progress):
                found_next = candidates.search(block.X[block.readable], learned, k)
                for row in range(block.start, block.stop):
                    i, file = rows[row], files[row]
                    error = block.errors.get(row)
                    neighbors = tuple(next(found_next)) if error is None else ()
                    error = error and error.replace(str(file.path), file.name)
                    queries[i] = replace(queries[i], neighbors=neighbors, error=error)
    return candidates.result(queries, learned)


def find_stored_neighbors(
    run: Run, rows: Sequence[int], store: FeatureStore, k: int = 8
) -> NeighborSearch:
    """Find the images of a run, of any split, that are most like its own images of some rows."""
    candidates = _find_candidates(run, store, None, ALL)
    selection = candidates.selection
    metric = find_metric(METRICS[0], selection, candidates.fitted, store)
    ids = selection.sample_ids
    queries = [Query(str(ids[row]), row, _label(selection, row)) for row in rows]
    return candidates.result(candidates.of_stored(queries, metric, k), metric)


@dataclass(frozen=True)
class _Candidates:
    """The rows to search, those that the scaler is fitted to, and each row's split."""

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
            find_task(selection.task).labels_of(selection, row),
        )

    def search(self, features: np.ndarray, metric: Metric, k: int) -> Iterator[list[Neighbor]]:
        """Yield the neighbors of each row of features."""
        rows, distances = nearest(
            self.selection.memmap(),
            self.rows,
            features,
            k,
            scaler=metric.scaler,
            projection=metric.projection,
            metric=metric.kind,
        )
        for pairs in zip(rows.tolist(), distances.tolist(), strict=True):
            yield [self.neighbor(*pair) for pair in zip(*pairs, strict=True)]

    def of_stored(self, queries: Sequence[Query], metric: Metric, k: int) -> list[Query]:
        """Return queries of stored rows with their neighbors."""
        own = np.array([query.row for query in queries], np.int64)
        searched = self.search(self.selection.memmap()[own], metric, k + 1)
        return [
            replace(query, neighbors=tuple([one for one in found if one.row != query.row][:k]))
            for query, found in zip(queries, searched, strict=True)
        ]

    def result(self, queries: Sequence[Query], metric: Metric) -> NeighborSearch:
        return NeighborSearch(
            self.selection.parts[0][0],
            self.selection.layers,
            metric.name,
            self.split,
            len(self.rows),
            tuple(queries),
            self.selection.task,
        )


def _label(selection: Selection, row: int) -> str | None:
    return find_task(selection.task).label_text(selection, row)


def _find_candidates(
    run_or_set: Run | str | Path, store: FeatureStore, layers: str | None, split: str | None
) -> _Candidates:
    if split not in (None, ALL, *SPLITS):
        raise ConfigError(f"split is {split!r}; it must be one of {', '.join((ALL, *SPLITS))}.")
    found = run_or_set if isinstance(run_or_set, Run) else open_run_or_set(run_or_set, store)
    if isinstance(found, Run):
        refuse_layers(found, layers)
        selection, used = features_of(found, store)
        splits = used.use_of_rows(selection.n_samples)
        usable = splits != ""
        name, split = found.run_id, split or "train"
        fitted = usable & (splits == "train")
    else:
        selection = store.select(set_id=found, layers=layers)
        usable = fitted = selection.valid
        splits = np.array(SPLITS)[selection.splits]
        name, split = found, split or ALL
    rows = np.flatnonzero(usable if split == ALL else usable & (splits == split))
    if not rows.size:
        present = ", ".join(np.unique(splits[usable]).tolist())
        raise SelectionError(
            f"{name} has no rows of the split {split}; it has {present}. Choose with --split."
            if present
            else f"{name} has no rows with features: none of its images could be read."
        )
    return _Candidates(selection, rows, np.flatnonzero(fitted), splits, split)


def _queries(
    given: Sequence[GivenImage],
    is_stored: Sequence[bool],
    files: Sequence[ImageFile],
    selection: Selection,
) -> tuple[list[Query], list[int]]:
    """Return a query for each image in the given order, and the positions of the files' queries."""
    queries: list[Query] = []
    positions: list[int] = []
    own_files = {i: list(own) for i, own in groupby(files, key=lambda file: file.position)}
    numbers = count()
    for image, stored in zip(given, is_stored, strict=True):
        if stored:
            queries.append(_stored_query(str(image), selection))
            continue
        for file in own_files.get(next(numbers), ()):
            positions.append(len(queries))
            queries.append(Query(file.name, None, None))
    return queries, positions


def _stored_query(sample_id: str, selection: Selection) -> Query:
    rows = np.flatnonzero(selection.sample_ids == sample_id)
    if not rows.size:
        raise DatasetNotFoundError(
            f"{sample_id} does not exist. Name an image, a folder of images, or a sample of "
            f"{selection.parts[0][0]}, such as {selection.sample_ids[0]}."
        )
    row = int(rows[0])
    masked = f"{sample_id} has no features: its image could not be read."
    error = None if selection.valid[row] else masked
    return Query(sample_id, row, _label(selection, row), error=error)
