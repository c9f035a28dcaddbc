import threading

import numpy as np
import pytest
import threadpoolctl

from featstore.fitting.solvers.blocks import (
    Samples,
    Threads,
    available_threads,
    row_blocks,
    shared_threads,
)

X = np.arange(60, dtype=np.float32).reshape(20, 3)
CONTIGUOUS = Samples(X, slice(4, 16))
SCATTERED = Samples(X, np.array([1, 2, 5, 11, 12, 19, 0]))


@pytest.mark.parametrize("samples", [CONTIGUOUS, SCATTERED])
@pytest.mark.parametrize(
    "at", [slice(0, 3), slice(2, 100), slice(None, 5), slice(3, 3), np.array([6, 0, 3])]
)
def test_samples_are_the_rows_at_their_positions(samples, at):
    np.testing.assert_array_equal(samples.take(at), X[samples.rows][at])


def test_contiguous_samples_are_taken_without_a_copy():
    assert np.shares_memory(CONTIGUOUS.take(slice(2, 5)), X)
    assert len(CONTIGUOUS) == 12
    assert len(SCATTERED) == 7


@pytest.mark.parametrize("samples", [CONTIGUOUS, SCATTERED])
def test_the_first_samples_are_samples_too(samples):
    first = Samples(X, samples.rows_at(4))
    assert len(first) == 4
    np.testing.assert_array_equal(first.take(slice(None)), samples.take(slice(0, 4)))


@pytest.mark.parametrize(
    ("n_samples", "n_features", "nbytes", "n_blocks"),
    [(10, 2**21, 2**24, 5), (10, 2**30, 2**24, 10), (1000, 4, 2**24, 1), (7, 0, 2**24, 1)],
)
def test_blocks_cover_every_row_once(n_samples, n_features, nbytes, n_blocks):
    found = row_blocks(n_samples, n_features, nbytes)
    rows = np.concatenate([np.arange(n_samples)[block] for block in found])
    assert rows.tolist() == list(range(n_samples))
    assert len(found) == n_blocks


def test_blocks_of_samples_are_of_their_positions():
    found = SCATTERED.blocks(nbytes=24)
    assert [len(SCATTERED.take(block)) for block in found] == [2, 2, 2, 1]
    taken = np.concatenate([SCATTERED.take(block) for block in found])
    np.testing.assert_array_equal(taken, X[SCATTERED.rows])


def numbers(block):
    """Return numbers whose sum depends on the order in which they are added."""
    values = (np.random.default_rng(7).normal(size=5000) * 10.0 ** (np.arange(5000) % 17))[block]
    return values.astype(np.float32).sum(), values.sum(keepdims=True)


@pytest.mark.parametrize("n_blocks", [1, 2, 15, 16, 17, 100])
def test_sums_do_not_depend_on_the_number_of_threads(n_blocks):
    covering = row_blocks(5000, 1, 4 * 5000 // n_blocks)
    found = []
    for n_threads in (1, 2, 5):
        with threadpoolctl.threadpool_limits(n_threads), shared_threads() as threads:
            found.append(threads.total(numbers, covering))
    found.append(Threads().total(numbers, covering))
    assert len({(float(single), float(double[0])) for single, double in found}) == 1
    assert found[0][1] == pytest.approx(numbers(slice(None))[1])


def test_sums_are_added_in_parts_and_never_all_held_at_once():
    held, most, lock = 0, 0, threading.Lock()

    class Sum:
        def __init__(self):
            nonlocal held, most
            with lock:
                held += 1
                most = max(most, held)

        def __add__(self, other):
            return Sum()

        def __del__(self):
            nonlocal held
            with lock:
                held -= 1

    with threadpoolctl.threadpool_limits(2), shared_threads() as threads:
        threads.total(lambda block: Sum(), [slice(i, i + 1) for i in range(500)])
    assert most < 20


def test_what_each_thread_finds_stays_in_order():
    with threadpoolctl.threadpool_limits(2), shared_threads() as threads:
        assert threads.map(lambda x: x * x, range(50)) == [x * x for x in range(50)]


def test_an_error_in_a_thread_is_raised():
    with shared_threads() as threads, pytest.raises(ZeroDivisionError):
        threads.total(lambda block: 1 // 0, [slice(0, 1)])


def blas_threads(_=None):
    found = threadpoolctl.threadpool_info()
    return max(library["num_threads"] for library in found if library["user_api"] == "blas")


def test_products_get_one_thread_each_and_their_own_back():
    with threadpoolctl.threadpool_limits(2):
        assert available_threads() == blas_threads() == 2
        with shared_threads() as threads:
            assert available_threads() == 1
            assert threads.map(blas_threads, range(4)) == [1] * 4
        assert available_threads() == 2


def test_as_many_threads_work_as_the_libraries_may_use():
    with threadpoolctl.threadpool_limits(2), shared_threads() as threads:
        barrier = threading.Barrier(2, timeout=600)
        threads.map(lambda _: barrier.wait(), range(2))
