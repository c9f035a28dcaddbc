"""Loaders: batches of raw images, read ahead by threads, always in the dataset's order."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from featstore.datasets.base import ArrayDataset, Dataset
from featstore.environment import available_cores
from featstore.errors import ImageError

READ_AHEAD = 3
"""Most batches that are read or waiting while one is computed."""


AHEAD_NBYTES = 512 * 2**20
"""Bytes that these may take, if they are as large as the last one; one is read in any case."""


N_MEASURED = 9
"""Images whose sizes tell how large a dataset's images usually are."""


@dataclass
class Batch:
    """Raw images of rows `start` to `stop` of a dataset.

    Parameters
    ----------
    start, stop : int
        First row, and the row after the last.
    groups : list of (ndarray of shape (k,), ndarray of shape (k, height, width, bands))
        Images of one size each, uint8, with their positions in the batch.
    masked : dict of int to str
        Rows that could not be read, with the cause.
    """

    start: int
    stop: int
    groups: list[tuple[np.ndarray, np.ndarray]]
    masked: dict[int, str] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of its images."""
        return sum(images.nbytes for _, images in self.groups)


def batches(
    dataset: Dataset,
    starts: Iterable[int],
    batch_size: int,
    on_error: str,
    min_size: int | None = None,
) -> Iterator[Batch]:
    """Yield the batches that begin at the given rows, in that order.

    Parameters
    ----------
    dataset : Dataset
        What to read.
    starts : iterable of int
        First rows of the batches.
    batch_size : int
        Rows in a batch; the dataset's last one may have fewer.
    on_error : str
        ``stop`` to raise at an unreadable image, ``mask`` to go on and name it in the batch.
    min_size : int, optional
        Side in pixels below which neither side of an image may fall where its file can be decoded
        at a reduced size (:func:`featstore.datasets.decode.decode`); without it, all are
        read in full.

    Raises
    ------
    ImageError
        When an image can't be read and `on_error` is ``stop``.
    """
    with ThreadPoolExecutor(max(2, available_cores()), thread_name_prefix="loader") as pool:
        ahead: deque[tuple[int, int, list[Future[np.ndarray]]]] = deque()
        try:
            # How large a batch is shows when the first is there.
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
    if isinstance(dataset, ArrayDataset):
        return Batch(start, stop, [(np.arange(stop - start), futures[0].result())])
    masked: dict[int, str] = {}
    by_shape: dict[tuple[int, ...], tuple[list[int], list[np.ndarray]]] = {}
    for position, future in enumerate(futures):
        try:
            image = future.result()
        except ImageError as error:
            if on_error == "stop":
                raise ImageError(
                    f"{error} To go on without such images, their rows masked: --on-error mask."
                ) from error
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
    """Return height and width, in pixels, that most of a few images have, evenly spread.

    None when none of them can be read.
    """
    rows = np.unique(np.linspace(0, len(dataset) - 1, N_MEASURED).astype(int))
    found: Counter[tuple[int, int]] = Counter()
    for row in rows.tolist():
        with suppress(ImageError):
            found[dataset.shape(row)] += 1
    return found.most_common(1)[0][0] if found else None
