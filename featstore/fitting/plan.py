"""Plan fits before anything runs: their settings, run keys, commands, costs and searches."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from featstore.config import FitConfig
from featstore.errors import ConfigError, FeatstoreError, FitError
from featstore.fitting import cost
from featstore.fitting.estimators import MANY_ROWS, Classifier, unwrapped
from featstore.fitting.fit_task import FitTask
from featstore.fitting.parameters import assign_params
from featstore.fitting.protocols import (
    FIXED,
    PROTOCOLS,
    contradiction,
    find_protocol,
)
from featstore.fitting.results import Fit
from featstore.fitting.run_identity import fit_command, fit_name, run_key
from featstore.fitting.search import Search, candidates
from featstore.fitting.splits import Split, n_rows, refuse_trained, row_numbers
from featstore.fitting.tasks import Task, find_task
from featstore.progress import SILENT, Progress
from featstore.runs.run import Run
from featstore.runs.writer import make_run_id
from featstore.store.feature_store import FeatureStore
from featstore.store.selection import Selection
from featstore.text import as_list

SOLVERS = 5
"""Version of the solvers: another one may give the same fit other last digits."""


DEFAULTS = {field.name: field.default for field in fields(FitConfig)}


KNOWN_FOLDS = (
    "a search would test parameters on images that the network knows. Leave out --search, and give "
    "parameters with --param."
)


@dataclass
class PlannedFit:
    """One fit: the task for a worker, its size, cost and search, and later its run or error.

    `notice` is worth saying before it begins; `is_new` says that this call made the run. The cost
    is 0 until :func:`estimate_cost`.
    """

    name: str
    task: FitTask
    shape: cost.Shape = cost.Shape(0, 0, 0, 0)
    cost: cost.Cost = cost.Cost(0.0, 0)
    search: Search | None = None
    notice: str = ""
    run: Run | None = None
    is_new: bool = False
    error: FeatstoreError | None = None

    @property
    def is_open(self) -> bool:
        """Whether it has neither a run nor an error."""
        return self.run is None and self.error is None

    def result(self) -> Fit:
        """Return what became of it."""
        reused = self.run is not None and not self.is_new
        return Fit(self.name, self.run, reused, self.error)


@dataclass(frozen=True)
class PlanOptions:
    """What all fits of one call share.

    `facets` tell the feature sets apart, for the command; `scratch` is the folder of standardised
    rows; `budget` is the memory that fits may take, in bytes, None for what is free.
    """

    facets: Mapping[str, Any]
    scratch: str
    refit: bool
    force: bool
    budget: int | None


def split_options(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of :class:`.FitConfig` among the options, and the facets of sets."""
    names = {field.name for field in fields(FitConfig)}
    settings = {name: value for name, value in options.items() if name in names}
    facets = {k: v for k, v in options.items() if k not in names and v is not None}
    return settings, facets


def fit_configs(
    clf: str | Sequence[str],
    params: Mapping[str, Any] | None,
    grid: Mapping[str, Sequence[Any]] | None,
    settings: Mapping[str, Any],
    task: Task,
) -> list[FitConfig]:
    """Return one configuration per classifier, with its own parameters and grid."""
    if settings.get("protocol") is not None:
        given = [name for name in FIXED if settings.get(name, DEFAULTS[name]) != DEFAULTS[name]]
        given += ["clf"] if as_list(clf) != ["logreg"] else []
        given += [name for name, one in (("params", params), ("grid", grid)) if one]
        protocol = find_protocol(settings["protocol"])
        if given:
            raise ConfigError(contradiction(protocol.name, list(dict.fromkeys(given))))
        return protocol.configs(settings)
    known = task.classifiers
    requested = [name for one in as_list(clf) for name in (known if one == "all" else [one])]
    names = list(dict.fromkeys(requested))
    assigned = assign_params(params or {}, names, task.find_classifier)
    grids = assign_params(grid or {}, names, check=False)
    return [
        FitConfig(
            name,
            tuple(assigned[name].items()),
            grid=tuple((k, tuple(v)) for k, v in grids[name].items()),
            **settings,
        )
        for name in names
    ]


def check_repeats(repeats: int) -> None:
    """Refuse a number of repeats that is not a whole number from 1."""
    if not isinstance(repeats, int) or repeats < 1:
        raise ConfigError(f"repeats is {repeats!r}; it must be a whole number from 1.")


def select_all(
    store: FeatureStore,
    dataset: str | None,
    model: str | Sequence[str] | None,
    layers: str | Sequence[str] | None,
    facets: Mapping[str, Any],
    progress: Progress = SILENT,
) -> list[Selection]:
    """Return the selection of each model and layers, each selection once."""
    pairs = itertools.product(as_list(model), as_list(layers))
    found = [store.select(dataset, *pair, **facets) for pair in pairs]
    selections = list({selection.parts: selection for selection in found}.values())
    if as_list(layers) == [None]:
        for feature_set, layer in (source for one in selections for source in one.sources):
            if len(stored := feature_set.layer_names()) > 1:
                progress.say(
                    f"{feature_set.facets.model} has the layers {', '.join(stored)}. Using its "
                    f"feature layer {layer}; choose others with --layers."
                )
    return selections


def plan_fits(
    selections: Iterable[Selection],
    configs: Mapping[str, Sequence[FitConfig]],
    repeats: int,
    options: PlanOptions,
    progress: Progress,
) -> list[PlannedFit]:
    """Plan each classifier on each selection, with its repeats; `configs` are by task."""
    planned = []
    for selection in selections:
        own_configs = configs[selection.task]
        keeps_split = selection.has_official_split and own_configs[0].split_seed is None
        if repeats > 1 and keeps_split:
            progress.say(
                f"The repeats keep the {selection.split_text()} of {selection.title}: they differ "
                "in their seeds alone. --split-seed 1 draws new splits."
            )
        for config, repeat in itertools.product(own_configs, range(repeats)):
            own = _repeated(config, repeat, keeps_split=keeps_split) if repeats > 1 else config
            planned.append(plan_fit(selection, own, options))
    return planned


def _repeated(config: FitConfig, repeat: int, *, keeps_split: bool) -> FitConfig:
    """Return the configuration of one repeat: seeds count up."""
    seed = config.seed + repeat
    if config.split_seed is not None:
        return replace(config, seed=seed, split_seed=config.split_seed + repeat)
    return replace(config, seed=seed, split_seed=None if keeps_split else seed)


def plan_fit(selection: Selection, config: FitConfig, options: PlanOptions) -> PlannedFit:
    """Plan one fit; what makes it impossible becomes its error."""
    kind = find_task(selection.task)
    task = FitTask(
        store=selection.backend.locate(),
        parts=selection.parts,
        kind=kind.name,
        config=config,
        key="",
        run_id="",
        command=fit_command(selection, config, options.facets),
        scratch=options.scratch,
        refit=options.refit,
    )
    planned = PlannedFit(fit_name(selection, config), task)
    try:
        split = kind.split(selection, config.split_seed, drop_leaks=config.drop_leaks)
        n_train = n_rows(split.train)
        classifier = kind.classifier_of(config)
        params = classifier.params(dict(config.params), n_train, selection.n_features)
        _check_settings(kind, selection, config, classifier, params)
        if config.protocol is not None:
            PROTOCOLS[config.protocol].check(selection)
        found: list[dict[str, Any]] = []
        if config.search:
            found = candidates(classifier, config, selection.n_features, n_train)
            planned.search, planned.notice = _search(kind, selection, config, split, found)
        # With many rows, training by epochs is of another version.
        is_large = classifier.by_epochs and n_train > MANY_ROWS
        key = run_key(kind, selection, config, params, found, SOLVERS + is_large)
        run_id = make_run_id(selection.describe(), config.clf, key)
        planned.task = replace(task, key=key, run_id=run_id)
        n_test, n_outputs = n_rows(split.test), kind.n_outputs(selection)
        planned.shape = cost.Shape(n_train, n_test, selection.n_features, n_outputs)
    except FitError as error:
        planned.error = error
    return planned


def estimate_cost(planned: PlannedFit, options: PlanOptions) -> None:
    """Estimate the cost of a fit that is to be done; one that would not end gets an error."""
    config, shape = planned.task.config, planned.shape
    classifier = find_task(planned.task.kind).classifier_of(config)
    n_candidates = len(planned.search.pending) if planned.search else 0
    try:
        params = classifier.params(dict(config.params), shape.n_train, shape.n_features)
        planned.cost = cost.estimate(classifier, config, params, shape, n_candidates)
        notice = cost.check(classifier, planned.cost, shape, options.budget, force=options.force)
        planned.notice = " ".join(filter(None, (planned.notice, notice)))
    except FitError as error:
        planned.error = error


def _check_settings(
    kind: Task,
    selection: Selection,
    config: FitConfig,
    classifier: Classifier,
    params: Mapping[str, Any],
) -> None:
    """Refuse settings without an effect on the classifier, and parameters that do not fit."""
    for weights in (params.get("class_weight"), *dict(config.grid).get("class_weight", ())):
        kind.with_class_weights({"class_weight": weights}, selection)
    if config.n_epochs is not None:
        from featstore.fitting.solvers.epochs import trains_by_epochs

        if not trains_by_epochs(unwrapped(classifier.pipeline(params, 0).named_steps["clf"])):
            how = "" if not classifier.by_epochs else f" with {_text(config.params)}"
            raise FitError(
                f"--epochs is for mlp, dbn, sgd and softmax; {config.clf}{how} is not trained by "
                "epochs."
            )
    kind.check_config(config)


def _search(
    kind: Task,
    selection: Selection,
    config: FitConfig,
    split: Split,
    found: Sequence[dict[str, Any]],
) -> tuple[Search, str]:
    """Return a fit's search, and what is worth saying of it."""
    rows = row_numbers(split.train)
    refuse_trained(selection, rows, KNOWN_FOLDS)
    validates = config.search == "validation"
    notice = "" if validates else kind.check_folds(selection, rows, config.cv)
    n_smallest = kind.n_smallest(kind.y(selection)[rows])
    n_outputs = kind.n_outputs(selection)
    score = kind.scoring.score
    return Search(config, found, len(rows), n_outputs, n_smallest, score), notice


def _text(params: Sequence[tuple[str, Any]]) -> str:
    return ", ".join(f"{name}={value}" for name, value in params)
