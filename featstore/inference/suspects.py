"""Find stored images whose label is probably wrong, and near-copies of them in another split."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from featstore.config import TASKS, FitConfig
from featstore.errors import ConfigError
from featstore.fitting.evaluate import class_scores
from featstore.fitting.run_features import features_of
from featstore.fitting.solvers.blocks import Samples, one_thread
from featstore.fitting.solvers.scaling import new_scratch, scale_rows, scratch_folder
from featstore.fitting.solvers.train import explained, train
from featstore.fitting.splits import refuse_trained, row_numbers
from featstore.fitting.tasks import find_task
from featstore.inference.near_copies import NearCopy, find_near_copies
from featstore.io.files import atomic_write
from featstore.progress import Progress
from featstore.progress_bars import IN_NOTEBOOKS
from featstore.runs.calibration import DECISION
from featstore.runs.opening import open_run
from featstore.runs.run import Run
from featstore.store.feature_store import FeatureStore, open_store
from featstore.store.selection import Selection
from featstore.text import no_formula


@dataclass(frozen=True)
class Suspect:
    """A stored image whose label is probably wrong.

    Parameters
    ----------
    row : int
        Row of the features.
    sample_id, split, label : str
        The image, its split in the run, and the name of its class.
    suggested : str
        The class that classifiers that were not trained on the image find more likely.
    probability, suggested_probability : float
        Of the two classes.
    """

    row: int
    sample_id: str
    split: str
    label: str
    suggested: str
    probability: float
    suggested_probability: float


@dataclass(frozen=True)
class Suspects:
    """The result of :func:`find_suspects`.

    Parameters
    ----------
    run_id : str
    n_rows : int
        Number of images that were examined.
    suspects : tuple of Suspect
        The most suspicious first.
    near_copies : tuple of NearCopy
        The nearest first.
    """

    run_id: str
    n_rows: int
    suspects: tuple[Suspect, ...]
    near_copies: tuple[NearCopy, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON-able values."""
        return {
            "run": self.run_id,
            "n_rows": self.n_rows,
            "suspects": [asdict(one) for one in self.suspects],
            "near_copies": [asdict(one) for one in self.near_copies],
        }


def find_suspects(
    run: Run | str | Path,
    *,
    store: str | Path | FeatureStore | None = None,
    n_folds: int = 5,
    progress: Progress = IN_NOTEBOOKS,
) -> Suspects:
    """Find images whose label is probably wrong, by confident learning.

    The run's classifier is fitted again without each fold of all its images, and gives the fold's
    probabilities. An image is suspect if a class other than its own has a probability as large as
    that class's images have on average (Northcutt et al. 2021, doi:10.1613/jair.1.12125). The
    order is that of the gap between the two probabilities.

    Parameters
    ----------
    run : Run, str or Path
        A run, its name, or its folder.
    store : str, Path or FeatureStore
        The store of the run.
    n_folds : int
        Parts of the images; each is judged by a classifier of the others.
    progress : Progress

    Raises
    ------
    ConfigError
        When images have several classes or numbers, or the classifier gives no probabilities.
    FitError
        When the folds can't be drawn, or a classifier fails.
    SelectionError
        When the store no longer has the run's features.
    """
    opened = open_store(store, progress)
    run = run if isinstance(run, Run) else open_run(run, opened)
    if run.task != TASKS[0]:
        raise ConfigError(
            f"{run.run_id} is a run of {run.task}. Labels are examined where each image has one "
            "class."
        )
    if run.score_kind == DECISION:
        raise ConfigError(
            f"{run.run_id} gives decision values, not probabilities. Fit it again without "
            "--no-calibrate, or name a run of logreg, lda or mlp."
        )
    selection, split = features_of(run, opened)
    kind = find_task(run.task)
    rows = np.sort(np.concatenate([row_numbers(own) for own in split.uses().values()]))
    refuse_trained(selection, rows, "the classifier would repeat their labels.")
    y = kind.y(selection)[rows]
    probabilities = _out_of_fold(run, opened, selection, rows, n_folds, progress)
    splits = split.use_of_rows(selection.n_samples)
    own = probabilities[np.arange(len(y)), y]
    suggested = suggest_labels(probabilities, y)
    found = np.flatnonzero(suggested != y)
    gaps = own[found] - probabilities[found, suggested[found]]
    names = run.class_names
    suspects = [
        Suspect(
            int(rows[at]),
            str(selection.sample_ids[rows[at]]),
            str(splits[rows[at]]),
            names[y[at]],
            names[suggested[at]],
            float(own[at]),
            float(probabilities[at, suggested[at]]),
        )
        for at in found[np.argsort(gaps, kind="stable")].tolist()
    ]
    near = find_near_copies(selection, split, kind, progress)
    return Suspects(run.run_id, len(rows), tuple(suspects), tuple(near))


def suggest_labels(probabilities: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the label that confident learning gives each row, (n_samples,) int.

    Parameters
    ----------
    probabilities : ndarray of shape (n_samples, n_classes), float
        Out-of-fold probabilities.
    y : ndarray of shape (n_samples,), int
        Given labels. A row keeps its label unless another class reaches its own threshold, which
        is the mean probability of the class among the rows with its label.
    """
    n_classes = probabilities.shape[1]
    counts = np.bincount(y, minlength=n_classes)
    totals = np.bincount(y, probabilities[np.arange(len(y)), y], n_classes)
    thresholds = np.where(counts > 0, totals / np.maximum(counts, 1), np.inf)
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    best = confident.argmax(axis=1)
    reached = confident[np.arange(len(y)), best] >= 0
    # A label that is as likely stays.
    likelier = probabilities[np.arange(len(y)), best] > probabilities[np.arange(len(y)), y]
    return np.where(reached & likelier, best, y)


def write_suspects(found: Suspects, path: str | Path) -> Path:
    """Write the suspects as CSV; no text in it is a formula to a spreadsheet."""
    return _write(Suspect, found.suspects, Path(path))


def write_copies(found: Suspects, path: str | Path) -> Path:
    """Write the near-copies as CSV; no text in it is a formula to a spreadsheet."""
    return _write(NearCopy, found.near_copies, Path(path))


def _write(kind: type, records: Sequence[Any], path: Path) -> Path:
    names = [field.name for field in fields(kind)]
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        for one in records:
            values = [getattr(one, name) for name in names]
            writer.writerow([no_formula(v) if isinstance(v, str) else v for v in values])
    return path


def _out_of_fold(
    run: Run,
    store: FeatureStore,
    selection: Selection,
    rows: np.ndarray,
    n_folds: int,
    progress: Progress,
) -> np.ndarray:
    """Return the probabilities of rows, each by a classifier that was fitted without its fold."""
    kind = find_task(run.task)
    config = FitConfig.from_dict(run.record.fit.to_dict() | {"search": None, "grid": {}})
    classifier = kind.classifier_of(config)
    y = kind.y(selection)
    folds = kind.draw_folds(selection, rows, n_folds, config.seed)
    found = np.zeros((len(rows), len(run.class_names)))
    scratch, digest = new_scratch(store.cache_dir), selection.describe().digest
    progress.start("Fitting without each part", n_folds, "fits")
    try:
        for fold in range(n_folds):
            # The standardised rows of a fold serve no other.
            with scratch_folder(scratch):
                model = classifier.pipeline(
                    kind.with_class_weights(run.record.params, selection), config.seed
                )
                own = rows[folds != fold]
                with explained(config.clf, len(own), selection.n_features):
                    X = scale_rows(model, Samples(selection.memmap(), own), digest, scratch)
                    train(model, X, y[own], config, records=False)
                tested = Samples(selection.memmap(), rows[folds == fold])
                at = np.flatnonzero(folds == fold)
                with one_thread():
                    for block in tested.blocks():
                        scores = class_scores(model, tested.take(block), run.calibrator)
                        found[np.ix_(at[block], model.classes_)] = scores
                progress.advance(1)
    finally:
        progress.stop()
    return found
