"""Accuracies as bars; features in two dimensions by PCA or UMAP."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from featstore.errors import ConfigError
from featstore.fitting.solvers.blocks import Samples, one_thread
from featstore.fitting.solvers.scaling import fit_scaler
from featstore.plotting import INK, PALETTE, STYLE, class_text, literal_text, shortened

MARKERS = ("o", "^", "s", "D", "v", "P", "X")
"""Markers of the first classes; those after them are stars of ever more points."""


def draw_accuracies(summaries: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the runs' test accuracies as bars, best first.

    Parameters
    ----------
    summaries : sequence of mapping
        As :func:`featstore.report.summaries.summarize` returns them, of one dataset.

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


METHODS = ("auto", "pca", "umap")


N_COMPONENTS = 50
"""Principal components that UMAP is given: McInnes et al. advise some reduction beforehand, which
also takes the noise of a thousand columns away; arXiv:1802.03426."""


@dataclass(frozen=True)
class Projection:
    """Features in two dimensions.

    Parameters
    ----------
    points : ndarray of shape (n_rows, 2), float32
    method : str
        ``PCA`` or ``UMAP``.
    axes : tuple of str
        What the two axes are, for a figure.
    """

    points: np.ndarray
    method: str
    axes: tuple[str, str]


def project(
    X: np.ndarray, rows: np.ndarray, *, method: str = "auto", random_state: int = 0
) -> Projection:
    """Project rows of features onto a plane, standardised first.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features), float32
        May be a memory map; the rows that are asked for must fit memory.
    rows : ndarray of shape (n_rows,), int
        Which rows; at least 3.
    method : str
        ``pca``; ``umap``, which shows neighbourhoods rather than directions and needs the extra
        ``featstore[umap]``; or ``auto``: UMAP where it is installed.
    random_state : int
        Of UMAP, and of the randomised decomposition.

    Returns
    -------
    Projection

    Raises
    ------
    ConfigError
        When there is no such method, or it is not installed.
    """
    if method not in METHODS:
        raise ConfigError(f"method is {method!r}; it must be one of {', '.join(METHODS)}.")
    has_umap = find_spec("umap") is not None
    if method == "umap" and not has_umap:
        raise ConfigError(
            "UMAP is not installed. Install it with: pip install 'featstore[umap]', or take pca."
        )
    samples = Samples(X, rows)
    scaler = fit_scaler(samples)
    standard = scaler.transform(samples.take(slice(0, len(samples))))
    by_umap = has_umap and method != "pca"
    n_components = min(N_COMPONENTS if by_umap else 2, *standard.shape)
    # Rows that are all alike have no variance to share.
    with one_thread(), np.errstate(invalid="ignore"):
        pca = PCA(n_components, svd_solver="randomized", random_state=random_state)
        points = pca.fit_transform(standard)
    if by_umap:
        return Projection(_umap(points, random_state), "UMAP", ("UMAP 1", "UMAP 2"))
    if points.shape[1] < 2:
        points = np.column_stack([points, np.zeros(len(points))])
    shares = [*np.nan_to_num(pca.explained_variance_ratio_).tolist(), 0.0]
    axes = [f"component {i + 1} ({100 * shares[i]:.0f} % of the variance)" for i in range(2)]
    return Projection(points[:, :2].astype(np.float32), "PCA", (axes[0], axes[1]))


def _umap(points: np.ndarray, random_state: int) -> np.ndarray:
    with warnings.catch_warnings():
        # It tells of TensorFlow, which only its parametric variant uses.
        warnings.simplefilter("ignore", ImportWarning)
        from umap import UMAP

    n_neighbors = min(15, len(points) - 1)
    # With a seed it uses one thread, and says so unless it is asked for one.
    reducer = UMAP(
        n_neighbors=n_neighbors,
        init="spectral" if len(points) > 20 else "random",
        random_state=random_state,
        n_jobs=1,
    )
    return np.asarray(reducer.fit_transform(points), dtype=np.float32)
