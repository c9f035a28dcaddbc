"""Audits: whether every byte of a feature set is the one that was written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from featstore.errors import StoreError
from featstore.featureset import FeatureSet, mark_damaged
from featstore.files import file_sha256
from featstore.progress import SILENT, Progress


@dataclass(frozen=True)
class Damage:
    """One file that is not as it was written.

    Parameters
    ----------
    set_id : str
        The feature set.
    file : str
        The file, relative to the set's folder.
    problem : str
        What is wrong with it.
    layer : str or None
        The layer whose chunk it is; None for anything else.
    chunk : int or None
        The chunk's number.
    """

    set_id: str
    file: str
    problem: str
    layer: str | None = None
    chunk: int | None = None

    def __str__(self) -> str:
        return f"{self.set_id}: {self.file}: {self.problem}"


def verify(feature_set: FeatureSet, progress: Progress = SILENT) -> list[Damage]:
    """Compare every file of a set with the hash written when it was finished.

    Parameters
    ----------
    feature_set : FeatureSet
        The set; its unfinished layers are left out.
    progress : Progress
        Told of each file.

    Returns
    -------
    list of Damage
        All that is wrong; empty when the set is intact.
    """
    try:
        files = dict(feature_set.info["files"])
    except StoreError as error:
        return [Damage(feature_set.set_id, "set.json", str(error))]
    found: list[Damage] = []
    layers = [path.stem for path in sorted((feature_set.path / "layers").glob("*.json"))]
    for layer in layers:
        try:
            files |= feature_set.layer(layer)["files"]
        except StoreError as error:
            found.append(Damage(feature_set.set_id, f"layers/{layer}.json", str(error)))
    progress.start(f"Verifying {feature_set.set_id}", len(files), "files")
    try:
        for name, sha256 in files.items():
            problem = _problem(feature_set, name, sha256)
            if problem:
                found.append(_damage(feature_set, name, problem))
            progress.advance(1)
    finally:
        progress.stop()
    return found + _strays(feature_set, files)


def _problem(feature_set: FeatureSet, name: str, sha256: str) -> str | None:
    path = feature_set.group / name
    if not path.is_file():
        return "the file is missing"
    try:
        actual = file_sha256(path)
    except OSError as error:
        return f"it can't be read ({error.strerror})"
    return None if actual == sha256 else "its bytes are not those that were written"


def _damage(feature_set: FeatureSet, name: str, problem: str) -> Damage:
    file = f"features.zarr/{name}"
    layer, _, rest = name.partition("/c/")
    if not rest or not feature_set.layer_path(layer).is_file():
        return Damage(feature_set.set_id, file, problem)
    chunk = int(rest.split("/")[0])
    try:
        start, stop = feature_set.matrix(layer).chunk_range(chunk)
    except StoreError:
        return Damage(feature_set.set_id, file, problem)
    problem = f"chunk {chunk} of {layer} (rows {start} to {stop - 1}): {problem}"
    return Damage(feature_set.set_id, file, problem, layer, chunk)


def _strays(feature_set: FeatureSet, files: Mapping[str, str]) -> list[Damage]:
    """Return files of finished layers that nobody wrote."""
    unfinished = set(feature_set.unfinished())
    return [
        Damage(feature_set.set_id, f"features.zarr/{name}", "featstore did not write this file")
        for path in sorted(feature_set.group.rglob("*"))
        if path.is_file()
        and (name := path.relative_to(feature_set.group).as_posix()) not in files
        and name.split("/")[0] not in unfinished
    ]


def schedule_repair(feature_set: FeatureSet, damages: list[Damage]) -> list[str]:
    """Mark damaged chunks, so that the next extract computes just them.

    Returns
    -------
    list of str
        Layers that are now unfinished.
    """
    chunks: dict[str, list[int]] = {}
    for damage in damages:
        if damage.layer is not None and damage.chunk is not None:
            chunks.setdefault(damage.layer, []).append(damage.chunk)
    mark_damaged(feature_set, chunks)
    return list(chunks)
