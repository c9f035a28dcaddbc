"""Passes: the stage-one loop, images in and features out, each phase timed.

``loader -> preprocess -> backbone -> sink``
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch

from featstore.backbones import Backbone, Layer, find_layers
from featstore.config import ExtractConfig
from featstore.datasets.base import Dataset
from featstore.devices import default_batch_size, describe_device, make_deterministic
from featstore.errors import DeviceError, FeatstoreError, SpaceError
from featstore.featureset import FeatureSet
from featstore.loaders import Batch, batches
from featstore.preprocess import Preprocess
from featstore.progress import SILENT, Progress, nbytes_text
from featstore.provenance import machine, now, versions
from featstore.sink import Sink
from featstore.weights import Weights


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
    preprocess: Preprocess,
    backbone: Backbone,
    sink: Sink,
    *,
    batch_size: int,
    on_error: str,
    progress: Progress = SILENT,
) -> tuple[int, PassTimes]:
    """Compute what the sink is missing and hand it over.

    Returns
    -------
    n_computed : int
        Images that went through the network.
    times : PassTimes
        Where the time went.

    Raises
    ------
    ImageError
        When an image can't be read and `on_error` is ``stop``.
    FeatstoreError
        When the network gives a number that is not finite.
    """
    starts = batch_starts(sink.missing_rows(len(dataset)), batch_size)
    n_to_compute = sum(min(start + batch_size, len(dataset)) - start for start in starts)
    times = PassTimes()
    progress.start("Extracting", n_to_compute, "images")
    try:
        for batch in _timed(batches(dataset, starts, batch_size, on_error), times):
            began = time.perf_counter()
            images = preprocess(batch.groups, batch_size, backbone.device)
            seen = time.perf_counter()
            features = to_rows(backbone(images), batch, dataset)
            done = time.perf_counter()
            waited_s = sink.wait_s
            sink.add(batch.start, features, batch.masked)
            times.preprocess_s += seen - began
            times.forward_s += done - seen
            times.write_s += sink.wait_s - waited_s
            progress.advance(batch.stop - batch.start)
    finally:
        progress.stop()
    return n_to_compute, times


def _timed(source: Iterator[Batch], times: PassTimes) -> Iterator[Batch]:
    while True:
        began = time.perf_counter()
        batch = next(source, None)
        times.read_s += time.perf_counter() - began
        if batch is None:
            return
        yield batch


def to_rows(
    features: dict[str, torch.Tensor], batch: Batch, dataset: Dataset
) -> dict[str, np.ndarray]:
    """Return a batch's features in the main memory, each (k, n_features) float32.

    The rows of masked images are NaN.

    Raises
    ------
    FeatstoreError
        When any other value is not finite; it names layer and image.
    """
    n_rows = batch.stop - batch.start
    rows = {layer: tensor[:n_rows].cpu().numpy() for layer, tensor in features.items()}
    for layer, block in rows.items():
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            row = batch.start + int(np.argmin(finite))
            raise FeatstoreError(
                f"Layer {layer} gives a value that is not finite for image "
                f"{dataset.sample_ids[row]}. If the precision is fp16 or bf16, extract with "
                "--precision fp32; else the weights are at fault."
            )
        block[[row - batch.start for row in batch.masked]] = np.nan
    return rows


@dataclass
class Work:
    """What the passes over one feature set have in common.

    Parameters
    ----------
    config : ExtractConfig
        What was asked for.
    dataset : Dataset
        The images.
    feature_set : FeatureSet
        Where the features go; the caller holds its lock.
    weights : Weights
        The network's.
    preprocess : Preprocess
        The images' way to the network.
    precision : str
        ``fp32``, ``bf16`` or ``fp16``.
    device : torch.device
        Where to compute.
    request : dict
        By which the result is found when it is asked for again.
    command : str
        What to type to do the same.
    """

    config: ExtractConfig
    dataset: Dataset
    feature_set: FeatureSet
    weights: Weights
    preprocess: Preprocess
    precision: str
    device: torch.device
    request: dict[str, Any]
    command: str

    def compute(
        self, layers: Sequence[Layer], progress: Progress = SILENT
    ) -> tuple[int, dict[str, float]]:
        """Compute whole layers: those begun before as they were begun, the others in one pass.

        Returns
        -------
        n_computed : int
            Images that went through the network.
        times : dict of str to float
            Seconds of each phase, and of the passes as ``pass_s``.

        Raises
        ------
        DeviceError
            When a layer was begun on a device of another type.
        SpaceError
            When the disk can't hold the layers.
        """
        self._check_space(layers, progress)
        begun = self.feature_set.journal()
        groups: dict[tuple[str, int], list[Layer]] = {}
        for layer in layers:
            journal = begun.get(layer.stored_name(self.config.pool), {})
            conditions = journal.get("conditions") or self._conditions()
            groups.setdefault((conditions["device"], conditions["batch_size"]), []).append(layer)
        n_computed, total = 0, PassTimes()
        began = time.perf_counter()
        for (device_type, batch_size), group in groups.items():
            if device_type != self.device.type:
                raise DeviceError(
                    f"{self.feature_set.set_id} was begun on {device_type}, and features computed "
                    f"on {self.device.type} differ in their last bits. Go on with --device "
                    f"{device_type}, or begin anew: featstore store rm {self.feature_set.set_id}"
                )
            n, times = self._one_pass(group, batch_size, progress)
            n_computed += n
            total += times
        return n_computed, {**asdict(total), "pass_s": time.perf_counter() - began}

    def _conditions(self) -> dict[str, Any]:
        chosen = default_batch_size(self.device, self.preprocess.image_size)
        # A batch is never larger than the dataset, whose rows it would only pad.
        batch_size = self.config.batch_size or min(chosen, len(self.dataset))
        return {"device": self.device.type, "batch_size": batch_size}

    def _one_pass(
        self, layers: Sequence[Layer], batch_size: int, progress: Progress
    ) -> tuple[int, PassTimes]:
        pool = self.config.pool
        make_deterministic(self.device)
        size = self.preprocess.image_size
        backbone = Backbone(
            self.config.model, self.weights, layers, size, pool, self.precision, self.device
        )
        for layer in layers:
            self.feature_set.begin_layer(
                layer.stored_name(pool),
                layer.n_features(pool),
                {"layer": layer.name, "node": layer.node, "pool": layer.pooled_by(pool)},
            )
        began = time.perf_counter()
        conditions = {"device": self.device.type, "batch_size": batch_size}
        names = [layer.stored_name(pool) for layer in layers]
        n_samples = len(self.dataset)
        sink = Sink(self.feature_set, names, conditions, self.command)
        try:
            with sink:
                n_computed, times = run_pass(
                    self.dataset,
                    self.preprocess,
                    backbone,
                    sink,
                    batch_size=batch_size,
                    on_error=self.config.on_error,
                    progress=progress,
                )
        except KeyboardInterrupt:
            n_kept = n_samples - int(sink.missing_rows(n_samples).sum())
            progress.say(f"{n_kept:,} of {n_samples:,} rows of {', '.join(names)} are kept.")
            raise
        shared = self._provenance(sink, n_computed, time.perf_counter() - began)
        sink.finish({layer.stored_name(pool): shared | self._names(layer) for layer in layers})
        return n_computed, times

    def _names(self, layer: Layer) -> dict[str, Any]:
        pool, size = self.config.pool, self.preprocess.image_size
        asked = [
            name
            for name in self.config.layers
            if find_layers(self.config.model, [name], size)[0] == layer
        ]
        return {
            "layer": layer.name,
            "node": layer.node,
            "names": list(dict.fromkeys([*layer.names, *asked])),
            "default": layer.default,
            "pool": layer.pooled_by(pool),
            "shape": list(layer.shape),
            "n_features": layer.n_features(pool),
        }

    def _provenance(self, sink: Sink, n_computed: int, duration_s: float) -> dict[str, Any]:
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
            "device": describe_device(self.device),
            "versions": versions(),
            "machine": machine(),
        }

    def _check_space(self, layers: Sequence[Layer], progress: Progress) -> None:
        if not layers:
            return
        n_features = sum(layer.n_features(self.config.pool) for layer in layers)
        nbytes = n_features * len(self.dataset) * 4
        free_nbytes = shutil.disk_usage(self.feature_set.path).free
        size = f"{len(self.dataset):,} rows of {n_features:,} features are {nbytes_text(nbytes)}"
        if nbytes > free_nbytes:
            raise SpaceError(
                f"{size}, and {nbytes_text(free_nbytes)} are free at {self.feature_set.path}. Pool "
                "the maps (--pool avg), take fewer --layers or a --limit, or a --store on a larger "
                "disk."
            )
        progress.say(f"{size} before compression; computing on {describe_device(self.device)}.")
