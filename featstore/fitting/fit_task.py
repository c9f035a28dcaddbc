"""One fit as a task for a worker, and the run of an earlier fit that answers it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from featstore.config import FitConfig
from featstore.errors import RunError
from featstore.progress import SILENT, Progress
from featstore.runs.opening import open_run
from featstore.runs.run import Run
from featstore.store.feature_store import FeatureStore


@dataclass(frozen=True)
class FitTask:
    """One classifier on one selection: a task for a worker, which holds names only.

    `kind` is what a label is, one of :data:`featstore.config.TASKS`; `key` is the run's content
    key, the same for equal results; `command` repeats this one fit;
    `scratch` is the folder of the standardised rows that tasks share; `search` is
    :meth:`.Search.to_dict`.
    """

    store: str
    parts: tuple[tuple[str, str], ...]
    kind: str
    config: FitConfig
    key: str
    run_id: str
    command: str
    scratch: str = ""
    refit: bool = False
    search: dict[str, Any] | None = None


@dataclass(frozen=True)
class FittedRun:
    """The folder of a task's run, and whether this task made it."""

    folder: str
    is_new: bool


def find_run(store: FeatureStore, task: FitTask, progress: Progress = SILENT) -> Run | None:
    """Return the run of an earlier fit with the same result, if the store has it."""
    path = store.run_path(task.run_id)
    if not path.exists():
        return None
    try:
        run = open_run(path, store)
    except RunError as error:
        progress.say(f"Fitting again: {error}")
        return None
    if run.record.key != task.key:
        return None
    store.backend.push_run(task.run_id, progress)
    return run
