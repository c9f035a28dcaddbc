"""Publication: how a fit's results become a run's folder, whole or not at all."""

from __future__ import annotations

import csv
import errno
import json
import re
import secrets
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from featstore.errors import RunError, StoreError
from featstore.io.files import (
    file_sha256,
    rename_for_deletion,
    sweep_deleted,
    sync_file,
    sync_folder,
    write_error,
    write_json,
)
from featstore.io.locks import sweep_temporary, temporary_folder
from featstore.runs.model_file import save_model
from featstore.runs.run import FORMAT, Run, open_run
from featstore.store.feature_store import FeatureStore


def make_run_id(selection: Mapping[str, Any], clf: str, key: str) -> str:
    """Return a readable name with the first 8 digits of the run's content key."""
    parts = (selection["title"], selection["model"], "+".join(selection["layers"]), clf)
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
    """Write a run's folder under a temporary name, then give it its own.

    When another process or machine has written the same run meanwhile, that one stays, unless
    `replace`; it gives way where it is damaged, or of another key.

    Parameters
    ----------
    store : FeatureStore
    run_id : str
    record : mapping
        JSON-able; what :class:`Run` reads.
    model : Pipeline
        Fitted.
    predictions : mapping of str to ndarray of shape (n_rows,)
        Columns of ``predictions.csv``.
    curves : mapping or None
        Content of ``curves.json``.
    replace : bool
        Whether to put the run in the place of one that is there.

    Raises
    ------
    StoreError
        When the folder can't be written.
    """
    try:
        store.runs_dir.mkdir(parents=True, exist_ok=True)
        sweep_temporary(store.runs_dir, ".new-")
        sweep_deleted(store.runs_dir)
        with temporary_folder(store.runs_dir / f".new-{run_id}-{secrets.token_hex(4)}") as folder:
            save_model(model, folder / "model.skops")
            _write_csv(folder / "predictions.csv", predictions)
            if curves is not None:
                (folder / "curves.json").write_text(json.dumps(curves), encoding="utf-8")
            files = {path.name: file_sha256(path) for path in sorted(folder.iterdir())}
            for name in files:
                sync_file(folder / name)
            final = store.run_path(run_id, now=True)
            with store.replacing_run(run_id) as below:
                # One that is there stays whole until all files of this one lie beside it.
                place = {"folder": below} if below else {}
                body = {"format": FORMAT, **record, **place, "files": files}
                write_json(folder / "metrics.json", body)
                _publish(folder, final, store, None if replace else record["key"])
        store.push_run(run_id)
        return open_run(final, store)
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise write_error(error, store.runs_dir, str(record["command"])) from error


def _publish(folder: Path, final: Path, store: FeatureStore, key: str | None) -> None:
    """Give a run's folder its name; one that had it goes when the other is there.

    An intact one of the given key stays.
    """
    doomed: list[Path] = []
    try:
        while True:
            try:
                folder.rename(final)
            except OSError as error:
                if not final.exists() and error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            else:
                sync_folder(final.parent)
                return
            if key is not None and (final / "metrics.json").is_file():
                # With its store, for not all files of one on object storage need be here.
                with suppress(RunError):
                    if open_run(final, store).record["key"] == key:
                        return
            # Another process may have been faster.
            with suppress(FileNotFoundError):
                doomed.append(rename_for_deletion(final))
    finally:
        for old in doomed:
            shutil.rmtree(old, ignore_errors=True)


def _write_csv(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
