"""Draw scores as bars, and features in two dimensions by PCA, t-SNE or UMAP."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from featstore.config import PROJECTIONS
from featstore.errors import ConfigError
from featstore.fitting.solvers.blocks import Samples, one_thread
from featstore.fitting.solvers.scaling import fit_scaler
from featstore.plotting import INK, PALETTE, STYLE, class_text, literal_text
from featstore.runs.scoring import find_scoring

MARKERS = ("o", "^", "s", "D", "v", "P", "X")
"""Markers of the first classes; further ones are stars of ever more points."""


NAME_LENGTH = 46
"""Letters of a run's name on one line beside its bar."""


def draw_scores(lines: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the test scores of fits as bars, in their order, with the deviation of repeats.

    `lines` are those of :func:`featstore.report.summarize` on one dataset. A mark in
    each bar shows the score to beat, such as that of always naming the most frequent class.
    """
    scoring = find_scoring(lines[0]["task"])
    score, factor = scoring.score, 100 if scoring.unit else 1
    names = [_name_lines(line["name"]) for line in lines]
    # One unit is a bar with a name of one line.
    heights = [0.58 + 0.42 * len(name) for name in names]
    ends = np.cumsum(heights)
    places = ends - np.array(heights) / 2
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(7.2, 0.85 + 0.3 * ends[-1]), layout="constrained")
        ax = fig.add_subplot()
        values = [factor * line[score] for line in lines]
        deviations = [factor * line.get(f"{score}_deviation", 0.0) for line in lines]
        ax.barh(places, values, height=0.62, color=PALETTE[0])
        for y, value, deviation, line in zip(places, values, deviations, lines, strict=True):
            if deviation:
                ax.errorbar(value, y, xerr=deviation, color=INK, linewidth=1.2, capsize=2.5)
            # A bar below 0 has its text at the axis.
            end = max(value + deviation, 0.0) + 0.008 * factor
            ax.text(end, y, scoring.text(line[score]), va="center_baseline", fontsize=8.5)
            if scoring.baseline:
                x = factor * line[scoring.baseline]
                ax.plot([x, x], [y - 0.31, y + 0.31], color=PALETTE[4], linewidth=2.2)
        ax.set_yticks(places, [literal_text("\n".join(name)) for name in names])
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(ends[-1], 0)
        # Much worse than the mean is as good as out of sight.
        ax.set_xlim(max(-factor, min(0.0, *values)), factor)
        ax.set_xticks(factor * np.arange(0, 101, 20) / 100)
        ax.set_xlabel(scoring.score_axis)
        ax.spines["left"].set_visible(False)
    return fig


def _name_lines(name: str) -> list[str]:
    """Return a run's name in lines, broken at spaces and after ``+``."""
    lines = textwrap.wrap(name.replace("+", "+ "), NAME_LENGTH, break_on_hyphens=False)
    return [line.replace("+ ", "+") for line in lines]


def draw_projection(projection: Projection, y: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Draw features in two dimensions, coloured by their labels, with a legend beside.

    `y` are classes, (n_rows,) int, or several classes, (n_rows, n_classes) of 0 and 1; or numbers,
    (n_rows,) float, whose name is that in `class_names`. No two classes share both colour and
    marker; points with several classes have one of their own.
    """
    if y.dtype.kind == "f":
        return _draw_numbers(projection, y, class_names[0])
    if y.ndim == 2:
        counts = y.sum(axis=1)
        y = np.where(counts == 1, y.argmax(axis=1), len(class_names) + (counts == 0))
        class_names = [*class_names, "several classes", "no class"]
        shown = np.unique(y)
        y, class_names = np.searchsorted(shown, y), [class_names[c] for c in shown]
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


def _draw_numbers(projection: Projection, y: np.ndarray, name: str) -> Figure:
    """Draw features in two dimensions, coloured by a number, with a colour bar beside."""
    with mpl.rc_context(STYLE):
        fig = Figure(figsize=(7.2, 4.6), layout="constrained")
        ax = fig.add_subplot()
        x1, x2 = projection.points.T
        points = ax.scatter(x1, x2, c=y, cmap="viridis", s=16, linewidths=0)
        ax.set_xlabel(projection.axes[0])
        ax.set_ylabel(projection.axes[1])
        ax.set_xticks([])
        ax.set_yticks([])
        fig.colorbar(points, label=class_text(name, 40))
    return fig


def _marker(number: int) -> Any:
    n_points = number - len(MARKERS) + 4
    # A tuple of 1 in the middle is a star, by its number of points and angle.
    return MARKERS[number] if number < len(MARKERS) else (n_points, 1, 0)


N_COMPONENTS = 50
"""Principal components that t-SNE and UMAP get: van der Maaten and Hinton 2008 and McInnes et al.
(arXiv:1802.03426) reduce a thousand columns first, which also takes noise away."""


@dataclass(frozen=True)
class Projection:
    """Features in two dimensions.

    Parameters
    ----------
    points : ndarray of shape (n_rows, 2), float32
    method : str
        ``PCA``, ``t-SNE`` or ``UMAP``.
    axes : tuple of str
        Labels of the two axes.
    """

    points: np.ndarray
    method: str
    axes: tuple[str, str]


def check_projection(method: str) -> None:
    """Refuse an unknown method of :func:`project`, and one that is not installed."""
    if method not in PROJECTIONS:
        raise ConfigError(f"method is {method!r}; it must be one of {', '.join(PROJECTIONS)}.")
    if method == "umap" and find_spec("umap") is None:
        raise ConfigError(
            "UMAP is not installed. Install it with: pip install umap-learn, or choose pca."
        )


def project(
    X: np.ndarray, rows: np.ndarray, *, method: str = PROJECTIONS[0], random_state: int = 0
) -> Projection:
    """Project rows of features onto a plane, standardised first.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
        May be a memory map; the chosen rows must fit memory.
    rows : ndarray of shape (n_rows,), int
        The rows to project; at least 3.
    method : str
        ``pca``; or ``tsne`` or ``umap``, which show neighbourhoods rather than directions. t-SNE
        takes a minute for some 10,000 rows; UMAP needs umap-learn and some 20 seconds to compile.
    random_state : int
        Seed of t-SNE, UMAP and the randomised decomposition.

    Returns
    -------
    Projection

    Raises
    ------
    ConfigError
        When the method is unknown or not installed.
    """
    check_projection(method)
    samples = Samples(X, rows)
    scaler = fit_scaler(samples)
    standard = scaler.transform(samples.take(slice(0, len(samples))))
    n_components = min(2 if method == "pca" else N_COMPONENTS, *standard.shape)
    # Rows that are all alike have no variance to share.
    with one_thread(), np.errstate(invalid="ignore"):
        pca = PCA(n_components, svd_solver="randomized", random_state=random_state)
        points = pca.fit_transform(standard)
    if method == "tsne":
        return Projection(_tsne(points, random_state), "t-SNE", ("t-SNE 1", "t-SNE 2"))
    if method == "umap":
        return Projection(_umap(points, random_state), "UMAP", ("UMAP 1", "UMAP 2"))
    if points.shape[1] < 2:
        points = np.column_stack([points, np.zeros(len(points))])
    shares = [*np.nan_to_num(pca.explained_variance_ratio_).tolist(), 0.0]
    axes = [f"component {i + 1} ({100 * shares[i]:.0f} % of the variance)" for i in range(2)]
    return Projection(points[:, :2].astype(np.float32), "PCA", (axes[0], axes[1]))


def _tsne(points: np.ndarray, random_state: int) -> np.ndarray:
    # Each row needs neighbors, three times as many as the perplexity.
    perplexity = min(30.0, (len(points) - 1) / 3)
    # Beginning with the components keeps the large distances: Kobak and Berens 2019,
    # doi:10.1038/s41467-019-13056-x. All rows alike have none.
    init = "pca" if points.shape[1] > 1 and np.ptp(points) > 0 else "random"
    reducer = TSNE(perplexity=perplexity, init=init, random_state=random_state)
    # Its threads wait for each other a thousand times, awake: beside another process two took
    # 57 s for 3,000 rows, and one 10 s.
    with one_thread(user_api=None):
        return np.asarray(reducer.fit_transform(points), dtype=np.float32)


def _umap(points: np.ndarray, random_state: int) -> np.ndarray:
    with warnings.catch_warnings():
        # umap warns that TensorFlow is missing, which only its parametric variant uses.
        warnings.simplefilter("ignore", ImportWarning)
        from umap import UMAP

    reducer = UMAP(
        n_neighbors=min(15, len(points) - 1),
        init="spectral" if len(points) > 20 else "random",
        random_state=random_state,
        # With a seed umap uses one thread, and warns unless asked for one.
        n_jobs=1,
    )
    return np.asarray(reducer.fit_transform(points), dtype=np.float32)
