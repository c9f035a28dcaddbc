"""Run the paper's comparison of networks and layers, from images to the report.

Finished features and runs come from the store, so an interrupted study resumes, and a finished one
only writes its report.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from featstore.config import PROJECTIONS, ExtractConfig
from featstore.datasets.registry import dataset_names, find_format, open_dataset
from featstore.errors import (
    ConfigError,
    DatasetNotFoundError,
    DownloadError,
    FeatstoreError,
    FitError,
    WeightsError,
)
from featstore.extraction.extract import extract
from featstore.fitting.classifiers import find_classifier
from featstore.fitting.fit import fit_each
from featstore.models.names import PIXEL_MODEL
from featstore.progress import Progress
from featstore.progress_bars import IN_NOTEBOOKS
from featstore.report import paper
from featstore.report.write import write_report
from featstore.runs.run import Run
from featstore.store.feature_store import FeatureStore

QUICK_IMAGES = 1_000
"""Images of each dataset in a quick study."""


STOCK = "imagenet"
"""Weights that a machine without network access may lack."""


@dataclass(frozen=True)
class Study:
    """The datasets, networks and classifiers to compare.

    Parameters
    ----------
    datasets : tuple of str
        ``sat4``, ``sat6``, ``ucmerced``, ``folder`` or ``demo``.
    models : tuple of str
        Networks of :func:`featstore.report.study_models`.
    clf : tuple of str
        Classifiers to fit on every layer.
    root : str, optional
        Folder of the datasets, see :func:`featstore.datasets.open_dataset`.
    limit : int, optional
        Images of each dataset, spread over its classes; by default all.
    seed : int
        Seed of everything random.
    weights : str
        As of :class:`featstore.config.ExtractConfig`; a file fits one network.
    device : str
        Device of the networks.

    Raises
    ------
    ConfigError
        When there is nothing to compare, a network or classifier is unknown, or a value is out of
        range.
    """

    datasets: tuple[str, ...] = paper.DATASETS
    models: tuple[str, ...] = paper.MODELS
    clf: tuple[str, ...] = ("logreg",)
    root: str | None = None
    limit: int | None = None
    seed: int = 0
    weights: str = STOCK
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("datasets", "models", "clf"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty; name at least one.")
        for dataset in self.datasets:
            if find_format(dataset) is None:
                raise ConfigError(
                    f"There is no dataset {dataset!r}; there are {', '.join(dataset_names())}."
                )
        for model in self.models:
            if paper.study_layers(model) is None:
                raise ConfigError(
                    f"The study does not know the layers of {model!r}; it knows those of "
                    f"{', '.join(paper.study_models())}. Other networks: featstore extract --model "
                    f"{model} --layers A,B and featstore fit --layers A --layers A,B."
                )
        # Refuse now what the last step would refuse.
        ExtractConfig(
            self.models[0],
            self.datasets[0],
            limit=self.limit,
            seed=self.seed,
            device=self.device,
        )
        for clf in self.clf:
            try:
                if clf != "all":
                    find_classifier(clf)
            except FitError as error:
                raise ConfigError(str(error)) from error


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


@dataclass(frozen=True)
class Step:
    """One pass of a network over a dataset, and the fits to its features.

    One pass computes all `layers`; an empty tuple stands for the model's default. Every classifier
    is fitted on each of the `selections`, and the one of the paper's Figures 4 to 6 on the layer
    `by_epochs`.
    """

    dataset: str
    model: str
    layers: tuple[str, ...]
    selections: tuple[str | None, ...]
    by_epochs: str | None

    @property
    def n_parts(self) -> int:
        """Units of progress: the pass, the fits, the fit by epochs."""
        return 2 + (self.by_epochs is not None)


def steps(study: Study) -> Iterator[Step]:
    """Yield the steps of a study, dataset by dataset, the cheapest first.

    Pixel statistics are the baseline of the networks: on SAT-6 they alone give 99.6 % (Corley et
    al. 2023, arXiv:2305.13456).
    """
    for dataset in study.datasets:
        yield Step(dataset, PIXEL_MODEL, (), (None,), None)
        for model in study.models:
            layers = paper.study_layers(model)
            assert layers is not None
            yield Step(dataset, model, layers.names, layers.selections, layers.final)


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
            _run_step(step, study, store, outcome, progress)
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
    step: Step, study: Study, store: FeatureStore, outcome: Outcome, progress: Progress
) -> None:
    """Extract and fit; note what can't be done, and continue."""
    name = f"{step.model} on {step.dataset}"
    pixels = step.model == PIXEL_MODEL
    n_left = step.n_parts
    try:
        done = extract(
            step.model,
            step.dataset,
            layers=step.layers,
            store=store,
            progress=progress,
            root=study.root,
            limit=study.limit,
            seed=study.seed,
            device=study.device,
            **({} if pixels else {"weights": study.weights}),
        )
        progress.advance(1)
        n_left -= 1
        # The store may know the layers by other names.
        names = {} if pixels else dict(zip(step.layers, done.layers, strict=True))
        chosen: Sequence[str] | None = None
        if not pixels:
            chosen = [",".join(names[n] for n in str(s).split(",")) for s in step.selections]
        todo: list[tuple[Sequence[str], Any, dict[str, Any]]] = [(study.clf, chosen, {})]
        if step.by_epochs:
            todo.append(([paper.EPOCH_CLF], names[step.by_epochs], {"n_epochs": paper.N_EPOCHS}))
        for clf, layers, settings in todo:
            fits = fit_each(
                store,
                clf,
                set_id=done.set_id,
                layers=layers,
                seed=study.seed,
                progress=progress,
                **settings,
            )
            outcome.runs += [one.run for one in fits if one.run]
            outcome.n_reused += sum(one.reused for one in fits)
            outcome.failures += [f"{one.name}: {one.error}" for one in fits if one.error]
            progress.advance(1)
            n_left -= 1
    except FeatstoreError as error:
        if isinstance(error, (WeightsError, DownloadError)) and study.weights == STOCK:
            outcome.left_out.append(f"{name}: {error}")
            progress.say(f"Left out: {name}: {error}")
            progress.advance(n_left)
            return
        outcome.failures.append(f"{name}: {error}")
        progress.say(f"Failed: {name}: {error}")
    if n_left:
        progress.advance(n_left)
