"""Projection: features drawn in two dimensions, so that people see which classes lie together."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from sklearn.decomposition import PCA

from featstore.blocks import Samples, one_thread
from featstore.errors import ConfigError
from featstore.scaling import fit_scaler

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
