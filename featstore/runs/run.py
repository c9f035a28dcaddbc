"""Runs: what one fit leaves, as a folder that is there whole or not at all.

``runs/<run_id>/``
    ``metrics.json``     settings, scores, times and provenance, with a digest of itself.
    ``model.skops``      the fitted scikit-learn pipeline; loading it runs no code of the file's.
    ``predictions.csv``  one line for each row that was judged.
    ``curves.json``      of classifiers trained by epochs.
    ``confusion.png``, ``curves.png``  drawn after all else is kept, and again when missing.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import io
import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.pipeline import Pipeline

from featstore.errors import CorruptionError, RunError, StoreError
from featstore.io.files import json_digest
from featstore.progress import SILENT, Progress
from featstore.runs.model_file import load_model
from featstore.store.feature_store import FeatureStore
from featstore.store.format.schema import read_record
from featstore.store.verification import Damage, file_problem
from featstore.text import matches

if TYPE_CHECKING:
    from featstore.store.remote.mirror import Mirror

FORMAT = 2


REPLACED_S = 1.0
"""Longest wait for a run that another process is writing in the place of an old one."""


@dataclass(frozen=True)
class Run:
    """One classifier, fitted and judged.

    Parameters
    ----------
    path : Path
        The run's folder.
    record : dict
        The content of its ``metrics.json``.
    mirror : Mirror or None
        Where its files are brought from, when its store is on object storage.
    """

    path: Path
    record: dict[str, Any]
    mirror: Mirror | None = field(default=None, compare=False, repr=False)

    @property
    def run_id(self) -> str:
        """Name of the run, unique in its store."""
        return self.path.name

    @property
    def clf(self) -> str:
        """The classifier's name."""
        return str(self.record["fit"]["clf"])

    @property
    def selection(self) -> dict[str, Any]:
        """What it was fitted on, as :meth:`.Selection.describe` says it."""
        return dict(self.record["selection"])

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, by the labels that the model predicts."""
        return tuple(self.record["class_names"])

    @property
    def metrics(self) -> dict[str, Any]:
        """Scores of the ``test``, ``val`` (or None) and ``train`` rows."""
        return dict(self.record["metrics"])

    @cached_property
    def curves(self) -> dict[str, Any] | None:
        """Loss and accuracy by epoch, see ``epochs.Curves``; None without.

        Raises
        ------
        RunError
            When the file is not what fit wrote.
        """
        if "curves.json" not in self.record["files"]:
            return None
        return dict(json.loads(self._bytes("curves.json")))

    @cached_property
    def predictions(self) -> dict[str, np.ndarray]:
        """Columns of ``predictions.csv``, each (n_rows,): ``score`` float64, the others str.

        ``sample_id``, ``split``, ``true`` and ``predicted`` (names of classes) and ``score``, of
        the test rows and, where there are any beside these, of the validation rows.

        Raises
        ------
        RunError
            When the file is not what fit wrote.
        """
        text = self._bytes("predictions.csv").decode("utf-8")
        names, *lines = csv.reader(io.StringIO(text, newline=""))
        columns = zip(names, zip(*lines, strict=True), strict=True)
        return {
            name: np.array(column, dtype=np.float64 if name == "score" else np.str_)
            for name, column in columns
        }

    @cached_property
    def model(self) -> Pipeline:
        """The fitted pipeline: raw features in, labels out.

        Raises
        ------
        RunError
            When the file is missing, is not what fit wrote, or holds a type that a classifier
            has no need of. Nothing in the file is run.
        """
        return self.load_model()

    def load_model(self, trusted: Sequence[str] = ()) -> Pipeline:
        """Return the fitted pipeline, which may hold further types.

        Parameters
        ----------
        trusted : sequence of str
            Types of a user's own classifier, as ``package.module.Class``. Their code is run.

        Raises
        ------
        RunError
            As :attr:`model` does.
        """
        data = self._bytes("model.skops")
        try:
            return load_model(data, trusted)
        except RunError as error:
            written = self.record["provenance"]["versions"]["scikit-learn"]
            raise RunError(
                f"{self.path / 'model.skops'} is not loaded: {error}. It was written with "
                f"scikit-learn {written}. To make the run again: {self.record['command']} --refit"
            ) from error

    @property
    def below(self) -> str:
        """Where its files lie below its folder on object storage, if it replaced another run."""
        return str(self.record.get("folder", ""))

    def file_path(self, name: str) -> Path:
        """Return where a file of the run lies on this machine, be it there or not."""
        path = self.path / name
        # As in a folder that all objects of a bucket were copied to.
        return self.path / self.below / name if self.below and not path.is_file() else path

    def _bytes(self, name: str) -> bytes:
        """Return a file of the run, if it is as fit wrote it."""
        try:
            return self._read(name)
        except RunError as error:
            if self._is_replaced():
                raise RunError(
                    f"{self.path} was fitted again, or removed, since it was opened, and what was "
                    f"read of it does not belong to its {name}. Open it anew: run the same command "
                    "again."
                ) from error
            raise RunError(
                f"{self.path} is damaged: {error}. To make the run again: "
                f"{self.record['command']} --refit"
            ) from error

    def _is_replaced(self) -> bool:
        if self.mirror is not None:
            with suppress(StoreError):
                self.mirror.pull("runs", now=True)
        try:
            return read_record(self.path / "metrics.json", "RUN") != self.record
        except CorruptionError:
            return False
        except StoreError:
            return not self.path.exists()

    def _read(self, name: str) -> bytes:
        if self.mirror is not None:
            files = {name: self.record["files"][name]}
            try:
                self.mirror.fetch(f"runs/{self.run_id}", files, below=self.below)
            except CorruptionError as error:
                raise RunError(f"{name} is not what fit wrote ({error})") from error
        try:
            data = self.file_path(name).read_bytes()
        except OSError as error:
            raise RunError(f"{name} can't be read ({error.strerror})") from error
        if hashlib.sha256(data).hexdigest() != self.record["files"][name]:
            raise RunError(f"{name} is not what fit wrote")
        return data

    @property
    def series(self) -> str:
        """Digest that the repeats of one fit, which differ in their seeds alone, have in common."""
        settings = {k: v for k, v in self.record["fit"].items() if k not in ("seed", "split_seed")}
        settings["redrawn"] = self.record["fit"]["split_seed"] is not None
        code = {
            "source": self.record.get("source"),
            "scikit-learn": self.record["provenance"]["versions"]["scikit-learn"],
        }
        return json_digest({"fit": settings, "features": self.selection["digest"], "code": code})

    def summary(self) -> dict[str, Any]:
        """Return the run's line in a table, JSON-able; accuracies are fractions."""
        record, test = self.record, self.record["metrics"]["test"]
        return {
            "run_id": self.run_id,
            "clf": self.clf,
            "params": record["params"],
            "model": record["selection"]["model"],
            "dataset": record["selection"]["dataset"],
            "title": record["selection"]["title"],
            "layers": record["selection"]["layers"],
            "weights": record["selection"].get("weights"),
            "n_features": record["selection"]["n_features"],
            "n_train": record["rows"]["n_train"],
            "n_test": record["rows"]["n_test"],
            "accuracy": test["accuracy"],
            "average_accuracy": test["average_accuracy"],
            "kappa": test["kappa"],
            "majority_accuracy": test["majority_accuracy"],
            "train_accuracy": record["metrics"]["train"]["accuracy"],
            "converged": record["converged"],
            "duration_s": record["duration_s"]["total"],
            "peak_rss_nbytes": record["peak_rss_nbytes"],
            "n_masked": record["rows"]["n_masked"],
            "n_leaked": record["rows"]["n_leaked"],
            "n_dropped": record["rows"]["n_dropped"],
            "n_train_of_class": record["rows"]["n_train_of_class"],
            "seed": record["fit"]["seed"],
            "split_seed": record["fit"]["split_seed"],
            "created": record["created"],
            "cv_accuracy": record["search"]["accuracy"] if record["search"] else None,
            "series": self.series,
            "n_constant_features": record["n_constant_features"],
            "notes": record["notes"],
            "run_dir": str(self.path),
        }


def open_run(run: str | Path, store: FeatureStore | None = None) -> Run:
    """Open a run.

    Parameters
    ----------
    run : str or Path
        The run's folder; or, with a store, its name, or the beginning or end of it that no
        other run shares.
    store : FeatureStore, optional
        Where to look the name up.

    Raises
    ------
    RunError
        When there is no such run, there are several, or its folder is not as fit wrote it.
    """
    path = Path(run)
    is_ours = store is not None and path.is_dir() and path.absolute().parent == store.runs_dir
    if store is not None and not is_ours and not (path / "metrics.json").is_file():
        path = _find(str(run).removeprefix(f"{store.address}/runs/"), store)
    mirror = store.mirror if store is not None and path.parent == store.runs_dir else None
    until = time.monotonic() + REPLACED_S
    while True:
        folder = _folder_number(path)
        try:
            return _read(path, mirror)
        except RunError:
            drafts = path.parent.glob(f".new-{glob.escape(path.name)}-*")
            is_replaced = folder != _folder_number(path) or (folder is None and any(drafts))
            if not is_replaced or time.monotonic() > until:
                raise
        time.sleep(0.005)


def _folder_number(path: Path) -> tuple[int, int] | None:
    """Return what tells a folder from another of its name; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    # Numbers of deleted folders are given again.
    return found.st_ino, found.st_ctime_ns


def _read(path: Path, mirror: Mirror | None) -> Run:
    if not path.is_dir():
        raise RunError(f"{path} is not a run's folder. List the runs with: featstore report")
    try:
        record = read_record(path / "metrics.json", "RUN")
    except StoreError as error:
        raise RunError(
            f"{path} is not a run as fit wrote it: {path.name}/metrics.json is missing, damaged "
            "or edited. Remove the folder and fit again."
        ) from error
    if record.get("format") != FORMAT:
        raise RunError(
            f"{path} has format {record.get('format')!r}; this featstore reads format {FORMAT}. "
            "Install the version that wrote it, or fit again."
        )
    if mirror is not None:
        return Run(path, record, mirror)
    run = Run(path, record)
    if missing := [name for name in record["files"] if not run.file_path(name).is_file()]:
        raise RunError(f"{path} lacks {', '.join(missing)}. Remove the folder and fit again.")
    return run


def _find(name: str, store: FeatureStore) -> Path:
    folders = _folders(store)
    found = [p for p in folders if p.name == name] or [p for p in folders if matches(p.name, name)]
    if len(found) == 1:
        return found[0]
    if not folders:
        raise RunError(
            f"{store.address} holds no runs. Make one first, for example with: "
            "featstore fit --clf logreg"
        )
    shown = [p.name for p in found or folders]
    raise RunError(
        f"{'Several runs are' if found else 'No run is'} named {name!r} in {store.address}. There "
        f"{'is' if len(shown) == 1 else 'are'}:\n  " + "\n  ".join(shown[:20])
    )


def _folders(store: FeatureStore) -> list[Path]:
    if store.mirror is not None:
        store.mirror.pull("runs")
    if not store.runs_dir.is_dir():
        return []
    return sorted(
        path for path in store.runs_dir.iterdir() if path.is_dir() and not path.name.startswith(".")
    )


def list_runs(store: FeatureStore, progress: Progress = SILENT) -> list[Run]:
    """Return all runs, oldest first; folders that are no runs are named and passed over."""
    runs = []
    for path in _folders(store):
        try:
            runs.append(open_run(path, store))
        except RunError as error:
            progress.say(f"Passed over: {error}")
    return sorted(runs, key=lambda run: (run.record["created"], run.run_id))


def verify_runs(store: FeatureStore) -> tuple[int, list[Damage]]:
    """Compare every file of every run with the hash written with it.

    Returns
    -------
    n_runs : int
    damages : list of Damage
        With the run's name in the place of a set's.
    """
    folders = _folders(store)
    found = []
    for path in folders:
        while True:
            folder = _folder_number(path)
            damages = _verify_run(path, store)
            if damages and store.mirror is not None:
                store.mirror.pull("runs", now=True)
            now = _folder_number(path)
            # A fit may have put another run in its place meanwhile, or somebody removed it.
            if not damages or folder == now or now is None:
                break
        found += damages if now is not None else []
    return len(folders), found


def _verify_run(path: Path, store: FeatureStore) -> list[Damage]:
    try:
        run = open_run(path, store)
    except RunError as error:
        return [Damage(path.name, "metrics.json", str(error))]
    files = run.record["files"]
    if run.mirror is not None and run.mirror.knows(f"runs/{run.run_id}/metrics.json"):
        problems = run.mirror.problems(f"runs/{run.run_id}", files, run.below)
    else:
        problems = (
            (name, file_problem(run.file_path(name), sha256)) for name, sha256 in files.items()
        )
    return [Damage(run.run_id, name, problem) for name, problem in problems if problem]
