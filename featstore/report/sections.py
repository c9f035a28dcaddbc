"""Sections: what a report tells of one dataset, in tables, figures and pictures."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from featstore import plotting
from featstore.datasets.base import spread
from featstore.errors import (
    CorruptionError,
    FeatstoreError,
    IncompleteError,
    RunError,
    SelectionError,
    StoreError,
)
from featstore.fitting.splits import features_of, row_numbers
from featstore.inference.source_images import Originals
from featstore.report import paper, result_tables
from featstore.report.charts import draw_accuracies, draw_projection, project
from featstore.report.misclassified import Mistake, find_mistakes, thumbnail_uri
from featstore.report.summaries import (
    compare_published,
    differing_settings,
    features_name,
    gather_repeats,
    label,
    summarize,
)
from featstore.report.table import Table
from featstore.runs.charts import draw_confusion, draw_curves
from featstore.runs.run import Run
from featstore.store.feature_store import FeatureStore
from featstore.text import file_name, is_random

MAX_CURVES = 8
"""Curves that one figure still shows apart."""


MAX_BARS = 30
"""Runs that the figure of accuracies shows, the best first."""


MAX_DRAWN = 12
"""Runs on a dataset, the best first, whose confusion matrices are drawn in the page."""


MAX_POINTS = 2_000
"""Test rows that are drawn in two dimensions; more would hide one another."""


UNAVAILABLE = (StoreError, SelectionError, CorruptionError, IncompleteError)
"""What reading a run's features may raise, of which a report says the same and goes on."""


class Sections:
    """The parts of a report that tell of one dataset each.

    Parameters
    ----------
    store : FeatureStore
        Where the runs come from.
    projection : str
        As of :func:`featstore.report.charts.project`.
    root : str or None
        Where the images are; by default where they were extracted from.

    Attributes
    ----------
    figures : dict of str to Figure
        What was drawn of lasting interest, by names for files.
    tables : list of Table
    """

    def __init__(self, store: FeatureStore, projection: str, root: str | None) -> None:
        self._store = store
        self._projection = projection
        self._root = root
        self.figures: dict[str, Figure] = {}
        self.tables: list[Table] = []
        self._file_names: set[str] = set()

    def keep(self, table: Table) -> Table:
        """Take note of a table, and return it."""
        self.tables.append(table)
        return table

    def _file_name(self, title: str) -> str:
        """Return a name for a dataset's files that no other dataset's have."""
        name = file_name(title, 40)
        numbered = (name if n == 1 else f"{name}-{n}" for n in itertools.count(1))
        free = next(one for one in numbered if one not in self._file_names)
        self._file_names.add(free)
        return free

    def _svg(self, figure: Figure, name: str, description: str, file: str | None = None) -> Markup:
        if file:
            self.figures[file] = figure
        # matplotlib escapes the text that it draws, to_svg the description.
        return Markup(plotting.to_svg(figure, name, description))  # noqa: S704

    def section(self, title: str, runs: list[Run]) -> dict[str, Any]:
        """Return what the page says of one dataset.

        Parameters
        ----------
        title : str
            The dataset's name for people.
        runs : list of Run
            At least one, oldest first.

        Raises
        ------
        RunError
            When a run's curves are damaged.
        ConfigError
            When the projection can't be had.
        """
        name = f"d-{runs[0].run_id[-8:]}"
        file = self._file_name(title)
        by_id = {run.run_id: run for run in runs}
        ranked = summarize(runs)
        best = by_id[ranked[0]["run_id"]]
        gathered = sorted(gather_repeats(ranked), key=lambda line: -line["accuracy"])
        layers = result_tables.layers_table(f"layers-{file}", title, runs)
        mistakes, why_no_mistakes = self._mistakes(best)
        features, why_no_features = self._features(best, name, file)
        bars = draw_accuracies(gathered[:MAX_BARS])
        return {
            "name": name,
            "title": title,
            "n_classes": len(best.class_names),
            "best": ranked[0],
            "best_label": label(best),
            "score_kind": best.record.score_kind,
            "layers": self.keep(layers) if layers else None,
            "runs_table": self.keep(result_tables.runs_table(f"runs-{file}", title, runs)),
            "published": compare_published(best.selection.dataset, runs),
            "bars": self._svg(bars, f"{name}-bars", f"Test accuracies on {title}", f"bars-{file}"),
            "n_bars_left_out": max(0, len(gathered) - MAX_BARS),
            "curves": self._curves(title, file, [by_id[line["run_id"]] for line in ranked]),
            "features": features,
            "why_no_features": why_no_features,
            "mistakes": mistakes,
            "why_no_mistakes": why_no_mistakes,
            "runs": [
                self._details(
                    by_id[line["run_id"]], at < MAX_DRAWN, None if at else f"confusion-{file}"
                )
                for at, line in enumerate(ranked)
            ],
        }

    def _curves(self, title: str, file: str, runs: list[Run]) -> list[dict[str, Any]]:
        """Return the paper's figures, where there are such runs, and one of each classifier's rest.

        Figures 4 and 5 are of ResNet50 alone, 6a and 6b of the paper's networks side by side.
        """
        trained = [run for run in runs if run.curves]
        published: dict[str, Run] = {}
        for run in filter(_is_published, trained):
            published.setdefault(features_name(run), run)
        resnet = [run for run in published.values() if _network(run) == "resnet50"][:1]
        networks = list(published.values()) if len(published) > 1 else []
        clf, shown = paper.EPOCH_CLF, {run.run_id for run in (*resnet, *networks)}
        groups = [
            (resnet, f"{clf} on ResNet50 features by epoch: the paper's Figures 4 and 5", "4-5"),
            (networks, f"Training of {clf} by epoch: the paper's Figures 6a and 6b", "6"),
        ]
        drawn = [
            self._group(own, heading, title, f"figures-{number}-{clf}-{file}", f"p{number}")
            for own, heading, number in groups
            if own
        ]
        rest = [run for run in trained if run.run_id not in shown]
        for clf in sorted({run.clf for run in rest}):
            own = [run for run in rest if run.clf == clf]
            heading = f"Training of {clf} by epoch"
            drawn.append(self._group(own, heading, title, f"curves-{clf}-{file}", "c"))
        return drawn

    def _group(
        self, runs: list[Run], heading: str, title: str, file: str, prefix: str
    ) -> dict[str, Any]:
        """Return one figure of several runs' curves, the first of each name."""
        shown: dict[str, Mapping[str, Any]] = {}
        for run in runs:
            if len(shown) < MAX_CURVES:
                shown.setdefault(features_name(run), run.curves or {})
        key = f"{prefix}-{runs[0].run_id[-8:]}"
        what = f"Training accuracy and loss, {heading}, on {title}"
        svg = self._svg(draw_curves(shown), key, what, file)
        return {"heading": heading, "svg": svg, "n_left_out": len(runs) - len(shown)}

    def _features(self, run: Run, name: str, file: str) -> tuple[dict[str, Any] | None, str]:
        """Return the test images' features in two dimensions, or why they can't be drawn."""
        try:
            selection, split = features_of(run, self._store)
            rows = row_numbers(split.test)
            rows = rows[spread(selection.y[rows], selection.splits[rows], MAX_POINTS)]
            if len(rows) < 3:
                return None, "Too few test images to draw."
            projection = project(selection.memmap(), rows, method=self._projection)
        except UNAVAILABLE as error:
            return None, f"The features are not there any more to be drawn. {error}"
        figure = draw_projection(projection, selection.y[rows], run.class_names)
        what = (
            f"{projection.method} of the features of {len(rows):,} test images, "
            f"{features_name(run)}, coloured by class"
        )
        svg = self._svg(figure, f"{name}-features", what, f"features-{file}")
        return {"svg": svg, "method": projection.method, "n_rows": len(rows)}, ""

    def _mistakes(self, run: Run) -> tuple[list[dict[str, Any]], str]:
        """Return the worst mistakes with pictures, and why there are none of either."""
        try:
            found = find_mistakes(self._store, run)
        except UNAVAILABLE as error:
            return [], f"The features are not there any more. {error}"
        except RunError as error:
            return [], f"Its predictions can't be read. {error}"
        if not found:
            return [], "It made none."
        originals = Originals(self._store, run.selection.set_ids[0], self._root)
        why = originals.unavailable_reason()
        return [_shown(one, run, None if why else originals) for one in found], why or ""

    def _details(self, run: Run, is_drawn: bool, file: str | None) -> dict[str, Any]:
        """Return what the page says of one run; `file` names its confusion matrix to keep it."""
        told = differing_settings(run)
        what = f"{told['label']} on {told['line']['title']}"
        confusion = curves = Markup()
        if is_drawn:
            figure = draw_confusion(run.metrics.test.confusion, run.class_names)
            about = f"Confusion matrix of {what}"
            confusion = self._svg(figure, f"{told['name']}-confusion", about, file)
        if is_drawn and run.curves:
            figure = draw_curves({run.clf: run.curves})
            about = f"Training accuracy and loss by epoch of {what}"
            curves = self._svg(figure, f"{told['name']}-curves", about)
        return told | {"confusion": confusion, "curves": curves}


def _network(run: Run) -> str:
    return paper.network(run.selection.model)


def _is_published(run: Run) -> bool:
    """Return whether a run is of those that the paper's Figures 4 to 6 show."""
    return (
        run.clf == paper.EPOCH_CLF
        # What the classifier's own limit ends after as many epochs was not trained for them.
        and run.record.fit.n_epochs == paper.N_EPOCHS
        and _network(run) in paper.MODELS
        and paper.role(run.selection.model, run.selection.layers) == paper.FINAL
        and not is_random(run.selection.weights)
    )


def _shown(mistake: Mistake, run: Run, originals: Originals | None) -> dict[str, Any]:
    """Return a mistake for the page, with pictures where they can be had."""
    examples = (mistake.image, *mistake.neighbors)
    pictures = []
    for example in examples:
        try:
            image = originals.image(example.row) if originals else None
        except FeatstoreError:
            image = None
        pictures.append(None if image is None else thumbnail_uri(image))
    what = {
        "run_id": run.run_id,
        "sample_id": mistake.image.sample_id,
        "true": mistake.image.label,
        "predicted": mistake.predicted,
        "score": None if mistake.score != mistake.score else mistake.score,
        "neighbors": [{"sample_id": e.sample_id, "label": e.label} for e in mistake.neighbors],
    }
    return {"what": what, "pictures": pictures}
