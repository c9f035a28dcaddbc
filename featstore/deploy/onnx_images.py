"""Resize images within an ONNX graph to the same bytes as featstore's own preprocessing.

PyTorch resizes bytes along the width, then along the height, as Pillow does: with weights of 16
bits, and rounded to bytes after each pass. A pass is a product with a matrix of weights, which the
graph computes from the images' size.
"""

from __future__ import annotations

import numpy as np

from featstore.deploy.onnx_graph import Graph
from featstore.models.preprocess import LUMA, Preprocess

MAX_WEIGHT = 2.0**15 - 0.5
"""Least weight, in units of the last bit, that 16 bits with a sign can't hold, before rounding."""


MAX_PRECISION = 22
"""Most bits of a weight after the point."""


def add_preprocess(graph: Graph, images: str, preprocess: Preprocess) -> str:
    """Return images as a network takes them, uint8 (n, n_bands, image_size, image_size).

    `images` are uint8 (n, n_bands, height, width), of any height and width.
    """
    pixels = graph.cast(images, np.float32)
    if preprocess.bands == "gray" and len(preprocess.mean) == len(LUMA):
        pixels = _luminance(graph, pixels)
    height, width = _sides(graph, images)
    if preprocess.crop_pct is None:
        rows = columns = graph.constant([preprocess.image_size], np.float64)
    else:
        short = graph.constant([preprocess.resized_size], np.float64)
        rows = columns = short
        if not preprocess.squash:
            side = graph.add("Min", height, width)
            rows, columns = (
                graph.add("Floor", graph.add("Div", graph.add("Mul", short, length), side))
                for length in (height, width)
            )
    bicubic = preprocess.interpolation == "bicubic"
    for axis, length, target in (("width", width, columns), ("height", height, rows)):
        weights = _weights(graph, length, target, bicubic=bicubic)
        if preprocess.crop_pct is not None:
            weights = _middle(graph, weights, target, preprocess.image_size)
        if axis == "width":
            product = graph.add("MatMul", pixels, graph.add("Transpose", weights, perm=[1, 0]))
        else:
            product = graph.add("MatMul", weights, pixels)
        pixels = _to_whole(graph, product)
    pixels = graph.cast(pixels, np.uint8)
    if preprocess.bands == "gray":
        shape = graph.constant([1, len(preprocess.mean), 1, 1], np.int64)
        pixels = graph.add("Expand", pixels, shape)
    return pixels


def _luminance(graph: Graph, pixels: str) -> str:
    bands = graph.add_several("Split", 3, pixels, axis=1, num_outputs=3)
    weighted = [
        graph.add("Mul", band, graph.constant(weight))
        for band, weight in zip(bands, LUMA, strict=True)
    ]
    return graph.add("Round", graph.add("Add", graph.add("Add", *weighted[:2]), weighted[2]))


def _sides(graph: Graph, images: str) -> list[str]:
    """Return height and width, each (1,) float64."""
    shape = graph.cast(graph.add("Shape", images, start=2), np.float64)
    return graph.add_several("Split", 2, shape, axis=0, num_outputs=2)


def _to_whole(graph: Graph, values: str) -> str:
    """Return values rounded to whole grey levels from 0 to 255."""
    rounded = graph.add("Floor", graph.add("Add", values, graph.constant(0.5)))
    return graph.add("Clip", rounded, graph.constant(0.0), graph.constant(255.0))


def _range(graph: Graph, length: str, shape: tuple[int, int]) -> str:
    """Return 0.5, 1.5, ... for each of `length` places, float64, as a row or a column."""
    zero, one = (graph.constant(value, np.float64) for value in (0.0, 1.0))
    places = graph.add("Range", zero, graph.add("Squeeze", length), one)
    middles = graph.add("Add", places, graph.constant(0.5, np.float64))
    return graph.add("Reshape", middles, graph.constant(shape, np.int64))


def _weights(graph: Graph, length: str, target: str, *, bicubic: bool) -> str:
    """Return the weights of `length` pixels in each of `target` ones, (target, length) float32.

    As PyTorch's ``_compute_index_ranges_int16_weights``: computed in float64, divided by their sum,
    and rounded to as many bits as the largest of them lets 16 hold.
    """
    one, half = (graph.constant(value, np.float64) for value in (1.0, 0.5))
    scale = graph.add("Div", length, target)
    stretch = graph.add("Max", scale, one)
    centers = graph.add("Mul", _range(graph, target, (-1, 1)), scale)
    distances = graph.add("Sub", _range(graph, length, (1, -1)), centers)
    distances = graph.add("Abs", graph.add("Div", distances, stretch))
    weights = (_cubic if bicubic else _triangle)(graph, distances)
    axis = graph.constant([1], np.int64)
    weights = graph.add("Div", weights, graph.add("ReduceSum", weights, axis, keepdims=1))
    # The least p with largest * 2^(p + 1) >= MAX_WEIGHT.
    largest = graph.add("ReduceMax", weights, keepdims=0)
    ratio = graph.add("Div", graph.constant(MAX_WEIGHT, np.float64), largest)
    bits = graph.add("Div", graph.add("Log", ratio), graph.constant(np.log(2), np.float64))
    bits = graph.add("Sub", graph.add("Ceil", bits), one)
    bits = graph.add("Min", bits, graph.constant(float(MAX_PRECISION), np.float64))
    unit = graph.add("Pow", graph.constant(2.0, np.float64), bits)
    whole = graph.add("Mul", graph.add("Abs", weights), unit)
    whole = graph.add("Floor", graph.add("Add", whole, half))
    rounded = graph.add("Div", graph.add("Mul", graph.add("Sign", weights), whole), unit)
    # 15 bits of weight times 8 of pixel are exact in float32, and so are their sums where an image
    # is reduced to a quarter or less: beyond, a pixel in 10,000 is a grey level off.
    return graph.cast(rounded, np.float32)


def _triangle(graph: Graph, x: str) -> str:
    one, zero = (graph.constant(value, np.float64) for value in (1.0, 0.0))
    return graph.add("Max", graph.add("Sub", one, x), zero)


def _cubic(graph: Graph, x: str) -> str:
    """Return Keys' cubic with a = -0.5, as of Pillow and PyTorch with antialiasing, for x >= 0."""

    def polynomial(*coefficients: float) -> str:
        found = graph.constant(coefficients[0], np.float64)
        for coefficient in coefficients[1:]:
            found = graph.add("Mul", found, x)
            found = graph.add("Add", found, graph.constant(coefficient, np.float64))
        return found

    one, two, zero = (graph.constant(value, np.float64) for value in (1.0, 2.0, 0.0))
    far = graph.add("Where", graph.add("Less", x, two), polynomial(-0.5, 2.5, -4.0, 2.0), zero)
    return graph.add("Where", graph.add("Less", x, one), polynomial(1.5, -2.5, 0.0, 1.0), far)


def _middle(graph: Graph, weights: str, target: str, size: int) -> str:
    """Return the rows of weights that give the middle `size` pixels of `target` ones."""
    margin = graph.add("Sub", target, graph.constant(float(size), np.float64))
    first = graph.add("Round", graph.add("Div", margin, graph.constant(2.0, np.float64)))
    first = graph.cast(first, np.int64)
    last = graph.add("Add", first, graph.constant([size], np.int64))
    return graph.add("Slice", weights, first, last, graph.constant([0], np.int64))
