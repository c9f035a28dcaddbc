"""Find the run that a name means: its id, a part of its id, a tag, ``last`` or ``best``."""

from __future__ import annotations

from pathlib import Path

from featstore.errors import RunError, SelectionError
from featstore.runs.opening import list_runs, open_run
from featstore.runs.run import Run
from featstore.runs.tags import read_tags
from featstore.store.feature_store import FeatureStore
from featstore.text import did_you_mean, join_some, matches

LAST, BEST = "last", "best"
"""The run that was made last; the best one, as :class:`featstore.runs.ranking.Ranking` chooses it.

``best:NAME`` and ``last:NAME`` are those on one dataset.
"""


def is_alias(name: str, store: FeatureStore) -> bool:
    """Return whether a name is ``last``, ``best`` or a tag."""
    return name.partition(":")[0] in (LAST, BEST) or name in read_tags(store)


def known_names(store: FeatureStore) -> list[str]:
    """Return all names of runs: tags, ids, ``last`` and ``best``."""
    return [LAST, BEST, *read_tags(store), *(path.name for path in store.run_folders())]


def find_run_folder(name: str, store: FeatureStore) -> Path:
    """Return the folder of the run that a name means."""
    folders = {path.name: path for path in store.run_folders()}
    if not folders:
        raise RunError(
            f"{store.address} holds no runs. Make one first, for example with: "
            "featstore fit --clf logreg"
        )
    if name in folders:
        return folders[name]
    tags = read_tags(store)
    if tags.get(name) in folders:
        return folders[tags[name]]
    word, _, dataset = name.partition(":")
    if word in (LAST, BEST):
        return _last(store, dataset) if word == LAST else _best(store, dataset)
    found = [folder for run_id, folder in folders.items() if matches(run_id, name)]
    if len(found) == 1:
        return found[0]
    if found:
        listed = "\n  ".join(path.name for path in found[:20])
        raise RunError(f"Several runs are named {name!r} in {store.address}. They are:\n  {listed}")
    hint = did_you_mean(name, [*folders, *tags, LAST, BEST])
    raise RunError(
        f"No run is named {name!r} in {store.address}.{hint} It has "
        f"{join_some([*tags, *folders], 8)}. List the runs with: featstore runs ls"
    )


def _runs(store: FeatureStore, dataset: str) -> list[Run]:
    """Return the readable runs, of one dataset if it is named; at least one."""
    from featstore.runs.names import runs_on

    runs = list_runs(store)
    if dataset:
        return runs_on(runs, dataset)
    if not runs:
        raise RunError(f"No run of {store.address} can be read. See: featstore store verify")
    return runs


def _last(store: FeatureStore, dataset: str) -> Path:
    # Several runs may be made within one second.
    runs = _runs(store, dataset)
    latest = max(run.outline.summary["created"] for run in runs)
    paths = [run.path for run in runs if run.outline.summary["created"] == latest]
    return max(paths, key=lambda path: (path / "metrics.json").stat().st_mtime_ns)


def _best(store: FeatureStore, dataset: str) -> Path:
    from featstore.runs.names import group_by_images
    from featstore.runs.ranking import Ranking

    runs = _runs(store, dataset)
    # Scores of a protocol have no common order with others.
    runs = [run for run in runs if not run.outline.summary["protocol"]] or runs
    groups = group_by_images(runs)
    if len(groups) > 1:
        choices = ", ".join(f"best:{title}" for title in sorted(groups))
        raise RunError(
            f"The runs of {store.address} are on several datasets, each with a best run. Choose "
            f"one: {choices}"
        )
    (own,) = groups.values()
    ranking = Ranking(own)
    return ranking.run(ranking.best).path


def open_run_or_set(name: str | Path, store: FeatureStore) -> Run | str:
    """Return the run that a name means, or else the full name of a feature set."""
    try:
        return open_run(name, store)
    except RunError as no_run:
        try:
            return store.get(str(name)).set_id
        except SelectionError as no_set:
            raise SelectionError(
                f"{name} is neither a run nor a feature set. {no_run}\n{no_set}"
            ) from no_set
