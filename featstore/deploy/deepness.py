"""Write a model as QGIS' plugin Deepness reads it: tiles in, a map of each class out.

Deepness (https://qgis-plugin-deepness.readthedocs.io) gives a model square tiles, (1, n_bands,
tile_size, tile_size) float32, which are the raster's values divided by 255 whatever their type, and
takes (1, n_classes, tile_size, tile_size). A classifier of windows gives all pixels of a tile the
scores of its class.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from featstore.datasets.reading import ALL
from featstore.deploy.onnx_graph import Graph
from featstore.deploy.onnx_networks import ExportedNetwork, input_bands
from featstore.runs.run import Run
from featstore.store.feature_store import FeatureStore

MAX_CLASSES = 255
"""Most classes: Deepness keeps the class of a pixel, counted from 1, in a byte."""


@dataclass(frozen=True)
class Tile:
    """What Deepness gives a model.

    `value_range` has the values that become 0 and 255, of each band or of all.
    """

    size: int
    n_bands: int
    value_range: Sequence[Sequence[float]] = ((0.0, 255.0),)

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The values that become 0 and 255, each (n_bands or 1, 1, 1) float64."""
        lows, highs = np.array(self.value_range, np.float64).T.reshape(2, -1, 1, 1)
        return lows, highs

    def add_to(self, graph: Graph) -> str:
        """Declare a tile as input, and return it as bytes, (1, n_bands, size, size)."""
        lows, highs = self.bounds
        values = graph.input("tile", "float32", [1, self.n_bands, self.size, self.size])
        values = graph.add("Mul", values, graph.constant(255.0))
        if (lows != 0).any() or (highs != 255).any():
            values = graph.add("Sub", values, graph.constant(lows))
            values = graph.add("Mul", values, graph.constant(255 / (highs - lows)))
        values = graph.add("Clip", values, graph.constant(0.0), graph.constant(255.0))
        return graph.cast(graph.add("Round", values), np.uint8)

    def of(self, pixels: np.ndarray) -> np.ndarray:
        """Return the tile of an image's bytes, (height, width, n_bands), as Deepness gives it."""
        lows, highs = self.bounds
        values = lows + pixels.transpose(2, 0, 1) * ((highs - lows) / 255)
        tile: np.ndarray = (values[np.newaxis] / 255).astype(np.float32)
        return tile


def tile_of(run: Run, networks: Sequence[ExportedNetwork], size: int) -> Tile:
    """Return Deepness' tile, whose values become bytes as those of the run's images did."""
    n_bands = len(input_bands(networks))
    reading = run.selection.features[0].preprocess.reading
    if reading is None or not reading.value_range:
        return Tile(size, n_bands)
    ranges = list(reading.value_range)
    if len(ranges) > 1:
        ranges = [ranges[i] for i in networks[0].extractor.preprocess.order or range(n_bands)]
    return Tile(size, n_bands, ranges)


def input_channels(run: Run, networks: Sequence[ExportedNetwork]) -> str:
    """Return the bands that the model takes, as text; empty for the first ones, in order."""
    reading = run.selection.features[0].preprocess.reading
    order = networks[0].extractor.preprocess.order
    if reading is None or reading.bands in ((), (ALL,)) and not order:
        return ""
    words = list(reading.bands)
    if not words or words == [ALL]:
        words = [str(i + 1) for i in range(max(order) + 1)]
    words = [words[i] for i in order] if order else words
    return "" if words == [str(i + 1) for i in range(len(words))] else ", ".join(words)


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
