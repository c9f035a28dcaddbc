"""Write the folder of a run, whole or not at all."""

from __future__ import annotations

import csv
import errno
import json
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.errors import RunError, StoreError
from featstore.io.files import (
    exchange,
    file_sha256,
    make_folder,
    rename_for_deletion,
    sync_file,
    write_error,
)
from featstore.io.locks import sweep_temporary, temporary_folder
from featstore.runs.model_file import save_model
from featstore.runs.opening import open_run
from featstore.runs.run import Run
from featstore.store.feature_store import FeatureStore
from featstore.store.format.fields import FORMAT
from featstore.store.format.run_schema import RunRecord, SelectionInfo
from featstore.store.removal import move_others, sync_and_sweep
from featstore.text import no_formula

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline


def make_run_id(selection: SelectionInfo, clf: str, key: str) -> str:
    """Return a readable name with the first 8 digits of the run's content key."""
    parts = (selection.title, selection.model, "+".join(selection.layers), clf)
    clean = [re.sub(r"[^A-Za-z0-9.+_]+", "-", part).strip("-.")[:28] or "x" for part in parts]
    return "-".join([*clean, key[:8]])


def write_run(
    store: FeatureStore,
    run_id: str,
    record: Mapping[str, Any],
    model: Pipeline,
    predictions: Mapping[str, np.ndarray],
    curves: Mapping[str, Any] | None,
    *,
    replace: bool = False,
) -> Run:
    """Write a run's folder under a temporary name, then rename it.

    A run that another process or machine has written meanwhile stays, unless `replace`, or unless
    it is damaged or has another key. `record` is the content of ``metrics.json``, without format
    and files; `predictions` are the columns of ``predictions.csv``.
    """
    try:
        make_folder(store.runs_dir)
        sweep_temporary(store.runs_dir, ".new-")
        with temporary_folder(store.runs_dir / f".new-{run_id}-{secrets.token_hex(4)}") as folder:
            save_model(model, folder / "model.skops")
            _write_csv(folder / "predictions.csv", predictions)
            if curves is not None:
                (folder / "curves.json").write_text(json.dumps(curves), encoding="utf-8")
            files = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
            for name in files:
                sync_file(folder / name)
            final = store.run_path(run_id, now=True)
            with store.backend.replacing_run(run_id) as below:
                # The old run stays whole until all files of the new one lie beside it.
                place = {"folder": below} if below else {}
                content = {"format": FORMAT, **record, **place, "files": files}
                RunRecord.model_validate(content).write(folder / "metrics.json")
                _publish(folder, final, store, None if replace else record["key"])
        store.backend.push_run(run_id)
        return open_run(final, store)
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise write_error(error, store.runs_dir, str(record["command"])) from error


def _publish(folder: Path, final: Path, store: FeatureStore, key: str | None) -> None:
    """Rename a run's folder; delete the run that had the name, unless it is intact and of `key`."""
    doomed: list[Path] = []
    try:
        while True:
            try:
                folder.rename(final)
            except OSError as error:
                if not final.exists() and error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            else:
                return
            if key is not None and (final / "metrics.json").is_file():
                # On object storage, the run's files need not be on this machine.
                with suppress(RunError):
                    if open_run(final, store).record.key == key:
                        return
            if exchange(folder, final):
                doomed.append(rename_for_deletion(folder))
                return
            # Another process may have renamed it first. This file system can't exchange names.
            with suppress(FileNotFoundError):
                doomed.append(rename_for_deletion(final))
    finally:
        sync_and_sweep(final.parent)
        for old in doomed:
            move_others(old, final)


def _write_csv(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        texts = (
            column.tolist() if column.dtype.kind in "fiu" else map(no_formula, column.tolist())
            for column in columns.values()
        )
        writer.writerows(zip(*texts, strict=True))
