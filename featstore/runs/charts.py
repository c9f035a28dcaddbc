"""Confusion matrix, predicted against true numbers, and training curves of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from scipy.sparse import csr_array

from featstore.config import TASKS
from featstore.plotting import DASHES, INK, PALETTE, STYLE, class_text, literal_text
from featstore.runs.calibration import N_BINS
from featstore.runs.confusion import from_record
from featstore.runs.scoring import Scoring, find_scoring

if TYPE_CHECKING:
    from featstore.runs.run import Run
    from featstore.store.format.run_scores import Reliability

CLASSES = find_scoring(TASKS[0])


LOG_RATIO = 50.0
"""Ratio of largest to smallest loss above which the axis is logarithmic."""


MAX_SHOWN = 60
"""Classes up to which a confusion matrix shows all of them."""


MAX_COUNTED = 21
"""Largest number of classes for which a confusion matrix shows its counts as text."""


# Clear to opaque blue, so that 0 has the colour of a light or a dark page.
BLUES = LinearSegmentedColormap.from_list(
    "clear_blue", [(0.0, 0.31, 0.62, 0.0), (0.0, 0.31, 0.62, 1.0)]
)


def draw_confusion(confusion: Sequence[Sequence[int]], class_names: Sequence[str]) -> Figure:
    """Draw a confusion matrix, (n_classes, n_classes); rows are true classes.

    Parameters
    ----------
    confusion : sequence of sequence of int
        Counts as :func:`featstore.fitting.score` gives them: rows are true classes, columns
        predicted ones.
    class_names : sequence of str
        Names of the classes; long ones are cut.

    Returns
    -------
    matplotlib.figure.Figure
        Colour shows the share of the true class; text the counts, up to 21 classes. With more than
        60 classes, those that are confused most, the most confused first.
    """
    pairs = from_record(confusion, len(class_names))
    n_rows = pairs.sum(axis=1)
    shown = _most_confused(pairs)
    counts = pairs[shown][:, shown].toarray()
    share = counts / np.maximum(n_rows[shown, None], 1)
    n_classes, n_all = len(shown), len(class_names)
    class_names = [class_names[c] for c in shown]
    names = [class_text(name, 22) for name in class_names]
    size = float(np.clip(9.2 - 0.06 * n_classes, 6.3, 9.0))
    side = max(float(np.clip(0.6 - 0.011 * n_classes, 0.155, 0.5)) * n_classes, 1.7)
    cell = side / n_classes
    label_width = 0.0085 * size * max(map(len, names))
    is_upright = label_width > cell
    left, below = 0.45 + label_width, 0.45 + (label_width if is_upright else 0.15)
    width, height = left + side + 1.1, below + side + 0.35
    with mpl.rc_context(STYLE):
        # The sizes are known: matplotlib's layouts would measure all texts again.
        fig = Figure(figsize=(width, height))
        ax = fig.add_axes((left / width, below / height, side / width, side / height))
        image = ax.imshow(share, cmap=BLUES, vmin=0, vmax=1, interpolation="none")
        ax.set_xticks(
            range(n_classes),
            names,
            rotation=90 if is_upright else 0,
            fontsize=size,
        )
        ax.set_yticks(range(n_classes), names, fontsize=size)
        ax.tick_params(length=0)
        ax.set_xlabel("predicted class")
        ax.set_ylabel("true class")
        if n_classes < n_all:
            ax.set_title(f"The {n_classes} of {n_all:,} classes that are confused most")
        for spine in ax.spines.values():
            spine.set_visible(True)
        if n_classes <= MAX_COUNTED:
            for (i, j), count in np.ndenumerate(counts):
                if count:
                    ax.text(
                        j,
                        i,
                        f"{count:,}",
                        ha="center",
                        va="center",
                        fontsize=_count_size(counts, cell, size),
                        color="white" if share[i, j] > 0.5 else INK,
                        in_layout=False,
                    )
        beside = ax.inset_axes((1 + 0.12 / side, 0.0, 0.14 / side, min(1.0, 3.0 / side)))
        bar = fig.colorbar(image, cax=beside)
        bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        bar.set_label("share of the true class")
        bar.outline.set_linewidth(0.6)
    return fig


def _most_confused(counts: csr_array) -> np.ndarray:
    """Return the classes to show: all in order, or those with the most wrong rows of either kind.

    Rows of the class that were called another one count, and rows of others that were called so.
    """
    n_classes = counts.shape[0]
    if n_classes <= MAX_SHOWN:
        return np.arange(n_classes)
    n_wrong = counts.sum(axis=1) + counts.sum(axis=0) - 2 * counts.diagonal()
    return np.argsort(-n_wrong, kind="stable")[:MAX_SHOWN]


def _count_size(counts: np.ndarray, cell: float, size: float) -> float:
    """Return the font size, in points, at which the longest count fits its cell."""
    return float(min(size, 72 * cell / (0.68 * len(f"{counts.max():,}"))))


def draw_predicted(run: Run) -> Figure:
    """Draw the predicted number of each test image against its true one."""
    test = run.predictions["split"] == run.record.rows.test_split
    true, predicted = (run.predictions[name][test] for name in ("true", "predicted"))
    name = class_text(run.record.target_name, 40)
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(4.2, 4.2), layout="constrained")
        ax = fig.add_subplot()
        ends = [min(true.min(), predicted.min()), max(true.max(), predicted.max())]
        ax.plot(ends, ends, color=INK, linewidth=0.8, alpha=0.6)
        alpha = float(np.clip(200 / len(true), 0.08, 0.7))
        ax.scatter(true, predicted, s=14, color=PALETTE[0], alpha=alpha, linewidths=0)
        ax.set_aspect("equal")
        ax.set_xlabel(f"true {name}")
        ax.set_ylabel(f"predicted {name}")
        ax.set_title(f"{run.scoring.name} {run.scoring.text(run.score)}")
        ax.grid(alpha=0.18, color=INK)
    return fig


def draw_reliability(reliability: Reliability, score_kind: str) -> Figure:
    """Draw how often predictions are right by their probability, and how many each bin has.

    Bars that end on the line mark probabilities that hold: Guo et al. 2017, arXiv:1706.04599.
    """
    p, share, n = (
        np.array([getattr(one, name) for one in reliability.bins])
        for name in ("probability", "share", "n_samples")
    )
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(3.4, 3.9))
        places = {"height_ratios": (4, 1), "hspace": 0.12, "left": 0.16, "right": 0.96}
        ax, below = fig.subplots(2, 1, sharex=True, gridspec_kw=places)
        left = (np.ceil(p * N_BINS) - 1).clip(0) / N_BINS
        bars = {"width": 1 / N_BINS, "align": "edge", "edgecolor": "white", "linewidth": 0.6}
        ax.bar(left, share, color=PALETTE[0], alpha=0.75, **bars)
        ax.plot([0, 1], [0, 1], color=INK, linewidth=0.8, alpha=0.6)
        ax.plot(p, share, "o", color=PALETTE[1], markersize=3.5, clip_on=False)
        ax.set_ylim(0, 1)
        ax.set_ylabel("share that is right (%)")
        ax.set_title(f"expected calibration error {100 * reliability.ece:.1f} %")
        below.bar(left, n / n.sum(), color=PALETTE[6], **bars)
        below.set_xlim(0, 1)
        below.set_ylabel("of all (%)")
        below.set_xlabel(f"{score_kind} (%)")
        for one in (ax.xaxis, ax.yaxis, below.yaxis):
            one.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=""))
        ax.grid(alpha=0.18, color=INK)
    return fig


def draw_curves(curves: Mapping[str, Mapping[str, Any]], scoring: Scoring = CLASSES) -> Figure:
    """Draw the training score (left) and loss (right) by epoch.

    `curves` holds the lists of :class:`featstore.fitting.solvers.epochs.Curves` by line's name.
    """
    factor = 100 if scoring.unit else 1
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(7.2, 2.9), layout="constrained")
        left, right = fig.subplots(1, 2, gridspec_kw={"wspace": 0.1})
        for i, (name, curve) in enumerate(curves.items()):
            style = {
                "color": PALETTE[i % len(PALETTE)],
                "linestyle": DASHES[i // len(PALETTE) % len(DASHES)],
                "linewidth": 1.6,
                "marker": "o" if len(curve["loss"]) == 1 else "",
            }
            epochs = np.arange(1, len(curve["loss"]) + 1)
            label = literal_text(name)
            right.plot(epochs, curve["loss"], **style)
            # The axis ends at 100 %, where lines lie half outside.
            style["clip_on"] = False
            own = factor * np.asarray(curve[scoring.score])
            left.plot(epochs, own, label=label, **style)
            if held_out := curve.get(f"validation_{scoring.score}"):
                style["linestyle"] = ":"
                left.plot(
                    epochs, factor * np.asarray(held_out), label=f"{label}, held out", **style
                )
        left.set_ylim(top=factor)
        left.set_ylabel(f"training {scoring.name}{' (%)' if scoring.unit else ''}")
        right.set_ylabel("training loss")
        losses = np.concatenate([curve["loss"] for curve in curves.values()])
        if losses.min() > 0 and losses.max() > LOG_RATIO * losses.min():
            right.set_yscale("log")
        else:
            right.set_ylim(bottom=min(0.0, right.get_ylim()[0]))
        n_epochs = max(len(curve["loss"]) for curve in curves.values())
        for ax in (left, right):
            if n_epochs > 1:
                ax.set_xlim(0, n_epochs)
            ax.set_xlabel("epoch")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
            ax.grid(alpha=0.18, color=INK)
        if len(left.lines) > 1:
            longest = max(map(len, curves))
            n_columns = 1 if longest > 50 else 2 if longest > 25 else 3
            fig.legend(loc="outside lower center", ncols=min(n_columns, len(left.lines)))
    return fig
