"""Draw learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from featstore.errors import ConfigError
from featstore.fitting.learning_curve import LearningCurve
from featstore.plotting import DASHES, INK, PALETTE, STYLE, literal_text, write_png
from featstore.runs.charts import CLASSES
from featstore.runs.scoring import Scoring, find_scoring


def draw_learning(
    curves: Sequence[tuple[str, Sequence[Any]]], scoring: Scoring = CLASSES
) -> Figure:
    """Draw the test score by number of training rows, or of those of each class where that counts.

    Each of `curves` is a line's name and its points.

    Lines join the means; bands reach from the lowest to the highest of the repeats.
    """
    factor = 100 if scoring.unit else 1
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(6.2, 3.6), layout="constrained")
        ax = fig.add_subplot()
        for i, (name, points) in enumerate(curves):
            n_train = [point.n_shots or point.n_train for point in points]
            scores = [factor * np.asarray(point.scores) for point in points]
            color = PALETTE[i % len(PALETTE)]
            ax.fill_between(
                n_train,
                [values.min() for values in scores],
                [values.max() for values in scores],
                color=color,
                alpha=0.18,
                linewidth=0,
            )
            ax.plot(
                n_train,
                [values.mean() for values in scores],
                color=color,
                linestyle=DASHES[i // len(PALETTE) % len(DASHES)],
                marker="o",
                markersize=3.5,
                linewidth=1.6,
                label=literal_text(name),
            )
        ax.set_xscale("log")
        shown = [point for _, points in curves for point in points]
        ticks = sorted({point.n_shots or point.n_train for point in shown})
        ax.set_xticks(ticks[:: max(1, len(ticks) // 8)])
        ax.xaxis.set_major_formatter("{x:,.0f}")
        ax.xaxis.set_minor_locator(NullLocator())
        each = " of each class" if all(point.n_shots for point in shown) else ""
        ax.set_xlabel(f"training rows{each} (logarithmic)")
        ax.set_ylabel(f"test {scoring.name}{' (%)' if scoring.unit else ''}")
        ax.grid(alpha=0.18, color=INK)
        fig.legend(loc="outside lower center", ncols=min(2, len(curves)))
    return fig


def write_figure(curves: Sequence[LearningCurve], path: str | Path) -> None:
    """Write the curves as one PNG figure; the file is replaced whole, or not at all.

    Raises
    ------
    StoreError
        When it can't be written.
    ConfigError
        When the curves are of several tasks.
    """
    tasks = list(dict.fromkeys(curve.task for curve in curves))
    if len(tasks) > 1:
        raise ConfigError(f"Curves of {' and '.join(tasks)} have no common axis. Draw each alone.")
    lines = [(curve.name, curve.points) for curve in curves]
    write_png(draw_learning(lines, find_scoring(tasks[0])), path)
