"""Maps of stored scenes: the same as of the scenes themselves, without reading their windows."""

from __future__ import annotations

from dataclasses import replace

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from makers import Listener, write_scene
from PIL import Image

from featstore.errors import ConfigError, DatasetError, SelectionError
from featstore.extraction.extract import extract
from featstore.inference.maps.map_scene import map_scene
from featstore.inference.stored_features import predict_stored, stored_features
from featstore.models.pixelstats import PixelExtractor
from featstore.runs.opening import open_run
from featstore.store.exports import export
from featstore.store.feature_store import open_store

pytestmark = pytest.mark.usefixtures("blank_pictures")

SIDE = 40
OPTIONS = {"window": 40, "stride": 13}


def copied(sample, folder):
    """Return a sample whose store is a test's own."""
    store = sample.copy(folder)
    return replace(sample, store=store, run=open_run(sample.run.run_id, store))


@pytest.fixture(scope="module")
def sample(pixel_sample, tmp_path_factory):
    return copied(pixel_sample, tmp_path_factory.mktemp("pixels"))


@pytest.fixture(scope="module")
def scene(pixel_sample, tmp_path_factory):
    """Write a scene of test images, of which a corner has no data."""
    paths = sorted((pixel_sample.images / "test").rglob("*.png"))[:6]
    tiles = np.concatenate([np.asarray(Image.open(path)) for path in paths], axis=1)
    pixels = np.maximum(np.moveaxis(np.tile(tiles, (2, 1, 1))[:, :230], 2, 0), 1)
    pixels[:, :45, :50] = 0
    return write_scene(tmp_path_factory.mktemp("scene") / "scene.tif", pixels, nodata=0)


@pytest.fixture(scope="module")
def stored(sample, scene):
    return extract("pixelstats", "scene", store=sample.store, root=scene, **OPTIONS).set_id


def map_both(run, store, scene, set_id, folder, **more):
    files = [folder / "one.tif", folder / "other.tif"]
    map_scene(run, scene, files[0], store=store, **OPTIONS, **more)
    done = map_scene(run, None, files[1], store=store, set_id=set_id, **more)
    return [path.read_bytes() for path in files], done


def test_the_map_is_the_same_as_of_the_scene(sample, scene, stored, tmp_path, monkeypatch):
    run, store = sample.run, sample.store
    (one, other), done = map_both(run, store, scene, stored, tmp_path, probability=True)
    assert one == other
    assert (tmp_path / "one.qml").read_bytes() == (tmp_path / "other.qml").read_bytes()
    with Image.open(done.preview) as picture:
        assert picture.format == "PNG"
    assert done.scene == scene
    assert 0 < done.n_empty < done.n_rows * done.n_cols

    def refuse(*args):
        raise AssertionError("the model ran")

    monkeypatch.setattr(PixelExtractor, "begin", refuse)
    again = map_scene(run, "scene.tif", tmp_path / "again.tif", store=store, set_id=stored)
    assert again.counts == done.counts


def test_networks_and_several_scenes(network_sample, scene, tmp_path):
    sample = copied(network_sample, tmp_path)
    store, run = sample.store, sample.run
    folder = tmp_path / "scenes"
    folder.mkdir()
    with rasterio.open(scene) as raster:
        pixels = raster.read()
    write_scene(folder / "a.tif", pixels[:, :, :120], nodata=0)
    path = write_scene(folder / "b.tif", pixels[:, :, 60:], crs="EPSG:32632")
    spec = sample.run.selection.features[0]
    record = sample.store.get(spec.set_id).info
    made = extract(
        record.backbone.model,
        "scene",
        store=sample.store,
        root=str(folder),
        weights=record.backbone.weights,
        image_size=record.preprocess.image_size,
        layers=spec.layer,
        precision=record.backbone.precision,
        **OPTIONS,
    )
    map_scene(run, path, tmp_path / "one.tif", store=store, **OPTIONS)
    map_scene(run, "b.tif", tmp_path / "other.tif", store=store, set_id=made.set_id)
    assert (tmp_path / "one.tif").read_bytes() == (tmp_path / "other.tif").read_bytes()
    with pytest.raises(SelectionError, match=r"holds several scenes\. Name one: a.tif, b.tif"):
        map_scene(run, store=store, set_id=made.set_id)
    with pytest.raises(SelectionError, match=r"holds no scene 'c.tif'\. Name one"):
        map_scene(run, "c.tif", store=store, set_id=made.set_id)


def test_a_scene_that_is_gone_is_mapped_without_its_picture(sample, tmp_path):
    store, pixels = sample.store, np.full((3, 80, 80), 99, np.uint8)
    path = write_scene(tmp_path / "gone.tif", pixels)
    made = extract("pixelstats", "scene", store=store, root=path, window=40)
    (tmp_path / "gone.tif").unlink()
    listener = Listener()
    options = {"store": store, "set_id": made.set_id, "progress": listener}
    done = map_scene(sample.run, None, tmp_path / "map.tif", **options)
    assert done.n_rows == 2
    assert "The picture shows the classes alone: " in listener.lines[-1]
    write_scene(path, pixels[:, :60])
    map_scene(sample.run, None, tmp_path / "map.tif", **options)
    assert "another size or place than the stored scene" in listener.lines[-1]


def test_classes_are_polygons_too(sample, scene, stored, tmp_path):
    run, store, path = sample.run, sample.store, tmp_path / "classes.gpkg"
    for _ in range(2):
        done = map_scene(run, None, tmp_path / "map.tif", store=store, set_id=stored, vector=path)
    frame = geopandas.read_file(path)
    assert done.vector == str(path)
    assert frame.crs.to_epsg() == 32633
    areas = frame.dissolve("class", as_index=False).set_index("class").area
    expected = {n: c * 130**2 for n, c in zip(done.class_names, done.counts, strict=True) if c}
    assert areas.to_dict() == pytest.approx(expected)
    with rasterio.open(done.path) as raster:
        points = frame.geometry.representative_point()
        found = [value[0] for value in raster.sample(zip(points.x, points.y, strict=True))]
    assert frame["label"].tolist() == found
    lon_lat = tmp_path / "classes.geojson"
    map_scene(run, None, tmp_path / "map.tif", store=store, set_id=stored, vector=lon_lat)
    assert geopandas.read_file(lon_lat).total_bounds[0] == pytest.approx(15, abs=0.1)
    assert not list(tmp_path.glob(".*"))


def test_a_file_of_other_polygons_is_not_replaced(sample, stored, tmp_path):
    options = {"store": sample.store, "set_id": stored}
    path = tmp_path / "fields.gpkg"
    own = geopandas.GeoDataFrame({"class": ["a"]}, geometry=[shapely.box(0, 0, 1, 1)], crs=4326)
    own.to_file(path)
    with pytest.raises(ConfigError, match="is no map of featstore: it is not replaced"):
        map_scene(sample.run, None, tmp_path / "map.tif", vector=path, **options)
    assert geopandas.read_file(path)["class"].tolist() == ["a"]
    with pytest.raises(ConfigError, match=r"ends in .shp; polygons are written to .gpkg"):
        map_scene(sample.run, None, tmp_path / "map.tif", vector="a.shp", **options)
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        plain = write_scene(
            tmp_path / "plain.tif", np.full((3, 40, 40), 9, np.uint8), crs=None, transform=None
        )
    with pytest.raises(ConfigError, match="no map coordinates, so its classes can't be polygons"):
        map_scene(sample.run, plain, store=sample.store, vector=tmp_path / "map.gpkg")


def test_windows_are_exported_with_their_cells_and_predicted_classes(sample, stored, tmp_path):
    run, store = sample.run, sample.store
    done = map_scene(run, None, tmp_path / "map.tif", store=store, set_id=stored, probability=True)
    selection = stored_features(run, store, stored)
    export(selection, tmp_path / "windows.parquet", predict_stored(run, selection))
    frame = geopandas.read_parquet(tmp_path / "windows.parquet")
    assert frame.crs.to_epsg() == 32633
    assert list(frame.columns[:7]) == [
        *("sample_id", "split", "label", "class", "first_row", "predicted", "probability")
    ]
    middles = frame.centroid
    with rasterio.open(done.path) as raster:
        values = np.array(list(raster.sample(zip(middles.x, middles.y, strict=True))))
    assert frame["predicted"].tolist() == [run.class_names[label] for label in values[:, 0]]
    np.testing.assert_array_equal(np.rint(100 * frame["probability"]), values[:, 1])
    X = frame[[f"stats.{i}" for i in range(selection.n_features)]].to_numpy()
    np.testing.assert_array_equal(X, selection.memmap())
    columns = predict_stored(run, selection)
    export(selection, tmp_path / "windows.csv", columns)
    assert ",predicted,probability,stats.0," in (tmp_path / "windows.csv").read_text()
    export(selection, tmp_path / "windows.npz", columns)
    with np.load(tmp_path / "windows.npz") as arrays:
        assert arrays["predicted"].tolist() == frame["predicted"].tolist()
    with pytest.raises(ConfigError, match="npy holds the features alone, not predicted"):
        export(selection, tmp_path / "windows.npy", columns)


def test_cells_of_several_reference_systems_are_in_longitude_and_latitude(tmp_path):
    folder = tmp_path / "scenes"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 40)).astype(np.uint8)
    write_scene(folder / "a.tif", pixels)
    write_scene(folder / "b.tif", pixels, crs="EPSG:32632")
    store = open_store(tmp_path / "store")
    extract("pixelstats", "scene", store=store, root=str(folder), window=20)
    export(store.select(), tmp_path / "windows.parquet")
    frame = geopandas.read_parquet(tmp_path / "windows.parquet")
    assert frame.crs == "OGC:CRS84"
    assert [round(x) for x in frame.bounds.minx] == [15] * 4 + [9] * 4


def test_what_can_not_be_mapped_from_the_store(sample, scene, stored, tmp_path):
    run, store = sample.run, sample.store
    with pytest.raises(DatasetError, match="holds images, not the windows of scenes"):
        map_scene(run, from_store=True, store=store)
    with pytest.raises(ConfigError, match="window is that of the stored scene"):
        map_scene(run, store=store, set_id=stored, window=20)
    limited = extract("pixelstats", "scene", store=store, root=scene, limit=5, **OPTIONS)
    with pytest.raises(DatasetError, match=r"holds 5 of its scenes' windows \(--limit\)"):
        map_scene(run, store=store, set_id=limited.set_id)
    bright = extract("pixelstats", "scene", store=store, root=scene, value_range="0,200", **OPTIONS)
    other = extract("rcf", "scene", store=store, root=scene, weights="random:0", **OPTIONS)
    found = map_scene(run, None, tmp_path / "map.tif", store=store, set_id=stored)
    # The other set of the same windows has the features.
    same = map_scene(run, None, tmp_path / "map.tif", store=store, set_id=other.set_id)
    assert same.counts == found.counts
    store.remove(store.get(stored))
    store.remove(store.get(limited.set_id))
    with pytest.raises(SelectionError, match="were read with other settings of --bands"):
        map_scene(run, store=store, set_id=bright.set_id)
    store.remove(store.get(bright.set_id))
    with pytest.raises(SelectionError, match="lacks the features of .*, pixelstats stats with"):
        map_scene(run, store=store, set_id=other.set_id)
