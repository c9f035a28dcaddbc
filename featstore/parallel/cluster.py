"""Dask's workers on this machine's cores, or those of a running cluster."""

from __future__ import annotations

import logging
import platform
import ssl
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from typing import Any

import dask
from distributed import Client, LocalCluster, get_worker
from distributed.comm.addressing import resolve_address
from distributed.security import Security
from distributed.versions import VersionMismatchWarning

from featstore.environment import DISTRIBUTION, __version__, available_cores
from featstore.errors import SchedulerError
from featstore.parallel.process_state import (
    environment_kept,
    interrupts_held,
    script_hidden,
    without_log,
)
from featstore.parallel.worker_pool import WorkerPool

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
"""Variables that numerical libraries read once, when they are loaded."""


CONNECT_S = 10
"""Longest wait for a scheduler to answer."""


@contextmanager
def local_pool(
    n_workers: int, *, share_cores: bool = True, environment: Mapping[str, str] | None = None
) -> Iterator[WorkerPool]:
    """Start worker processes on this machine, named 0, 1, ...

    With `share_cores`, their numerical libraries divide the cores among them. Without, each uses as
    many threads as this process, for results that depend on the number. `environment` holds further
    variables of the workers.
    """
    n_threads = max(1, available_cores() // n_workers) if share_cores else None
    with _cluster(n_workers, n_threads, environment or {}) as client:
        yield WorkerPool(client, n_threads)


@contextmanager
def scheduler_pool(address: str) -> Iterator[WorkerPool]:
    """Connect to the workers of a scheduler, which stay when this ends."""
    with without_log():
        try:
            with (
                dask.config.set({"distributed.comm.timeouts.connect": f"{CONNECT_S} s"}),
                warnings.catch_warnings(),
            ):
                # Dask warns of versions that matter to it; _compare_versions compares those here.
                warnings.simplefilter("ignore", VersionMismatchWarning)
                # Dask does not close a client that can't use its address. Its collection, in the
                # thread of the next cluster, would keep that cluster from starting.
                resolve_address(address)
                _check_encryption(address)
                client = Client(  # type: ignore[no-untyped-call]
                    address, timeout=CONNECT_S, set_as_default=False
                )
        # Dask raises FutureWarning for ucx:// without its package.
        except (OSError, ValueError, TypeError, FutureWarning) as error:
            raise SchedulerError(
                f"No Dask scheduler answers at {address!r} ({error}). Start one with `dask "
                "scheduler`, and workers with `dask worker ADDRESS`; it prints an address such "
                "as tcp://10.0.0.1:8786."
            ) from error
        with client:
            pool = WorkerPool(client, None, lambda new: _compare_versions(client, new))
            until = time.monotonic() + CONNECT_S
            while not pool.n_workers:
                if time.monotonic() > until:
                    raise SchedulerError(
                        f"The scheduler at {address} has no workers. Start one on each GPU or "
                        f"host with: dask worker {address} --nthreads 1"
                    )
                time.sleep(0.2)
            yield pool


def _check_encryption(address: str) -> None:
    """Refuse an address that does not suit Dask's configuration, which names the certificates."""
    found = Security().get_connection_args("client")  # type: ignore[no-untyped-call]
    if address.startswith("tls:") and found["ssl_context"] is None:
        raise ValueError("Dask's configuration names no certificates: distributed.comm.tls")
    if not address.startswith("tls:") and found["require_encryption"]:
        raise ValueError("Dask's configuration requires encryption, as of tls://")


def _compare_versions(client: Client, addresses: list[str]) -> None:
    """Refuse workers with another Python or featstore, which could not read their tasks.

    They can run functions of the standard library, which this uses.
    """
    here = platform.python_version_tuple()[:2], __version__
    pythons = client.run(platform.python_version_tuple, workers=addresses, on_error="return")
    packages = client.run(metadata.version, DISTRIBUTION, workers=addresses, on_error="return")
    for address in addresses:
        python, package = pythons.get(address), packages.get(address)
        if isinstance(package, metadata.PackageNotFoundError):
            raise SchedulerError(
                f"The worker at {address} has no featstore. Start it from an environment that "
                "has the same featstore as this one."
            )
        # A worker that died meanwhile does not answer.
        if not isinstance(python, tuple | list) or not isinstance(package, str):
            continue
        there = tuple(python[:2]), package
        if there != here:
            raise SchedulerError(
                f"The worker at {address} has Python {'.'.join(there[0])} and featstore "
                f"{there[1]}; here they are {'.'.join(here[0])} and {here[1]}. Start it from an "
                "environment that has the same."
            )


def worker_name() -> str:
    """Return the name of the worker that runs this task."""
    return str(get_worker().name)


def worker_threads() -> int:
    """Return the number of threads that the worker of this task was started with."""
    return int(get_worker().state.nthreads)


class _LocalSecurity(Security):
    """TLS with a certificate that this process makes, and only its workers get."""

    NO_CHECK_TIME = 0x200000
    """OpenSSL's X509_V_FLAG_NO_CHECK_TIME: the clock may be set back while workers run."""

    def _get_tls_context(self, tls: Mapping[str, Any], purpose: ssl.Purpose) -> ssl.SSLContext:
        context: ssl.SSLContext = super()._get_tls_context(tls, purpose)  # type: ignore[no-untyped-call]
        context.verify_flags |= self.NO_CHECK_TIME
        return context


@contextmanager
def _cluster(n_workers: int, n_threads: int | None, more: Mapping[str, str]) -> Iterator[Client]:
    """Start workers with these threads and further variables, and connect to them."""
    # Dask would set one thread; and a threshold with which glibc maps and clears new pages for each
    # array beyond 128 kB, such as the batches of an epoch: training took a third longer.
    environment = {
        name: value
        for name, value in dask.config.get("distributed.nanny.pre-spawn-environ").items()
        if name not in (*THREAD_VARIABLES, "MALLOC_TRIM_THRESHOLD_")
    }
    if n_threads is not None:
        environment |= dict.fromkeys(THREAD_VARIABLES, str(n_threads))
    else:
        # Waiting threads that spin take the cores from other workers' computing threads: two
        # workers on two cores took ten times as long.
        environment["OMP_WAIT_POLICY"] = "PASSIVE"
    environment |= more
    # Dask imports modules from its scratch folder, which others could make first in /tmp.
    scratch = tempfile.TemporaryDirectory(
        prefix="featstore-", dir=dask.config.get("temporary-directory"), ignore_cleanup_errors=True
    )
    settings = {
        "temporary-directory": scratch.name,
        # No page tells others what the workers do.
        "distributed.scheduler.http.routes": [],
        "distributed.worker.http.routes": [],
        # Nor would anybody see where workers spend their time, which Dask looks at every 10 ms.
        "distributed.worker.profile.enabled": False,
        "distributed.nanny.pre-spawn-environ": environment,
        "distributed.worker.multiprocessing-method": "spawn",
        "distributed.comm.timeouts.connect": "60s",
    }
    kept = environment_kept((*THREAD_VARIABLES, "OMP_WAIT_POLICY", *more))
    with scratch, dask.config.set(settings), kept, script_hidden(), without_log():
        cluster = None
        try:
            security = _LocalSecurity.temporary()  # type: ignore[no-untyped-call]
            with interrupts_held():
                cluster = LocalCluster(  # type: ignore[no-untyped-call]
                    n_workers=n_workers,
                    threads_per_worker=1,
                    processes=True,
                    # Dask would count the pages of a memory map against a limit, and kill for it.
                    memory_limit=0,
                    # Other users of this machine can connect to its ports, and Dask runs what a
                    # client sends.
                    security=security,
                    # Without an address, Dask would listen at the port of the user's own scheduler.
                    dashboard_address="127.0.0.1:0",
                    scheduler_kwargs={"dashboard": False},
                    silence_logs=logging.CRITICAL,
                )
            with Client(cluster) as client:  # type: ignore[no-untyped-call]
                yield client
        finally:
            if cluster is not None:
                # All work is done or has failed; workers that are slow to end are killed.
                with suppress(TimeoutError):
                    cluster.close(timeout=10)
