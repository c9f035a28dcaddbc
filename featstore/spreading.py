"""Spreading: one extraction over several devices, each writing its own chunks.

The process that is asked keeps lock, journal and records. Workers are given whole chunks; what
they have made durable enters the journal, so that neither a dead worker nor a dead coordinator
loses more than the chunks in work.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.config import ExtractConfig
from featstore.datasets import open_dataset
from featstore.datasets.base import Dataset
from featstore.errors import DeviceError, FeatstoreError, SchedulerError
from featstore.layers import Layer
from featstore.passes import Extractor, PassTimes, run_pass
from featstore.progress import SILENT, Progress
from featstore.provenance import FingerprintCache, dataset_fingerprint
from featstore.recipes import Recipe, find_recipe
from featstore.sink import Sink
from featstore.store import FeatureStore, open_store

if TYPE_CHECKING:
    from featstore.loaders import Batch
    from featstore.parallel import Outcome, Team

TASKS_PER_WORKER = 4
"""So that a slow or dead worker holds up, or costs, a quarter of its share."""

_turn = threading.Lock()
"""A process computes one task at a time, whatever threads its worker has."""


@dataclass(frozen=True)
class Site:
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
    """

    config: dict[str, Any]
    store: str
    fingerprint: str
    precision: str | None = None
    weights_sha256: str | None = None


class Crew:
    """The workers of one extraction, and what the coordinator asks of them.

    Parameters
    ----------
    team : Team
        The workers.
    site : Site
        What they are to know.
    """

    def __init__(self, team: Team, site: Site) -> None:
        self._team = team
        self.site = site
        (self.facts,) = self._ask(survey, [()])
        self.n_workers = team.n_workers

    def recipe(
        self,
        config: ExtractConfig,
        bands: Sequence[str],
        cache: FingerprintCache,
        progress: Progress,
    ) -> Recipe:
        """Return the recipe at the workers' precision, its extractor standing for theirs."""
        here = replace(config, device="cpu", devices=(), scheduler=None)
        precision = self.facts["precision"]
        found = find_recipe(here, bands, cache, progress, precision=precision)
        sha256 = found.backbone["weights_sha256"]
        self.site = replace(self.site, precision=precision, weights_sha256=sha256)
        return replace(found, extractor=CrewExtractor(self, found.extractor))

    def open(self, layers: Sequence[Layer], n_images: int, progress: Progress) -> dict[str, Any]:
        """Let a worker choose the conditions of a new pass."""
        progress.say(f"Asking one of {self.n_workers} workers to get ready ...")
        nodes = [layer.node for layer in layers]
        (conditions,) = self._ask(choose_conditions, [(nodes, n_images)])
        return dict(conditions)

    def run_pass(
        self,
        dataset: Dataset,
        extractor: Extractor,
        sink: Sink,
        *,
        batch_size: int,
        on_error: str,
        progress: Progress = SILENT,
    ) -> tuple[int, PassTimes]:
        """Do what :func:`featstore.passes.run_pass` does, by the workers."""
        missing = sink.missing_rows(len(dataset))
        shares = split(sink, TASKS_PER_WORKER * self.n_workers)
        tasks = [(sink.feature_set.set_id, share, sink.conditions) for share in shares]
        total, n_computed = PassTimes(), 0

        def done(index: int, outcome: Outcome) -> None:
            nonlocal total, n_computed, missing
            if outcome.error is not None:
                raise outcome.error
            found = outcome.value
            sink.take(found["chunks"], found["masked"])
            total += PassTimes(**found["times"])
            n_computed += found["n_computed"]
            left = sink.missing_rows(len(dataset))
            progress.advance(int(missing.sum() - left.sum()))
            missing = left

        progress.start("Extracting", int(missing.sum()), "images")
        try:
            self._ask(compute_share, tasks, done)
        finally:
            progress.stop()
        return n_computed, total

    def _ask(
        self,
        function: Callable[..., Any],
        tasks: Sequence[tuple[Any, ...]],
        done: Callable[[int, Outcome], None] = lambda index, outcome: None,
    ) -> list[Any]:
        outcomes = self._team.run(function, [(self.site, *task) for task in tasks], done, _died)
        for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error
        return [outcome.value for outcome in outcomes]


def _died() -> FeatstoreError:
    return SchedulerError(
        "A worker died twice at the same rows; most often the system ended it for want of memory. "
        "Try a smaller --batch-size or fewer workers. What was finished is kept; the same command "
        "goes on from there."
    )


class CrewExtractor:
    """Stands for the workers' extractors where the coordinator asks about them.

    Parameters
    ----------
    crew : Crew
        The workers.
    own : Extractor
        The coordinator's, which knows the layers and computes nothing.
    """

    n_in_flight = 1
    min_size: int | None = None

    def __init__(self, crew: Crew, own: Extractor) -> None:
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
        conditions: Mapping[str, Any] | None = None,
        progress: Progress = SILENT,
    ) -> dict[str, Any]:
        """Return the conditions that are given, or that a worker chooses."""
        return dict(conditions) if conditions else self._crew.open(layers, n_images, progress)

    def begin(self, batch: Batch) -> Callable[[], dict[str, np.ndarray]]:
        """Refuse: only the workers compute."""
        raise NotImplementedError("the workers compute")


@contextmanager
def gather_crew(
    config: ExtractConfig, store: FeatureStore, fingerprint: str, progress: Progress = SILENT
) -> Iterator[Crew | None]:
    """Gather the workers that a configuration asks for; None where it asks for none.

    Raises
    ------
    SchedulerError
        When there is no scheduler at the address, or it has no workers.
    """
    if not config.devices and config.scheduler is None:
        yield None
        return
    from featstore.parallel import local_team, remote_team

    site = Site(_absolute(config).to_dict(), str(store.path.absolute()), fingerprint)
    if config.scheduler is not None:
        with remote_team(config.scheduler) as team:
            yield Crew(team, site)
        return
    progress.say(f"Starting {len(config.devices)} worker processes ...")
    with local_team(len(config.devices)) as team:
        yield Crew(team, site)


def _absolute(config: ExtractConfig) -> ExtractConfig:
    """Return the same with paths that are right from any folder."""
    root = config.root and str(Path(config.root).absolute())
    weights = Path(config.weights)
    if not weights.is_file():
        return replace(config, root=root)
    return replace(config, root=root, weights=str(weights.absolute()))


def split(sink: Sink, n_shares: int) -> list[dict[str, list[int]]]:
    """Deal out the chunks that a sink is missing.

    A share owns, of each layer, the chunks that begin within its rows; rows that two shares need,
    because layers have chunks of different lengths, are computed for each.

    Parameters
    ----------
    sink : Sink
        What is missing of what.
    n_shares : int
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
    n_places = max(1, -(-len(places) // n_shares))
    share_of = {place: i // n_places for i, place in enumerate(places)}
    shares: dict[int, dict[str, list[int]]] = {}
    for name, own in begins.items():
        for index, start in own:
            share = shares.setdefault(share_of[start // longest], {})
            share.setdefault(name, []).append(index)
    return [shares[i] for i in sorted(shares)]


class Workplace:
    """What a worker process keeps from one task to the next: dataset, network, conditions.

    Parameters
    ----------
    site : Site
        Of the extraction.
    device : str
        Where this worker computes.

    Raises
    ------
    SchedulerError
        When images or weights are not the coordinator's.
    """

    def __init__(self, site: Site, device: str) -> None:
        self.site = site
        self.store = open_store(site.store)
        asked = ExtractConfig.from_dict(site.config)
        self.config = replace(asked, device=device, devices=(), scheduler=None)
        self.dataset = open_dataset(asked.dataset, asked.root, seed=asked.seed, limit=asked.limit)
        cache = FingerprintCache(self.store.cache_dir / "fingerprints")
        found = dataset_fingerprint(self.dataset.identity(), self.dataset.files(), cache)
        if found != site.fingerprint:
            raise SchedulerError(
                f"On a worker, {asked.root or asked.dataset} holds other images than here. All "
                "workers must see the same files at the same paths."
            )
        recipe = find_recipe(self.config, self.dataset.bands, cache, precision=site.precision)
        if site.weights_sha256 not in (None, recipe.backbone["weights_sha256"]):
            raise SchedulerError(
                f"On a worker, --weights {asked.weights} are other weights than here: sha256 "
                f"{recipe.backbone['weights_sha256']}, not {site.weights_sha256}. Name a file that "
                "all workers see."
            )
        self.extractor = recipe.extractor
        self.precision = recipe.backbone["precision"]
        self._conditions: dict[str, Any] | None = None

    def choose(self, nodes: Sequence[str], n_images: int) -> dict[str, Any]:
        """Return the conditions of a new pass, the network made ready for it."""
        chosen = self.extractor.open(self.extractor.find(nodes), n_images)
        self._conditions = {**chosen, "nodes": list(nodes)}
        return chosen

    def prepare(self, conditions: Mapping[str, Any]) -> None:
        """Make the network ready for a pass, if it is not."""
        if conditions["device"] != self.extractor.device_type:
            raise DeviceError(
                f"The features are computed on {conditions['device']}, and a worker has "
                f"{self.extractor.device_name}: they would differ in their last bits. Let all "
                "workers have devices of one type."
            )
        if dict(conditions) != self._conditions:
            layers = self.extractor.find(conditions["nodes"])
            self.extractor.open(layers, len(self.dataset), conditions)
            self._conditions = dict(conditions)


_workplaces: list[Workplace] = []
"""The one that this process keeps, if any."""


def _workplace(site: Site) -> Workplace:
    from featstore.parallel import worker_name

    if not _workplaces or _workplaces[0].site != site:
        devices = site.config["devices"]
        device = devices[int(worker_name())] if devices else "auto"
        _workplaces.clear()
        _workplaces.append(Workplace(site, device))
    return _workplaces[0]


def survey(site: Site) -> dict[str, Any]:
    """Return a worker's device and the precision that it chooses."""
    with _turn:
        place = _workplace(site)
        return {
            "device_type": place.extractor.device_type,
            "device_name": place.extractor.device_name,
            "precision": place.precision,
        }


def choose_conditions(site: Site, nodes: Sequence[str], n_images: int) -> dict[str, Any]:
    """Return the conditions that a worker chooses for a new pass."""
    with _turn:
        return _workplace(site).choose(nodes, n_images)


def compute_share(
    site: Site, set_id: str, share: Mapping[str, Sequence[int]], conditions: Mapping[str, Any]
) -> dict[str, Any]:
    """Compute and write the chunks of a share; what a worker runs.

    Returns
    -------
    dict
        ``chunks`` (layer -> number -> sha256 of the file), ``masked`` (row -> cause),
        ``n_computed`` images, ``times`` as of :class:`PassTimes`.

    Raises
    ------
    SchedulerError
        When images or weights are not the coordinator's.
    DeviceError
        When the worker's device is of another type.
    ImageError
        When an image can't be read and is not to be masked.
    """
    with _turn:
        place = _workplace(site)
        place.prepare(conditions)
        feature_set = place.store.get(set_id)
        sink = Sink(feature_set, list(share), conditions, "", share)
        with sink:
            n_computed, times = run_pass(
                place.dataset,
                place.extractor,
                sink,
                batch_size=conditions["batch_size"],
                on_error=place.config.on_error,
            )
        return {
            "chunks": {name: layer.hashes for name, layer in sink.layers.items()},
            "masked": sink.masked,
            "n_computed": n_computed,
            "times": asdict(times),
        }
