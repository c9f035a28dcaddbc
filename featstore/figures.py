"""Figures of runs: drawn by matplotlib without a display, told apart without colour vision."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter

from featstore.errors import ConfigError, StoreError
from featstore.files import behind_link, replacing

if TYPE_CHECKING:
    from featstore.projection import Projection

INK = "#1d2327"
"""Colour of text and axes on white paper."""

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6f6f6f")
"""Okabe and Ito 2008, the darker hues first: distinct to colour-blind readers."""

MARKERS = ("o", "^", "s", "D", "v", "P", "X")
"""Markers of the first classes; those after them are stars of ever more points."""

DASHES = ("-", "--", "-.", ":")
LOG_RATIO = 50.0
"""Ratio of largest to smallest loss from which on their axis is logarithmic."""

MAX_COUNTED = 21
"""Classes up to which a confusion matrix shows its counts as text."""

# Clear to opaque blue, so that "none" looks like the page, be it light or dark.
BLUES = LinearSegmentedColormap.from_list(
    "clear_blue", [(0.0, 0.31, 0.62, 0.0), (0.0, 0.31, 0.62, 1.0)]
)

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titlecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.06,
    "svg.fonttype": "none",
}


def class_text(name: str, length: int) -> str:
    """Return a class's name as matplotlib draws it literally, cut to a number of characters."""
    return literal_text(shortened(name, length))


def shortened(text: str, length: int) -> str:
    """Return text cut to a number of characters, the last of which then says so."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def literal_text(text: str) -> str:
    """Return text as matplotlib draws it literally, in legends too."""
    # Matplotlib leaves what begins with an underscore out of legends.
    shown = f" {text}" if text.startswith("_") else text
    return shown.replace("$", r"\$")


def draw_confusion(confusion: Sequence[Sequence[int]], class_names: Sequence[str]) -> Figure:
    """Draw a confusion matrix.

    Parameters
    ----------
    confusion : sequence of sequence of int, (n_classes, n_classes)
        Counts; rows are true classes, columns predicted ones.
    class_names : sequence of str
        Names of the classes; long ones are cut.

    Returns
    -------
    matplotlib.figure.Figure
        Colour shows the share of the true class; text the counts, up to 21 classes.
    """
    counts = np.asarray(confusion)
    n_classes = len(class_names)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [class_text(name, 22) for name in class_names]
    size = float(np.clip(9.2 - 0.06 * n_classes, 6.3, 9.0))
    cell = float(np.clip(0.56 - 0.011 * n_classes, 0.155, 0.5))
    side = max(cell * n_classes, 1.6)
    label_width = 0.0085 * size * max(map(len, names))
    with mpl.rc_context(STYLE):
        fig = Figure(
            figsize=(side + label_width + 1.35, side + label_width + 0.6), layout="constrained"
        )
        ax = fig.add_subplot()
        image = ax.imshow(share, cmap=BLUES, vmin=0, vmax=1, interpolation="none")
        ax.set_xticks(
            range(n_classes),
            names,
            rotation=90 if label_width > side / n_classes else 0,
            fontsize=size,
        )
        ax.set_yticks(range(n_classes), names, fontsize=size)
        ax.tick_params(length=0)
        ax.set_xlabel("predicted class")
        ax.set_ylabel("true class")
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
                    )
        beside = ax.inset_axes((1 + 0.12 / side, 0.0, 0.14 / side, min(1.0, 3.0 / side)))
        bar = fig.colorbar(image, cax=beside)
        bar.ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        bar.set_label("share of the true class")
        bar.outline.set_linewidth(0.6)
    return fig


def _count_size(counts: np.ndarray, cell: float, size: float) -> float:
    """Return the font size, in points, at which the longest count fits its cell."""
    return float(min(size, 72 * cell / (0.68 * len(f"{counts.max():,}"))))


def draw_curves(curves: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw training accuracy and loss by epoch.

    Parameters
    ----------
    curves : mapping of str to mapping
        For each line's name, lists ``loss``, ``accuracy`` and ``validation_accuracy``, as
        :class:`featstore.epochs.Curves` has them.

    Returns
    -------
    matplotlib.figure.Figure
        Accuracy (%) on the left, loss on the right; the legend stands below.
    """
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
            left.plot(epochs, 100 * np.asarray(curve["accuracy"]), label=label, **style)
            right.plot(epochs, curve["loss"], **style)
            if held_out := curve.get("validation_accuracy"):
                style["linestyle"] = ":"
                left.plot(epochs, 100 * np.asarray(held_out), label=f"{label}, held out", **style)
        left.set_ylabel("training accuracy (%)")
        right.set_ylabel("training loss")
        losses = np.concatenate([curve["loss"] for curve in curves.values()])
        if losses.min() > 0 and losses.max() > LOG_RATIO * losses.min():
            right.set_yscale("log")
        else:
            right.set_ylim(bottom=min(0.0, right.get_ylim()[0]))
        for ax in (left, right):
            ax.set_xlabel("epoch")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
            ax.grid(alpha=0.18, color=INK)
        if len(left.lines) > 1:
            fig.legend(loc="outside lower center", ncols=min(3, len(left.lines)))
    return fig


def draw_learning(curves: Sequence[tuple[str, Sequence[Any]]]) -> Figure:
    """Draw test accuracy by number of training rows.

    Parameters
    ----------
    curves : sequence of (str, sequence of Point)
        Each line's name and its :class:`featstore.learning.Point`.

    Returns
    -------
    matplotlib.figure.Figure
        Lines join the means; bands reach from the lowest to the highest of the repeats.
    """
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(6.2, 3.6), layout="constrained")
        ax = fig.add_subplot()
        for i, (name, points) in enumerate(curves):
            n_train = [point.n_train for point in points]
            percent = [100 * np.asarray(point.accuracies) for point in points]
            color = PALETTE[i % len(PALETTE)]
            ax.fill_between(
                n_train,
                [values.min() for values in percent],
                [values.max() for values in percent],
                color=color,
                alpha=0.18,
                linewidth=0,
            )
            ax.plot(
                n_train,
                [values.mean() for values in percent],
                color=color,
                linestyle=DASHES[i // len(PALETTE) % len(DASHES)],
                marker="o",
                markersize=3.5,
                linewidth=1.6,
                label=literal_text(name),
            )
        ax.set_xscale("log")
        ticks = sorted({point.n_train for _, points in curves for point in points})
        ax.set_xticks(ticks[:: max(1, len(ticks) // 8)])
        ax.xaxis.set_major_formatter("{x:,.0f}")
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlabel("training rows (logarithmic)")
        ax.set_ylabel("test accuracy (%)")
        ax.grid(alpha=0.18, color=INK)
        fig.legend(loc="outside lower center", ncols=min(2, len(curves)))
    return fig


def draw_accuracies(summaries: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the runs' test accuracies as bars, best first.

    Parameters
    ----------
    summaries : sequence of mapping
        As :func:`featstore.summaries.summarize` returns them, of one dataset.

    Returns
    -------
    matplotlib.figure.Figure
        A line across each bar marks what naming the most frequent class would score.
    """
    ranked = sorted(summaries, key=lambda s: (-s["accuracy"], s["run_id"]))
    names = []
    for s in ranked:
        features = shortened(f"{s['model']} {','.join(s['layers'])}", 43 - len(s["clf"]))
        lines = filter(None, [f"{features} · {s['clf']}", shortened(s["settings"], 48)])
        names.append(literal_text("\n".join(lines)))
    row_in = 0.36 if any(s["settings"] for s in ranked) else 0.27
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(7.2, 0.85 + row_in * len(ranked)), layout="constrained")
        ax = fig.add_subplot()
        at = range(len(ranked))
        percent = [100 * s["accuracy"] for s in ranked]
        spread = [100 * s.get("accuracy_deviation", 0.0) for s in ranked]
        ax.barh(at, percent, height=0.68, color=PALETTE[0])
        for y, value, own in zip(at, percent, spread, strict=True):
            if own:
                ax.errorbar(value, y, xerr=own, color=INK, linewidth=1.2, capsize=2.5)
            ax.text(value + own + 0.8, y, f"{value:.1f}", va="center_baseline", fontsize=8.5)
        for y, s in zip(at, ranked, strict=True):
            x = 100 * s["majority_accuracy"]
            ax.plot([x, x], [y - 0.34, y + 0.34], color=PALETTE[4], linewidth=2.2)
        ax.set_yticks(at, names)
        ax.tick_params(axis="y", length=0)
        ax.invert_yaxis()
        ax.set_xlim(0, 108)
        ax.set_xticks(range(0, 101, 20))
        ax.set_xlabel("test accuracy (%); orange: always the most frequent class")
        ax.spines["left"].set_visible(False)
    return fig


def draw_projection(projection: Projection, y: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Draw features in two dimensions, coloured by class.

    Parameters
    ----------
    projection : Projection
    y : ndarray of shape (n_rows,), int
        Classes of the points.
    class_names : sequence of str

    Returns
    -------
    matplotlib.figure.Figure
        No two classes have both colour and marker in common; the legend stands beside.
    """
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(7.2, 4.6), layout="constrained")
        ax = fig.add_subplot()
        for c, name in enumerate(class_names):
            points = projection.points[y == c]
            ax.scatter(
                points[:, 0],
                points[:, 1],
                s=16,
                color=PALETTE[c % len(PALETTE)],
                marker=_marker(c // len(PALETTE)),
                alpha=0.75,
                linewidths=0,
                label=class_text(name, 22),
            )
        ax.set_xlabel(projection.axes[0])
        ax.set_ylabel(projection.axes[1])
        ax.set_xticks([])
        ax.set_yticks([])
        n_columns = 1 if len(class_names) <= 25 else 2
        fig.legend(loc="outside right upper", ncols=n_columns, markerscale=1.5, handletextpad=0.2)
    return fig


def _marker(number: int) -> Any:
    n_points = number - len(MARKERS) + 4
    # Its number of points, the kind that is a star, its angle.
    return MARKERS[number] if number < len(MARKERS) else (n_points, 1, 0)


def check_png(path: str | Path, option: str) -> None:
    """Refuse a place where no PNG figure can be written, before anything is done for it.

    Parameters
    ----------
    path : str or Path
        The figure that is to be.
    option : str
        What it was given by, for the message.

    Raises
    ------
    ConfigError
        When it is a folder or has another ending.
    StoreError
        When what should be a folder above it is a file.
    """
    path = Path(path)
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name a file: {option} {path / 'figure.png'}")
    if path.suffix.lower() != ".png":
        raise ConfigError(
            f"{path} has not the ending of what is written, a PNG file: {option} "
            f"{path.parent / f'{path.stem}.png'}"
        )
    above = next((folder for folder in path.parents if folder.exists()), path.parent)
    if above.exists() and not above.is_dir():
        raise StoreError(
            f"{path} can't be written: {above} is a file, not a folder. Name another {option}."
        )


def to_png(fig: Figure) -> bytes:
    """Return the figure as a PNG file on white, 160 dots per inch."""
    FigureCanvasAgg(fig)
    stream = io.BytesIO()
    _save(fig, stream, format="png", dpi=160, facecolor="white")
    return stream.getvalue()


def write_png(fig: Figure, path: str | Path) -> None:
    """Write the figure as :func:`to_png` draws it; the file is replaced whole, or not at all.

    Raises
    ------
    StoreError
        When it can't be written.
    """
    data = to_png(fig)
    try:
        with replacing(behind_link(Path(path))) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise StoreError(f"{path} can't be written: {error.strerror or error}.") from error


def _save(fig: Figure, target: IO[Any] | Path, **how: Any) -> None:
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        # Fonts lack signs of some scripts: boxes stand in the figure, the names in all else.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        fig.savefig(target, **how)


def write_figure(fig: Figure, path: Path) -> list[Path]:
    """Write the figure as ``<path>.png`` and ``<path>.svg``, both on white; return the files."""
    with replacing(path.with_name(f"{path.name}.png")) as temporary:
        temporary.write_bytes(to_png(fig))
    with replacing(path.with_name(f"{path.name}.svg")) as temporary:
        _save(fig, temporary, format="svg", facecolor="white", metadata={"Date": None})
    return [path.with_name(f"{path.name}{suffix}") for suffix in (".png", ".svg")]


def to_svg(fig: Figure, name: str, description: str) -> str:
    """Return the figure as an ``<svg>`` element to be put into a page.

    Text and axes take the page's text colour, the background is clear.

    Parameters
    ----------
    fig : Figure
    name : str
        Letters, digits and hyphens; keeps its ids apart from other figures' in the page.
    description : str
        What it shows, for those who can't see it.
    """
    stream = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        _save(fig, stream, format="svg", transparent=True, metadata={"Date": None})
    svg = stream.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)

    def adapted(tag: re.Match[str]) -> str:
        text = tag[0].replace(INK, "currentColor")
        text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
        # The page's own sans-serif, at the size that was laid out.
        return re.sub(r"(font(?:-family)?:[^;\"']*?)'[^\"]*?sans-serif", r"\1sans-serif", text)

    # What stands between tags is text, which may look like any of these.
    svg = re.sub(r"<[^>]*>", adapted, svg)
    label = description.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
