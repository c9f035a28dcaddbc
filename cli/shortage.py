"""Errors of a system that has no more memory or threads for a process, in plain words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress

MEMORY = re.compile(
    r"^MemoryError|failed to map segment|can(no|')t allocate (\w+ )*memory|unable to allocate",
    re.IGNORECASE,
)
"""What Python, the loader of shared libraries, torch and NumPy say without memory."""


THREADS = re.compile(
    r"can't start new thread|pthread_create|resource temporarily unavailable", re.IGNORECASE
)
"""What Python and libraries say when the system starts no more threads or processes."""


ADDRESS_NBYTES = 512 * 2**20
"""Least address space. With less, OpenBLAS, which NumPy loads, may ask for memory for ever."""


def check_address_space() -> None:
    """Raise MemoryError if the limit of this process is too low for the libraries to load."""
    limit = _limit_of("AS")
    if limit is not None and limit < ADDRESS_NBYTES:
        raise MemoryError(f"featstore needs {ADDRESS_NBYTES // 1024} kB of address space")


def shortage_text(error: BaseException) -> str | None:
    """Return which resource an error says is short, with the cure; None for other errors."""
    texts = [f"{type(one).__name__}: {one}" for one in _causes(error)]
    if cause := next(filter(MEMORY.search, texts), None):
        return (
            f"Memory is short ({_last_line(cause)}).{_limit('AS', 'v', 1024, ' kB')} Raise the "
            "limit or end other programs, or use less: a smaller --batch-size, or --n-jobs 1."
        )
    if cause := next(filter(THREADS.search, texts), None):
        return (
            f"No more threads or processes can be started ({_last_line(cause)})."
            f"{_limit('NPROC', 'u')} Raise the limit or end other programs, or use fewer: "
            "OMP_NUM_THREADS=1 and --n-jobs 1."
        )
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1].rstrip(".:")


def _limit(name: str, option: str, unit: int = 1, suffix: str = "") -> str:
    """Return a sentence that gives the limit of this process, if it has one."""
    limit = _limit_of(name)
    return "" if limit is None else f" Its limit, `ulimit -{option}`, is {limit // unit}{suffix}."


def _limit_of(name: str) -> int | None:
    with suppress(ImportError, AttributeError):
        import resource

        limit = resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[0]
        return None if limit == resource.RLIM_INFINITY else limit
    return None
