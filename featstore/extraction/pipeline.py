"""The loop loader -> extractor -> writer, and the passes over one feature set."""

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

from featstore.datasets.base import Dataset, FileDataset
from featstore.datasets.loader import AHEAD_NBYTES, Batch, batches
from featstore.errors import DeviceError, FeatstoreError, ImageError, SpaceError
from featstore.extraction.checked_rows import HalfRangeError, checked_rows
from featstore.extraction.result import layer_record, pass_record
from featstore.extraction.spec import ExtractionSpec, Images
from featstore.models.base import Extractor, Layer
from featstore.progress import SILENT, Progress
from featstore.store.removal import remove_layers
from featstore.store.set_folder import SetFolder
from featstore.store.writer import FeatureWriter
from featstore.text import nbytes_text


@dataclass
class PassTimes:
    """The seconds of each phase of a pass, as the computing thread sees them."""

    read_s: float = 0.0
    """Waiting for images to be read and decoded."""
    preprocess_s: float = 0.0
    """Copying to the device, resizing, normalising."""
    forward_s: float = 0.0
    """The network, and copying the features back."""
    write_s: float = 0.0
    """Waiting for the disk."""

    def __add__(self, other: PassTimes) -> PassTimes:
        return PassTimes(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


RunPass = Callable[[Images, Extractor, FeatureWriter, str, Progress], tuple[int, PassTimes]]
"""The signature of :func:`run_pass`."""


def compute_layers(
    spec: ExtractionSpec,
    feature_set: SetFolder,
    progress: Progress = SILENT,
    run: RunPass | None = None,
) -> tuple[int, dict[str, float]]:
    """Compute the requested layers that are not complete; the caller holds the set's lock.

    A layer that was begun before resumes with the numerics it began with; all new layers are
    computed in one pass. `run` replaces :func:`run_pass`.

    Returns the number of images computed, and the seconds of each phase, of preparation as
    ``setup_s`` and of the passes without it as ``pass_s``.
    """
    layers = [
        layer
        for layer, name in zip(spec.model.layers, spec.layer_names, strict=True)
        if not feature_set.layer_path(name).is_file()
    ]
    dtype = spec.dtype
    if emptied := sorted({*feature_set.emptied(damaged=True)} & {*spec.layer_names}):
        progress.say(
            f"The files of {', '.join(emptied)} in {feature_set.set_id} are missing; "
            f"{'it is' if len(emptied) == 1 else 'they are'} begun again."
        )
        remove_layers(feature_set, emptied)
    _check_space(spec, feature_set, layers, dtype, progress)
    n_computed, total, setup_s, pass_s = 0, PassTimes(), 0.0, 0.0
    for begun, group in _by_numerics(spec, feature_set, layers):
        started = time.perf_counter()
        numerics = _open_extractor(spec, feature_set, group, begun, progress)
        opened = time.perf_counter()
        try:
            n, times = _write_layers(spec, feature_set, group, numerics, dtype, progress, run)
        except HalfRangeError as error:
            if spec.config.dtype != "auto":
                raise HalfRangeError(f"{error} Use --dtype auto or float32.") from None
            progress.say(f"{error} Starting again in float32.")
            remove_layers(feature_set, [layer.stored_name(spec.config.pool) for layer in group])
            dtype = "float32"
            n, times = _write_layers(spec, feature_set, group, numerics, dtype, progress, run)
        setup_s += opened - started
        pass_s += time.perf_counter() - opened
        n_computed += n
        total += times
    return n_computed, {**asdict(total), "setup_s": setup_s, "pass_s": pass_s}


def _check_space(
    spec: ExtractionSpec,
    feature_set: SetFolder,
    layers: Sequence[Layer],
    dtype: str,
    progress: Progress,
) -> None:
    if not layers:
        return
    n_samples = len(spec.images.dataset)
    n_features = sum(layer.n_features(spec.config.pool) for layer in layers)
    nbytes = n_features * n_samples * np.dtype(dtype).itemsize
    free_nbytes = shutil.disk_usage(feature_set.path).free
    size = f"{n_samples:,} rows of {n_features:,} features are {nbytes_text(nbytes)}"
    if nbytes > free_nbytes:
        raise SpaceError(
            f"{size}, and {nbytes_text(free_nbytes)} are free at {feature_set.path}. Pool the maps "
            "(--pool avg), use fewer --layers or a --limit, or a --store on a larger disk."
        )
    progress.say(f"{size} before compression; computing on {spec.model.extractor.device_name}.")


def _by_numerics(
    spec: ExtractionSpec, feature_set: SetFolder, layers: Sequence[Layer]
) -> list[tuple[dict[str, Any] | None, list[Layer]]]:
    """Group layers by the numerics that they began with; None for new layers."""
    journal = feature_set.journal()
    groups: dict[str, list[Layer]] = {}
    for layer in layers:
        begun = journal.get(layer.stored_name(spec.config.pool))
        numerics = begun.numerics.to_dict() if begun else None
        groups.setdefault(json.dumps(numerics), []).append(layer)
    return [(json.loads(text), group) for text, group in groups.items()]


def _open_extractor(
    spec: ExtractionSpec,
    feature_set: SetFolder,
    layers: Sequence[Layer],
    begun: dict[str, Any] | None,
    progress: Progress,
) -> dict[str, Any]:
    """Prepare the extractor for a new pass, or for one that was begun; return its numerics.

    The numerics name all layers that are read together: they decide the network's graph, and an
    engine may fuse the graph differently where more of it is read.
    """
    extractor, n_samples = spec.model.extractor, len(spec.images.dataset)
    nodes = [layer.node for layer in layers]
    if begun is None:
        return {**extractor.open(layers, n_samples, None, progress), "nodes": nodes}
    if begun["device"] != extractor.device_type:
        set_id, device = feature_set.set_id, begun["device"]
        raise DeviceError(
            f"{set_id} was begun on {device}, and features computed on {extractor.device_type} "
            f"differ in their last bits. Continue with --device {device}, or start again: "
            f"featstore store rm {set_id}"
        )
    # An edited journal that names fewer nodes must not lose a requested layer.
    numerics = {**begun, "nodes": list(dict.fromkeys([*begun.get("nodes", ()), *nodes]))}
    extractor.open(extractor.find(numerics["nodes"]), n_samples, numerics, progress)
    return numerics


def _write_layers(
    spec: ExtractionSpec,
    feature_set: SetFolder,
    layers: Sequence[Layer],
    numerics: dict[str, Any],
    dtype: str,
    progress: Progress,
    run: RunPass | None,
) -> tuple[int, PassTimes]:
    """Compute and write whole layers in one pass, and declare them complete."""
    pool, n_samples = spec.config.pool, len(spec.images.dataset)
    names = [layer.stored_name(pool) for layer in layers]
    for name, layer in zip(names, layers, strict=True):
        attributes = {"layer": layer.name, "node": layer.node, "pool": layer.pooled_by(pool)}
        feature_set.begin_layer(name, layer.n_features(pool), attributes, dtype)
    started = time.perf_counter()
    writer = FeatureWriter(feature_set, names, numerics, spec.command)
    try:
        with writer:
            n_computed, times = (run or run_pass)(
                spec.images, spec.model.extractor, writer, spec.config.on_error, progress
            )
    except KeyboardInterrupt:
        n_kept = n_samples - int(writer.missing_rows(n_samples).sum())
        progress.say(f"{n_kept:,} of {n_samples:,} rows of {', '.join(names)} are kept.")
        raise
    shared = pass_record(spec, writer, n_computed, time.perf_counter() - started)
    writer.finish(
        {
            name: shared | layer_record(spec, layer) | {"dtype": writer.dtypes[name]}
            for name, layer in zip(names, layers, strict=True)
        }
    )
    return n_computed, times


def run_pass(
    images: Images,
    extractor: Extractor,
    writer: FeatureWriter,
    on_error: str,
    progress: Progress = SILENT,
) -> tuple[int, PassTimes]:
    """Compute the rows that the writer is missing, and give them to it.

    The writer gets no batch with an image that has changed since the watch began: that raises
    DatasetError. An unreadable image raises ImageError where `on_error` is ``stop``; a value that
    its type can't hold raises what :func:`checked_rows` does. Returns the number of images
    computed, and the times.
    """
    dataset, batch_size = images.dataset, writer.numerics.batch_size
    starts = batch_starts(writer.missing_rows(len(dataset)), batch_size)
    n_to_compute = sum(min(start + batch_size, len(dataset)) - start for start in starts)
    times = PassTimes()
    progress.start("Extracting", n_to_compute, "images")
    try:
        for batch, rows in feature_batches(
            dataset, extractor, writer.dtypes, starts, batch_size, on_error, times
        ):
            images.watch.check(_files_of(dataset, batch))
            waited_s = writer.wait_s
            writer.add(batch.start, rows, batch.masked)
            times.write_s += writer.wait_s - waited_s
            progress.advance(batch.stop - batch.start)
    except FeatstoreError as error:
        # A file that is being written can't be read: name the change, which is the cause.
        images.watch.check()
        if isinstance(error, ImageError) and on_error == "stop":
            raise ImageError(
                f"{error} To go on without such images, their rows masked: --on-error mask."
            ) from error
        raise
    finally:
        progress.stop()
    return n_to_compute, times


def _files_of(dataset: Dataset, batch: Batch) -> Sequence[str | Path]:
    if isinstance(dataset, FileDataset):
        return dataset.files_of(batch.start, batch.stop)
    return [path for _, path in dataset.files()]


def batch_starts(missing: np.ndarray, batch_size: int) -> list[int]:
    """Return the first rows of the batches that hold a missing row.

    `missing` is (n_samples,) bool. Batches begin at multiples of their size, so that a resumed
    pass computes each row in the same batch as an unbroken one.
    """
    return [
        start
        for start in range(0, len(missing), batch_size)
        if missing[start : start + batch_size].any()
    ]


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

    Several batches are in flight, as the extractor allows, or one where a batch takes much memory.
    The features are those of :func:`checked_rows`; the seconds are added to `times`.
    """
    begun: deque[tuple[Batch, Callable[[], dict[str, np.ndarray]]]] = deque()

    def finish_first() -> tuple[Batch, dict[str, np.ndarray]]:
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
            yield finish_first()
    while begun:
        yield finish_first()


def _timed(source: Iterator[Batch], times: PassTimes) -> Iterator[Batch]:
    while True:
        started = time.perf_counter()
        batch = next(source, None)
        times.read_s += time.perf_counter() - started
        if batch is None:
            return
        yield batch
