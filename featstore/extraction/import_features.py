"""Bring features that were computed elsewhere into a store, with labels and splits."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.datasets.formats.given import GivenRows
from featstore.datasets.image_files import LeftOut
from featstore.environment import machine, now, versions
from featstore.errors import ConfigError, DatasetError
from featstore.extraction.feature_files import FeatureTable, open_features, table_of
from featstore.extraction.label_files import read_columns
from featstore.extraction.result import Extraction, summarize
from featstore.io.files import file_sha256, json_digest, with_resume_hint
from featstore.progress import Progress
from featstore.progress_bars import IN_NOTEBOOKS
from featstore.store.creation import create_set
from featstore.store.feature_set import FeatureSet
from featstore.store.feature_store import FeatureStore, open_store
from featstore.store.format.set_schema import IMPORTED
from featstore.store.removal import remove_layers
from featstore.store.writer import FeatureWriter

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

LAYER = "features"
"""The one layer of imported features."""


NUMERICS = {"device": IMPORTED, "engine": IMPORTED, "batch_size": 1}


def import_features(
    name: str,
    features: str | Path | ArrayLike,
    *,
    labels: Any = None,
    sample_ids: str | Path | Sequence[str] | None = None,
    splits: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    task: str | None = None,
    model: str | None = None,
    array: str | None = None,
    seed: int = 0,
    store: str | Path | FeatureStore | None = None,
    progress: Progress = IN_NOTEBOOKS,
) -> Extraction:
    """Make a feature set of features that were computed elsewhere.

    Two imports with the same ids, labels and splits are features of the same dataset: they can be
    compared, and stand side by side in one fit.

    Parameters
    ----------
    name : str
        The dataset's name in the store.
    features : str, Path or array-like
        A file ``.npy``, ``.npz``, ``.parquet`` or Zarr, or (n_samples, n_features) numbers. A row
        without any number (all NaN) is masked.
    labels : str, Path or array-like, optional
        Class of each row; or a file: ``.npy``, ``.txt`` with one a line, or a table ``.csv``,
        ``.tsv`` or ``.parquet`` with a column ``label``, and if it likes ``id``, ``split`` and
        ``group``. By default those in the features' own file.
    sample_ids : str, Path or sequence of str, optional
        Unique names of the rows, or a file ``.npy`` or ``.txt`` of them. A table of labels with a
        column ``id`` is matched by them.
    splits : sequence of str, optional
        ``train``, ``test`` or ``val`` of each row; by default, 70 % of each class are drawn for
        training, whole groups if there are groups.
    groups : sequence, optional
        Group of each row, such as its scene.
    task : str, optional
        ``classification``, ``multilabel`` or ``regression``; by default a label that is a list, or
        text with semicolons, is several classes, and any other one class.
    model : str, optional
        The name of what computed the features; by default that of the file.
    array : str, optional
        The array or column that holds the features, in a file of several.
    seed : int
        Seeds the split.
    store : str, Path or FeatureStore, optional
        The feature store.
    progress : Progress

    Returns
    -------
    Extraction
        The set; ``n_computed`` is 0 if the store had it already.

    Raises
    ------
    DatasetError
        When a file can't be read, or its content does not fit.
    ConfigError
        When a name is missing.
    """
    started = time.perf_counter()
    is_file = isinstance(features, str | Path)
    table = open_features(features, array) if is_file else table_of(features)  # type: ignore[arg-type]
    model = model or (Path(str(features)).stem if is_file else "")
    if not name or not model:
        raise ConfigError("Give the dataset a name, and features in memory a model's name.")
    if wrong := [word for word in (name, model) if set(word) & set("/,\\")]:
        raise ConfigError(f"{wrong[0]!r} is no name: leave out slashes and commas.")
    columns = read_columns(table, labels, sample_ids, splits, groups)
    rows = GivenRows(
        name,
        columns["id"],
        columns.get("label"),
        columns.get("split"),
        columns.get("group"),
        seed,
        task,
    )
    opened = open_store(store, progress)
    made = _Import(table, rows, model, _content_sha256(features, table))
    with with_resume_hint(opened.path, made.command):
        identity = made.identity
        with opened.backend.working_on(opened.set_id(identity), progress):
            feature_set = opened.find(identity) or made.create(opened, progress)
            n_computed = 0
            if not feature_set.layer_path(LAYER).is_file():
                made.write(feature_set, progress)
                n_computed = len(rows.sample_ids)
            opened.backend.push_set(feature_set, progress, held=True)
        return summarize(feature_set, [LAYER], started, LeftOut(), n_computed)


@dataclass(frozen=True)
class _Import:
    """Features to be stored, their rows, and what identifies them."""

    table: FeatureTable
    rows: GivenRows
    model: str
    sha256: str

    @property
    def command(self) -> str:
        """The call that makes the same set."""
        return f"featstore.import_features({self.rows.title!r}, {self.table.name!r}, ...)"

    @property
    def dtype(self) -> str:
        """What the features are stored as."""
        return "float16" if self.table.dtype == np.float16 else "float32"

    @property
    def identity(self) -> dict[str, Any]:
        """What identifies the feature set."""
        precision = "fp16" if self.dtype == "float16" else "fp32"
        backbone = {"weights": self.sha256, "precision": precision, "dtype": self.dtype}
        return {
            "key": {
                "dataset": self.fingerprint,
                "name": self.rows.title,
                "model": self.model,
                **backbone,
            },
            "facets": {
                "dataset": IMPORTED,
                "title": self.rows.title,
                "model": self.model,
                "weights": IMPORTED,
                "weights_names": [IMPORTED, self.sha256],
                "bands": "",
                "image_size": None,
                "precision": precision,
                "dtype": self.dtype,
                "limit": None,
                "seed": self.rows.seed,
            },
        }

    @cached_property
    def fingerprint(self) -> str:
        """Digest of ids, labels and splits: the dataset, whatever its features are."""
        return json_digest(self.rows.identity())

    def create(self, store: FeatureStore, progress: Progress) -> FeatureSet:
        """Create the set without its layer."""
        progress.say(f"Storing {self.table.shape[0]:,} rows of {self.table.shape[1]:,} features.")
        if columns := self.table.feature_columns:
            shown = columns if len(columns) < 7 else [*columns[:3], "...", *columns[-2:]]
            progress.say(
                f"The features are the columns {', '.join(shown)}. Choose others by a pattern, "
                "such as --array 'A*'."
            )
        rows, facets = self.rows, self.identity["facets"]
        record = {
            "identity": self.identity,
            "dataset": {
                "n_samples": len(rows.sample_ids),
                "class_names": list(rows.class_names),
                "fingerprint": self.fingerprint,
                "identity": rows.identity(),
                "task": rows.task,
                "target_names": list(rows.target_names),
                "group_by": rows.group_by,
            },
            "backbone": {
                "model": self.model,
                "weights": IMPORTED,
                "weights_name": Path(self.table.name).name,
                "weights_path": None,
                "weights_sha256": self.sha256,
                "precision": facets["precision"],
            },
            "preprocess": {"image_size": None, "bands": "", "resize": "none"},
            "command": self.command,
        }
        first: dict[bytes, int] = {}
        hashes = enumerate(self._checked_hashes())
        twins = np.array([first.setdefault(key, row) for row, key in hashes], np.int64)
        return create_set(
            store,
            record,
            rows.labels,
            rows.splits,
            rows.sample_ids,
            twins,
            groups=rows.groups,
            targets=rows.targets,
        )

    def _checked_hashes(self) -> Iterator[bytes]:
        """Yield the hash of each row; refuse rows before there is a set of them."""
        start = 0
        for block in self.table.float_blocks():
            self._masked(block, start)
            start += len(block)
            yield from (hashlib.blake2b(row, digest_size=16).digest() for row in block)

    def write(self, feature_set: FeatureSet, progress: Progress) -> None:
        """Write the features as the set's layer; one that was begun is begun again."""
        started, n_features = time.perf_counter(), self.table.shape[1]
        remove_layers(feature_set, feature_set.unfinished())
        feature_set.begin_layer(LAYER, n_features, {"layer": LAYER}, self.dtype)
        progress.start("Storing features", self.table.shape[0], "rows")
        try:
            with FeatureWriter(feature_set, [LAYER], NUMERICS, self.command) as writer:
                start = 0
                for block in self.table.float_blocks():
                    writer.add(start, {LAYER: block}, self._masked(block, start))
                    start += len(block)
                    progress.advance(len(block))
        finally:
            progress.stop()
        ids = self.rows.sample_ids
        writer.finish(
            {
                LAYER: {
                    "layer": LAYER,
                    "node": LAYER,
                    "names": [LAYER],
                    "default": True,
                    "pool": None,
                    "shape": [n_features],
                    "n_features": n_features,
                    "dtype": self.dtype,
                    "request": {"features": self.sha256},
                    "masked": [
                        {"row": row, "sample_id": ids[row], "error": cause}
                        for row, cause in sorted(writer.masked.items())
                    ],
                    "command": self.command,
                    "completed": now(),
                    "n_computed": 0,
                    "duration_s": round(time.perf_counter() - started, 3),
                    "device": IMPORTED,
                    "versions": versions(),
                    "machine": machine(),
                }
            }
        )

    def _masked(self, block: np.ndarray, start: int) -> dict[int, str]:
        """Return the rows without any number; refuse those that lack some."""
        is_finite = np.isfinite(block)
        empty = np.isnan(block).all(axis=1)
        if (partly := ~is_finite.all(axis=1) & ~empty).any():
            at = int(np.flatnonzero(partly)[0])
            column = int(np.flatnonzero(~is_finite[at])[0])
            name = self.rows.sample_ids[start + at]
            row = name if name == f"row {start + at}" else f"row {start + at} ({name})"
            raise DatasetError(
                f"{self.table.name}: {row} holds {block[at, column]} in column {column}. Fill such "
                "values, or the whole row with NaN to mask it."
            )
        return {start + int(at): "the row holds no features" for at in np.flatnonzero(empty)}


def _content_sha256(features: Any, table: FeatureTable) -> str:
    """Return the sha256 (hex) of a file, or of all values."""
    if isinstance(features, str | Path) and Path(features).is_file():
        return file_sha256(Path(features))
    digest = hashlib.sha256(str(table.shape).encode())
    for block in table.blocks():
        digest.update(np.ascontiguousarray(block).data)
    return digest.hexdigest()
