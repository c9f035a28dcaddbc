"""Read and write polygons; the only module that imports geopandas and shapely."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from featstore.errors import ConfigError, DatasetError, DatasetNotFoundError
from featstore.text import did_you_mean, join_some

LAYER = "|layername="
"""What parts a file from one of its layers, as in QGIS."""


POLYGONS = ("Polygon", "MultiPolygon")


GEOPARQUET = (".parquet", ".geoparquet")
"""Endings that GDAL often can't read, and geopandas can."""


@cache
def _modules() -> tuple[Any, Any, Any]:
    try:
        import geopandas
        import pyogrio
        import shapely
    except ImportError as error:
        raise ConfigError(
            "Vector files need geopandas: pip install geopandas. It brings pyogrio and shapely."
        ) from error
    return geopandas, pyogrio, shapely


def split_layer(text: str) -> tuple[Path, str | None]:
    """Return the file and the layer that a text such as ``fields.gpkg|layername=2024`` names."""
    path, _, layer = text.partition(LAYER)
    return Path(path).expanduser(), layer or None


def companions(path: Path) -> list[Path]:
    """Return a vector file and the files that belong to it."""
    own = [path.with_suffix(ending) for ending in (".shx", ".dbf", ".prj", ".cpg")]
    more = own if path.suffix.lower() == ".shp" else [path.with_name(f"{path.name}-wal")]
    return [path, *(other for other in more if other.is_file())]


@dataclass(frozen=True)
class Polygons:
    """Polygons with classes, in the reference system of their file.

    `labels` are positions in `class_names`, (n_polygons,). `n_left_out` polygons name no class.
    """

    text: str
    class_names: tuple[str, ...]
    labels: NDArray[np.int32]
    geometry: Any
    n_left_out: int

    def laid_upon(self, scene: str, crs: str) -> PlacedPolygons:
        """Return the polygons in the reference system of a scene, given as WKT."""
        own = self.geometry.crs
        if bool(crs) != (own is not None):
            lacking, other = (self.text, scene) if crs else (scene, self.text)
            raise DatasetError(
                f"{lacking} names no reference system (CRS), and {other} does. Assign it, in QGIS "
                "with Layer > Set CRS, and save the layer again."
            )
        placed = self.geometry.to_crs(crs) if crs else self.geometry
        _, _, shapely = _modules()
        return PlacedPolygons(shapely.make_valid(placed.to_numpy()), self.labels)


def _read_parquet(path: Path) -> Any:
    """Return the table of a GeoParquet file."""
    geopandas, _, _ = _modules()
    try:
        return geopandas.read_parquet(path)
    except ImportError:
        raise ConfigError(f"{path}: Parquet needs pyarrow: pip install pyarrow.") from None
    except (ValueError, OSError) as error:
        raise DatasetError(f"{path} can't be read as GeoParquet: {error}") from error


def _read_layer(path: Path, layer: str | None) -> Any:
    """Return the table of a layer; of the only one without a name."""
    geopandas, pyogrio, _ = _modules()
    try:
        layers = [name for name, kind in pyogrio.list_layers(path).tolist() if kind is not None]
        if layer is None and len(layers) > 1:
            raise DatasetError(
                f"{path} holds the layers {join_some(layers)}. Name one: '{path}{LAYER}{layers[0]}'"
            )
        if layer is not None and layer not in layers:
            raise DatasetError(
                f"{path} has no layer {layer!r}.{did_you_mean(layer, layers)} It holds "
                f"{join_some(layers) or 'none'}."
            )
        if not layers:
            raise DatasetError(f"{path} holds no geometries; expected polygons.")
        return geopandas.read_file(path, layer=layer or layers[0], engine="pyogrio")
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise DatasetError(f"{path} can't be read as a vector file: {error}") from error


def read_polygons(text: str, column: str) -> Polygons:
    """Read the polygons of a vector file, and their classes from a column.

    DatasetError says what the file lacks.
    """
    path, layer = split_layer(text)
    if not path.exists():
        raise DatasetNotFoundError(f"{path} does not exist. Name a file of polygons.")
    is_parquet = path.suffix.lower() in GEOPARQUET
    frame = _read_parquet(path) if is_parquet else _read_layer(path, layer)
    columns = [name for name in frame.columns if name != frame.geometry.name]
    if column not in columns:
        raise DatasetError(
            f"{text} has no column {column!r}.{did_you_mean(column, columns)} Its columns are "
            f"{join_some(columns) or 'none'}: --label-column"
        )
    frame = frame[~(frame.geometry.isna() | frame.geometry.is_empty)]
    if frame.empty:
        raise DatasetError(f"{text} is empty: it holds no polygons.")
    if others := sorted(set(frame.geom_type) - set(POLYGONS)):
        raise DatasetError(
            f"{text} holds geometries of the type {join_some(others)}; expected polygons. Draw "
            "areas, or buffer what is drawn."
        )
    values = frame[column]
    named = ~(values.isna() | (values.astype(str).str.strip() == ""))
    if not named.any():
        raise DatasetError(f"{text} names no class in its column {column!r}.")
    kept, values = frame[named], values[named]
    if values.dtype.kind == "f" and (values % 1 == 0).all():
        # A column of whole numbers in which some are missing.
        values = values.astype("int64")
    names, labels = np.unique(
        values if values.dtype.kind in "iub" else values.astype(str), return_inverse=True
    )
    return Polygons(
        text,
        tuple(map(str, names.tolist())),
        labels.astype(np.int32),
        kept.geometry,
        int((~named).sum()),
    )


@dataclass(frozen=True)
class PlacedPolygons:
    """Polygons with classes, in the reference system of a scene."""

    geometries: NDArray[Any]
    labels: NDArray[np.int32]

    @cached_property
    def _tree(self) -> Any:
        return _modules()[2].STRtree(self.geometries)

    def at(self, points: NDArray[np.float64]) -> NDArray[np.int32]:
        """Return the class at each point, (n, 2); -1 outside all polygons.

        Where polygons overlap, the first of the file counts.
        """
        _, _, shapely = _modules()
        found = np.full(len(points), -1, np.int32)
        at, which = self._tree.query(shapely.points(points), predicate="intersects")
        order = np.argsort(-which, kind="stable")
        found[at[order]] = self.labels[which[order]]
        return found

    def most_of(self, corners: NDArray[np.float64]) -> NDArray[np.int32]:
        """Return the class that covers more than half of each quadrilateral, (n, 4, 2); or -1."""
        _, _, shapely = _modules()
        found = np.full(len(corners), -1, np.int32)
        boxes = shapely.polygons(corners)
        at, which = self._tree.query(boxes, predicate="intersects")
        if not len(at):
            return found
        parts = shapely.intersection(boxes[at], self.geometries[which])
        pairs = np.stack([at, self.labels[which]], axis=1)
        order = np.lexsort(pairs.T[::-1])
        pairs, parts = pairs[order], parts[order]
        starts = np.flatnonzero(np.r_[True, np.diff(pairs, axis=0).any(axis=1)])
        stops = np.r_[starts[1:], len(pairs)]
        areas = np.add.reduceat(shapely.area(parts), starts)
        for i in np.flatnonzero(stops - starts > 1).tolist():
            # Polygons of one class may overlap.
            areas[i] = shapely.area(shapely.union_all(parts[starts[i] : stops[i]]))
        boxes_of, labels = pairs[starts].T
        order = np.argsort(areas, kind="stable")
        is_most = areas[order] > shapely.area(boxes)[boxes_of[order]] / 2
        found[boxes_of[order][is_most]] = labels[order][is_most]
        return found


DRIVERS = {".gpkg": "GPKG", ".geojson": "GeoJSON", ".fgb": "FlatGeobuf"}
"""GDAL's driver by the ending of a file of polygons."""


def check_vector_file(path: Path) -> None:
    """Refuse a file of polygons that can't be written, or that holds something else."""
    if path.suffix.lower() not in DRIVERS:
        raise ConfigError(
            f"{path.name} ends in {path.suffix or 'nothing'}; polygons are written to "
            f"{', '.join(DRIVERS)}."
        )
    _, pyogrio, _ = _modules()
    if not path.exists():
        return
    try:
        layers = pyogrio.list_layers(path)[:, 0].tolist()
        is_own = layers == [path.stem] and {*pyogrio.read_info(path)["fields"]} == {*COLUMNS}
    except pyogrio.errors.DataSourceError:
        is_own = False
    if not is_own:
        raise ConfigError(
            f"{path} exists and is no map of featstore: it is not replaced. Name another file."
        )


COLUMNS = ("label", "class")
"""The columns of a map of polygons."""


def write_polygons(
    path: Path,
    name: Path,
    shapes: Iterable[tuple[dict[str, Any], int]],
    class_names: Sequence[str],
    crs: str,
) -> None:
    """Write shapes, as GeoJSON with labels, to a file of the kind that `name` ends in."""
    geopandas, _, shapely = _modules()
    found = [(shapely.geometry.shape(shape), int(label)) for shape, label in shapes]
    labels = [label for _, label in found]
    frame = geopandas.GeoDataFrame(
        {"label": labels, "class": [class_names[label] for label in labels]},
        geometry=[shape for shape, _ in found],
        crs=crs or None,
    )
    driver = DRIVERS[name.suffix.lower()]
    if driver == "GeoJSON" and crs:
        # The format has no other reference system.
        frame = frame.to_crs(4326)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".vector-") as folder:
        # GDAL wants its own endings, and puts files of its own beside.
        draft = Path(folder) / f"map{name.suffix.lower()}"
        frame.to_file(draft, driver=driver, layer=name.stem, engine="pyogrio")
        draft.replace(path)
