"""Read batches of images ahead with threads, in the dataset's order."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from featstore.datasets.base import ArrayDataset, Dataset
from featstore.environment import available_cores
from featstore.errors import ImageError
from featstore.io.gdal import keep_file_options

READ_AHEAD = 3
"""Most batches that are read or waiting while one is computed."""


AHEAD_NBYTES = 512 * 2**20
"""Bytes that these may take, if they are as large as the last one; one is read in any case."""


N_MEASURED = 9
"""Images whose sizes tell how large a dataset's images usually are."""


@dataclass
class Batch:
    """Images of rows `start` to `stop` of a dataset.

    `groups` holds pairs for images of one size each: their positions in the batch, (k,), and
    their pixels, (k, height, width, bands) uint8. `masked` holds the rows that can't be read,
    with the cause.
    """

    start: int
    stop: int
    groups: list[tuple[np.ndarray, np.ndarray]]
    masked: dict[int, str] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of the images."""
        return sum(images.nbytes for _, images in self.groups)


def batches(
    dataset: Dataset,
    starts: Iterable[int],
    batch_size: int,
    on_error: str,
    min_size: int | None = None,
) -> Iterator[Batch]:
    """Yield the batches that begin at `starts`, of `batch_size` rows or up to the dataset's end.

    At an unreadable image, `on_error` ``stop`` raises ImageError, and ``mask`` names it in the
    batch. Files may be decoded at a reduced size whose sides are at least `min_size` pixels long,
    see :func:`featstore.datasets.decode.decode`.
    """
    n_threads = max(2, available_cores())
    with ThreadPoolExecutor(n_threads, "loader", keep_file_options) as pool:
        ahead: deque[tuple[_Rows, list[Future[None]]]] = deque()
        try:
            # The first batch shows how large they are.
            n_ahead = 1
            for start in starts:
                stop = min(start + batch_size, len(dataset))
                rows = _Rows(dataset, start, stop, min_size, stops=on_error == "stop")
                n_readers = 1 if isinstance(dataset, ArrayDataset) else min(n_threads, stop - start)
                ahead.append((rows, [pool.submit(rows.read) for _ in range(n_readers)]))
                while len(ahead) > n_ahead:
                    batch = _collect(*ahead.popleft())
                    n_ahead = min(READ_AHEAD, max(1, AHEAD_NBYTES // max(1, batch.nbytes)))
                    yield batch
                    del batch
            while ahead:
                yield _collect(*ahead.popleft())
        finally:
            for rows, _ in ahead:
                rows.leave()
            pool.shutdown(wait=False, cancel_futures=True)


def _collect(rows: _Rows, readers: list[Future[None]]) -> Batch:
    try:
        for reader in readers:
            reader.result()
    finally:
        rows.leave()
    return rows.batch()


class _Rows:
    """Rows of a batch while threads read them.

    Each thread reads the next row until none is left, and copies the image into the batch's array:
    a task for each image, and a copy of all at the end, took a third of the time of a small JPEG.
    """

    def __init__(
        self, dataset: Dataset, start: int, stop: int, min_size: int | None, *, stops: bool
    ) -> None:
        self._dataset, self._start, self._stop, self._min_size = dataset, start, stop, min_size
        self._stops = stops
        self._left = iter(range(start, stop))
        self._lock = Lock()
        self._joined: NDArray[np.uint8] | None = None
        self._single: dict[int, NDArray[np.uint8]] = {}
        self._errors: dict[int, ImageError] = {}

    def leave(self) -> None:
        """Leave unread what no thread has begun."""
        for _ in self._left:
            pass

    def read(self) -> None:
        """Read rows until none is left."""
        if isinstance(self._dataset, ArrayDataset):
            try:
                self._joined = self._dataset.read_block(self._start, self._stop)
            except ImageError:
                # Row by row, to find those that can't be read.
                pass
            else:
                return
        for row in self._left:
            try:
                self._put(row - self._start, self._dataset.read(row, self._min_size))
            except ImageError as error:
                self._errors[row] = error
                if self._stops:
                    self.leave()

    def _put(self, position: int, image: NDArray[np.uint8]) -> None:
        n_rows = self._stop - self._start
        with self._lock:
            # The first image decides the shape. Very large images are joined when all are read.
            if self._joined is None and 1 < n_rows <= AHEAD_NBYTES // image.nbytes:
                self._joined = np.empty((n_rows, *image.shape), np.uint8)
        if self._joined is not None and self._joined.shape[1:] == image.shape:
            self._joined[position] = image
        else:
            self._single[position] = image

    def batch(self) -> Batch:
        """Return the images, grouped by their size, when all threads have ended."""
        if self._stops and self._errors:
            raise self._errors[min(self._errors)]
        masked = {row: str(self._errors[row]) for row in sorted(self._errors)}
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for position in sorted(self._single):
            by_shape.setdefault(self._single[position].shape, []).append(position)
        # One large image is not copied.
        groups = [
            (np.array(at), np.stack(images) if len(images) > 1 else images[0][np.newaxis])
            for at in by_shape.values()
            for images in [[self._single[position] for position in at]]
        ]
        if self._joined is not None:
            others = [*self._single, *(row - self._start for row in masked)]
            at = np.delete(np.arange(self._stop - self._start), others)
            groups.append((at, self._joined[at] if others else self._joined))
        groups.sort(key=lambda group: int(group[0][0]))
        return Batch(self._start, self._stop, groups, masked)


def usual_shape(dataset: Dataset) -> tuple[int, int] | None:
    """Return the most frequent height and width, in pixels, of a few evenly spread images.

    None when none of them can be read.
    """
    rows = np.unique(np.linspace(0, len(dataset) - 1, N_MEASURED).astype(int))
    found: Counter[tuple[int, int]] = Counter()
    for row in rows.tolist():
        with suppress(ImageError):
            found[dataset.shape(row)] += 1
    return found.most_common(1)[0][0] if found else None
