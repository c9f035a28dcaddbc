"""What tells a fit from others: its name, the command that repeats it, and the key of its run."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from featstore.config import FitConfig
from featstore.environment import versions
from featstore.fitting.tasks import Task
from featstore.io.files import json_digest
from featstore.store.selection import Selection
from featstore.text import run_text


def fit_name(selection: Selection, config: FitConfig) -> str:
    """Return the name of a fit in messages."""
    weights = selection.describe().weights
    run = run_text(selection.model, weights, selection.layers, config.clf)
    name = f"{selection.title} {run}"
    if config.split_seed is not None:
        name += f" split seed {config.split_seed}"
    if config.seed and config.seed != config.split_seed:
        name += f" seed {config.seed}"
    return name


def fit_command(selection: Selection, config: FitConfig, facets: Mapping[str, Any]) -> str:
    """Return the command line of just this fit."""
    set_ids = list(dict.fromkeys(set_id for set_id, _ in selection.parts))
    if facets.get("set_id") and len(set_ids) == 1:
        # The newest set of today need not be that of tomorrow.
        facets = {**facets, "set_id": set_ids[0]}
    options = {
        "dataset": selection.title,
        "model": selection.model.replace("+", ","),
        "layers": ",".join(selection.layers),
        **facets,
    }
    words = ["featstore", "fit", "--store", selection.backend.address]
    for name, value in options.items():
        option = "set" if name == "set_id" else name.replace("_", "-")
        words += [f"--{option}", str(value)]
    if config.protocol is not None:
        # It makes this fit among others.
        words += ["--protocol", config.protocol]
        config = replace(config, params=(), search=None, grid=(), n_epochs=None, scale=None)
    else:
        words += ["--clf", config.clf]
    for name, value in config.params:
        words += ["--param", f"{name}={value}"]
    if config.search:
        words += ["--search", config.search]
        if config.search != "validation":
            words += ["--cv", str(config.cv)]
        if config.search not in ("grid", "validation"):
            words += ["--n-candidates", str(config.n_candidates)]
        for name, values in config.grid:
            words += ["--grid", f"{name}={','.join(map(repr, values))}"]
    for option, value in (
        ("--epochs", config.n_epochs),
        ("--split-seed", config.split_seed),
        ("--drop-leaks", config.drop_leaks or None),
        ("--scale", config.scale),
        ("--no-calibrate", None if config.calibrate else True),
        ("--clf-device", None if config.device == "cpu" else config.device),
        ("--intelex", config.intelex or None),
    ):
        if value is not None:
            words += [option] if value is True else [option, str(value)]
    return shlex.join([*words, "--seed", str(config.seed)])


def run_key(
    kind: Task,
    selection: Selection,
    config: FitConfig,
    params: Mapping[str, Any],
    found: Sequence[dict[str, Any]],
    solvers: int,
) -> str:
    """Return the content key of the run: the digest of all that its result depends on."""
    vectors = [kind.y(selection), selection.splits, selection.valid]
    if selection.targets is not None:
        # Rows without a label are left out; and groups decide new splits and folds.
        vectors.append(selection.targets)
        vectors += [] if selection.groups is None else [selection.groups]
    if config.drop_leaks:
        vectors.append(selection.first_rows)
    if selection.groups is not None:
        vectors.append(selection.groups)
    rows = hashlib.sha256()
    for vector in vectors:
        rows.update(np.ascontiguousarray(vector).tobytes())
    settings = config.to_dict()
    if config.scale is None:
        # So that earlier runs stay the answer.
        del settings["scale"]
    if config.protocol is None:
        del settings["protocol"]
    if not kind.class_names(selection):
        # It has no effect on numbers.
        del settings["calibrate"]
    if not config.search:
        # Without a search they have no effect.
        settings = {k: v for k, v in settings.items() if k not in ("cv", "n_candidates", "grid")}
    elif config.search in ("grid", "validation"):
        del settings["n_candidates"]
    return json_digest(
        {
            "features": selection.describe().digest,
            "rows": rows.hexdigest(),
            "class_names": list(kind.class_names(selection)),
            **({"target": selection.target_names[0]} if kind.target_name(selection) else {}),
            **settings,
            "params": {**params, **dict(config.params)},
            "candidates": list(found),
            "own": kind.classifier_of(config).identity(),
            "scikit-learn": versions()["scikit-learn"],
            "solvers": solvers,
        }
    )
