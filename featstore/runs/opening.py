"""Open one run, or list all runs of a store."""

from __future__ import annotations

import glob
import time
from pathlib import Path

from featstore.errors import DatasetError, RunError
from featstore.io.stamped_cache import StampedCache, stamp_text
from featstore.progress import SILENT, Progress
from featstore.runs.outline import Outline
from featstore.runs.run import Run, read_record
from featstore.store.backend import Backend
from featstore.store.feature_store import FeatureStore

REPLACED_S = 1.0
"""Longest wait for a run that another process is replacing."""


def open_run(run: str | Path, store: FeatureStore | None = None) -> Run:
    """Open a run.

    Parameters
    ----------
    run : str or Path
        The run's folder; or, with a store, its id, the beginning or end of its id, a tag,
        ``last``, ``best`` or ``best:DATASET``.
    store : FeatureStore, optional
        The store of the run.

    Raises
    ------
    RunError
        When no run or several runs have the name, or the folder is not as fit wrote it.
    """
    path = Path(run)
    is_ours = store is not None and path.is_dir() and path.absolute().parent == store.runs_dir
    if store is not None and not is_ours and not (path / "metrics.json").is_file():
        from featstore.runs.find import find_run_folder

        path = find_run_folder(str(run).removeprefix(f"{store.address}/runs/"), store)
    is_ours = store is not None and path.absolute().parent == store.runs_dir
    backend = store.backend if store is not None and is_ours else Backend(path.parent)
    until = time.monotonic() + REPLACED_S
    while True:
        folder = folder_number(path)
        try:
            return _read(path, backend)
        except RunError:
            drafts = path.parent.glob(f".new-{glob.escape(path.name)}-*")
            is_replaced = folder != folder_number(path) or (folder is None and any(drafts))
            if not is_replaced or time.monotonic() > until:
                raise
        time.sleep(0.005)


def folder_number(path: Path) -> tuple[int, int] | None:
    """Return numbers that a later folder of the same name does not have; None without a folder."""
    try:
        found = path.stat()
    except OSError:
        return None
    # A new folder may get the inode of a deleted one.
    return found.st_ino, found.st_ctime_ns


def _read(path: Path, backend: Backend) -> Run:
    if not path.is_dir():
        raise RunError(f"{path} is not a run's folder. List the runs with: featstore runs ls")
    run = Run.of(path, read_record(path), backend)
    if missing := backend.missing(run.place, run.outline.files, run.below):
        raise RunError(f"{path} lacks {', '.join(missing)}. Remove the folder and fit again.")
    return run


def list_runs(store: FeatureStore, progress: Progress = SILENT) -> list[Run]:
    """Return all runs, oldest first; `progress` names folders that can't be read as runs.

    The store's index answers for records that have not changed; they are read when a run's
    ``record`` is.
    """
    runs, index = [], store.index("runs")
    for path in store.run_folders():
        try:
            runs.append(_listed(path, store, index))
        except RunError as error:
            progress.say(f"Passed over: {error}")
    index.save(run.run_id for run in runs)
    return sorted(runs, key=lambda run: (run.outline.summary["created"], run.run_id))


def _listed(path: Path, store: FeatureStore, index: StampedCache) -> Run:
    try:
        # The folder's stamp changes when a file of it is removed.
        stamp = f"{stamp_text(path)}\n{stamp_text(f'{path}/metrics.json')}"
    except DatasetError:
        stamp = ""
    if (known := index.get(path.name, stamp)) is not None:
        run = Run(path, Outline(**known), store.backend)
        # In a copy of a bucket, other folders hold the files.
        if not run.below or not store.backend.missing(run.place, run.outline.files, run.below):
            return run
    run = open_run(path, store)
    index.put(run.run_id, stamp, vars(run.outline))
    return run
