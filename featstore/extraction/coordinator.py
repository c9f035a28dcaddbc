"""Spreading: one extraction over several devices, each writing its own chunks.

The process that is asked keeps lock, journal and records. Workers are given shares of whole
chunks, and keep small journals of what they have made durable, which the one journal takes over:
the death of a worker or of the coordinator costs no more than the chunks in work.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.config import ExtractConfig
from featstore.datasets.base import Dataset
from featstore.datasets.registry import data_root
from featstore.errors import FeatstoreError, SchedulerError
from featstore.extraction.pipeline import PassTimes
from featstore.extraction.spec import ExtractionSpec, find_spec
from featstore.extraction.worker import (
    Shard,
    WorkerContext,
    choose_numerics,
    compute_share,
    describe_device,
    leave,
    token_path,
)
from featstore.io.fingerprints import FingerprintCache, Watch
from featstore.models.base import Extractor, Layer
from featstore.parallel.worker_pool import TaskResult, WorkerPool
from featstore.progress import SILENT, Progress
from featstore.store.feature_store import FeatureStore
from featstore.store.writer import FeatureWriter
from featstore.text import RESUME_HINT

if TYPE_CHECKING:
    from featstore.datasets.loader import Batch

SHARES_PER_WORKER = 4
"""So that a slow or dead worker holds up, or costs, a quarter of its part."""


MIN_BATCHES, MAX_BATCHES = 16, 64
"""About the batches in a share, where the layers' chunks and the number of workers let choose.

The batches at a share's ends are computed by its neighbour too, hence not fewer; how far all are
is seen only when a share has ended, seconds on a GPU, a minute or two on a CPU, hence not more.
"""


class WorkerGroup:
    """The workers of one extraction, and what the coordinator asks of them.

    Parameters
    ----------
    team : Team
        The workers.
    site : Site
        What they are to know.
    """

    def __init__(self, team: WorkerPool, site: WorkerContext) -> None:
        self._team = team
        self.site = site
        (self.facts,) = self._ask(describe_device, [()])
        self.n_workers = team.n_workers

    def recipe(
        self,
        config: ExtractConfig,
        bands: Sequence[str],
        cache: FingerprintCache,
        progress: Progress,
    ) -> ExtractionSpec:
        """Return the recipe at the workers' precision, its extractor standing for theirs."""
        here = replace(config, device="cpu", devices=(), scheduler=None)
        precision = self.facts["precision"]
        found = find_spec(here, bands, cache, progress, precision=precision)
        sha256 = found.backbone["weights_sha256"]
        self.site = replace(self.site, precision=precision, weights_sha256=sha256)
        return replace(found, extractor=RemoteExtractor(self, found.extractor))

    def open(self, layers: Sequence[Layer], n_images: int, progress: Progress) -> dict[str, Any]:
        """Let a worker choose the numerics of a new pass."""
        progress.say(f"Asking one of {self.n_workers} workers to get ready ...")
        nodes = [layer.node for layer in layers]
        ((numerics, lines),) = self._ask(choose_numerics, [(nodes, n_images)])
        for line in lines:
            progress.say(line)
        return dict(numerics)

    def run_pass(
        self,
        dataset: Dataset,
        extractor: Extractor,
        sink: FeatureWriter,
        *,
        batch_size: int,
        on_error: str,
        progress: Progress = SILENT,
        watch: Watch | None = None,
    ) -> tuple[int, PassTimes]:
        """Run one pass on the workers, which watch the files; see :func:`run_pass`."""
        feature_set, n_samples = sink.feature_set, len(dataset)
        missing = sink.missing_rows(n_samples)
        n_computed = int(missing.sum())
        token = secrets.token_hex(8)
        shares = [
            Shard(
                str(feature_set.path.absolute()),
                chunks,
                f"{token}-{index}",
                sink.numerics.to_dict(),
                token,
                sink.command,
            )
            for index, chunks in enumerate(
                split(sink, n_shares(n_computed, self.n_workers, batch_size))
            )
        ]
        total = PassTimes()

        def done(index: int, outcome: TaskResult) -> None:
            nonlocal total, missing
            if outcome.error is not None:
                raise outcome.error
            sink.gather(shares[index].name)
            total += PassTimes(**outcome.value)
            left = sink.missing_rows(n_samples)
            progress.advance(int(missing.sum() - left.sum()))
            missing = left

        def lost(index: int) -> None:
            first, last = rows_of(sink, shares[index])
            progress.say(f"A worker died; rows {first} to {last} are given to another.")

        place = token_path(feature_set)
        place.write_text(token, encoding="utf-8")
        progress.start("Extracting", n_computed, "images")
        try:
            self._ask(
                compute_share,
                [(share,) for share in shares],
                done,
                lost,
                lambda: place.unlink(missing_ok=True),
            )
        except BaseException:
            with suppress(OSError):
                sink.gather()
            raise
        finally:
            place.unlink(missing_ok=True)
            progress.stop()
        return n_computed, total

    def _ask(
        self,
        function: Callable[..., Any],
        tasks: Sequence[tuple[Any, ...]],
        done: Callable[[int, TaskResult], None] = lambda index, outcome: None,
        lost: Callable[[int], None] = lambda index: None,
        stop: Callable[[], None] | None = None,
    ) -> list[Any]:
        outcomes = self._team.run(
            function,
            [(self.site, *task) for task in tasks],
            done,
            died=_died,
            lost=lost,
            stop=stop,
        )
        for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error
        return [outcome.value for outcome in outcomes]


def _died() -> FeatstoreError:
    return SchedulerError(
        "A worker died twice at the same rows; most often the system ended it for want of memory. "
        f"Try a smaller --batch-size or fewer workers. {RESUME_HINT}"
    )


class RemoteExtractor:
    """Stands for the workers' extractors where the coordinator asks about them.

    Parameters
    ----------
    crew : WorkerGroup
        The workers.
    own : Extractor
        The coordinator's, which knows the layers and computes nothing.
    """

    n_in_flight = 1
    min_size: int | None = None

    def __init__(self, crew: WorkerGroup, own: Extractor) -> None:
        self._crew, self._own = crew, own
        self.device_type: str = crew.facts["device_type"]
        self.device_name = f"{crew.n_workers} workers, each on {crew.facts['device_name']}"

    def find(self, nodes: Sequence[str]) -> Sequence[Layer]:
        """Return the layers at the given nodes."""
        return self._own.find(nodes)

    def open(
        self,
        layers: Sequence[Layer],
        n_images: int,
        numerics: Mapping[str, Any] | None = None,
        progress: Progress = SILENT,
    ) -> dict[str, Any]:
        """Return the numerics that are given, or that a worker chooses."""
        return dict(numerics) if numerics else self._crew.open(layers, n_images, progress)

    def begin(self, batch: Batch) -> Callable[[], dict[str, np.ndarray]]:
        """Refuse: only the workers compute."""
        raise NotImplementedError("the workers compute")


@contextmanager
def start_workers(
    config: ExtractConfig, store: FeatureStore, fingerprint: str, progress: Progress = SILENT
) -> Iterator[WorkerGroup | None]:
    """Gather the workers that a configuration asks for; None where it asks for none.

    Raises
    ------
    SchedulerError
        When there is no scheduler at the address, or it has no workers.
    """
    if not config.devices and config.scheduler is None:
        yield None
        return
    from featstore.parallel.cluster import local_pool, scheduler_pool

    site = WorkerContext(_absolute(config).to_dict(), str(store.path.absolute()), fingerprint)
    if config.scheduler is not None:
        with scheduler_pool(config.scheduler) as team:
            try:
                yield WorkerGroup(team, site)
            finally:
                with suppress(Exception):
                    team.everywhere(leave)
        return
    progress.say(f"Starting {len(config.devices)} worker processes ...")
    # The last bits depend on the number of threads, so that it stays what one process would take.
    with local_pool(len(config.devices), share_cores=False) as team:
        yield WorkerGroup(team, site)


def _absolute(config: ExtractConfig) -> ExtractConfig:
    """Return the same with paths that are right from any folder."""
    root = str(data_root(config.root).absolute())
    weights = Path(config.weights)
    if not weights.is_file():
        return replace(config, root=root)
    return replace(config, root=root, weights=str(weights.absolute()))


def n_shares(n_rows: int, n_workers: int, batch_size: int) -> int:
    """Return into how many shares the computing of some rows is to be split."""
    rows = max(n_rows / (SHARES_PER_WORKER * n_workers), MIN_BATCHES * batch_size)
    rows = min(rows, n_rows / n_workers, MAX_BATCHES * batch_size)
    return max(1, round(n_rows / max(1, rows)))


def rows_of(sink: FeatureWriter, share: Shard) -> tuple[int, int]:
    """Return the first and the last row of a share."""
    ranges = [
        sink.layers[name].matrix.chunk_range(index)
        for name, chunks in share.chunks.items()
        for index in chunks
    ]
    return min(start for start, _ in ranges), max(stop for _, stop in ranges) - 1


def split(sink: FeatureWriter, n_wanted: int) -> list[dict[str, list[int]]]:
    """Deal out the chunks that a sink is missing.

    A share owns, of each layer, the chunks that begin within its rows; rows that two shares need,
    because layers have chunks of different lengths, are computed for each.

    Parameters
    ----------
    sink : Sink
        What is missing of what.
    n_wanted : int
        About how many shares are wanted.

    Returns
    -------
    list of dict of str to list of int
        For each share the chunks' numbers, by layer, in order of rows.
    """
    longest = max(layer.matrix.chunk_rows for layer in sink.layers.values())
    begins = {
        name: [(index, layer.matrix.chunk_range(index)[0]) for index in layer.pending]
        for name, layer in sink.layers.items()
    }
    places = sorted({start // longest for own in begins.values() for _, start in own})
    n_places = max(1, -(-len(places) // n_wanted))
    share_of = {place: i // n_places for i, place in enumerate(places)}
    shares: dict[int, dict[str, list[int]]] = {}
    for name, own in begins.items():
        for index, start in own:
            share = shares.setdefault(share_of[start // longest], {})
            share.setdefault(name, []).append(index)
    return [shares[i] for i in sorted(shares)]
