"""Walk a matrix that may be larger than memory in blocks of rows, and sum in a fixed order."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import threadpoolctl

from featstore.fitting.splits import Rows, n_rows

A = TypeVar("A")


T = TypeVar("T")


BLOCK_NBYTES = 64 * 2**20
"""Size of the blocks in which rows are copied, scaled and predicted."""


CACHED_NBYTES = 4 * 2**20
"""Size of the blocks in which rows are read several times in turn: processors cache them."""


N_PARTS = 16
"""Parts in which blocks are summed, and then added in order: the sum's last bits do not depend on
the number of threads."""


@dataclass(frozen=True)
class Samples:
    """Some rows of a feature matrix, (n, n_features) float32; it may be a read-only memory map."""

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

    def blocks(self, nbytes: int = BLOCK_NBYTES, n_outputs: int = 0) -> list[slice]:
        """Return slices of positions that cover the samples; see :func:`row_blocks`."""
        return row_blocks(len(self), self.n_features, nbytes, n_outputs)


def row_blocks(
    n_samples: int, n_features: int, nbytes: int = BLOCK_NBYTES, n_outputs: int = 0
) -> list[slice]:
    """Return slices that cover `n_samples` rows, of about `nbytes` of float32 each.

    With many classes, what is computed of a row is larger than the row: a block's `n_outputs`
    numbers a row take :data:`BLOCK_NBYTES` of float32 at the most.
    """
    if not n_samples:
        return []
    from sklearn.utils import gen_batches

    n_rows = min(nbytes // (4 * max(1, n_features)), BLOCK_NBYTES // (4 * max(1, n_outputs)))
    return list(gen_batches(n_samples, max(1, n_rows)))


class Threads:
    """Threads that share work on blocks, without an effect on its last bits.

    Without a pool, the calling thread does all: handing work to a single thread takes longer.
    """

    def __init__(self, pool: ThreadPoolExecutor | None = None, n_threads: int = 1) -> None:
        self._pool, self._n_threads = pool, n_threads

    def map(self, function: Callable[[A], T], items: Iterable[A]) -> list[T]:
        """Return the function's results, in the order of the items."""
        own = list(items)
        # Handing a single item to a thread takes longer than many an item.
        pool = self._pool if len(own) > 1 else None
        return list((pool.map if pool else map)(function, own))

    def total(self, function: Callable[[slice], T], blocks: Sequence[slice]) -> T:
        """Return the sum of ``function(block)`` over all blocks: a number, array, or tuple."""
        from sklearn.utils import gen_even_slices

        parts = deque(blocks[part] for part in gen_even_slices(len(blocks), N_PARTS))
        if self._pool is None:
            alone: T = _sum(_part(function, part) for part in parts)
            return alone
        pool = self._pool
        sums: deque[Future[T]] = deque()

        def in_order() -> Iterator[T]:
            while parts or sums:
                # Sums may be large: hold as few as keep the threads busy.
                while parts and len(sums) <= self._n_threads:
                    sums.append(pool.submit(_part, function, parts.popleft()))
                yield sums.popleft().result()

        found: T = _sum(in_order())
        return found


@contextmanager
def shared_threads() -> Iterator[Threads]:
    """Start as many threads as the numerical libraries may use, and limit these to one each.

    The libraries' own threads would split a product by their number, which changes its last bits.
    """
    n_threads = available_threads()
    with _controller().limit(limits=1):
        if n_threads == 1:
            yield Threads()
            return
        with ThreadPoolExecutor(n_threads) as pool:
            yield Threads(pool, n_threads)


def one_thread(user_api: str | None = "blas") -> Any:
    """Return a context in which one thread computes products, on any number of cores.

    Without `user_api` one thread computes everything.

    Several threads split a product by their number, which changes its last bits; and the products
    of an epoch's batches are too small for them.
    """
    return _controller().limit(limits=1, user_api=user_api)


def _controller() -> threadpoolctl.ThreadpoolController:
    """Return what limits the threads of the loaded libraries.

    Looking for libraries takes 8 ms, and importing a module is what loads one.
    """
    return _find_libraries(len(sys.modules))


@lru_cache(maxsize=1)
def _find_libraries(n_modules: int) -> threadpoolctl.ThreadpoolController:
    return threadpoolctl.ThreadpoolController()


def available_threads() -> int:
    """Return how many threads numerical libraries may use in this process now."""
    counts = [int(library["num_threads"]) for library in _controller().info()]
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
