"""List the fits of a store: a row for each, with the repeats that a user asks for or tagged."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

from featstore.progress import SILENT, Progress
from featstore.runs.names import group_by_images, runs_on
from featstore.runs.opening import list_runs
from featstore.runs.outline import split_text
from featstore.runs.ranking import Line, Ranking
from featstore.runs.tags import tags_of
from featstore.store.feature_store import FeatureStore

N_SHORT = 8
"""Characters of a run's id, from its end, that are enough to name it among a few thousand."""


def list_fits(
    store: FeatureStore,
    dataset: str | None = None,
    progress: Progress = SILENT,
    *,
    all_runs: bool = False,
) -> list[Line]:
    """Return a row for each fit in a store, the best first, each followed by some of its repeats.

    The repeats are those with a tag, or with `all_runs` all. Beside what
    :meth:`.Run.summary` returns, each row has ``ranked_by``, ``split_text``, ``n_repeats``,
    ``is_repeat``, ``is_best``, the run's ``tags``, and ``short_id``, the least end of its id that
    no other run has.
    """
    runs = list_runs(store, progress)
    if dataset is not None:
        runs = runs_on(runs, dataset)
    tags, ends = tags_of(store), Counter(run.run_id[-N_SHORT:] for run in runs)

    def line_of(line: Line, **more: Any) -> Line:
        end = line["run_id"][-N_SHORT:]
        line |= {
            **more,
            "tags": tags.get(line["run_id"], []),
            "short_id": end if ends[end] == 1 else line["run_id"],
        }
        return line

    found = []
    for title, own in sorted(group_by_images(runs).items()):
        ranking, of_series = Ranking(own), defaultdict(list)
        for run in own:
            of_series[run.series].append(run)
        for line in ranking.all_lines:
            is_best = line is ranking.best
            found.append(line_of(line, title=title, is_best=is_best, is_repeat=False))
            repeats = of_series[line["series"]]
            if len(repeats) == 1:
                continue
            shown = [
                run
                for run in sorted(repeats, key=lambda run: run.outline.summary["seed"])
                if all_runs or (tags.get(run.run_id) and run.run_id != line["run_id"])
            ]
            for summary in (run.summary() for run in shown):
                more = {"ranked_by": line["ranked_by"], "split_text": split_text([summary])}
                of_fit = {"title": title, "is_best": False, "is_repeat": True, "n_repeats": 1}
                found.append(line_of(summary, **more, **of_fit))
    return found
