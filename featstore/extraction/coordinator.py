"""Deal the chunks of one extraction out to several devices or Dask workers.

The coordinating process keeps the lock, the journal and the records. Workers write whole chunks,
and keep small journals of their own, which the coordinator's journal takes over: the death of a
worker or of the coordinator costs no more than the chunks that were being computed.
"""

from __future__ import annotations

import os
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
from featstore.extraction.spec import Images
from featstore.extraction.worker import (
    Shard,
    WorkerContext,
    choose_numerics,
    compute_shard,
    decisive_versions,
    describe_device,
    release_memory,
    token_path,
)
from featstore.io.fingerprints import FingerprintCache
from featstore.models.base import Extractor, Layer, Model
from featstore.models.registry import open_model
from featstore.parallel.worker_pool import TaskResult, WorkerPool
from featstore.progress import SILENT, Progress
from featstore.store.feature_store import FeatureStore
from featstore.store.writer import FeatureWriter
from featstore.text import RESUME_HINT

if TYPE_CHECKING:
    from featstore.datasets.loader import Batch

SHARDS_PER_WORKER = 4
"""So that a slow worker delays, and a dead one costs, a quarter of its part."""


MIN_BATCHES, MAX_BATCHES = 16, 64
"""About the batches in a shard, as far as the layers' chunks and the number of workers allow.

The batches at a shard's ends are computed by its neighbour too, hence the minimum. Progress shows
only when a shard ends, after seconds on a GPU and minutes on a CPU, hence the maximum.
"""


class WorkerGroup:
    """The workers of one extraction, and what the coordinator asks of them."""

    def __init__(self, pool: WorkerPool, context: WorkerContext) -> None:
        self._pool = pool
        self._context = context
        (self.facts,) = self._ask(describe_device, [()])
        self.n_workers = pool.n_workers

    def open_model(
        self,
        config: ExtractConfig,
        dataset: Dataset,
        cache: FingerprintCache,
        progress: Progress = SILENT,
    ) -> Model:
        """Open the config's model at the workers' precision; its extractor stands for theirs."""
        here = replace(config, device="cpu", devices=(), scheduler=None)
        precision = self.facts["precision"]
        model = open_model(here, dataset, cache, progress, precision)
        sha256 = model.backbone["weights_sha256"]
        self._context = replace(self._context, precision=precision, weights_sha256=sha256)
        return replace(model, extractor=RemoteExtractor(self, model.extractor))

    def choose_numerics(
        self, layers: Sequence[Layer], n_images: int, progress: Progress
    ) -> dict[str, Any]:
        """Let one worker choose the numerics of a new pass."""
        progress.say(f"One of {self.n_workers} workers prepares the network ...")
        nodes = [layer.node for layer in layers]
        ((numerics, lines),) = self._ask(choose_numerics, [(nodes, n_images)])
        for line in lines:
            progress.say(line)
        return dict(numerics)

    def run_pass(
        self,
        images: Images,
        extractor: Extractor,
        writer: FeatureWriter,
        on_error: str,
        progress: Progress = SILENT,
    ) -> tuple[int, PassTimes]:
        """Do what :func:`featstore.extraction.pipeline.run_pass` does, on the workers."""
        n_samples = len(images.dataset)
        missing = writer.missing_rows(n_samples)
        n_computed = int(missing.sum())
        token = secrets.token_hex(8)
        n_wanted = n_shards(n_computed, self.n_workers, writer.numerics.batch_size)
        shards = _make_shards(writer, n_wanted, token)
        total = PassTimes()

        def done(index: int, result: TaskResult) -> None:
            nonlocal total, missing
            if result.error is not None:
                raise result.error
            writer.gather(shards[index].name)
            total += PassTimes(**result.value)
            left = writer.missing_rows(n_samples)
            progress.advance(int(missing.sum() - left.sum()))
            missing = left

        def lost(index: int) -> None:
            first, last = shard_rows(writer, shards[index])
            progress.say(f"A worker died; rows {first} to {last} go to another one.")

        def stop() -> None:
            token_file.unlink(missing_ok=True)

        token_file = token_path(writer.feature_set)
        token_file.write_text(token, encoding="utf-8")
        progress.start("Extracting", n_computed, "images")
        try:
            tasks = [(shard,) for shard in shards]
            self._ask(compute_shard, tasks, done, lost, stop)
        except BaseException:
            with suppress(OSError):
                writer.gather()
            raise
        finally:
            token_file.unlink(missing_ok=True)
            progress.stop()
        return n_computed, total

    def _ask(
        self,
        function: Callable[..., Any],
        tasks: Sequence[tuple[Any, ...]],
        done: Callable[[int, TaskResult], None] = lambda index, result: None,
        lost: Callable[[int], None] = lambda index: None,
        stop: Callable[[], None] | None = None,
    ) -> list[Any]:
        results = self._pool.run(
            function,
            [(self._context, *task) for task in tasks],
            done,
            died=_worker_died,
            lost=lost,
            stop=stop,
        )
        for result in results:
            if result.error is not None:
                raise result.error
        return [result.value for result in results]


def _worker_died() -> FeatstoreError:
    return SchedulerError(
        "A worker died twice at the same rows; most often the system ends it when memory is short. "
        f"Use a smaller --batch-size or fewer workers. {RESUME_HINT}"
    )


class RemoteExtractor:
    """Stands for the workers' extractors; `local` knows the layers and computes nothing."""

    n_in_flight = 1
    min_size: int | None = None

    def __init__(self, workers: WorkerGroup, local: Extractor) -> None:
        self._workers, self._local = workers, local
        self.device_type: str = workers.facts["device_type"]
        self.device_name = f"{workers.n_workers} workers, each on {workers.facts['device_name']}"

    def find(self, nodes: Sequence[str]) -> Sequence[Layer]:
        """Return the layers at the given nodes."""
        return self._local.find(nodes)

    def use_threads(self, n_threads: int | None) -> int | None:
        """Refuse: each worker sets its own threads."""
        raise NotImplementedError("the workers compute")

    def open(
        self,
        layers: Sequence[Layer],
        n_images: int,
        numerics: Mapping[str, Any] | None = None,
        progress: Progress = SILENT,
    ) -> dict[str, Any]:
        """Return the numerics that are given, or those that a worker chooses."""
        if numerics:
            return dict(numerics)
        return self._workers.choose_numerics(layers, n_images, progress)

    def begin(self, batch: Batch) -> Callable[[], dict[str, np.ndarray]]:
        """Refuse: only the workers compute."""
        raise NotImplementedError("the workers compute")


@contextmanager
def start_workers(
    config: ExtractConfig, store: FeatureStore, fingerprint: str, progress: Progress = SILENT
) -> Iterator[WorkerGroup | None]:
    """Start or find the workers that a config asks for; yield None where it asks for none.

    A scheduler that does not answer, or has no workers, raises SchedulerError.
    """
    if not config.devices and config.scheduler is None:
        yield None
        return
    from featstore.parallel.cluster import local_pool, scheduler_pool

    context = WorkerContext(
        _absolute(config).to_dict(),
        str(store.path.absolute()),
        fingerprint,
        versions=decisive_versions(config.model),
    )
    if config.scheduler is not None:
        with scheduler_pool(config.scheduler) as pool:
            try:
                yield WorkerGroup(pool, context)
            finally:
                with suppress(Exception):
                    pool.everywhere(release_memory)
        return
    progress.say(f"Starting {len(config.devices)} worker processes ...")
    # The last bits depend on the number of threads: each worker uses as many as one process would.
    with local_pool(len(config.devices), share_cores=False) as pool:
        yield WorkerGroup(pool, context)


def _absolute(config: ExtractConfig) -> ExtractConfig:
    """Return the config with paths that are right in any folder."""
    weights = Path(config.weights)
    return replace(
        config,
        root=str(data_root(config.root).absolute()),
        weights=str(weights.absolute()) if weights.is_file() else config.weights,
        split_files=tuple(map(os.path.abspath, config.split_files)),
    )


def n_shards(n_rows: int, n_workers: int, batch_size: int) -> int:
    """Return the number of shards to make of some rows."""
    rows = max(n_rows / (SHARDS_PER_WORKER * n_workers), MIN_BATCHES * batch_size)
    rows = min(rows, n_rows / n_workers, MAX_BATCHES * batch_size)
    return max(1, round(n_rows / max(1, rows)))


def _make_shards(writer: FeatureWriter, n_wanted: int, token: str) -> list[Shard]:
    set_path = str(writer.feature_set.path.absolute())
    return [
        Shard(
            set_path, chunks, f"{token}-{index}", writer.numerics.to_dict(), token, writer.command
        )
        for index, chunks in enumerate(split_chunks(writer, n_wanted))
    ]


def shard_rows(writer: FeatureWriter, shard: Shard) -> tuple[int, int]:
    """Return the first and the last row of a shard."""
    ranges = [
        writer.layers[name].matrix.chunk_range(index)
        for name, chunks in shard.chunks.items()
        for index in chunks
    ]
    return min(start for start, _ in ranges), max(stop for _, stop in ranges) - 1


def split_chunks(writer: FeatureWriter, n_wanted: int) -> list[dict[str, list[int]]]:
    """Split the chunks that a writer is missing into about `n_wanted` shards, in order of rows.

    Each shard is a dict of layer to chunk numbers. It owns, of each layer, the chunks that begin
    within its rows. Layers have chunks of different lengths: rows that two shards need are computed
    in both.
    """
    longest = max(layer.matrix.chunk_rows for layer in writer.layers.values())
    begins = {
        name: [(index, layer.matrix.chunk_range(index)[0]) for index in layer.pending]
        for name, layer in writer.layers.items()
    }
    blocks = sorted({start // longest for own in begins.values() for _, start in own})
    n_blocks = max(1, -(-len(blocks) // n_wanted))
    shard_of = {block: i // n_blocks for i, block in enumerate(blocks)}
    shards: dict[int, dict[str, list[int]]] = {}
    for name, own in begins.items():
        for index, start in own:
            shard = shards.setdefault(shard_of[start // longest], {})
            shard.setdefault(name, []).append(index)
    return [shards[i] for i in sorted(shards)]
