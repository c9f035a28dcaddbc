"""A run: the folder of one fit, with metrics, predictions, curves and model.

``runs/<run_id>/``
    ``metrics.json``     settings, scores, times and provenance, with a digest of itself.
    ``model.skops``      the fitted scikit-learn pipeline; loading it runs no code of the file.
    ``predictions.csv``  one line for each test or validation row.
    ``curves.json``      loss and score of classifiers that are trained by epochs.
    ``confusion.png``, ``reliability.png``, ``predicted.png``, ``curves.png``  drawn by
        ``runs show``.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from featstore.errors import CorruptionError, FormatError, RunError, StoreError
from featstore.runs.calibration import PROBABILITY, UNCALIBRATED, Calibrator
from featstore.runs.model_file import load_model
from featstore.runs.outline import Outline, outline_of
from featstore.runs.scoring import Scoring, find_scoring
from featstore.store.backend import Backend
from featstore.store.format.matrix import TEXT
from featstore.store.format.run_schema import RunRecord, SelectionInfo
from featstore.store.format.run_scores import AnyMetrics
from featstore.store.record_index import index_path
from featstore.text import from_csv

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

CSV_ROWS = 10_000
"""Rows of predictions that are Python's objects at a time."""


@dataclass(frozen=True)
class Run:
    """One fitted classifier, with its scores and predictions.

    Parameters
    ----------
    path : Path
        The run's folder.
    outline : Outline
        What lists and rankings need of its record.
    backend : Backend
        Where its files are.
    """

    path: Path
    outline: Outline
    backend: Backend = field(compare=False, repr=False)

    @classmethod
    def of(cls, path: Path, record: RunRecord, backend: Backend) -> Run:
        """Return the run with a record."""
        run = cls(path, outline_of(record), backend)
        vars(run)["record"] = record
        return run

    def __repr__(self) -> str:
        return f"Run({self.run_id!r}, {self.scoring.outcome(self.outline.summary, 'test rows')})"

    @cached_property
    def record(self) -> RunRecord:
        """The content of its ``metrics.json``.

        Raises
        ------
        RunError
            When it is not what fit wrote, or another run has taken the run's place.
        """
        record = read_record(self.path)
        if outline_of(record) != self.outline:
            # Should the index be wrong, the next listing reads the records.
            with suppress(OSError):
                index_path(self.backend, "runs").unlink()
            raise RunError(
                f"{self.path} was fitted again since it was listed. Run the same command again."
            )
        return record

    @property
    def run_id(self) -> str:
        """Name of the run, unique in its store."""
        return self.path.name

    @property
    def clf(self) -> str:
        """The classifier's name."""
        return str(self.outline.summary["clf"])

    @property
    def task(self) -> str:
        """What a label is, one of :data:`featstore.config.TASKS`."""
        return str(self.outline.summary["task"])

    @property
    def scoring(self) -> Scoring:
        """How the runs of its task are scored and shown."""
        return find_scoring(self.task)

    @property
    def score(self) -> float:
        """The test score that ranks it: accuracy, mAP or R²."""
        return float(self.outline.summary[self.scoring.score])

    @property
    def title(self) -> str:
        """The dataset's name for people."""
        return str(self.outline.summary["title"])

    @property
    def selection(self) -> SelectionInfo:
        """The features that it was fitted on, as :meth:`.Selection.describe` returns them."""
        return self.record.selection

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, by the labels that the model predicts; none of a regression."""
        return self.record.class_names

    @property
    def metrics(self) -> AnyMetrics:
        """Scores of the ``test``, ``val`` (or None) and ``train`` rows, by the run's task."""
        return self.record.metrics

    @cached_property
    def curves(self) -> dict[str, Any] | None:
        """Loss and score by epoch, see ``epochs.Curves``; None without.

        Raises
        ------
        RunError
            When the file is not what fit wrote.
        """
        if "curves.json" not in self.record.files:
            return None
        return dict(json.loads(self._bytes("curves.json")))

    @cached_property
    def predictions(self) -> dict[str, np.ndarray]:
        """Columns of ``predictions.csv``, each (n_rows,), of test and validation rows.

        ``sample_id`` and ``split`` are text. ``true`` and ``predicted`` are names of classes with a
        ``score``, or numbers. Where images have several classes, ``true:CLASS`` is 0 or 1 and
        ``score:CLASS`` a score for each class. Numbers are float64.

        Raises
        ------
        RunError
            When the file is not what fit wrote.
        """
        text = self._bytes("predictions.csv").decode("utf-8")
        reader = csv.reader(io.StringIO(text, newline=""))
        names, is_number = next(reader), self.scoring.is_number
        parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
        # Many classes have many columns: as Python's objects they would fill the memory.
        while lines := list(itertools.islice(reader, CSV_ROWS)):
            for name, column in zip(names, zip(*lines, strict=True), strict=True):
                part = column if is_number(name) else [from_csv(text) for text in column]
                parts[name].append(np.array(part, np.float64 if is_number(name) else TEXT))
        return {name: np.concatenate(own) for name, own in parts.items()}

    @cached_property
    def model(self) -> Pipeline:
        """The fitted pipeline: raw features in, labels out.

        Raises
        ------
        RunError
            When the file is missing, is not what fit wrote, or holds a type that no classifier
            needs. No code of the file is run.
        """
        return self.load_model()

    def load_model(self, trusted: Sequence[str] = ()) -> Pipeline:
        """Return the fitted pipeline, which may hold other types.

        Parameters
        ----------
        trusted : sequence of str
            Types of the user's own classifier, as ``package.module.Class``. Their code is run.

        Raises
        ------
        RunError
            As :attr:`model` does.
        """
        data = self._bytes("model.skops")
        try:
            return load_model(data, trusted)
        except RunError as error:
            written = self.record.provenance.versions["scikit-learn"]
            raise RunError(
                f"{self.path / 'model.skops'} is not loaded: {error}. It was written with "
                f"scikit-learn {written}. To make the run again: {self.record.command} --refit"
            ) from error

    @cached_property
    def calibrator(self) -> Calibrator | None:
        """What makes the model's scores probabilities; None where they are not calibrated."""
        found = self.record.calibration
        return None if found is None else Calibrator.from_dict(found.to_dict())

    @property
    def score_kind(self) -> str:
        """What the scores are: calibrated or uncalibrated probabilities, or decision values."""
        kind = self.record.score_kind
        return UNCALIBRATED if kind == PROBABILITY and self.calibrator is None else kind

    @property
    def calibration_text(self) -> str:
        """Whether the probabilities are calibrated, and how, in words; empty without any."""
        if self.calibrator is not None:
            return self.calibrator.text
        if self.score_kind == UNCALIBRATED:
            return "not calibrated: they are the classifier's own"
        return ""

    @property
    def place(self) -> str:
        """Where the run's folder is in its store."""
        return self.path.absolute().relative_to(self.backend.folder).as_posix()

    @property
    def below(self) -> str:
        """The folder of the files' upload to object storage; empty for a run in a folder."""
        return self.outline.folder

    def _bytes(self, name: str) -> bytes:
        """Return the bytes of a file, if they are as fit wrote them."""
        try:
            return self._read(name)
        except RunError as error:
            if self._is_replaced():
                raise RunError(
                    f"{self.path} was fitted again, or removed, since it was opened, so that its "
                    f"{name} belongs to another record. Run the same command again."
                ) from error
            raise RunError(
                f"{self.path} is damaged: {error}. To make the run again: "
                f"{self.record.command} --refit"
            ) from error

    def _is_replaced(self) -> bool:
        with suppress(StoreError):
            self.backend.pull("runs", now=True)
        try:
            return RunRecord.read(self.path / "metrics.json") != self.record
        except CorruptionError:
            return False
        except StoreError:
            return not self.path.exists()

    def _read(self, name: str) -> bytes:
        files = {name: self.record.files[name]}
        try:
            path = self.backend.fetch(self.place, files, upload=self.below)[name]
        except CorruptionError as error:
            raise RunError(f"{name} is not what fit wrote ({error})") from error
        try:
            data = path.read_bytes()
        except OSError as error:
            raise RunError(f"{name} can't be read ({error.strerror})") from error
        if hashlib.sha256(data).hexdigest() != self.record.files[name]:
            raise RunError(f"{name} is not what fit wrote")
        return data

    @property
    def series(self) -> str:
        """Digest of all settings but the seeds: the same for the repeats of one fit."""
        return str(self.outline.summary["series"])

    def summary(self) -> dict[str, Any]:
        """Return the run's line in a table, JSON-able; accuracies, mAP and F1 are fractions."""
        return {"run_id": self.run_id, **self.outline.summary, "run_dir": str(self.path)}


def read_record(path: Path) -> RunRecord:
    """Return the content of a run's ``metrics.json``."""
    try:
        return RunRecord.read(path / "metrics.json")
    except FormatError as error:
        raise RunError(str(error)) from error
    except StoreError as error:
        raise RunError(
            f"{path} is not a run as fit wrote it: {path.name}/metrics.json is missing, damaged "
            "or edited. Remove the folder and fit again."
        ) from error
