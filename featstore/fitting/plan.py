"""Plans: one fit as it is to be done, with its name, key, command, cost and search."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

import numpy as np

from featstore.config import FitConfig
from featstore.errors import FeatstoreError, FitError
from featstore.fitting import cost as costs
from featstore.fitting.classifiers import find_classifier
from featstore.fitting.search import Search, candidates
from featstore.fitting.solvers import accelerators
from featstore.fitting.solvers.epochs import trains_by_epochs
from featstore.fitting.splits import n_rows, split_rows
from featstore.fitting.worker import FitTask
from featstore.io.files import json_digest
from featstore.runs.run import Run
from featstore.runs.writer import make_run_id
from featstore.store.selection import Selection
from featstore.text import model_text

SOLVERS = 2
"""Number of the solvers' version: with another one, the same fit may end in other last digits."""


@dataclass
class PlannedFit:
    """One fit, and what has become of it so far.

    Parameters
    ----------
    name : str
        Dataset, model, layers and classifier, for people.
    task : Task
        What a worker is sent.
    cost : Cost
        What it takes, about.
    search : Search or None
        How its parameters are searched for.
    notice : str
        What is worth saying before it begins.
    run : Run or None
        Its run, once there is one.
    is_new : bool
        Whether the run was made now.
    error : FeatstoreError or None
        Why it failed.
    """

    name: str
    task: FitTask
    cost: costs.Cost
    search: Search | None = None
    notice: str = ""
    run: Run | None = None
    is_new: bool = False
    error: FeatstoreError | None = None


def repeated(config: FitConfig, repeat: int, selection: Selection) -> FitConfig:
    """Return the configuration of one of several repeats.

    Parameters
    ----------
    config : FitConfig
    repeat : int
        Number of the repeat, from 0.
    selection : Selection
        Decides by its dataset's split whether a new one is drawn.
    """
    seed = config.seed + repeat
    if config.split_seed is not None:
        return replace(config, seed=seed, split_seed=config.split_seed + repeat)
    return replace(config, seed=seed, split_seed=None if selection.has_official_split else seed)


def _command(store: str, options: Mapping[str, Any], config: FitConfig) -> str:
    words = ["featstore", "fit", "--store", store]
    for name, value in options.items():
        option = "set" if name == "set_id" else name.replace("_", "-")
        words += [f"--{option}", str(value)]
    words += ["--clf", config.clf]
    for name, value in config.params:
        words += ["--param", f"{name}={value}"]
    if config.search:
        words += ["--search", config.search, "--cv", str(config.cv)]
        if config.search != "grid":
            words += ["--n-candidates", str(config.n_candidates)]
        for name, values in config.grid:
            words += ["--grid", f"{name}={','.join(map(repr, values))}"]
    for option, value in (
        ("--epochs", config.n_epochs),
        ("--split-seed", config.split_seed),
        ("--drop-leaks", config.drop_leaks or None),
        ("--clf-device", None if config.device == "cpu" else config.device),
        ("--intelex", config.intelex or None),
    ):
        if value is not None:
            words += [option] if value is True else [option, str(value)]
    return shlex.join([*words, "--seed", str(config.seed)])


def plan(
    selection: Selection,
    config: FitConfig,
    facets: Mapping[str, Any],
    scratch: str,
    refit: bool,
    force: bool,
    budget: int | None,
) -> PlannedFit:
    """Return one fit as it is to be done, checked; what stands in its way is its error.

    Parameters
    ----------
    selection : Selection
    config : FitConfig
    facets : mapping
        What tells the selection's feature sets apart from others, for the command.
    scratch : str
        Folder for the standardised rows that fits share.
    refit, force : bool
        As of :func:`featstore.fitting.fit.fit_each`.
    budget : int or None
        Bytes of memory that may be taken; None for what is free.
    """
    layers = ",".join(selection.layers)
    model = model_text(selection.model, selection.describe().weights)
    name = f"{selection.title} {model} {layers} {config.clf}"
    if config.split_seed is not None or config.seed:
        name += f" seed {config.seed}"
    options = {
        "dataset": selection.title,
        "model": selection.model.replace("+", ","),
        "layers": layers,
        **facets,
    }
    command = _command(selection.backend.address, options, config)
    store = selection.backend.locate()
    task = FitTask(store, selection.parts, config, "", "", command, scratch, refit)
    nothing = costs.Shape(0, 0, selection.n_features, len(selection.class_names))
    try:
        split = split_rows(selection, config.split_seed, drop_leaks=config.drop_leaks)
        n_train = n_rows(split.train)
        shape = replace(nothing, n_train=n_train, n_judged=n_rows(split.test))
        classifier = find_classifier(config.clf)
        params = classifier.params(dict(config.params), n_train)
        clf = classifier.pipeline(params, 0).named_steps["clf"]
        if config.n_epochs is not None and not trains_by_epochs(clf):
            how = "" if not classifier.by_epochs else f" with {_text(config.params)}"
            raise FitError(
                f"--epochs is for mlp, sgd and softmax; {config.clf}{how} is not trained by epochs."
            )
        accelerators.check(config)
        search, found = None, []
        if config.search:
            found = candidates(classifier, config, selection.n_features, n_train)
            counts = np.bincount(selection.y[split.train])
            least = int(counts[counts > 0].min())
            search = Search(config, found, n_train, len(selection.class_names), least)
        key, run_id = _names(selection, config, params, found)
        task = replace(task, key=key, run_id=run_id)
        cost = costs.estimate(config, params, shape, len(found))
        notice = costs.check(config, cost, shape, budget, force=force)
    except FitError as error:
        return PlannedFit(name, task, costs.Cost(0.0, 0), error=error)
    return PlannedFit(name, task, cost, search, notice)


def _text(params: Sequence[tuple[str, Any]]) -> str:
    return ", ".join(f"{name}={value}" for name, value in params)


def _names(
    selection: Selection,
    config: FitConfig,
    params: Mapping[str, Any],
    found: Sequence[dict[str, Any]],
) -> tuple[str, str]:
    """Return the content key and the id of the run that a fit makes."""
    described = selection.describe()
    vectors = [selection.y, selection.splits, selection.valid]
    if config.drop_leaks:
        vectors.append(selection.first_rows)
    rows = hashlib.sha256()
    for vector in vectors:
        rows.update(np.ascontiguousarray(vector).tobytes())
    settings = config.to_dict()
    if not config.search:
        # Without a search they have no bearing.
        settings = {k: v for k, v in settings.items() if k not in ("cv", "n_candidates", "grid")}
    elif config.search == "grid":
        del settings["n_candidates"]
    key = json_digest(
        {
            "features": described.digest,
            "rows": rows.hexdigest(),
            "class_names": list(selection.class_names),
            **settings,
            "params": {**params, **dict(config.params)},
            "candidates": list(found),
            "own": find_classifier(config.clf).identity(),
            "scikit-learn": metadata.version("scikit-learn"),
            "solvers": SOLVERS,
        }
    )
    return key, make_run_id(described, config.clf, key)
