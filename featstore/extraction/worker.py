"""Workplaces: what a worker process does of an extraction that is spread over several.

Only what this module's functions are given and return goes through the scheduler: paths, numbers
of chunks, hashes. Images and features never do.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from featstore.config import ExtractConfig
from featstore.datasets.registry import open_dataset
from featstore.environment import versions
from featstore.errors import DatasetError, DeviceError, SchedulerError
from featstore.extraction.pipeline import run_pass
from featstore.extraction.spec import PIXEL_MODEL, find_spec
from featstore.io.fingerprints import FingerprintCache, Watch, dataset_fingerprint
from featstore.progress import Silent
from featstore.store.feature_store import open_store
from featstore.store.set_folder import SetFolder
from featstore.store.writer import FeatureWriter

DECISIVE = ("featstore", "numcodecs", "torch", "torchvision")
"""Packages whose version decides the bytes that are stored."""


_turn = threading.Lock()
"""A process computes one task at a time, whatever threads its worker has."""


def decisive_versions() -> dict[str, str]:
    """Return the versions here of what decides the bytes; builds for other hardware count as one.

    PyTorch names its builds ``2.6.0+cpu`` and ``2.6.0+cu124``.
    """
    found = versions()
    return {name: found[name].partition("+")[0] for name in DECISIVE}


@dataclass(frozen=True)
class WorkerContext:
    """What a worker needs for any task of one extraction; the same for all of them.

    Parameters
    ----------
    config : dict
        The :class:`ExtractConfig`, as values.
    store : str
        The store's path, the same for all workers.
    fingerprint : str
        Of the dataset.
    precision : str or None
        What to compute in; None before a worker has chosen.
    weights_sha256 : str or None
        Of the weights; None before they are known.
    versions : dict of str to str
        The coordinator's, of :func:`decisive_versions`.
    """

    config: dict[str, Any]
    store: str
    fingerprint: str
    precision: str | None = None
    weights_sha256: str | None = None
    versions: dict[str, str] = field(default_factory=decisive_versions)


@dataclass(frozen=True)
class Shard:
    """A part of a pass, for one worker.

    Parameters
    ----------
    set_path : str
        The feature set's folder.
    chunks : dict of str to list of int
        By layer, the chunks to compute and write.
    name : str
        Of the share, unlike any other's.
    numerics : dict
        Of the pass.
    token : str
        What the pass's file in the journal's folder holds as long as the share is wanted.
    command : str
        What to type to go on with the pass.
    """

    set_path: str
    chunks: dict[str, list[int]]
    name: str
    numerics: dict[str, Any]
    token: str
    command: str


def token_path(feature_set: SetFolder) -> Path:
    """Return the file that says which pass is being made.

    Nobody can end a task in work from outside. One that outlives its coordinator, or the layers
    that it was to write, finds this changed and ends by itself.
    """
    return feature_set.journal_path / "pass"


class WorkerState:
    """What a worker process keeps from one task to the next: dataset, network, numerics.

    Parameters
    ----------
    site : Site
        Of the extraction.
    device : str
        Where this worker computes.
    n_threads : int or None
        Threads for a CPU's arithmetic, where the numerics name no other number; None for those
        that torch takes by itself.

    Raises
    ------
    SchedulerError
        When images, weights or versions are not the coordinator's.
    """

    def __init__(self, site: WorkerContext, device: str, n_threads: int | None) -> None:
        self.site = site
        _compare(site.versions, decisive_versions())
        store = open_store(site.store)
        requested = ExtractConfig.from_dict(site.config)
        self.config = replace(requested, device=device, devices=(), scheduler=None)
        self._device, self._n_threads = device, n_threads
        self._uses_torch = requested.model != PIXEL_MODEL
        self._set_threads(n_threads)
        self.dataset = open_dataset(
            requested.dataset, requested.root, seed=requested.seed, limit=requested.limit
        )
        cache = FingerprintCache(store.cache_dir / "fingerprints")
        found = dataset_fingerprint(self.dataset.identity(), self.dataset.files(), cache)
        self.watch = Watch(cache.stamps)
        if found != site.fingerprint:
            raise SchedulerError(
                f"On a worker, {requested.root or requested.dataset} holds other images than here. "
                "All workers must see the same files at the same paths."
            )
        recipe = find_spec(self.config, self.dataset.bands, cache, precision=site.precision)
        if site.weights_sha256 not in (None, recipe.backbone["weights_sha256"]):
            raise SchedulerError(
                f"On a worker, --weights {requested.weights} are other weights than here: sha256 "
                f"{recipe.backbone['weights_sha256']}, not {site.weights_sha256}. Name a file that "
                "all workers see."
            )
        self.extractor = recipe.extractor
        self.precision = recipe.backbone["precision"]
        self._numerics: dict[str, Any] | None = None

    def _set_threads(self, n_threads: int | None) -> None:
        if n_threads is not None and self._uses_torch:
            import torch

            torch.set_num_threads(n_threads)

    def _set_up_thread(self, n_threads: int | None) -> None:
        """Set what torch keeps for each thread; a worker may use another one for each task."""
        self._set_threads(n_threads)
        if self._device.startswith("cuda:") and self._uses_torch:
            import torch

            # Pinned memory would otherwise be the first GPU's, and take some of its own.
            torch.cuda.set_device(self._device)

    def choose(self, nodes: Sequence[str], n_images: int, progress: Silent) -> dict[str, Any]:
        """Return the numerics of a new pass, the network made ready for it.

        A CPU's number of threads is one of them: sums are split by it.
        """
        self._set_up_thread(self._n_threads)
        chosen = self.extractor.open(self.extractor.find(nodes), n_images, None, progress)
        if self._uses_torch and self.extractor.device_type == "cpu":
            import torch

            chosen = {**chosen, "n_threads": torch.get_num_threads()}
        self._numerics = {**chosen, "nodes": list(nodes)}
        return chosen

    def prepare(self, numerics: Mapping[str, Any]) -> None:
        """Make the network ready for a pass, if it is not."""
        if numerics["device"] != self.extractor.device_type:
            raise DeviceError(
                f"The features are computed on {numerics['device']}, and a worker has "
                f"{self.extractor.device_name}: they would differ in their last bits. Let all "
                "workers have devices of one type."
            )
        self._set_up_thread(numerics.get("n_threads", self._n_threads))
        if dict(numerics) != self._numerics:
            layers = self.extractor.find(numerics["nodes"])
            self.extractor.open(layers, len(self.dataset), numerics)
            self._numerics = dict(numerics)


def _compare(expected: Mapping[str, str], found: Mapping[str, str]) -> None:
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


_workplaces: list[WorkerState] = []
"""The one that this process keeps, if any."""


def _workplace(site: WorkerContext) -> WorkerState:
    from featstore.parallel.cluster import worker_name, worker_threads

    if not _workplaces or _workplaces[0].site != site:
        _workplaces.clear()
        if devices := site.config["devices"]:
            made = WorkerState(site, devices[int(worker_name())], None)
        else:
            # Whoever starts a worker says how much of the host it may take; Dask sets the
            # libraries' threads to 1.
            made = WorkerState(site, "auto", worker_threads())
        _workplaces.append(made)
    return _workplaces[0]


def leave() -> None:
    """Give back the memory that an extraction took, unless a task is in work."""
    if _turn.acquire(blocking=False):
        try:
            _workplaces.clear()
            torch = sys.modules.get("torch")
            if torch is not None and torch.cuda.is_initialized():
                torch.cuda.empty_cache()
        finally:
            _turn.release()


def describe_device(site: WorkerContext) -> dict[str, Any]:
    """Return a worker's device and the precision that it chooses."""
    with _turn:
        place = _workplace(site)
        return {
            "device_type": place.extractor.device_type,
            "device_name": place.extractor.device_name,
            "precision": place.precision,
        }


class _Heard(Silent):
    """A progress that keeps the lines it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def choose_numerics(
    site: WorkerContext, nodes: Sequence[str], n_images: int
) -> tuple[dict[str, Any], list[str]]:
    """Return the numerics that a worker chooses for a new pass, and what it says of them."""
    heard = _Heard()
    with _turn:
        return _workplace(site).choose(nodes, n_images, heard), heard.lines


def compute_share(site: WorkerContext, share: Shard) -> dict[str, float]:
    """Compute and write the chunks of a share; what is durable of it is in its journal.

    Returns
    -------
    dict
        Seconds, as of :class:`featstore.extraction.pipeline.PassTimes`.

    Raises
    ------
    SchedulerError
        When images, weights or versions are not the coordinator's, the worker does not see the
        store, or the share is no longer wanted.
    DeviceError
        When the worker's device is of another type.
    ImageError
        When an image can't be read and is not to be masked.
    DatasetError
        When an image has changed.
    """
    feature_set = SetFolder(Path(share.set_path))
    token = token_path(feature_set)

    def check() -> None:
        try:
            current = token.read_text(encoding="utf-8")
        except OSError:
            current = None
        if current != share.token:
            raise SchedulerError(f"The pass over {feature_set.set_id} was ended.")

    with _turn:
        if not feature_set.path.is_dir():
            raise SchedulerError(
                f"A worker does not see {feature_set.path}. All workers must see the store at the "
                "same path."
            )
        check()
        place = _workplace(site)
        place.prepare(share.numerics)
        sink = FeatureWriter(
            feature_set,
            list(share.chunks),
            share.numerics,
            share.command,
            share.name,
            share.chunks,
            check,
        )
        try:
            with sink:
                _, times = run_pass(
                    place.dataset,
                    place.extractor,
                    sink,
                    batch_size=share.numerics["batch_size"],
                    on_error=place.config.on_error,
                    watch=place.watch,
                )
        except DatasetError:
            # Files that were only touched are the same dataset, with other times to watch.
            _workplaces.clear()
            raise
        return asdict(times)
