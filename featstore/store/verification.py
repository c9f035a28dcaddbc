"""Compare every byte of feature sets with its hash, and mark damaged chunks for repair."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from featstore.errors import SelectionError, StoreError
from featstore.progress import SILENT, Progress
from featstore.store.feature_set import FeatureSet
from featstore.store.feature_store import FeatureStore, find_set
from featstore.store.format.layer_schema import LayerRecord
from featstore.store.set_folder import GROUP, JOURNAL_FILE, SETS

EMPTIED = "all files of the unfinished layer are missing"
"""What is wrong with a layer of :meth:`.SetFolder.emptied`."""


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
        The layer whose matrix it belongs to; None for anything else.
    chunk : int or None
        The chunk's number; None for the matrix's metadata.
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

    Other processes may finish layers, repair chunks or remove the set meanwhile. Files that seem
    damaged are therefore read a second time, and compared with the records of that moment.

    Parameters
    ----------
    feature_set : FeatureSet
        The set; its unfinished layers are left out.
    progress : Progress
        Advanced by each file.

    Returns
    -------
    list of Damage
        The damages; empty if the set is intact.
    """
    found = _look(feature_set, progress)
    return _still_wrong(feature_set, found)


def _still_wrong(feature_set: FeatureSet, damages: Collection[Damage]) -> list[Damage]:
    """Read damaged files again; return the damages that remain."""
    if damages:
        feature_set.backend.pull("sets", now=True)
    if not damages or not feature_set.path.exists():
        return []
    files = {damage.file for damage in damages}
    # The set keeps its records in memory; a new object reads them again.
    again = FeatureSet(feature_set.path, feature_set.backend)
    return [damage for damage in _look(again, only=files) if damage.file in files]


@dataclass(frozen=True)
class _Part:
    """The files of one record: the set's, or a complete layer's."""

    record: str
    layer: str | None
    upload: str | None
    files: Mapping[str, str]
    copies: Mapping[str, str] = field(default_factory=dict)
    """The set's files beside a layer of a later upload, which make its group whole."""


def _look(
    feature_set: FeatureSet, progress: Progress = SILENT, only: Collection[str] | None = None
) -> list[Damage]:
    """Return the damages of all files, or of the files named in `only`."""
    set_id = feature_set.set_id
    try:
        info = feature_set.info
    except StoreError as error:
        return [Damage(set_id, "set.json", str(error))]
    parts = [_Part(feature_set.record_name, None, info.folder, info.files)]
    found: list[Damage] = []
    arrays: dict[str, LayerRecord | None] = dict.fromkeys(info.dataset.vectors)
    for layer in [path.stem for path in sorted((feature_set.path / "layers").glob("*.json"))]:
        try:
            record = arrays[layer] = feature_set.layer(layer)
        except (StoreError, SelectionError) as error:
            found.append(Damage(set_id, f"layers/{layer}.json", str(error)))
            continue
        copies = info.files if record.folder not in (None, info.folder) else {}
        name = feature_set.layer_record_name(layer)
        parts.append(_Part(name, layer, record.folder, record.files, copies))
    try:
        feature_set.journal()
        is_journal_read = True
    except StoreError as error:
        found.append(Damage(set_id, JOURNAL_FILE, str(error)))
        is_journal_read = False
    progress.start(f"Verifying {set_id}", sum(len(p.files) + len(p.copies) for p in parts), "files")
    try:
        for part in parts:
            found += _damages(feature_set, part, progress, only)
    finally:
        progress.stop()
    changed = {damage.file for damage in found}
    for name, own in arrays.items():
        if f"{GROUP}/{name}/zarr.json" not in changed:
            found += _unsafe(feature_set, name, own, changed)
    # Only the journal names layers that are unfinished, or damaged and marked.
    if is_journal_read:
        found += _lost_layers(feature_set) + _strays(feature_set, parts)
    return found


def _damages(
    feature_set: FeatureSet, part: _Part, progress: Progress, only: Collection[str] | None
) -> Iterator[Damage]:
    """Yield the damages of a record's files, or of those named in `only`."""
    for files, folder in ((part.files, GROUP), (part.copies, f"{part.upload}/{GROUP}")):
        wanted = {k: v for k, v in files.items() if only is None or f"{folder}/{k}" in only}
        for name, problem in feature_set.backend.problems(
            part.record, feature_set.place, wanted, part.upload
        ):
            if problem:
                yield _damage(feature_set, part.layer, f"{folder}/{name}", problem)
            progress.advance(1)


def _unsafe(
    feature_set: FeatureSet, array: str, record: LayerRecord | None, known: Collection[str]
) -> list[Damage]:
    """Return files that are as their record says, but that featstore did not write."""
    return [
        # No extract writes such metadata again as the record says: the set must be removed.
        Damage(feature_set.set_id, f"{GROUP}/{file}", problem)
        if record is None or file.endswith("/zarr.json")
        else _damage(feature_set, array, f"{GROUP}/{file}", problem)
        for file, problem in feature_set.unsafe_files(array, record)
        if f"{GROUP}/{file}" not in known
    ]


def _lost_layers(feature_set: FeatureSet) -> list[Damage]:
    """Return layers with rows and without a record or journal, and those with a journal alone.

    A journal is written before the first row, so the record of the former was lost.
    """
    journal = feature_set.journal()
    return [
        Damage(
            feature_set.set_id,
            f"layers/{layer}.json",
            "the file is missing, and there is no journal of an unfinished pass",
        )
        for layer in feature_set.unfinished()
        if layer not in journal and any((feature_set.group / layer).glob("c/*/*"))
    ] + [Damage(feature_set.set_id, f"{GROUP}/{layer}", EMPTIED) for layer in feature_set.emptied()]


def _damage(feature_set: FeatureSet, layer: str | None, file: str, problem: str) -> Damage:
    _, is_chunk, rest = file.partition(f"{GROUP}/{layer}/c/")
    if not is_chunk:
        return Damage(feature_set.set_id, file, problem, layer)
    chunk = int(rest.split("/")[0])
    try:
        start, stop = feature_set.shape_of(str(layer)).chunk_range(chunk)
    except (StoreError, SelectionError):
        return Damage(feature_set.set_id, file, problem, layer, chunk)
    problem = f"chunk {chunk} of {layer} (rows {start} to {stop - 1}): {problem}"
    return Damage(feature_set.set_id, file, problem, layer, chunk)


def _strays(feature_set: FeatureSet, parts: Sequence[_Part]) -> list[Damage]:
    """Return files that no record names; those of layers without a record may become complete."""
    known = {name for part in parts for name in part.files}
    arrays = {name.split("/")[0] for name in known}
    places = {part.upload: part.record for part in reversed(parts)}
    return [
        Damage(feature_set.set_id, f"{GROUP}/{name}", "featstore did not write this file")
        for upload, record in places.items()
        for name in sorted(feature_set.backend.sizes(record, feature_set.place, upload))
        if name not in known and ("/" not in name or name.split("/")[0] in arrays)
    ]


def schedule_repair(feature_set: FeatureSet, damages: list[Damage]) -> list[Damage]:
    """Mark damaged chunks, so that the next extract computes just them.

    A layer whose metadata is damaged is marked too: extract makes the metadata again, and the
    chunks stay.

    Parameters
    ----------
    feature_set : FeatureSet
        The set; the caller holds its lock.
    damages : list of Damage
        As :func:`verify` returned them. What another process repaired since is not marked.

    Returns
    -------
    list of Damage
        The damages of layers that are still there. Their layers are now unfinished.
    """
    of_layers = [damage for damage in damages if damage.layer is not None]
    # Another process may have marked them while this one waited for the lock.
    marked = [damage for damage in of_layers if _is_marked(feature_set, damage)]
    rest = [damage for damage in of_layers if damage not in marked]
    found = [damage for damage in _still_wrong(feature_set, rest) if damage.layer is not None]
    chunks: dict[str, list[int]] = {}
    for damage in found:
        own = chunks.setdefault(str(damage.layer), [])
        own += [] if damage.chunk is None else [damage.chunk]
    feature_set.mark_damaged(chunks)
    return marked + found


def _is_marked(feature_set: FeatureSet, damage: Damage) -> bool:
    journal = feature_set.journal().get(str(damage.layer))
    marked = journal.damaged if journal else None
    return marked is not None and (damage.chunk is None or damage.chunk in marked)


@dataclass(frozen=True)
class Verification:
    """The damages that :func:`verify_store` found, and how to repair them."""

    n_sets: int
    damages: list[Damage]
    repairs: list[str]
    """Commands that compute the marked chunks again."""
    broken: list[str]
    """Sets that must be removed and extracted again."""


def verify_store(store: FeatureStore, progress: Progress = SILENT) -> Verification:
    """Verify all sets, and mark damaged chunks for repair."""
    found = _verify_and_mark([(store, s) for s in store.sets()], progress)
    problem = "the file is missing; remove the folder and extract again"
    lost = [Damage(set_id, "set.json", problem) for set_id in lost_sets(store)]
    return replace(found, damages=found.damages + lost)


def lost_sets(store: FeatureStore) -> list[str]:
    """Return the names of set folders without ``set.json``."""
    lost = _folders_without_record(store)
    if lost:
        # Another process may be fetching the records.
        store.backend.pull("sets", now=True)
        lost &= _folders_without_record(store)
    return sorted(lost)


def _folders_without_record(store: FeatureStore) -> set[str]:
    folders = (path for path in (store.path / SETS).glob("[!.]*") if path.is_dir())
    return {path.name for path in folders if not (path / "set.json").is_file()}


def verify_sets(
    names: Sequence[str], store: str | FeatureStore, progress: Progress = SILENT
) -> Verification:
    """Verify sets by their names in a store, or by their paths, as :func:`verify_store` does."""
    return _verify_and_mark([find_set(name, store) for name in names], progress)


def _verify_and_mark(
    sets: Sequence[tuple[FeatureStore, FeatureSet]], progress: Progress
) -> Verification:
    damages: list[Damage] = []
    repairs: list[str] = []
    for store, feature_set in sets:
        found, commands = _verify_and_mark_set(store, feature_set, progress)
        damages += found
        repairs += commands
    curable = (JOURNAL_FILE, EMPTIED)
    whole = {d.set_id for d in damages if d.layer is None and not {d.file, d.problem} & {*curable}}
    broken = [s.set_id for _, s in sets if s.set_id in whole]
    return Verification(len(sets), damages, list(dict.fromkeys(repairs)), broken)


def _verify_and_mark_set(
    store: FeatureStore, feature_set: FeatureSet, progress: Progress
) -> tuple[list[Damage], list[str]]:
    """Return the damages of a set, and the commands that repair the marked ones."""
    damages = verify(feature_set, progress)
    of_layers = [damage for damage in damages if damage.layer]
    if any(damage.file in (JOURNAL_FILE, "set.json") for damage in damages):
        return damages, []
    journal = feature_set.journal()
    emptied = [journal[layer].command for layer in feature_set.emptied()]
    # An intact store may be read-only, and a damaged journal can't hold marks.
    if not of_layers:
        return damages, emptied
    others = [damage for damage in damages if damage.layer is None]
    try:
        with store.backend.working_on(feature_set.set_id, progress):
            marked = schedule_repair(feature_set, of_layers)
            journal = feature_set.journal()
    except StoreError:
        raise
    except OSError as error:
        problem = f"can't be marked for repair: {error.filename}: {error.strerror}"
        return [*others, *of_layers, Damage(feature_set.set_id, "layers", problem)], []
    repairs = [journal[str(damage.layer)].command for damage in marked]
    return others + marked, repairs + emptied
