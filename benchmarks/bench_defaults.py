"""The classifiers' default parameters beside other values, on the feature sets of a store.

    python benchmarks/bench_defaults.py --store STORE [--store STORE] [--clf logreg,ridge]

Scores are those of each layer of each set in STORE. They are of 5-fold cross-validation on
the training rows; test rows are not used. The loss of a value on a set is the best accuracy that
any value has there, less its own. STORE's cache keeps the scores, so that an interrupted benchmark
continues. Classifiers that are trained by batches take minutes a set: they are measured on the
smallest sets of the first STORE.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import click
import joblib
import numpy as np
from results import save, table
from turns import Turn

from featstore.cli import console
from featstore.config import FitConfig
from featstore.fitting.classifiers import CLASSIFIERS
from featstore.fitting.cross_validation import CrossValidation, cross_validate_task
from featstore.fitting.grids import logarithmic
from featstore.fitting.solvers.scaling import new_scratch, scratch_folder
from featstore.fitting.splits import n_rows
from featstore.fitting.tasks import find_task
from featstore.store.feature_store import open_store

GRIDS: dict[str, list[dict[str, Any]]] = {
    "logreg": [{"C": value} for value in (3e-4, 1e-3, 3e-3, 0.01, 0.03, 0.1, 1.0)],
    "linear-svm": [{"C": value} for value in (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.1)],
    "ridge": [{"alpha": v} for v in (1.0, 10.0, 30.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4)],
    "lda": [{"shrinkage": v} for v in (0.01, 0.03, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 0.95)],
    "knn": [
        {"n_neighbors": k, "weights": w} for k in (1, 3, 5, 9) for w in ("uniform", "distance")
    ],
    "similarity-knn": [
        {"n_neighbors": k, "temperature": t} for k in (5, 10, 20, 100) for t in (0.02, 0.07, 0.2)
    ],
    "sgd": [{"alpha": value} for value in logarithmic(-4, 0, 5)],
    "svm": [{"C": value} for value in (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)],
    "nystroem-svm": [{"C": value} for value in (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)],
    "triplet": [{"n_iter": n} for n in (200, 500, 1000)],
    "softmax": [{"alpha": value} for value in logarithmic(-3, 1, 5)],
    "mlp": [{"alpha": value} for value in (1e-4, 0.1, 1.0, 10.0)],
}
"""Values of each classifier's main parameters that stand beside the default."""


N_SETS = {"sgd": 1, "softmax": 2, "triplet": 1, "mlp": 1}
"""Of classifiers that take minutes for each set: the sets of each kind, the smallest ones."""


N_FOLDS = 5

KINDS = ("others", "few features", "few images")
"""Kinds of sets: fewer than 1,000 features, or fewer than 20 training images of each class."""


MIN_HELD_OUT = 200
"""Predictions that a score is the mean of, at least: small sets are divided several times."""


def score_grid(
    store: str, parts: tuple[tuple[str, str], ...], clf: str, grid: list[dict[str, Any]]
) -> list[float]:
    """Return each setting's cross-validated accuracy in %, the mean of several divisions."""
    opened = open_store(store)
    selection = opened.reopen(parts)
    n_train = n_rows(find_task(selection.task).split(selection).train)
    n_divisions = math.ceil(MIN_HELD_OUT / n_train)
    found = []
    for seed in range(n_divisions):
        scratch = new_scratch(opened.cache_dir)
        with scratch_folder(scratch):
            task = CrossValidation(
                store,
                parts,
                selection.task,
                FitConfig(clf, search="grid", cv=N_FOLDS, seed=seed),
                tuple(grid),
                tuple(range(N_FOLDS)),
                n_train,
                str(scratch),
            )
            scores = np.zeros((len(grid), N_FOLDS))
            for one in task.split():
                own, errors = cross_validate_task(one)
                if errors:
                    raise click.ClickException(errors[0])
                at = [grid.index(candidate) for candidate in one.candidates]
                scores[np.ix_(at, one.folds)] = own
        found.append(scores.mean(axis=1))
    return [100 * float(score) for score in np.mean(found, axis=0)]


def _text(params: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in params.items()
    )


def default_of(clf: str, n_train: int, n_features: int) -> dict[str, Any]:
    """Return what the classifier has for the grid's parameters without a search."""
    classifier = CLASSIFIERS[clf]
    params = classifier.estimator().get_params(deep=False)
    params |= classifier.params({}, n_train, n_features)
    return {name: params[name] for name in GRIDS[clf][0]}


def summarize(turns: list[Turn]) -> list[Turn]:
    """Return a row for each classifier and value: its losses on sets of several kinds."""
    rows = []
    for clf in dict.fromkeys(turn["classifier"] for turn in turns):
        own = [turn for turn in turns if turn["classifier"] == clf]
        for setting in own[0]["accuracies"]:
            losses = [max(t["accuracies"].values()) - t["accuracies"][setting] for t in own]
            means = {
                kind: [loss for loss, turn in zip(losses, own, strict=True) if turn["kind"] == kind]
                for kind in KINDS
            }
            rows.append(
                {"classifier": clf, "value": setting}
                | {kind: float(np.mean(found)) for kind, found in means.items() if found}
                | {"mean": float(np.mean(losses)), "largest": max(losses)}
            )
    return rows


def find_sets(stores: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return each layer of each set, with its number of training rows and its kind."""
    found = []
    for store in stores:
        opened = open_store(store)
        for parts in [((one.set_id, layer),) for one in opened.sets() for layer in one.layers()]:
            selection = opened.reopen(parts)
            n_train = n_rows(find_task(selection.task).split(selection).train)
            n_features = selection.n_features
            few = KINDS[1] if n_features < 1_000 else KINDS[0]
            found.append(
                {
                    "store": store,
                    "parts": parts,
                    "n_train": n_train,
                    "n_features": n_features,
                    "kind": KINDS[2] if n_train < 20 * len(selection.class_names) else few,
                    "set": f"{selection.title} {selection.model} {parts[0][1]}, "
                    f"{n_train} x {n_features}",
                }
            )
    return found


def smallest(sets: list[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    """Return the `n` smallest sets of each kind in the first store."""
    own = [one for one in sets if one["store"] == sets[0]["store"]]
    own.sort(key=lambda one: one["n_train"] * one["n_features"])
    return [one for kind in reversed(KINDS) for one in [o for o in own if o["kind"] == kind][:n]]


@click.command()
@click.option("--store", "stores", required=True, multiple=True, metavar="DIR")
@click.option("--clf", default=",".join(GRIDS), show_default=True, metavar="NAMES")
def main(stores: tuple[str, ...], clf: str) -> None:
    """Compare the classifiers' default parameters with other values."""
    turns: list[Turn] = []
    sets = find_sets(stores)
    for name in clf.split(","):
        grid = GRIDS[name]
        for one in smallest(sets, N_SETS[name]) if name in N_SETS else sets:
            memory = joblib.Memory(open_store(one["store"]).cache_dir / "defaults", verbose=0)
            scored = memory.cache(score_grid)
            found = scored(one["store"], one["parts"], name, grid)
            accuracies = {_text(p): s for p, s in zip(grid, found, strict=True)}
            default = default_of(name, one["n_train"], one["n_features"])
            own = accuracies.get(_text(default))
            if own is None:
                (own,) = scored(one["store"], one["parts"], name, [default])
            accuracies = {"default": own, **accuracies}
            turns.append(
                {
                    "classifier": name,
                    "set": one["set"],
                    "kind": one["kind"],
                    "accuracies": accuracies,
                }
            )
            console.say(f"{name} {one['set']}: {max(found):.1f} % at best, {own:.1f} % by default")
    rows = summarize(turns)
    table(rows, "Losses in points of cross-validated accuracy")
    save("defaults", rows, turns, title="Losses in points of cross-validated accuracy")


if __name__ == "__main__":
    main()
