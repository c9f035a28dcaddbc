"""Create a feature set, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import filelock
import numpy as np

from featstore.config import SPLITS
from featstore.environment import now
from featstore.errors import DatasetError
from featstore.io.files import file_sha256, make_folder, sync_tree
from featstore.store.feature_set import FeatureSet
from featstore.store.feature_store import FeatureStore
from featstore.store.format import matrix
from featstore.store.format.array_schema import MAX_CHUNK_NBYTES, MAX_TEXT_NBYTES, VECTOR_ROWS
from featstore.store.format.fields import FORMAT
from featstore.store.format.set_schema import SetRecord
from featstore.store.removal import remove_draft, sync_and_sweep
from featstore.store.set_folder import DIGEST_LENGTH, SETS, SetFolder


def create_set(
    store: FeatureStore,
    info: Mapping[str, Any],
    labels: np.ndarray,
    splits: np.ndarray,
    sample_ids: Sequence[str],
    first_rows: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    targets: np.ndarray | None = None,
    places: np.ndarray | None = None,
) -> FeatureSet:
    """Create a feature set without layers; the caller holds its lock.

    `info` is the content of ``set.json``, with facets and key as ``info["identity"]``. The vectors
    are (n_samples,): int32, uint8, str, int64 and int32; `targets` are (n_samples, n_targets)
    float32.
    """
    facets, dataset = info["identity"]["facets"], info["dataset"]
    _check_lengths(facets["title"], sample_ids)
    set_id, folder = store.set_id(info["identity"]), store.path / SETS
    _sweep_drafts(store, set_id)
    draft = SetFolder(folder / f".new-{set_id}")
    remove_draft(draft.path)
    make_folder(draft.path)
    matrix.create_group(draft.group, {"featstore": {"format": FORMAT, **facets}})
    names = list(dataset["class_names"])
    matrix.create_vector(draft.group, "label", labels, {"class_names": names})
    matrix.create_vector(draft.group, "split", splits, {"split_names": list(SPLITS)})
    matrix.create_vector(draft.group, "sample_id", sample_ids, {})
    matrix.create_vector(draft.group, "first_row", first_rows, {})
    if groups is not None:
        matrix.create_vector(draft.group, "group", groups, {"group_by": dataset["group_by"]})
    if targets is not None:
        columns = list(dataset["target_names"])
        matrix.create_vector(draft.group, "target", targets, {"target_names": columns})
    if places is not None:
        about = {"place_names": ["scene", "row", "column"]}
        matrix.create_vector(draft.group, "place", places, about)
    sync_tree(draft.group)
    files = sorted(path for path in draft.group.rglob("*") if path.is_file())
    record = SetRecord.model_validate(
        {
            "format": FORMAT,
            "facets": facets,
            "key": info["identity"]["key"],
            **{k: v for k, v in info.items() if k != "identity"},
            "created": now("milliseconds"),
            "files": {p.relative_to(draft.group).as_posix(): file_sha256(p) for p in files},
        }
    )
    record.write(draft.path / "set.json")
    final = FeatureSet(folder / set_id, store.backend)
    draft.path.rename(final.path)
    sync_and_sweep(folder)
    return final


def _check_lengths(title: str, sample_ids: Sequence[str]) -> None:
    """Refuse sample ids that readers of the store would refuse."""
    nbytes = np.array([len(name.encode(errors="replace")) for name in sample_ids])
    if (longest := nbytes.max()) > MAX_TEXT_NBYTES:
        name = sample_ids[int(nbytes.argmax())]
        raise DatasetError(
            f"{title} has a sample id of {longest:,} bytes, {name[:40]!r}...; at most "
            f"{MAX_TEXT_NBYTES:,} are stored. Give its samples shorter ids."
        )
    # Each text of a chunk has its length before it, and a last chunk is filled with empty texts.
    texts = np.add.reduceat(nbytes, np.arange(0, len(nbytes), VECTOR_ROWS))
    if (most := texts.max() + 4 * (VECTOR_ROWS + 1)) > MAX_CHUNK_NBYTES:
        raise DatasetError(
            f"{title} has sample ids of {most:,} bytes in a chunk of {VECTOR_ROWS:,} rows; at most "
            f"{MAX_CHUNK_NBYTES:,} are stored. Give its samples shorter ids."
        )


def _sweep_drafts(store: FeatureStore, set_id: str) -> None:
    """Delete the drafts of killed processes; a living process holds the lock of its set."""
    for left in (store.path / SETS).glob(f".new-*-{'[0-9a-f]' * DIGEST_LENGTH}"):
        lock = store.backend.set_lock(left.name)
        if lock != store.backend.set_lock(set_id):
            with suppress(filelock.Timeout), filelock.FileLock(lock, timeout=0):
                remove_draft(left)
