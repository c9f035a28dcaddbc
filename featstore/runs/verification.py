"""Compare every byte of runs with its hash."""

from __future__ import annotations

from pathlib import Path

from featstore.errors import RunError
from featstore.runs.opening import folder_number, open_run
from featstore.store.feature_store import FeatureStore
from featstore.store.verification import Damage


def verify_runs(store: FeatureStore) -> tuple[int, list[Damage]]:
    """Return the number of runs, and their damages; `set_id` of a damage is the run's name."""
    folders = store.run_folders()
    found = []
    for path in folders:
        while True:
            folder = folder_number(path)
            damages = _verify_run(path, store)
            if damages:
                store.backend.pull("runs", now=True)
            now = folder_number(path)
            # Another process may have replaced or removed the run meanwhile.
            if not damages or folder == now or now is None:
                break
        found += damages if now is not None else []
    return len(folders), found


def _verify_run(path: Path, store: FeatureStore) -> list[Damage]:
    try:
        run = open_run(path, store)
    except RunError as error:
        return [Damage(path.name, "metrics.json", str(error))]
    record = f"{run.place}/metrics.json"
    problems = run.backend.problems(record, run.place, run.record.files, run.below)
    return [Damage(run.run_id, name, problem) for name, problem in problems if problem]
