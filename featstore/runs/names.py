"""Names of runs: the same name for the same fit in every table and figure."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from featstore.runs.run import Run
from featstore.text import run_text


def name_fits(runs: Sequence[Run]) -> dict[str, tuple[str, str]]:
    """Return the full name, and the settings in it, of each fit on the same images.

    Keys are :attr:`featstore.runs.run.Run.series`, which the repeats of a fit share. Fits of one
    network, layers and classifier have the settings in which they differ in their names, and
    otherwise the last digits of their runs.
    """
    alike: dict[str, dict[str, Run]] = {}
    for run in runs:
        alike.setdefault(short_name(run), {}).setdefault(run.series, run)
    names = {}
    for name, fits in alike.items():
        settings = differing_settings([all_settings(run) for run in fits.values()])
        for (series, run), text in zip(fits.items(), settings, strict=True):
            # Such as the type that features are stored in, or a classifier's source code.
            digits = run.run_id[-8:] if settings.count(text) > 1 else ""
            told = join([text, digits])
            names[series] = (f"{name} ({told})" if told else name, told)
    return names


def short_name(run: Run) -> str:
    """Return a run's network, layers and classifier."""
    selection = run.selection
    return run_text(selection.model, selection.weights, selection.layers, run.clf)


def all_settings(run: Run) -> dict[str, str]:
    """Return what fits of the same layers and classifier may differ in, for people."""
    return {**features_settings(run), **fit_settings(run), "rows": rows_text(run)}


def features_settings(run: Run) -> dict[str, str]:
    """Return what features of the same layers may differ in, for people.

    ``image_size`` is empty for models that take images in their own size. Layer names tell the
    pooling.
    """
    parts = run.selection.features
    read_as = [part.preprocess for part in parts]
    sizes = [f"{one.image_size} px" for one in read_as if one.image_size]
    digests = [part.backbone.weights_sha256[:6] for part in parts]
    return {
        "bands": _join_unique(one.bands for one in read_as),
        "image_size": _join_unique(sizes),
        "precision": run.selection.precision,
        # Files of one name may hold other weights.
        "weights": f"{run.selection.weights} ({_join_unique(digests)})",
    }


def fit_settings(run: Run) -> dict[str, str]:
    """Return what fits of one classifier to the same rows may differ in besides their seeds.

    Settings at their defaults are empty.
    """
    fit = run.record.fit
    search, grid = fit.search, fit.grid
    is_drawn = search in ("random", "halving")
    return {
        "params": ", ".join(f"{name}={value}" for name, value in fit.params.items()),
        "n_epochs": f"{fit.n_epochs} epochs" if fit.n_epochs else "",
        "search": f"{search} search" if search else "",
        "grid": json.dumps(grid)[1:-1].replace('"', "") if grid else "",
        "cv": f"{fit.cv} folds" if search else "",
        "n_candidates": f"{fit.n_candidates} candidates" if is_drawn else "",
        "device": "" if fit.device == "cpu" else fit.device,
        "intelex": "intelex" if fit.intelex else "",
        "drop_leaks": "leaks left out" if fit.drop_leaks else "",
    }


def rows_text(run: Run) -> str:
    """Return how many rows a run was fitted to and tested on, for people."""
    rows = run.record.rows
    drawn = "" if run.record.fit.split_seed is None else ", drawn anew"
    return f"{rows.n_train:,} to train, {rows.n_test:,} to test{drawn}"


def differing_settings(settings: Sequence[Mapping[Any, str]]) -> list[str]:
    """For each of several runs, return the settings in which it differs from the others."""
    values = defaultdict(set)
    for one in settings:
        for name, text in one.items():
            values[name].add(text)
    return [join(text for name, text in one.items() if len(values[name]) > 1) for one in settings]


def join(texts: Iterable[str]) -> str:
    """Return the texts that are not empty as a list in a sentence."""
    return ", ".join(filter(None, texts))


def _join_unique(texts: Iterable[str]) -> str:
    return "+".join(dict.fromkeys(texts))
