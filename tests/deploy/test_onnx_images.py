from __future__ import annotations

import numpy as np
import pytest
import torch

from featstore.deploy.check import run_file
from featstore.deploy.onnx_graph import Graph
from featstore.deploy.onnx_images import add_preprocess
from featstore.models.preprocess import Preprocess

RGB, FIVE = ((0.0,) * 3, (1.0,) * 3), ((0.0,) * 5, (1.0,) * 5)
SIZES = ((32, 32), (28, 28), (64, 33), (33, 32), (120, 90))


@pytest.mark.parametrize(
    "preprocess",
    [
        Preprocess(32, "rgb", *RGB),
        Preprocess(32, "rgb", *RGB, "bicubic", 0.9),
        Preprocess(32, "gray", *RGB, "bilinear", 0.875, True),
        Preprocess(48, "a,b,c,d,e", *FIVE, "bicubic"),
    ],
    ids=lambda preprocess: f"{preprocess.bands} {preprocess.method[:24]}",
)
def test_the_graph_gives_the_bytes_of_pytorch(preprocess, tmp_path):
    n_bands, side = len(preprocess.mean), preprocess.image_size
    graph = Graph()
    images = graph.input("images", "uint8", ["n", n_bands, "height", "width"])
    resized = add_preprocess(graph, images, preprocess)
    graph.output(resized, "resized", "uint8", ["n", n_bands, side, side])
    graph.write(tmp_path / "resize.onnx", "resize", {})
    rng = np.random.default_rng(0)
    for height, width in SIZES:
        given = rng.integers(0, 256, (2, height, width, n_bands), dtype=np.uint8)
        found = run_file(tmp_path / "resize.onnx", [given.transpose(0, 3, 1, 2)])["resized"]
        expected = preprocess([(np.arange(2), given)], 2, torch.device("cpu")).numpy()
        assert (found == expected).all(), (height, width)
