"""The cells of stored windows as polygons in a GeoParquet file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from featstore.datasets.georeference import Georeference
from featstore.datasets.windows import Grid
from featstore.io import gdal
from featstore.store.format.set_schema import SceneInfo, WindowsInfo

LON_LAT = "OGC:CRS84"


RECTANGLE = np.dtype(
    [("order", "u1"), ("type", "<u4"), ("n_rings", "<u4"), ("n", "<u4"), ("xy", "<f8", (5, 2))]
)
"""A polygon of four corners as Well-Known Binary."""


def georeference_of(scene: SceneInfo) -> Georeference:
    """Return where a stored scene lies."""
    return Georeference(
        scene.height, scene.width, scene.crs, scene.transform, scene.gcps, scene.rpcs
    )


@dataclass(frozen=True)
class Footprints:
    """The cells of windows; `places` are their scene, row and column, (n_samples, 3)."""

    windows: WindowsInfo
    places: np.ndarray

    @cached_property
    def _crs(self) -> str:
        """The scenes' reference system as WKT; longitude and latitude if they have several."""
        found = {scene.crs for scene in self.windows.scenes if scene.transform}
        return LON_LAT if len(found) > 1 else (found or {""}).pop()

    def metadata(self) -> bytes:
        """Return the file's metadata ``geo``, of GeoParquet 1.1."""
        rasterio = gdal.rasterio()
        crs = rasterio.crs.CRS.from_string(self._crs) if self._crs else None
        column = {
            "encoding": "WKB",
            "geometry_types": ["Polygon"],
            "crs": crs.to_dict(projjson=True) if crs else None,
        }
        about = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
        return json.dumps(about).encode()

    def wkb(self, start: int, stop: int) -> list[bytes | None]:
        """Return the cells of some rows; None where a scene has no map coordinates."""
        places = self.places[start:stop]
        found: list[bytes | None] = [None] * len(places)
        for number in np.unique(places[:, 0]).tolist():
            scene = self.windows.scenes[number]
            if not scene.transform:
                continue
            rows = np.flatnonzero(places[:, 0] == number)
            grid = Grid(scene.height, scene.width, self.windows.window, self.windows.stride)
            corners = grid.cell_corners(places[rows, 1], places[rows, 2])
            ground = self._in_one_system(georeference_of(scene).to_ground(corners), scene.crs)
            rectangles = np.empty(len(rows), RECTANGLE)
            rectangles["order"], rectangles["type"] = 1, 3
            rectangles["n_rings"], rectangles["n"] = 1, 5
            # Pixels count downwards, so this is counterclockwise on most maps.
            rectangles["xy"] = ground[:, [0, 3, 2, 1, 0]]
            for row, rectangle in zip(rows.tolist(), rectangles, strict=True):
                found[row] = rectangle.tobytes()
        return found

    def _in_one_system(self, points: np.ndarray, crs: str) -> np.ndarray:
        if crs == self._crs:
            return points
        rasterio = gdal.rasterio()
        source, target = (rasterio.crs.CRS.from_string(text) for text in (crs, self._crs))
        x, y = rasterio.warp.transform(source, target, *points.reshape(-1, 2).T.tolist())
        moved: np.ndarray = np.stack([x, y], axis=-1).reshape(points.shape)
        return moved
