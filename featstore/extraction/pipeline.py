"""Passes: the stage-one loop, images in and features out, each phase timed.

``loader -> extractor -> sink``
"""

from __future__ import annotations

import json
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from featstore.config import ExtractConfig
from featstore.datasets.base import Dataset, FileDataset
from featstore.datasets.loader import AHEAD_NBYTES, Batch, batches
from featstore.environment import machine, now, versions
from featstore.errors import DeviceError, FeatstoreError, SpaceError
from featstore.io.fingerprints import Watch
from featstore.models.base import Extractor, Layer
from featstore.progress import SILENT, Progress
from featstore.store.set_folder import SetFolder
from featstore.store.writer import FeatureWriter
from featstore.text import nbytes_text

HALF_MAX = float(np.finfo(np.float16).max)
HALF_TINY = float(np.finfo(np.float16).smallest_normal)


class HalfRangeError(FeatstoreError):
    """A feature does not fit float16."""


@dataclass
class PassTimes:
    """Where the seconds of a pass went, as the computing thread saw them.

    Parameters
    ----------
    read_s : float
        Waiting for images to be read and decoded.
    preprocess_s : float
        Copying to the device, resizing, normalising.
    forward_s : float
        The network, and copying the features back.
    write_s : float
        Waiting for the disk.
    """

    read_s: float = 0.0
    preprocess_s: float = 0.0
    forward_s: float = 0.0
    write_s: float = 0.0

    def __add__(self, other: PassTimes) -> PassTimes:
        return PassTimes(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def batch_starts(missing: np.ndarray, batch_size: int) -> list[int]:
    """Return the first rows of the batches that hold a missing row.

    Batches always begin at multiples of their size, so that a row shares its batch with the same
    others whether the pass is resumed or not.

    Parameters
    ----------
    missing : ndarray of shape (n_samples,), bool
    batch_size : int
    """
    return [
        start
        for start in range(0, len(missing), batch_size)
        if missing[start : start + batch_size].any()
    ]


def run_pass(
    dataset: Dataset,
    extractor: Extractor,
    sink: FeatureWriter,
    *,
    batch_size: int,
    on_error: str,
    progress: Progress = SILENT,
    watch: Watch | None = None,
) -> tuple[int, PassTimes]:
    """Compute what the sink is missing and hand it over.

    Nothing is handed over of a batch with an image that has changed since `watch` began.

    Returns
    -------
    n_computed : int
        Images that were computed.
    times : PassTimes
        Where the time went.

    Raises
    ------
    ImageError
        When an image can't be read and `on_error` is ``stop``.
    HalfRangeError
        When a value does not fit the float16 that it is to be stored as.
    DatasetError
        When an image has changed.
    FeatstoreError
        When a value is not finite.
    """
    starts = batch_starts(sink.missing_rows(len(dataset)), batch_size)
    n_to_compute = sum(min(start + batch_size, len(dataset)) - start for start in starts)
    times = PassTimes()
    progress.start("Extracting", n_to_compute, "images")
    try:
        found = feature_batches(
            dataset, extractor, sink.dtypes, starts, batch_size, on_error, times
        )
        for batch, rows in found:
            if watch is not None:
                watch.check(_files_of(dataset, batch))
            waited_s = sink.wait_s
            sink.add(batch.start, rows, batch.masked)
            times.write_s += sink.wait_s - waited_s
            progress.advance(batch.stop - batch.start)
    except FeatstoreError:
        # What could not be read may have been half written just then: that is the cause to name.
        if watch is not None:
            watch.check()
        raise
    finally:
        progress.stop()
    return n_to_compute, times


def _files_of(dataset: Dataset, batch: Batch) -> Sequence[Path]:
    if isinstance(dataset, FileDataset):
        return dataset.paths[batch.start : batch.stop]
    return [path for _, path in dataset.files()]


def feature_batches(
    dataset: Dataset,
    extractor: Extractor,
    dtypes: Mapping[str, str],
    starts: Sequence[int],
    batch_size: int,
    on_error: str,
    times: PassTimes,
) -> Iterator[tuple[Batch, dict[str, np.ndarray]]]:
    """Yield the batches that begin at the given rows, each with its features by layer.

    As many are begun ahead as the extractor can have in flight, and one at a time of those that
    take much memory; `times` is added to. The features are as :func:`checked_rows` returns them,
    which see also for what is raised.
    """
    begun: deque[tuple[Batch, Callable[[], dict[str, np.ndarray]]]] = deque()

    def first() -> tuple[Batch, dict[str, np.ndarray]]:
        batch, finish = begun.popleft()
        started = time.perf_counter()
        rows = checked_rows(finish(), batch, dataset, dtypes)
        times.forward_s += time.perf_counter() - started
        return batch, rows

    images = batches(dataset, starts, batch_size, on_error, extractor.min_size)
    for batch in _timed(images, times):
        started = time.perf_counter()
        begun.append((batch, extractor.begin(batch)))
        times.preprocess_s += time.perf_counter() - started
        if len(begun) >= extractor.n_in_flight or batch.nbytes > AHEAD_NBYTES / 2:
            del batch
            yield first()
    while begun:
        yield first()


def _timed(source: Iterator[Batch], times: PassTimes) -> Iterator[Batch]:
    while True:
        began = time.perf_counter()
        batch = next(source, None)
        times.read_s += time.perf_counter() - began
        if batch is None:
            return
        yield batch


def checked_rows(
    features: Mapping[str, np.ndarray], batch: Batch, dataset: Dataset, dtypes: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """Return a batch's features by layer, the rows of masked images NaN.

    Parameters
    ----------
    features : mapping of str to ndarray of shape (k, n_features)
        float32, by layer.
    batch : Batch
        Which rows they are.
    dataset : Dataset
        That names the images.
    dtypes : mapping of str to str
        What each layer is stored as; layers that are not in it are left out.

    Raises
    ------
    HalfRangeError
        When float16 can't hold the features.
    FeatstoreError
        When any other value is not finite; it names layer and image.
    """
    rows = {}
    for layer, dtype in dtypes.items():
        block = features[layer]
        # NaN and infinity show in the sum of a row, and a sum is quicker than a look at each.
        with np.errstate(over="ignore", invalid="ignore"):
            suspect = not np.isfinite(block.sum())
        if suspect and not (finite := np.isfinite(block).all(axis=1)).all():
            row = batch.start + int(np.argmin(finite))
            raise FeatstoreError(
                f"Layer {layer} gives a value that is not finite for image "
                f"{dataset.sample_ids[row]}. If the precision is fp16 or bf16, extract with "
                "--precision fp32; else the weights are at fault."
            )
        if dtype == "float16" and (problem := _half_range_problem(block)):
            raise HalfRangeError(f"Layer {layer} gives {problem}. Use --dtype auto or float32.")
        if batch.masked:
            # It may be memory that something else shares.
            block = block.copy()
            block[[row - batch.start for row in batch.masked]] = np.nan
        rows[layer] = block
    return rows


def _half_range_problem(block: np.ndarray) -> str | None:
    """Return what float16 can't hold of a batch's features; None when it holds them.

    Single small values may vanish: beside larger ones of the same feature they are nothing. Where
    most features have no value of float16's full precision, the features themselves vanish.
    """
    largest = np.abs(block).max(axis=0)
    if largest.max() > HALF_MAX:
        return f"values beyond {HALF_MAX:.0f}, float16's largest"
    used = largest[largest > 0]
    if used.size and np.median(used) < HALF_TINY:
        return f"mostly values below {HALF_TINY:.0e}, from where on float16 loses digits"
    return None


@dataclass
class ExtractionJob:
    """What the passes over one feature set have in common.

    Parameters
    ----------
    config : ExtractConfig
        What was asked for.
    dataset : Dataset
        The images.
    feature_set : SetFolder
        Where the features go; the caller holds its lock.
    extractor : Extractor
        What computes them.
    asked : mapping of Layer to sequence of str
        Names by which layers were asked for.
    dtype : str
        What features are stored as, ``float32`` or ``float16``.
    request : dict
        By which the result is found when it is asked for again.
    command : str
        What to type to do the same.
    watch : Watch
        Of the dataset's files.
    run : callable, optional
        Does a pass in place of :func:`run_pass`.
    """

    config: ExtractConfig
    dataset: Dataset
    feature_set: SetFolder
    extractor: Extractor
    requested: Mapping[Layer, Sequence[str]]
    dtype: str
    request: dict[str, Any]
    command: str
    watch: Watch
    run: Callable[..., tuple[int, PassTimes]] | None = None

    def compute(
        self, layers: Sequence[Layer], progress: Progress = SILENT
    ) -> tuple[int, dict[str, float]]:
        """Compute whole layers: those begun before as they were begun, the others in one pass.

        Returns
        -------
        n_computed : int
            Images that were computed.
        times : dict of str to float
            Seconds of each phase, of getting ready as ``setup_s``, and of the passes, without
            that, as ``pass_s``.

        Raises
        ------
        DeviceError
            When a layer was begun on a device of another type.
        SpaceError
            When the disk can't hold the layers.
        """
        self._check_space(layers, progress)
        begun = self.feature_set.journal()
        groups: dict[str, list[Layer]] = {}
        for layer in layers:
            journal = begun.get(layer.stored_name(self.config.pool))
            numerics = journal.numerics.to_dict() if journal else None
            groups.setdefault(json.dumps(numerics), []).append(layer)
        n_computed, total, setup_s, pass_s = 0, PassTimes(), 0.0, 0.0
        for text, group in groups.items():
            started = time.perf_counter()
            numerics = self._open(group, json.loads(text), progress)
            opened = time.perf_counter()
            n, times = self._one_pass(group, numerics, progress)
            setup_s += opened - started
            pass_s += time.perf_counter() - opened
            n_computed += n
            total += times
        return n_computed, {**asdict(total), "setup_s": setup_s, "pass_s": pass_s}

    def _open(
        self, layers: Sequence[Layer], numerics: dict[str, Any] | None, progress: Progress
    ) -> dict[str, Any]:
        """Get the extractor ready, for a new pass or as one was begun.

        The numerics name the layers that were read together: they make the network's graph,
        and an engine may fuse it otherwise where more is read of it.
        """
        n_samples = len(self.dataset)
        if numerics is None:
            nodes = [layer.node for layer in layers]
            return {**self.extractor.open(layers, n_samples, None, progress), "nodes": nodes}
        if numerics["device"] != self.extractor.device_type:
            set_id, device = self.feature_set.set_id, numerics["device"]
            raise DeviceError(
                f"{set_id} was begun on {device}, and features computed on "
                f"{self.extractor.device_type} differ in their last bits. Go on with --device "
                f"{device}, or begin anew: featstore store rm {set_id}"
            )
        # What a journal may leave out, or have been edited to, must not lose a layer that is asked.
        nodes = list(dict.fromkeys([*numerics.get("nodes", ()), *(one.node for one in layers)]))
        numerics = {**numerics, "nodes": nodes}
        self.extractor.open(self.extractor.find(nodes), n_samples, numerics, progress)
        return numerics

    def _one_pass(
        self, layers: Sequence[Layer], numerics: dict[str, Any], progress: Progress
    ) -> tuple[int, PassTimes]:
        pool = self.config.pool
        for layer in layers:
            self.feature_set.begin_layer(
                layer.stored_name(pool),
                layer.n_features(pool),
                {"layer": layer.name, "node": layer.node, "pool": layer.pooled_by(pool)},
                self.dtype,
            )
        began = time.perf_counter()
        names = [layer.stored_name(pool) for layer in layers]
        n_samples = len(self.dataset)
        sink = FeatureWriter(self.feature_set, names, numerics, self.command)
        try:
            with sink:
                n_computed, times = (self.run or run_pass)(
                    self.dataset,
                    self.extractor,
                    sink,
                    batch_size=numerics["batch_size"],
                    on_error=self.config.on_error,
                    progress=progress,
                    watch=self.watch,
                )
        except KeyboardInterrupt:
            n_kept = n_samples - int(sink.missing_rows(n_samples).sum())
            progress.say(f"{n_kept:,} of {n_samples:,} rows of {', '.join(names)} are kept.")
            raise
        except HalfRangeError as error:
            if self.config.dtype != "auto":
                raise
            progress.say(f"{error} Beginning anew in float32.")
            self.feature_set.drop_layers(names)
            self.dtype = "float32"
            return self._one_pass(layers, numerics, progress)
        shared = self._provenance(sink, n_computed, time.perf_counter() - began)
        records = {
            name: shared | self._names(layer) | {"dtype": sink.dtypes[name]}
            for name, layer in zip(names, layers, strict=True)
        }
        sink.finish(records)
        return n_computed, times

    def _names(self, layer: Layer) -> dict[str, Any]:
        pool = self.config.pool
        return {
            "layer": layer.name,
            "node": layer.node,
            "names": list(dict.fromkeys([*layer.names, *self.requested.get(layer, ())])),
            "default": layer.default,
            "pool": layer.pooled_by(pool),
            "shape": list(layer.shape),
            "n_features": layer.n_features(pool),
        }

    def _provenance(
        self, sink: FeatureWriter, n_computed: int, duration_s: float
    ) -> dict[str, Any]:
        ids = self.dataset.sample_ids if sink.masked else ()
        return {
            "request": self.request,
            "masked": [
                {"row": row, "sample_id": str(ids[row]), "error": cause}
                for row, cause in sorted(sink.masked.items())
            ],
            "completed": now(),
            "command": self.command,
            "n_computed": n_computed,
            "duration_s": round(duration_s, 3),
            "device": self.extractor.device_name,
            "versions": versions(),
            "machine": machine(),
        }

    def _check_space(self, layers: Sequence[Layer], progress: Progress) -> None:
        if not layers:
            return
        n_features = sum(layer.n_features(self.config.pool) for layer in layers)
        nbytes = n_features * len(self.dataset) * np.dtype(self.dtype).itemsize
        free_nbytes = shutil.disk_usage(self.feature_set.path).free
        size = f"{len(self.dataset):,} rows of {n_features:,} features are {nbytes_text(nbytes)}"
        if nbytes > free_nbytes:
            raise SpaceError(
                f"{size}, and {nbytes_text(free_nbytes)} are free at {self.feature_set.path}. Pool "
                "the maps (--pool avg), take fewer --layers or a --limit, or a --store on a larger "
                "disk."
            )
        progress.say(f"{size} before compression; computing on {self.extractor.device_name}.")
