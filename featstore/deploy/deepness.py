"""Write a model as QGIS' plugin Deepness reads it: tiles in, a map of each class out.

Deepness (https://qgis-plugin-deepness.readthedocs.io) gives a model square tiles, (1, n_bands,
tile_size, tile_size) float32 from 0 to 1, and takes (1, n_classes, tile_size, tile_size). A
classifier of windows gives all pixels of a tile the scores of its class.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from featstore.deploy.onnx_graph import Graph
from featstore.runs.run import Run
from featstore.store.feature_store import FeatureStore


def add_tile(graph: Graph, n_bands: int, tile_size: int) -> str:
    """Declare a tile as input, and return it as bytes, (1, n_bands, tile_size, tile_size)."""
    tile = graph.input("tile", "float32", [1, n_bands, tile_size, tile_size])
    values = graph.add("Round", graph.add("Mul", tile, graph.constant(255.0)))
    return graph.cast(
        graph.add("Clip", values, graph.constant(0.0), graph.constant(255.0)), np.uint8
    )


def add_map(graph: Graph, probabilities: str, n_classes: int, tile_size: int) -> None:
    """Declare the probabilities of a tile, (1, n_classes), as a map of its pixels."""
    shape = graph.constant([1, n_classes, 1, 1], np.int64)
    sides = graph.constant([1, 1, tile_size, tile_size], np.int64)
    spread = graph.add("Expand", graph.add("Reshape", probabilities, shape), sides)
    graph.output(spread, "map", "float32", [1, n_classes, tile_size, tile_size])


def deepness_metadata(
    class_names: Sequence[str], n_bands: int, tile_size: int, resolution_cm: float | None
) -> dict[str, str]:
    """Return the texts by which Deepness sets its fields, each of them JSON."""
    values = {
        "model_type": "Segmentor",
        "class_names": dict(enumerate(class_names)),
        "tile_size": tile_size,
        "tiles_overlap": 0,
        # Deepness counts a class below the threshold as the first one, and smooths small segments.
        "seg_thresh": 0.0,
        "seg_small_segment": 0,
        "standardization_mean": [0.0] * n_bands,
        "standardization_std": [1.0] * n_bands,
    }
    if resolution_cm is not None:
        values["resolution"] = resolution_cm
    return {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}


def as_tile(image: np.ndarray, tile_size: int) -> np.ndarray:
    """Return the corner of an image, repeated where it is small, as a tile."""
    height, width, _ = image.shape
    missing = [(0, max(0, tile_size - side)) for side in (height, width)]
    return np.pad(image, [*missing, (0, 0)], mode="wrap")[:tile_size, :tile_size]


def scene_resolution_cm(run: Run, store: FeatureStore) -> float | None:
    """Return the size of a pixel of the run's scenes; None of images and of scenes in degrees."""
    windows = store.get(run.selection.set_ids[0]).info.dataset.windows
    if windows is None:
        return None
    scene = windows.scenes[0]
    if not scene.transform or not scene.crs:
        return None
    from featstore.io.gdal import rasterio

    crs = rasterio().crs.CRS.from_wkt(scene.crs)
    if not crs.is_projected:
        return None
    a, b, _, d, e, _ = scene.transform
    return float(np.sqrt(abs(a * e - b * d)) * crs.linear_units_factor[1] * 100)
