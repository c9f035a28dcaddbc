from __future__ import annotations

import logging

import numpy as np
import pytest
import rasterio
from makers import write_scene
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC

from featstore.datasets.scene import Scene
from featstore.errors import StoreError
from featstore.inference.maps.geotiff import read_thinned, write_map

RGB = ("red", "green", "blue")


def noise(*shape, dtype=np.uint8, high=256):
    return np.random.default_rng(0).integers(0, high, shape).astype(dtype)


def save(path, scene, values, stride=10, **more):
    settings = {
        "dtype": "uint8",
        "nodata": 255,
        "descriptions": ["class"],
        "colors": [(0, 114, 178), (213, 94, 0)],
        "tags": {"RUN": "my-run"},
        "class_tags": {"CLASS_0": "sand"},
    } | more
    write_map(path, path.name, scene.georeference, stride, values.shape[1:], [values], **settings)


def test_a_map_has_colours_tags_and_a_place(tmp_path):
    labels = np.array([[[0, 1, 255], [1, 1, 0]]], np.uint8)
    path = tmp_path / "map.tif"
    with Scene(write_scene(tmp_path / "scene.tif", noise(3, 20, 30)), RGB) as scene:
        save(path, scene, labels)
    with rasterio.open(path) as raster:
        np.testing.assert_array_equal(raster.read(), labels)
        assert raster.crs.to_epsg() == 32633
        assert raster.transform == rasterio.Affine(100, 0, 500_000, 0, -100, 4_600_000)
        assert (raster.nodata, raster.descriptions) == (255, ("class",))
        assert raster.colormap(1)[1] == (213, 94, 0, 255)
        assert raster.colormap(1)[255] == (0, 0, 0, 0)
        assert raster.tags()["RUN"] == "my-run"
        assert raster.tags(1) == {"CLASS_0": "sand"}
    assert {p.name for p in tmp_path.iterdir()} == {"map.tif", "scene.tif"}


def test_a_turned_scene_has_a_turned_map(tmp_path):
    turned = rasterio.Affine(8, 6, 500_000, 6, -8, 4_600_000)
    path = write_scene(tmp_path / "scene.tif", noise(3, 20, 30), transform=turned)
    with Scene(path, RGB) as scene:
        assert scene.georeference.axes[0] is None
        save(tmp_path / "map.tif", scene, np.zeros((1, 2, 3), np.uint8))
    with rasterio.open(tmp_path / "map.tif") as raster:
        assert raster.transform == rasterio.Affine(80, 60, 500_000, 60, -80, 4_600_000)


def test_control_points_and_rational_functions_are_scaled(tmp_path):
    points = [
        GroundControlPoint(row, col, 15 + col / 1000, 45 - row / 1000)
        for row in (0, 20)
        for col in (0, 30)
    ]
    rpcs = RPC(
        0, 1, 45, 1, [1.0] * 20, [1.0] * 20, 9.5, 20, 15, 1, [1.0] * 20, [1.0] * 20, 14.5, 30
    )
    path = str(tmp_path / "scene.tif")
    write_scene(path, noise(3, 20, 30), rpcs=rpcs, crs=None, transform=None)
    with Scene(path, RGB) as scene:
        save(tmp_path / "map.tif", scene, np.zeros((1, 2, 3), np.uint8))
    with rasterio.open(tmp_path / "map.tif") as raster:
        assert (raster.rpcs.line_off, raster.rpcs.line_scale) == (0.5, 2)
        assert (raster.rpcs.samp_off, raster.rpcs.samp_scale) == (1.0, 3)
    write_scene(path, noise(3, 20, 30), gcps=points, crs="EPSG:4326", transform=None)
    with Scene(path, RGB) as scene:
        assert scene.georeference.axes[0] is None
        save(tmp_path / "map.tif", scene, np.zeros((1, 2, 3), np.uint8))
    with rasterio.open(tmp_path / "map.tif") as raster:
        found, crs = raster.gcps
    assert crs.to_epsg() == 4326
    assert [(p.row, p.col) for p in found] == [(0, 0), (0, 3), (2, 0), (2, 3)]
    assert (found[3].x, found[3].y) == (points[3].x, points[3].y)


def test_a_large_map_is_tiled_and_thinned_for_people(tmp_path):
    labels = noise(1, 600, 500, dtype=np.uint16, high=300)
    path = tmp_path / "map.tif"
    with Scene(write_scene(tmp_path / "scene.tif", noise(3, 20, 30)), RGB) as scene:
        colors = [(i % 256, i // 256, 0) for i in range(300)]
        save(path, scene, labels, dtype="uint16", nodata=65_535, colors=colors)
    with rasterio.open(path) as raster:
        assert raster.block_shapes == [(256, 256)]
        assert raster.compression.name == "deflate"
        assert raster.colormap(1)[299] == (43, 1, 0, 255)
    thinned = read_thinned(path, 100)
    assert thinned.shape == (100, 84)
    assert set(np.unique(thinned)) <= set(range(300))


def test_a_full_disk_is_told(tmp_path, capfd):
    resource = pytest.importorskip("resource")
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)
    labels = noise(1, 1024, 1024, high=255)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Scene(write_scene(tmp_path / "scene.tif", noise(3, 20, 30)), RGB) as scene:
        for room in (1000, 300_000, 900_000):
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
            try:
                with pytest.raises(StoreError, match=r"map.tif can't be written"):
                    save(tmp_path / "map.tif", scene, labels)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    capfd.readouterr()
