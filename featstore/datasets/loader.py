"""Read batches of images ahead with threads, in the dataset's order."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import numpy as np

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
        ahead: deque[tuple[int, int, list[Future[np.ndarray]]]] = deque()
        try:
            # The first batch shows how large they are.
            n_ahead = 1
            for start in starts:
                stop = min(start + batch_size, len(dataset))
                ahead.append((start, stop, _submit(pool, dataset, start, stop, min_size)))
                while len(ahead) > n_ahead:
                    batch = _collect(dataset, *ahead.popleft(), on_error)
                    n_ahead = min(READ_AHEAD, max(1, AHEAD_NBYTES // max(1, batch.nbytes)))
                    yield batch
                    del batch
            while ahead:
                yield _collect(dataset, *ahead.popleft(), on_error)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _submit(
    pool: ThreadPoolExecutor, dataset: Dataset, start: int, stop: int, min_size: int | None
) -> list[Future[np.ndarray]]:
    if isinstance(dataset, ArrayDataset):
        return [pool.submit(dataset.read_block, start, stop)]
    return [pool.submit(dataset.read, row, min_size) for row in range(start, stop)]


def _collect(
    dataset: Dataset, start: int, stop: int, futures: list[Future[np.ndarray]], on_error: str
) -> Batch:
    read = [future.result for future in futures]
    if isinstance(dataset, ArrayDataset):
        try:
            return Batch(start, stop, [(np.arange(stop - start), futures[0].result())])
        except ImageError:
            if on_error == "stop":
                raise
            # One by one, to find those that can't be read.
            read = [partial(dataset.read, row) for row in range(start, stop)]
    masked: dict[int, str] = {}
    by_shape: dict[tuple[int, ...], tuple[list[int], list[np.ndarray]]] = {}
    for position, read_image in enumerate(read):
        try:
            image = read_image()
        except ImageError as error:
            if on_error == "stop":
                raise
            masked[start + position] = str(error)
            continue
        positions, images = by_shape.setdefault(image.shape, ([], []))
        positions.append(position)
        images.append(image)
    groups = [
        # One large image is not copied.
        (np.array(at), images[0][np.newaxis] if len(images) == 1 else np.stack(images))
        for at, images in by_shape.values()
    ]
    return Batch(start, stop, groups, masked)


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
