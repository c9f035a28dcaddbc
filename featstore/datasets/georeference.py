"""Say where the pixels of a scene lie on the ground."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from featstore.io import gdal

Axes = tuple[tuple[float, float, float, float] | None, str, str]
"""Left, right, bottom and top of a scene, or None for pixels; labels of x and y."""


@dataclass(frozen=True)
class Georeference:
    """Where the pixels of a scene lie on the ground.

    `crs` is the reference system as WKT, empty without one. `transform` holds the six numbers that
    bring column and row to map coordinates, and is empty without them. `gcps` are ground control
    points: row, column, x, y and z. `rpcs` are rational functions, by GDAL's names.
    """

    height: int
    width: int
    crs: str = ""
    transform: tuple[float, ...] = ()
    gcps: tuple[tuple[float, ...], ...] = ()
    rpcs: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, raster: Any) -> Self:
        """Return the georeference of an open raster."""
        crs: Any = raster.crs
        points: tuple[tuple[float, ...], ...] = ()
        transform = () if raster.transform.is_identity else tuple(raster.transform)[:6]
        if not transform and raster.gcps[0]:
            found, crs = raster.gcps
            points = tuple((p.row, p.col, p.x, p.y, p.z or 0.0) for p in found)
        rpcs = {} if raster.rpcs is None else dict(raster.rpcs.to_gdal())
        height, width = raster.shape
        return cls(height, width, crs.to_wkt() if crs else "", transform, points, rpcs)

    def to_record(self) -> dict[str, Any]:
        """Return the fields as JSON-able values."""
        more = {"transform": list(self.transform), "gcps": [list(point) for point in self.gcps]}
        return vars(self) | more | {"rpcs": dict(self.rpcs)}

    @property
    def is_on_ground(self) -> bool:
        """Whether pixels have map coordinates."""
        return bool(self.transform)

    def profile(self, stride: int) -> dict[str, Any]:
        """Return rasterio's settings of a raster whose pixels are `stride` of these wide."""
        rasterio = gdal.rasterio()
        placed: dict[str, Any] = {"crs": rasterio.crs.CRS.from_wkt(self.crs) if self.crs else None}
        if self.rpcs:
            placed["rpcs"] = _scaled_rpcs(rasterio.rpc.RPC.from_gdal(dict(self.rpcs)), stride)
        if self.transform:
            a, b, c, d, e, f = self.transform
            cells = rasterio.Affine(a * stride, b * stride, c, d * stride, e * stride, f)
            return placed | {"transform": cells}
        if self.gcps:
            placed["gcps"] = [
                rasterio.control.GroundControlPoint(row / stride, col / stride, *more)
                for row, col, *more in self.gcps
            ]
        return placed

    def to_ground(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the map coordinates, (..., 2), of columns and rows, (..., 2)."""
        a, b, c, d, e, f = self.transform
        cols, rows = points[..., 0], points[..., 1]
        return np.stack([a * cols + b * rows + c, d * cols + e * rows + f], axis=-1)

    def to_pixels(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the columns and rows, (..., 2), of map coordinates, (..., 2)."""
        a, b, c, d, e, f = self.transform
        found: NDArray[np.float64] = (points - [c, f]) @ np.linalg.inv([[a, b], [d, e]]).T
        return found

    @property
    def axes(self) -> Axes:
        """Left, right, bottom and top in map coordinates, and labels of x and y.

        A scene without map coordinates, or turned in them, has None, and labels of pixels.
        """
        a, b, c, d, e, f = self.transform or (0.0,) * 6
        # rasterio's own tolerance is larger than pixels in degrees.
        if a == 0 or max(abs(b), abs(d)) > 1e-6 * abs(a):
            return None, "column (pixels)", "row (pixels)"
        crs = gdal.rasterio().CRS.from_wkt(self.crs) if self.crs else None
        if crs is None:
            x, y = "x (map units)", "y (map units)"
        elif crs.is_geographic:
            x, y = "longitude (°)", "latitude (°)"
        else:
            unit = {"metre": "m"}.get(crs.linear_units, crs.linear_units)
            x, y = f"easting ({unit})", f"northing ({unit})"
        return (c, c + a * self.width, f + e * self.height, f), x, y


def _scaled_rpcs(rpcs: Any, stride: int) -> Any:
    for axis in ("line", "samp"):
        # Offsets count from the middle of the first pixel.
        offset = (getattr(rpcs, f"{axis}_off") + 0.5) / stride - 0.5
        setattr(rpcs, f"{axis}_off", offset)
        setattr(rpcs, f"{axis}_scale", getattr(rpcs, f"{axis}_scale") / stride)
    return rpcs
