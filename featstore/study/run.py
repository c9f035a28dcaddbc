"""Run the paper's comparison of networks and layers, from images to the report.

Finished weights, features and runs are used as they are, so an interrupted study resumes, and a
finished one only writes its report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featstore.config import PROJECTIONS
from featstore.datasets.registry import open_dataset
from featstore.errors import (
    DatasetNotFoundError,
    DownloadError,
    FeatstoreError,
    FitError,
    WeightsError,
)
from featstore.extraction.extract import extract
from featstore.fitting.fit import fit_each
from featstore.models.names import needs_network
from featstore.progress import Progress
from featstore.progress_bars import IN_NOTEBOOKS
from featstore.report import paper
from featstore.report.write import write_report
from featstore.runs.run import Run
from featstore.store.feature_store import FeatureStore
from featstore.study.plan import STOCK, Step, Study, steps
from featstore.text import file_name


@dataclass
class Outcome:
    """The result of a study.

    Parameters
    ----------
    runs : list of Run
    n_reused : int
        Runs that the store already had.
    left_out : list of str
        Datasets and weights that this machine lacks, and how to get them.
    failures : list of str
        Errors.
    report : dict
        What :func:`featstore.write_report` returned.
    """

    runs: list[Run] = field(default_factory=list)
    n_reused: int = 0
    left_out: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)


def reproduce(
    study: Study,
    store: FeatureStore,
    out: str | Path,
    *,
    files: str | Path | None = None,
    projection: str = PROJECTIONS[0],
    command: str | None = None,
    progress: Progress = IN_NOTEBOOKS,
) -> Outcome:
    """Extract features, fit classifiers and write the report of a study.

    Parameters
    ----------
    study : Study
    store : FeatureStore
        Complete features and runs in it are used as they are.
    out : str or Path
        The report's page.
    files : str or Path, optional
        Folder for the report's figures and tables.
    projection : str
        As of :func:`featstore.write_report`.
    command : str, optional
        The command that was typed, for the report.
    progress : Progress
        Receives the whole as one phase, and each step as a phase within it.

    Returns
    -------
    Outcome

    Raises
    ------
    DatasetNotFoundError
        When none of the datasets is on this machine.
    FitError
        When no fit succeeded.
    FeatstoreError
        When the report can't be written.
    """
    outcome = Outcome()
    present = [name for name in study.datasets if _is_present(study, name, outcome, progress)]
    if not present:
        raise DatasetNotFoundError("\n".join(["No dataset was found.", *outcome.left_out]))
    todo = [step for step in steps(study) if step.dataset in present]
    progress.start("Study", sum(step.n_parts for step in todo) + 1, "steps")
    try:
        for step in todo:
            _run_step(step, study, store, Path(out).parent / "trained", outcome, progress)
        if not outcome.runs:
            raise FitError("\n".join(["No fit succeeded.", *outcome.left_out, *outcome.failures]))
        outcome.report = write_report(
            store,
            outcome.runs,
            out,
            files=files,
            projection=projection,
            root=study.root,
            command=command,
            left_out=[*outcome.left_out, *outcome.failures],
            progress=progress,
        )
        progress.advance(1)
    finally:
        progress.stop()
    return outcome


def _is_present(study: Study, name: str, outcome: Outcome, progress: Progress) -> bool:
    try:
        open_dataset(name, study.root, seed=study.seed, limit=study.limit, progress=progress)
    except DatasetNotFoundError as error:
        outcome.left_out.append(str(error))
        progress.say(f"Left out: {error}")
        return False
    except FeatstoreError:
        # The step that reads it names its fault, and counts it as a failure.
        return True
    return True


def _run_step(
    step: Step,
    study: Study,
    store: FeatureStore,
    trained: Path,
    outcome: Outcome,
    progress: Progress,
) -> None:
    """Train, extract and fit; note what can't be done, and continue."""
    name = f"{step.model} on {step.dataset}"
    images: dict[str, Any] = {
        "root": study.root,
        "limit": study.limit,
        "seed": study.seed,
        "device": study.device,
        "progress": progress,
        "store": store,
    }
    n_left = step.n_parts

    def part_done() -> None:
        nonlocal n_left
        progress.advance(1)
        n_left -= 1

    try:
        weights: dict[str, Any] = {"weights": study.weights} if needs_network(step.model) else {}
        if step.training:
            # Without it, stage two does not need torch.
            from featstore.training.train import train

            out = trained / f"{file_name(step.model)}-{step.dataset}.pth"
            made = train(
                dataset=step.dataset, out=out, random_state=study.seed, **step.training, **images
            )
            weights = {"weights": str(made.path)}
            part_done()
        done = extract(step.model, step.dataset, layers=step.layers, **weights, **images)
        part_done()
        for settings in _fits(step, done.layers):
            fits = fit_each(
                store, set_id=done.set_id, seed=study.seed, progress=progress, **settings
            )
            outcome.runs += [one.run for one in fits if one.run]
            outcome.n_reused += sum(one.reused for one in fits)
            outcome.failures += [f"{one.name}: {one.error}" for one in fits if one.error]
            part_done()
    except FeatstoreError as error:
        lacks_weights = isinstance(error, (WeightsError, DownloadError)) and study.weights == STOCK
        (outcome.left_out if lacks_weights else outcome.failures).append(f"{name}: {error}")
        progress.say(f"{'Left out' if lacks_weights else 'Failed'}: {name}: {error}")
    if n_left:
        progress.advance(n_left)


def _fits(step: Step, stored_layers: Sequence[str]) -> list[dict[str, Any]]:
    """Return what to fit: classifiers, and layers by the names that the store has for them."""
    if not step.layers:
        return [{"clf": step.clf}]
    names = dict(zip(step.layers, stored_layers, strict=True))
    chosen = [",".join(names[n] for n in str(s).split(",")) for s in step.selections]
    fits: list[dict[str, Any]] = [{"clf": step.clf, "layers": chosen}]
    if step.by_epochs:
        own = {"layers": names[step.by_epochs], "n_epochs": paper.N_EPOCHS}
        fits.append({"clf": [paper.EPOCH_CLF], **own})
    return fits
