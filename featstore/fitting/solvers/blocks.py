"""Blocks of rows: how stage two walks a matrix that may be larger than memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import threadpoolctl
from sklearn.utils import gen_batches, gen_even_slices

from featstore.fitting.splits import Rows, n_rows

A = TypeVar("A")


T = TypeVar("T")


BLOCK_NBYTES = 64 * 2**20
"""Rows are copied, scaled and predicted in blocks of about this size, so that none is large."""


CACHED_NBYTES = 4 * 2**20
"""Rows that are read several times in turn are taken in blocks that processors keep at hand."""


N_PARTS = 16
"""Sums over many blocks are taken in this many parts, and these in order: however many threads
there are, the same numbers are added in the same order."""


@dataclass(frozen=True)
class Samples:
    """Some rows of a feature matrix.

    Parameters
    ----------
    X : ndarray of shape (n, n_features), float32
        The matrix; may be a read-only memory map.
    rows : slice or ndarray of int
        Which rows.
    """

    X: np.ndarray
    rows: Rows

    def __len__(self) -> int:
        return n_rows(self.rows)

    @property
    def n_features(self) -> int:
        """Number of columns."""
        return int(self.X.shape[1])

    def take(self, at: slice | np.ndarray) -> np.ndarray:
        """Return the samples at some positions; a view where both are slices."""
        if isinstance(self.rows, np.ndarray):
            rows: Rows = self.rows[at]
        elif isinstance(at, np.ndarray):
            rows = self.rows.start + at
        else:
            start, stop, _ = at.indices(len(self))
            rows = slice(self.rows.start + start, self.rows.start + stop)
        taken: np.ndarray = self.X[rows]
        return taken

    def rows_at(self, stop: int) -> Rows:
        """Return the rows of the first `stop` samples."""
        if isinstance(self.rows, np.ndarray):
            return self.rows[:stop]
        return slice(self.rows.start, self.rows.start + stop)

    def blocks(self, nbytes: int = BLOCK_NBYTES) -> list[slice]:
        """Return slices of positions that cover the samples, `nbytes` of float32 or so each."""
        return row_blocks(len(self), self.n_features, nbytes)


def row_blocks(n_samples: int, n_features: int, nbytes: int = BLOCK_NBYTES) -> list[slice]:
    """Return slices that cover `n_samples` rows, of about `nbytes` of float32 each."""
    if not n_samples:
        return []
    return list(gen_batches(n_samples, max(1, nbytes // (4 * max(1, n_features)))))


class Threads:
    """Threads that share work on blocks out; which of them does what changes no bit of it.

    Parameters
    ----------
    pool : ThreadPoolExecutor or None
        None to do all in the thread that asks.
    n_threads : int
        How many it has.
    """

    def __init__(self, pool: ThreadPoolExecutor | None = None, n_threads: int = 1) -> None:
        self._pool, self._n_threads = pool, n_threads

    def map(self, function: Callable[[A], T], items: Iterable[A]) -> list[T]:
        """Return what the function gives for each item, in order."""
        return list((self._pool.map if self._pool else map)(function, items))

    def total(self, function: Callable[[slice], T], blocks: Sequence[slice]) -> T:
        """Add what ``function(block)`` returns over all blocks: numbers, arrays or tuples."""
        parts = deque(blocks[part] for part in gen_even_slices(len(blocks), N_PARTS))
        if self._pool is None:
            alone: T = _sum(_part(function, part) for part in parts)
            return alone
        pool = self._pool
        sums: deque[Future[T]] = deque()

        def in_order() -> Iterator[T]:
            while parts or sums:
                # No more sums than are needed, for they may be large.
                while parts and len(sums) <= self._n_threads:
                    sums.append(pool.submit(_part, function, parts.popleft()))
                yield sums.popleft().result()

        found: T = _sum(in_order())
        return found


@contextmanager
def shared_threads() -> Iterator[Threads]:
    """Start as many threads as the numerical libraries may use, which get one each meanwhile.

    The libraries' own threads would split a product by their number, which shows in its last bits.
    """
    n_threads = available_threads()
    with threadpoolctl.threadpool_limits(1), ThreadPoolExecutor(n_threads) as pool:
        yield Threads(pool, n_threads)


def one_thread() -> Any:
    """Return a context in which products are taken by one thread, whatever the number of cores.

    Several split a product by their number, which shows in its last bits; and those of an epoch's
    batches are too small to gain by it.
    """
    return threadpoolctl.threadpool_limits(1, user_api="blas")


def available_threads() -> int:
    """Return how many threads numerical libraries may use in this process now."""
    counts = [int(library["num_threads"]) for library in threadpoolctl.threadpool_info()]
    return max(counts, default=1)


def _part(function: Callable[[slice], T], blocks: Sequence[slice]) -> T:
    part: T = _sum(map(function, blocks))
    return part


def _sum(values: Iterator[Any]) -> Any:
    result = None
    for value in values:
        if result is None:
            result = value
        elif isinstance(value, tuple):
            result = tuple(a + b for a, b in zip(result, value, strict=True))
        else:
            result = result + value
    return result
