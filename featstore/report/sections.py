"""Make one dataset's part of a report: tables, figures and pictures."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.figure import Figure

from featstore import plotting
from featstore.datasets.drawing import spread
from featstore.errors import (
    CorruptionError,
    FeatstoreError,
    IncompleteError,
    RunError,
    SelectionError,
    StoreError,
)
from featstore.fitting.run_features import features_of
from featstore.fitting.splits import row_numbers
from featstore.fitting.tasks import find_task
from featstore.inference.source_images import Originals
from featstore.progress import Progress
from featstore.report import paper, result_tables
from featstore.report.charts import draw_projection, draw_scores, project
from featstore.report.misclassified import Mistake, find_mistakes, thumbnail_uri
from featstore.report.rivals import rivals_table
from featstore.report.summaries import compare_published, describe_run
from featstore.report.table import Table
from featstore.runs.charts import MAX_COUNTED, draw_curves, draw_predicted, draw_reliability
from featstore.runs.ranking import Line, Ranking
from featstore.runs.run import Run
from featstore.store.feature_store import FeatureStore
from featstore.store.format.run_scores import Metrics, RegressionMetrics
from featstore.text import file_name, is_random

MAX_CURVES = 8
"""Curves that one figure still shows apart."""


MAX_ALONE = 24
"""Fits of one dataset whose curves the page also shows alone: each takes a third of a second."""


MAX_BARS = 30
"""Fits that the figure of scores shows, the best first."""


MAX_CELLS = 8_000
"""Cells of all confusion matrices that the page shows of one dataset."""


MAX_POINTS = 2_000
"""Test rows that are drawn in two dimensions; more would hide one another."""


N_STEPS = 4
"""Steps of a section besides its fits, for the progress bar."""


UNAVAILABLE = (StoreError, SelectionError, CorruptionError, IncompleteError)
"""What reading a run's features may raise; the report names it and continues."""


def n_steps(ranking: Ranking) -> int:
    """Return the number of steps that a section takes."""
    return N_STEPS + len(ranking.lines)


class Sections:
    """The parts of a report that are about one dataset each.

    `projection` is as of :func:`featstore.report.project`; `root` is the folder of the
    images, by default the one they were extracted from. ``figures`` holds what draws the figures,
    by names of files, ``tables`` the tables.
    """

    def __init__(
        self, store: FeatureStore, projection: str, root: str | None, progress: Progress
    ) -> None:
        self._store = store
        self._projection = projection
        self._root = root
        self._progress = progress
        self.figures: dict[str, Callable[[], Figure]] = {}
        self.tables: list[Table] = []
        self._file_names: set[str] = set()

    def add_table(self, table: Table) -> Table:
        """Add a table to the report's files, and return it."""
        self.tables.append(table)
        return table

    def section(self, title: str, ranking: Ranking) -> dict[str, Any]:
        """Return what the page says of one dataset; each step advances the progress."""
        choice = ranking.choice
        best, best_run = choice.best, ranking.run(choice.best)
        name = f"d-{best_run.run_id[-8:]}"
        file = self._unique_file_name(title)
        runs = list(ranking.runs.values())
        layers = result_tables.layers_table(f"layers-{file}", title, ranking)
        rivals = rivals_table(f"rivals-{file}", title, ranking, self._store)
        runs_table = self.add_table(result_tables.runs_table(f"runs-{file}", title, ranking))
        self._progress.advance(1)
        mistakes, why_no_mistakes = self._mistakes(best_run)
        self._progress.advance(1)
        features, why_no_features = self._features(best, best_run, name, file)
        self._progress.advance(1)
        bars = self._svg(
            draw_scores(ranking.lines[:MAX_BARS]),
            f"{name}-bars",
            f"Test {best_run.scoring.plural.removesuffix(' in %')} on {title}",
            f"bars-{file}",
        )
        curves = self._curves(title, file, ranking)
        for picture, draw in best_run.scoring.drawings(best_run).items():
            self.figures[f"{picture.removesuffix('.png')}-{file}"] = draw
        self._progress.advance(1)
        together = {series for figure in curves for series in figure["series"]}
        rest = [line["series"] for line in ranking.lines if ranking.run(line).curves]
        rest = [series for series in rest if series not in together]
        alone = set(rest[:MAX_ALONE])
        n_matrices = max(1, MAX_CELLS // max(1, len(best_run.class_names)) ** 2)
        return {
            "id": name,
            "title": title,
            "about": best_run.scoring.about(best),
            "n_runs": sum(line["n_repeats"] for line in ranking.lines),
            "best": best,
            "choice": choice.text,
            "score_kind": best_run.score_kind,
            "reliability": self._reliability(best_run, name),
            "calibration": best_run.calibration_text,
            "layers": self.add_table(layers) if layers else None,
            "rivals": self.add_table(rivals) if rivals else None,
            "runs_table": runs_table,
            "published": compare_published(best_run.selection.dataset, runs),
            "bars": bars,
            "n_bars_left_out": max(0, len(ranking.lines) - MAX_BARS),
            "curves": curves,
            "n_not_drawn": len(rest) - len(alone),
            "features": features,
            "why_no_features": why_no_features,
            "mistakes": mistakes,
            "worst_are": best_run.scoring.worst_are.format(best_run.run_id),
            "why_no_mistakes": why_no_mistakes,
            "fits": [
                self._details(
                    line,
                    ranking.run(line),
                    at < n_matrices or line is best,
                    line["series"] in alone,
                )
                for at, line in enumerate(ranking.lines)
            ],
        }

    def _unique_file_name(self, title: str) -> str:
        """Return a name for a dataset's files that no other dataset's have."""
        name = file_name(title, 40)
        numbered = (name if n == 1 else f"{name}-{n}" for n in itertools.count(1))
        free = next(one for one in numbered if one not in self._file_names)
        self._file_names.add(free)
        return free

    def _svg(self, figure: Figure, name: str, description: str, file: str | None = None) -> Markup:
        if file:
            self.figures[file] = lambda: figure
        # matplotlib escapes the text that it draws, to_svg the description.
        return Markup(plotting.to_svg(figure, name, description))  # noqa: S704

    def _curves(self, title: str, file: str, ranking: Ranking) -> list[dict[str, Any]]:
        """Return figures of training: the paper's if there are such runs, and one a classifier.

        The paper's Figures 4 and 5 are of ResNet50 alone, 6a and 6b of its networks side by side.
        """
        trained = [line for line in ranking.lines if ranking.run(line).curves]
        published: dict[str, Line] = {}
        for line in trained:
            if _is_published(ranking.run(line)):
                published.setdefault(paper.network(line["model"]), line)
        resnet = [published["resnet50"]] if "resnet50" in published else []
        networks = list(published.values()) if len(published) > 1 else []
        clf = paper.EPOCH_CLF
        groups = [
            (resnet, f"{clf} on ResNet50 features by epoch: the paper's Figures 4 and 5", "4-5"),
            (networks, f"Training of {clf} by epoch: the paper's Figures 6a and 6b", "6"),
        ]
        drawn = [
            self._curve_figure(own, heading, title, f"figures-{number}-{clf}-{file}", ranking)
            for own, heading, number in groups
            if own
        ]
        shown = [line["series"] for line in (*resnet, *networks)]
        rest = [line for line in trained if line["series"] not in shown]
        for clf in sorted({line["clf"] for line in rest}):
            own = [line for line in rest if line["clf"] == clf]
            heading = f"Training of {clf} by epoch"
            drawn.append(self._curve_figure(own, heading, title, f"curves-{clf}-{file}", ranking))
        return drawn

    def _curve_figure(
        self, lines: Sequence[Line], heading: str, title: str, file: str, ranking: Ranking
    ) -> dict[str, Any]:
        """Return one figure with the curves of several fits, by their names."""
        shown: dict[str, Mapping[str, Any]] = {
            line["name"]: ranking.run(line).curves or {} for line in lines[:MAX_CURVES]
        }
        what = f"Training {ranking.run(lines[0]).scoring.name} and loss, {heading}, on {title}"
        scoring = ranking.run(lines[0]).scoring
        svg = self._svg(draw_curves(shown, scoring), f"f-{len(self.figures)}", what, file)
        return {
            "heading": heading,
            "svg": svg,
            "series": [line["series"] for line in lines[:MAX_CURVES]],
            "n_left_out": len(lines) - len(shown),
        }

    def _features(
        self, line: Line, run: Run, name: str, file: str
    ) -> tuple[dict[str, Any] | None, str]:
        """Return the test images' features in two dimensions, or why they can't be drawn."""
        try:
            selection, split = features_of(run, self._store)
            rows = row_numbers(split.test)
            rows = rows[spread(selection.y[rows], selection.splits[rows], MAX_POINTS)]
            if len(rows) < 3:
                return None, "There are too few test images to draw."
            projection = project(selection.memmap(), rows, method=self._projection)
        except UNAVAILABLE as error:
            return None, f"The features are gone. {error}"
        names = run.class_names or (run.record.target_name,)
        figure = draw_projection(projection, find_task(run.task).y(selection)[rows], names)
        what = (
            f"{projection.method} of the features of {len(rows):,} test images, {line['name']}, "
            f"coloured by {'class' if run.class_names else names[0]}"
        )
        svg = self._svg(figure, f"{name}-features", what, f"features-{file}")
        return {"svg": svg, "method": projection.method, "n_rows": len(rows)}, ""

    def _reliability(self, run: Run, name: str) -> Markup:
        """Return how well a run's probabilities hold, drawn; empty without probabilities."""
        if (reliability := getattr(run.metrics.test, "reliability", None)) is None:
            return Markup()
        what = f"How often predictions are right by their {run.score_kind}"
        figure = draw_reliability(reliability, run.score_kind)
        return self._svg(figure, f"{name}-reliability", what)

    def _mistakes(self, run: Run) -> tuple[list[dict[str, Any]], str]:
        """Return the worst mistakes with pictures, and why any of these are missing."""
        try:
            found = find_mistakes(self._store, run)
        except UNAVAILABLE as error:
            return [], f"The features are gone. {error}"
        except RunError as error:
            return [], f"Its predictions can't be read. {error}"
        if not found:
            return [], "It made none."
        originals = Originals(self._store, run.selection.set_ids[0], self._root)
        why = originals.unavailable_reason()
        return [_with_pictures(one, run, None if why else originals) for one in found], why or ""

    def _details(self, line: Line, run: Run, has_matrix: bool, has_curves: bool) -> dict[str, Any]:
        """Return what the page says of one fit, with its confusion matrix and curves if wanted."""
        details = describe_run(run)
        metrics, name = run.metrics, details["id"]
        curves, predicted = Markup(), Markup()
        if has_curves and run.curves:
            about = f"Training {run.scoring.name} and loss by epoch of {line['name']}"
            figure = draw_curves({line["name"]: run.curves}, run.scoring)
            curves = self._svg(figure, f"{name}-curves", f"{about} on {line['title']}")
        has_classes = isinstance(metrics, Metrics)
        confusion = metrics.test.confusion if isinstance(metrics, Metrics) and has_matrix else None
        if isinstance(metrics, RegressionMetrics) and has_matrix:
            about = f"Predicted against true numbers of the test images, {line['name']}"
            predicted = self._svg(draw_predicted(run), f"{name}-predicted", about)
        self._progress.advance(1)
        return details | {
            "line": line,
            "confusion": confusion,
            "lacks_confusion": has_classes and not has_matrix,
            "predicted": predicted,
            "is_counted": len(run.class_names) <= MAX_COUNTED,
            "curves": curves,
        }


def _is_published(run: Run) -> bool:
    """Return whether the paper's Figures 4 to 6 show such a run."""
    return (
        run.clf == paper.EPOCH_CLF
        # A classifier that ends after as many epochs by its own limit was not trained for them.
        and run.record.fit.n_epochs == paper.N_EPOCHS
        and paper.network(run.selection.model) in paper.MODELS
        and paper.role(run.selection.model, run.selection.layers) == paper.FINAL
        and not is_random(run.selection.weights)
    )


def _with_pictures(mistake: Mistake, run: Run, originals: Originals | None) -> dict[str, Any]:
    """Return a mistake for the page, with the pictures that are still there."""
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
