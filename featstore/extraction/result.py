"""Results of an extraction: records for the store, and a summary for the caller."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np

from featstore.config import SPLITS
from featstore.datasets.image_files import LeftOut
from featstore.environment import machine, now, versions
from featstore.extraction.spec import ExtractionSpec
from featstore.models.base import Layer
from featstore.store.feature_set import FeatureSet
from featstore.store.leaks import count_cut_groups, count_leaked
from featstore.store.writer import FeatureWriter
from featstore.text import duration_text

PHASES = {
    "files_s": "finding and hashing files",
    "open_s": "opening the model",
    "setup_s": "preparation",
    "read_s": "waiting for images",
    "preprocess_s": "copying and resizing",
    "forward_s": "arithmetic",
    "write_s": "waiting for the disk",
}
"""The phases of an extraction, in order, for people."""


BOTTLENECKS = {
    "files_s": "Finding and hashing the files took longest; files that stay are hashed once.",
    "open_s": "Opening the model took longest; its time does not grow with the number of images.",
    "mosaiks": "Drawing patches took longest; it reads training images, as many as --model "
    "mosaiks:FEATURES needs.",
    "setup_s": "Preparation took longest; its time does not grow with the number of images.",
    "read_s": "Reading and decoding images was slowest: more cores, or a faster disk, would help.",
    "preprocess_s": "Copying and resizing was slowest: images nearer to the network's size, or "
    "--device cuda, would help.",
    "forward_s": "The arithmetic was slowest, as it should be: a GPU, a smaller network or a "
    "smaller --image-size would help.",
    "numpy": "The arithmetic was slowest, as it should be: more cores would help.",
    "conv2d": "The arithmetic was slowest, as it should be: a GPU or fewer features would help.",
    "write_s": "Writing was slowest: --pool avg, fewer --layers, --dtype float16, or a faster disk "
    "for --store would help.",
}
"""Which phase was slowest, and what would help; of the arithmetic, by engine where it differs."""


ENGINE_HINT = "So would OpenVINO: pip install openvino."


@dataclass
class Extraction:
    """The result of an extraction.

    Parameters
    ----------
    path : str
        The Zarr group that holds the features, or its URL.
    set_id : str
        The feature set's name in the store.
    dataset, title : str
        The dataset's name, and its name for people, such as the folder's.
    model, weights : str
        Names of the model and of its weights.
    layers : list of str
        The requested layers' matrices.
    n_features : dict of str to int
        Columns of each matrix.
    n_images : int
        Rows.
    n_computed : int
        Images that this call computed.
    n_reused : int
        Rows that the store already had.
    n_masked : int
        Rows whose image can't be read.
    n_by_split : dict of str to int
        Rows of each split that has any.
    n_unlabelled : int
        Rows without a label.
    split : str
        How the images are divided: ``official split``, ``published split``, ``random split``, or
        ``grouped by`` a rule.
    n_leaked : int
        Rows of the test and val splits whose image is also, byte for byte, a training image.
    n_cut_groups : int
        Groups with images in the train split and in others.
    device : str
        Device that computed the features, for people.
    precision, dtype : str
        Precision of the arithmetic, and type of the stored features.
    engine : str
        ``eager``, ``inductor``, ``openvino``, ``numpy`` or ``conv2d``.
    batch_size : int
        Images in a batch.
    nbytes : int
        Bytes of the set on disk, or on object storage.
    duration_s : float
        Seconds of the whole call.
    images_per_s : float
        Images computed per second of the passes; 0 when none were.
    left_out : LeftOut
        Files and folders among the images that are no samples.
    times : dict of str to float
        Seconds of each phase.
    """

    path: str
    set_id: str
    dataset: str
    title: str
    model: str
    weights: str
    layers: list[str]
    n_features: dict[str, int]
    n_images: int
    n_computed: int
    n_reused: int
    n_masked: int
    n_by_split: dict[str, int]
    n_unlabelled: int
    split: str
    n_leaked: int
    n_cut_groups: int
    device: str
    precision: str
    dtype: str
    engine: str
    batch_size: int
    nbytes: int
    duration_s: float
    images_per_s: float
    left_out: LeftOut
    times: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON-able values."""
        return asdict(self) | {"left_out": self.left_out.to_dict()}

    @property
    def draws_patches(self) -> bool:
        """Whether opening the model is to draw patches of the training images."""
        return self.model.startswith("mosaiks")

    def shares_of_time(self) -> str:
        """Return the time of the whole call, and the share of each phase, as a sentence."""
        names = dict(PHASES)
        if self.draws_patches:
            names["open_s"] = "drawing patches"
        whole = sum(self.times.get(key, 0.0) for key in names) or 1.0
        shares = [f"{n} {100 * self.times.get(key, 0.0) / whole:.0f} %" for key, n in names.items()]
        return f"The whole took {duration_text(self.duration_s)}: {', '.join(shares)}."

    def bottleneck(self) -> str:
        """Return a sentence that names the slowest phase, and what would help."""
        slowest = max(PHASES, key=lambda name: self.times.get(name, 0.0))
        if slowest == "open_s" and self.draws_patches:
            return BOTTLENECKS["mosaiks"]
        if slowest == "forward_s" and self.engine in BOTTLENECKS:
            return BOTTLENECKS[self.engine]
        if slowest == "forward_s" and self.device.startswith("cpu") and not find_spec("openvino"):
            return f"{BOTTLENECKS[slowest]} {ENGINE_HINT}"
        return BOTTLENECKS[slowest]


def summarize(
    feature_set: FeatureSet,
    layers: Sequence[str],
    started: float,
    left_out: LeftOut,
    n_computed: int = 0,
    times: Mapping[str, float] | None = None,
) -> Extraction:
    """Return the result of an extraction that began at `started`, as time.perf_counter() gave it.

    `times` holds the seconds of each phase, and ``pass_s`` for the passes without preparation.
    """
    times = times or {}
    records = [feature_set.layer(name) for name in layers]
    masked = {row for record in records for row in record.masked_rows}
    splits = feature_set.splits
    counts = np.bincount(splits, minlength=len(SPLITS))
    pass_s = times.get("pass_s", 0.0)
    facets, numerics = feature_set.facets, records[0].numerics
    return Extraction(
        path=feature_set.address,
        set_id=feature_set.set_id,
        dataset=facets.dataset,
        title=facets.title,
        model=facets.model,
        weights=facets.weights,
        layers=list(layers),
        n_features={name: r.n_features for name, r in zip(layers, records, strict=True)},
        n_images=feature_set.n_samples,
        n_computed=n_computed,
        # Layers that were begun separately are computed separately: n_computed may exceed the rows.
        n_reused=max(0, feature_set.n_samples - n_computed),
        n_masked=len(masked),
        n_by_split={name: n for name, n in zip(SPLITS, counts.tolist(), strict=True) if n},
        n_unlabelled=_count_unlabelled(feature_set),
        split=feature_set.info.dataset.split_text(),
        n_leaked=count_leaked(feature_set.first_rows, splits, masked),
        n_cut_groups=count_cut_groups(
            feature_set.groups, np.flatnonzero(splits == 0), np.flatnonzero(splits)
        ),
        device=records[0].device,
        precision=facets.precision,
        dtype=records[0].dtype,
        engine=numerics.engine,
        batch_size=numerics.batch_size,
        nbytes=feature_set.nbytes,
        duration_s=round(time.perf_counter() - started, 3),
        images_per_s=round(n_computed / pass_s, 2) if pass_s else 0.0,
        left_out=left_out,
        times={name: round(seconds, 3) for name, seconds in times.items()},
    )


def _count_unlabelled(feature_set: FeatureSet) -> int:
    """Count the rows without a class or number."""
    targets = feature_set.targets
    lacks = feature_set.labels < 0 if targets is None else np.isnan(targets).all(axis=1)
    return int(lacks.sum())


def pass_record(
    spec: ExtractionSpec, writer: FeatureWriter, n_computed: int, duration_s: float
) -> dict[str, Any]:
    """Return what all layers of a pass record of it."""
    ids = spec.images.dataset.sample_ids if writer.masked else ()
    return {
        "request": spec.request,
        "masked": [
            {"row": row, "sample_id": str(ids[row]), "error": cause}
            for row, cause in sorted(writer.masked.items())
        ],
        "completed": now(),
        "command": spec.command,
        "n_computed": n_computed,
        "duration_s": round(duration_s, 3),
        "device": spec.model.extractor.device_name,
        "versions": versions(),
        "machine": machine(),
    }


def layer_record(spec: ExtractionSpec, layer: Layer) -> dict[str, Any]:
    """Return what one layer records of itself."""
    pool = spec.config.pool
    return {
        "layer": layer.name,
        "node": layer.node,
        "names": list(dict.fromkeys([*layer.names, *spec.model.layers.get(layer, ())])),
        "default": layer.default,
        "pool": layer.pooled_by(pool),
        "is_own_pool": layer.pooled_by(pool) == layer.pooled_by("auto"),
        "shape": list(layer.shape),
        "n_features": layer.n_features(pool),
    }
