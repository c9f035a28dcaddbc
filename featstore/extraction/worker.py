"""What a worker process does of an extraction.

The arguments and results of this module's functions go through the scheduler: paths, numbers of
chunks, hashes. Images and features never do.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from featstore.config import ExtractConfig
from featstore.environment import import_from, versions
from featstore.errors import DatasetError, DeviceError, SchedulerError
from featstore.extraction.pipeline import run_pass
from featstore.extraction.spec import open_images
from featstore.models.names import source_facts
from featstore.models.registry import open_model
from featstore.progress import SILENT, Progress, Silent
from featstore.store.feature_store import open_store
from featstore.store.set_folder import SetFolder
from featstore.store.writer import FeatureWriter

DECISIVE = ("featstore", "numcodecs", "torch", "torchvision")
"""Packages whose versions decide the stored bytes."""


_turn = threading.Lock()
"""A process computes one task at a time, however many threads its worker has."""


def decisive_versions(model: str = "") -> dict[str, str]:
    """Return this process's versions of the packages that decide the stored bytes of a model.

    PyTorch names its builds ``2.6.0+cpu`` and ``2.6.0+cu124``; both count as 2.6.0.
    """
    found = versions()
    own = {name: found[name].partition("+")[0] for name in DECISIVE}
    return own | source_facts(model)


@dataclass(frozen=True)
class WorkerContext:
    """What a worker needs for every task of one extraction."""

    config: dict[str, Any]
    """The :class:`ExtractConfig`, as values."""
    store: str
    """The store's path, the same for all workers."""
    fingerprint: str
    """The dataset's fingerprint."""
    precision: str | None = None
    """Precision of the arithmetic; None until a worker has chosen it."""
    weights_sha256: str | None = None
    """Hash of the weights; None until the coordinator has found them."""
    versions: dict[str, str] = field(default_factory=decisive_versions)
    """The coordinator's, of :func:`decisive_versions`."""
    folder: str = field(default_factory=os.getcwd)
    """The coordinator's working folder, from which modules are imported."""


@dataclass(frozen=True)
class Shard:
    """One worker's part of a pass."""

    set_path: str
    """The feature set's folder."""
    chunks: dict[str, list[int]]
    """The chunks to compute and write, by layer."""
    name: str
    """The shard's name, which no other shard has."""
    numerics: dict[str, Any]
    """The pass's numerics."""
    token: str
    """What the pass's token file holds while the shard is wanted."""
    command: str
    """The command line that resumes the pass."""


def token_path(feature_set: SetFolder) -> Path:
    """Return the file that holds the token of the current pass.

    Nothing can end a running task from outside. A task that outlives its coordinator, or the
    layers that it writes, finds this file changed and ends by itself.
    """
    return feature_set.journal_path / "pass"


class WorkerState:
    """What a worker process keeps from one task to the next: images, model, numerics.

    Images, weights or versions other than the coordinator's raise SchedulerError. `n_threads` is
    the number of threads for a CPU's arithmetic where the numerics give none; None keeps torch's
    own number.
    """

    def __init__(self, context: WorkerContext, device: str, n_threads: int | None) -> None:
        self.context = context
        requested = ExtractConfig.from_dict(context.config)
        import_from(context.folder)
        _compare_versions(context.versions, decisive_versions(requested.model))
        self.config = replace(requested, device=device, devices=(), scheduler=None)
        self._n_threads = n_threads
        try:
            self.images = open_images(self.config, open_store(context.store))
        except DatasetError as error:
            raise SchedulerError(
                f"On a worker: {error} All workers must see the same files at the same paths, and "
                "have the package of a dataset that one adds."
            ) from error
        if self.images.fingerprint != context.fingerprint:
            raise SchedulerError(
                f"On a worker, {requested.root or requested.dataset} holds other images than here. "
                "All workers must see the same files at the same paths."
            )
        dataset, cache = self.images.dataset, self.images.cache
        model = open_model(self.config, dataset, cache, precision=context.precision)
        sha256 = model.backbone["weights_sha256"]
        if context.weights_sha256 not in (None, sha256):
            raise SchedulerError(
                f"On a worker, --weights {requested.weights} are other weights than here: sha256 "
                f"{sha256}, not {context.weights_sha256}. Name a file that all workers see."
            )
        self.extractor = model.extractor
        self.extractor.use_threads(n_threads)
        self.precision: str = model.backbone["precision"]
        self._numerics: dict[str, Any] | None = None

    def choose(self, nodes: Sequence[str], n_images: int, progress: Progress) -> dict[str, Any]:
        """Choose the numerics of a new pass, and prepare the model for it."""
        n_threads = self.extractor.use_threads(self._n_threads)
        chosen = self.extractor.open(self.extractor.find(nodes), n_images, None, progress)
        if n_threads is not None:
            chosen = {**chosen, "n_threads": n_threads}
        self._numerics = {**chosen, "nodes": list(nodes)}
        return chosen

    def prepare(self, numerics: Mapping[str, Any]) -> None:
        """Prepare the model for a pass, unless it is prepared."""
        if numerics["device"] != self.extractor.device_type:
            raise DeviceError(
                f"The features are computed on {numerics['device']}, and a worker has "
                f"{self.extractor.device_name}: they would differ in their last bits. Use workers "
                "with devices of one type."
            )
        # torch keeps some settings for each thread, and every task may run in another one.
        self.extractor.use_threads(numerics.get("n_threads", self._n_threads))
        if dict(numerics) != self._numerics:
            layers = self.extractor.find(numerics["nodes"])
            self.extractor.open(layers, len(self.images.dataset), numerics)
            self._numerics = dict(numerics)


def _compare_versions(expected: Mapping[str, str], found: Mapping[str, str]) -> None:
    others = [
        f"{name} {found.get(name)}, not {version}"
        for name, version in expected.items()
        if found.get(name) != version
    ]
    if others:
        raise SchedulerError(
            f"A worker has {'; '.join(others)}: its features might differ. Start workers from an "
            "environment like the one here."
        )


_states: list[WorkerState] = []
"""The state of this process, or nothing."""


def _state_for(context: WorkerContext) -> WorkerState:
    from featstore.parallel.cluster import worker_name, worker_threads

    if not _states or _states[0].context != context:
        _states.clear()
        if devices := context.config["devices"]:
            _states.append(WorkerState(context, devices[int(worker_name())], None))
        else:
            # Dask sets the libraries' threads to 1; --nthreads says how many the worker may use.
            _states.append(WorkerState(context, "auto", worker_threads()))
    return _states[0]


def release_memory() -> None:
    """Release the memory that an extraction took, unless a task is running."""
    if _turn.acquire(blocking=False):
        try:
            _states.clear()
            torch = sys.modules.get("torch")
            if torch is not None and torch.cuda.is_initialized():
                torch.cuda.empty_cache()
        finally:
            _turn.release()


def describe_device(context: WorkerContext) -> dict[str, Any]:
    """Return a worker's device, and the precision that it chooses."""
    with _turn:
        state = _state_for(context)
        return {
            "device_type": state.extractor.device_type,
            "device_name": state.extractor.device_name,
            "precision": state.precision,
        }


class _Lines(Silent):
    """Progress that keeps its messages."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def choose_numerics(
    context: WorkerContext, nodes: Sequence[str], n_images: int
) -> tuple[dict[str, Any], list[str]]:
    """Return the numerics that a worker chooses for a new pass, and its messages."""
    progress = _Lines()
    with _turn:
        return _state_for(context).choose(nodes, n_images, progress), progress.lines


def compute_shard(context: WorkerContext, shard: Shard) -> dict[str, float]:
    """Compute and write the chunks of a shard; return the seconds of each phase.

    The shard's journal lists the chunks that are durable. SchedulerError says that images, weights
    or versions are not the coordinator's, that the worker does not see the store, or that the shard
    is no longer wanted; further errors are those of :func:`run_pass`.
    """
    feature_set = SetFolder(Path(shard.set_path))
    token = token_path(feature_set)

    def check() -> None:
        try:
            current = token.read_text(encoding="utf-8")
        except OSError:
            current = None
        if current != shard.token:
            raise SchedulerError(f"The pass over {feature_set.set_id} was ended.")

    with _turn:
        if not feature_set.path.is_dir():
            raise SchedulerError(
                f"A worker does not see {feature_set.path}. All workers must see the store at the "
                "same path."
            )
        check()
        state = _state_for(context)
        state.prepare(shard.numerics)
        layers = list(shard.chunks)
        writer = FeatureWriter(
            feature_set, layers, shard.numerics, shard.command, shard.name, shard.chunks, check
        )
        try:
            with writer:
                _, times = run_pass(
                    state.images, state.extractor, writer, state.config.on_error, SILENT
                )
        except DatasetError:
            # Files that were only touched are the same dataset, with other times to watch.
            _states.clear()
            raise
        return asdict(times)
