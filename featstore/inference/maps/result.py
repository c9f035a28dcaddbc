"""The result of mapping a scene: its files, its cells, and how long it took."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class SceneMap:
    """The result of :func:`featstore.map_scene`.

    Parameters
    ----------
    run_id : str
        The run of the model.
    scene : str
    path, sidecar, style, preview : str
        The GeoTIFF, the file from which GDAL reads its class names, the style that QGIS applies
        to it, and the picture.
    vector : str or None
        The file of polygons, if it was asked for.
    window, stride : int
        Sides of a window and of a cell of the map, in pixels of the scene.
    n_rows, n_cols : int
        Cells of the map.
    class_names : tuple of str
        By label.
    colors : tuple of str
        Colours of the classes, ``#rrggbb``.
    counts : tuple of int
        Cells of each class.
    n_empty : int
        Cells without a class: their middle lies beyond the scene, or they lack data.
    duration_s : float
        From the call to its end.
    windows_per_s : float
        Windows classified per second, without opening the network and drawing the picture.
    calibration : str
        Whether the probabilities are calibrated, and how, in words; empty without the second band.
    n_unfamiliar, n_rejected : int
        Windows whose familiarity is below 1 %, and below `reject`.
    """

    run_id: str
    scene: str
    path: str
    sidecar: str
    style: str
    preview: str
    vector: str | None
    window: int
    stride: int
    n_rows: int
    n_cols: int
    class_names: tuple[str, ...]
    colors: tuple[str, ...]
    counts: tuple[int, ...]
    n_empty: int
    duration_s: float
    windows_per_s: float
    calibration: str = ""
    n_unfamiliar: int = 0
    n_rejected: int = 0

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of each class in the classified area (fractions)."""
        return tuple(count / sum(self.counts) for count in self.counts)

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON-able values."""
        return {**asdict(self), "shares": [round(share, 6) for share in self.shares]}


@dataclass(frozen=True)
class NumberMap:
    """The result of :func:`featstore.map_scene` with a run that predicts a number.

    Parameters
    ----------
    run_id : str
        The run of the model.
    scene : str
    path, preview : str
        The GeoTIFF, float32 with NaN in cells without a number, and the picture.
    window, stride : int
        Sides of a window and of a cell of the map, in pixels of the scene.
    n_rows, n_cols : int
        Cells of the map.
    target_name : str
        Name of the number.
    lowest, mean, highest : float
        Of the cells' numbers.
    n_empty : int
        Cells without a number: their middle lies beyond the scene, or they lack data.
    duration_s : float
        From the call to its end.
    windows_per_s : float
        Windows predicted per second, without opening the network and drawing the picture.
    n_unfamiliar, n_rejected : int
        Windows whose familiarity is below 1 %, and below `reject`.
    """

    run_id: str
    scene: str
    path: str
    preview: str
    window: int
    stride: int
    n_rows: int
    n_cols: int
    target_name: str
    lowest: float
    mean: float
    highest: float
    n_empty: int
    duration_s: float
    windows_per_s: float
    n_unfamiliar: int = 0
    n_rejected: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the result as JSON-able values."""
        return asdict(self)
