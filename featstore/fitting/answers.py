"""Answer planned fits from earlier runs, and draw the pictures of runs that are shown.

Nothing here imports scikit-learn, which takes longer than an answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from featstore.fitting.fit_task import find_run
from featstore.fitting.plan import PlannedFit
from featstore.progress import Progress
from featstore.runs.pictures import draw_missing_pictures
from featstore.runs.ranking import Ranking, group_by_images
from featstore.store.feature_store import FeatureStore

MAX_DRAWN = 12
"""Fits of one call up to which each has its pictures drawn at once."""


def answer_from_runs(
    planned: Sequence[PlannedFit], store: FeatureStore, progress: Progress
) -> None:
    """Give fits the runs of earlier fits with the same result, and say which have or failed."""
    for fit in planned:
        if fit.is_open and not fit.task.refit:
            fit.run = find_run(store, fit.task, progress)
        if not fit.is_open:
            progress.say(fit.result().line)
    runs = [fit.run for fit in planned if fit.run and fit.task.draws]
    draw_missing_pictures(runs, progress)


def draw_shown_runs(planned: Sequence[PlannedFit], progress: Progress) -> None:
    """Draw the pictures of the repeats that stand for their fits, those nearest to the mean.

    Of many fits, draw those of the best alone; a report or ``runs show`` draws the others.
    """
    runs = [fit.run for fit in planned if fit.run]
    for ranking in map(Ranking, group_by_images(runs).values()):
        lines = ranking.all_lines
        lines = lines if len(lines) <= MAX_DRAWN else [ranking.best]
        draw_missing_pictures(map(ranking.run, lines), progress)
