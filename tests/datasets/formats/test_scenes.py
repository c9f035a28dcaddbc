"""Scenes as datasets of windows: rows, order, places, blocks, and what is refused."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import rasterio.shutil
import shapely
from makers import PLACE, Listener, write_scene

from featstore.datasets.reading import Reading
from featstore.datasets.registry import open_dataset
from featstore.datasets.scene import Scene
from featstore.datasets.windows import Grid, find_windows
from featstore.errors import (
    ConfigError,
    DatasetError,
    DatasetNotFoundError,
    ImageError,
    SelectionError,
)
from featstore.extraction.extract import extract
from featstore.inference.source_images import Originals
from featstore.io.files import read_json, write_json
from featstore.models.pixelstats import PixelExtractor
from featstore.store.feature_store import open_store
from featstore.store.verification import verify


def noise(*shape, dtype=np.uint8, high=256):
    return np.random.default_rng(0).integers(1, high, shape).astype(dtype)


def open_scenes(root, *, window=20, **options):
    return open_dataset("scene", str(root), window=window, **options)


@pytest.fixture
def gaps(tmp_path):
    """Write a scene of 100 x 140 pixels, of which a corner has no data."""
    pixels = noise(3, 100, 140)
    pixels[:, :45, :30] = 0
    return write_scene(tmp_path / "gaps.tif", pixels, nodata=0)


def test_rows_are_the_windows_that_a_map_classifies(gaps):
    dataset = open_scenes(gaps, window=20, stride=10)
    with Scene(gaps, ("red", "green", "blue")) as scene:
        mapped = find_windows(scene, Grid(100, 140, 20, 10))
        np.testing.assert_array_equal(
            dataset.read_block(0, len(dataset)), mapped.read_block(0, len(mapped))
        )
        np.testing.assert_array_equal(dataset.places[:, 1] * 14 + dataset.places[:, 2], mapped.rows)
    assert len(dataset) < 140
    assert dataset.sample_ids[0] == f"gaps.tif/0/{dataset.places[0, 2]}"
    assert dataset.class_names == ()
    assert (dataset.title, dataset.bands) == ("gaps.tif", ("red", "green", "blue"))


def test_a_folder_is_all_its_rasters_but_for_maps_and_mosaics(tmp_path):
    for name in ("b.tif", "a.tif"):
        write_scene(tmp_path / name, noise(3, 40, 40))
    with rasterio.open(tmp_path / "b.tif", "r+") as raster:
        raster.update_tags(FEATSTORE_RUN="a run")
    write_scene(tmp_path / "c.tif", noise(3, 20, 60))
    rasterio.shutil.copy(tmp_path / "a.tif", tmp_path / "all.vrt", driver="VRT")
    (tmp_path / "notes.txt").write_text("no raster")
    dataset = open_scenes(tmp_path)
    assert dataset.sample_ids[3:5] == ["a.tif/1/1", "c.tif/0/0"]
    assert len(dataset) == 7
    assert dataset.title == tmp_path.name
    np.testing.assert_array_equal(dataset.read(6), np.moveaxis(noise(3, 20, 60)[:, :, 40:], 0, 2))
    assert open_scenes(tmp_path / "*.vrt").sample_ids[0] == "all.vrt/0/0"


def test_a_scene_is_read_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("featstore.datasets.windows.PIECE_NBYTES", 3 * 20 * 100)
    dataset = open_scenes(write_scene(tmp_path / "wide.tif", noise(3, 40, 2000)), stride=10)
    sizes = []
    read = Scene.read
    monkeypatch.setattr(Scene, "read", lambda *args: sizes.append(args[3:]) or read(*args))
    assert sum(len(dataset.read_block(i, i + 50)) for i in range(0, 800, 50)) == 800
    assert max(height * width for height, width in sizes) <= 20 * 100


def test_bands_and_range_are_chosen_as_of_files(tmp_path):
    values = noise(5, 40, 60, dtype=np.uint16, high=3000)
    path = write_scene(tmp_path / "deep.tif", values)
    reading = Reading(("4", "1"), ((0.0, 3000.0),))
    dataset = open_scenes(path, reading=reading)
    assert dataset.bands == ("b4", "b1")
    expected = np.rint(values[[3, 0], :20, :20] * (255 / 3000))
    np.testing.assert_allclose(np.moveaxis(dataset.read(0), 2, 0), expected, atol=1)
    (low, high), *_ = open_scenes(path, reading=Reading(("4",))).sampled_range(2, 98)
    assert (low, high) == pytest.approx(np.percentile(values[3], (2, 98)), abs=1)
    with pytest.raises(ConfigError, match=r"values end at some 2,99. of 65,535.* --range LOW,HIGH"):
        len(open_scenes(path, reading=Reading(("4", "1"))))
    with pytest.raises(ConfigError, match=r"5 bands, and does not say which.*--bands 4,3,2"):
        len(open_scenes(path, reading=Reading((), ((0.0, 3000.0),))))
    write_scene(tmp_path / "few.tif", values[:4])
    with pytest.raises(DatasetError, match=r"few.tif has 4 bands, and .*deep.tif has 5"):
        len(open_scenes(tmp_path, reading=Reading(("all",), ((0.0, 3000.0),))))


@pytest.mark.parametrize(
    ("root", "options", "error", "told"),
    [
        ("gaps.tif", {"window": None}, ConfigError, "--window 64"),
        ("nothing.tif", {}, DatasetNotFoundError, "nothing.tif does not exist"),
        ("empty", {}, DatasetNotFoundError, r"holds no raster \(.tif"),
        ("empty/*.tif", {}, DatasetNotFoundError, "does not exist"),
        ("gaps.tif", {"window": 1000}, DatasetError, "no window of 1000 x 1000"),
    ],
)
def test_what_is_no_scene_is_refused(gaps, tmp_path, root, options, error, told):
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=told):
        len(open_scenes(tmp_path / root, **options))
    with pytest.raises(ConfigError, match="needs --root"):
        open_dataset("scene", window=20)


def test_the_fingerprint_covers_what_a_virtual_raster_shows(tmp_path):
    write_scene(tmp_path / "a.tif", noise(3, 40, 40))
    rasterio.shutil.copy(tmp_path / "a.tif", tmp_path / "inner.vrt", driver="VRT")
    inner = (tmp_path / "inner.vrt").read_text()
    (tmp_path / "outer.vrt").write_text(inner.replace("a.tif", "inner.vrt"))
    (tmp_path / "a.tif.aux.xml").write_text("<PAMDataset/>")
    names = [name for name, _ in open_scenes(tmp_path / "outer.vrt").files()]
    assert names == ["a.tif", "inner.vrt", "outer.vrt"]
    (tmp_path / "a.tif").unlink()
    with pytest.raises(
        DatasetError, match=r"inner.vrt takes its pixels from .*a.tif, which does not"
    ):
        open_scenes(tmp_path / "outer.vrt").files()


def test_a_feature_set_holds_places_and_scenes(gaps, tmp_path):
    store = open_store(tmp_path / "store")
    options = {"store": store, "root": gaps, "window": 20, "stride": 10}
    made = extract("pixelstats", "scene", **options)
    feature_set = store.get(made.set_id)
    dataset = open_scenes(gaps, window=20, stride=10)
    np.testing.assert_array_equal(feature_set.places, dataset.places)
    assert feature_set.sample_ids.tolist() == dataset.sample_ids
    windows = feature_set.info.dataset.windows
    assert (windows.window, windows.stride) == (20, 10)
    assert windows.scenes[0].transform == tuple(PLACE)[:6]
    assert rasterio.CRS.from_wkt(windows.scenes[0].crs).to_epsg() == 32633
    assert verify(feature_set) == []
    assert extract("pixelstats", "scene", **options).n_computed == 0
    np.testing.assert_array_equal(Originals(store, made.set_id).image(5), dataset.read(5))


def test_a_place_beyond_its_scene_is_damage(gaps, tmp_path):
    store = open_store(tmp_path / "store")
    made = extract("pixelstats", "scene", store=store, root=gaps, window=20)
    path = store.get(made.set_id).path / "set.json"
    record = read_json(path)
    record["dataset"]["windows"]["scenes"][0]["height"] = 20
    write_json(path, record)
    with pytest.raises(DatasetError.__base__, match="place names a cell beyond its scene"):
        _ = open_store(tmp_path / "store").get(made.set_id).places
    record["dataset"]["windows"]["scenes"][0]["transform"] = [1.0, 2.0]
    write_json(path, record)
    assert "a transform has six numbers" in str(verify(open_store(tmp_path / "store").sets()[0])[0])


@pytest.mark.parametrize("nodata", [None, 0])
def test_windows_that_cannot_be_read_are_masked_and_their_neighbors_are_not(tmp_path, nodata):
    tiles = {"tiled": True, "blockxsize": 64, "blockysize": 64, "nodata": nodata}
    whole = write_scene(tmp_path / "whole.tif", noise(3, 256, 256), **tiles)
    data = Path(whole).read_bytes()
    cut = tmp_path / "cut.tif"
    # The last tile and a half of sixteen are gone.
    cut.write_bytes(data[: len(data) - 64 * 64 * 9 // 2])
    options = {"store": tmp_path / "store", "window": 32}
    with pytest.raises(ImageError, match=r"cut.tif can't be read at rows .*--on-error mask"):
        extract("pixelstats", str(cut), **options)
    made = extract("pixelstats", str(cut), on_error="mask", **options)
    assert (made.n_images, made.n_masked) == (64, 8)
    store = open_store(tmp_path / "store")
    found = store.get(made.set_id)
    assert set(found.layer("stats").masked_rows) == {52, 53, 60, 61, 54, 55, 62, 63}
    expected = store.get(extract("pixelstats", str(whole), **options).set_id)
    rows = np.setdiff1d(np.arange(64), found.layer("stats").masked_rows)
    np.testing.assert_array_equal(
        found.matrix("stats").read(0, 64)[rows], expected.matrix("stats").read(0, 64)[rows]
    )


# Labels from polygons.

CLASSES = np.random.default_rng(5).integers(0, 3, (8, 10))
NAMES = np.array(["forest", "sand", "water"])


def squares(side=30, mask=None):
    """Return polygons of the classes, one for each square of `side` pixels, and their names."""
    at = [(i, j) for i, j in np.ndindex(*CLASSES.shape) if mask is None or mask[i, j]]
    boxes = [
        shapely.box(*(PLACE @ (j * side, (i + 1) * side)), *(PLACE @ ((j + 1) * side, i * side)))
        for i, j in at
    ]
    return geopandas.GeoDataFrame(
        {"class": [NAMES[CLASSES[i, j]] for i, j in at]}, geometry=boxes, crs="EPSG:32633"
    )


@pytest.fixture
def scene(tmp_path):
    return write_scene(tmp_path / "scene.tif", noise(3, 240, 300))


def labelled(root, path, **options):
    options = {"window": 10, "label_column": "class", "groups_from": "grid:600"} | options
    return open_scenes(root, labels=str(path), **options)


@pytest.mark.parametrize("epsg", [32633, 4326])
@pytest.mark.parametrize("by", ["majority", "centre"])
def test_windows_have_the_class_of_their_polygon(scene, tmp_path, epsg, by):
    squares().to_crs(epsg).to_file(tmp_path / "fields.gpkg")
    dataset = labelled(scene, tmp_path / "fields.gpkg", label_by=by)
    assert dataset.class_names == tuple(NAMES)
    np.testing.assert_array_equal(dataset.labels.reshape(24, 30), CLASSES.repeat(3, 0).repeat(3, 1))
    assert dataset.group_by == "grid:600"
    assert len(np.unique(dataset.groups)) == 20


def test_windows_beside_the_polygons_have_no_label(scene, tmp_path):
    mask = np.zeros(CLASSES.shape, bool)
    mask[::2, 1::2] = True
    squares(mask=mask).to_file(tmp_path / "fields.shp")
    dataset = labelled(
        scene, tmp_path / "fields.shp", window=30, stride=15, groups_from="grid:10000"
    )
    expected = np.full((16, 20), -1)
    # A window of 30 at half a square's stride lies in one square, or in halves or quarters of some.
    half = [dataset.labels.reshape(16, 20)[i, j] for i in (0, 1) for j in (2, 3)]
    assert set(half) == {CLASSES[0, 1]}
    assert dataset.labels.reshape(16, 20)[2:4, :2].max() == expected.max()
    names = [name for name, _ in dataset.files()]
    assert {"labels:fields.shp", "labels:fields.dbf", "labels:fields.shx"} <= set(names)


def test_no_training_window_shares_a_pixel_with_a_test_window(scene, tmp_path):
    squares().to_file(tmp_path / "fields.gpkg")
    listener = Listener()
    dataset = labelled(
        scene, tmp_path / "fields.gpkg", window=20, stride=7, groups_from=None, progress=listener
    )
    covered = np.zeros((2, 240, 300), bool)
    grid = Grid(240, 300, 20, 7)
    left, top = grid.corners(*dataset.places[:, 1:].T)[:, 0].astype(int).T
    right, bottom = grid.corners(*dataset.places[:, 1:].T)[:, 2].astype(int).T
    for row in np.flatnonzero(dataset.labels >= 0):
        rows, cols = slice(top[row], bottom[row]), slice(left[row], right[row])
        covered[dataset.splits[row], rows, cols] = True
    assert covered.any(axis=(1, 2)).all()
    assert not covered.all(axis=0).any()
    assert any("lie across two blocks of 80 pixels" in line for line in listener.lines)
    assert set(dataset.labels[dataset.splits == 1]) >= {0, 1, 2}
    other = labelled(scene, tmp_path / "fields.gpkg", window=20, stride=7, groups_from=None, seed=1)
    assert (other.splits != dataset.splits).any()


def test_two_scenes_of_a_place_share_its_blocks(tmp_path):
    folder = tmp_path / "dates"
    folder.mkdir()
    write_scene(folder / "may.tif", noise(3, 240, 300))
    shifted = PLACE @ rasterio.Affine.translation(60, 120)
    write_scene(folder / "june.tif", noise(3, 120, 120), transform=shifted)
    squares().to_file(tmp_path / "fields.gpkg")
    dataset = labelled(folder, tmp_path / "fields.gpkg")
    scene, row, col = dataset.places.T
    june, may = dataset.groups[scene == 0], dataset.groups[scene == 1]
    at = (row[scene == 0] + 12) * 30 + col[scene == 0] + 6
    np.testing.assert_array_equal(june, may[at])
    np.testing.assert_array_equal(dataset.labels[scene == 0], dataset.labels[scene == 1][at])


def test_polygons_of_one_class_that_overlap_count_once(scene, tmp_path):
    left, top = PLACE @ (0, 0)
    strip = shapely.box(left, top - 40, left + 100, top)
    frame = geopandas.GeoDataFrame(
        {"class": [1, 1, 2]},
        geometry=[strip, strip, shapely.box(left, top - 100, left + 100, top - 45)],
        crs="EPSG:32633",
    )
    frame.to_file(tmp_path / "fields.gpkg")
    # The strip twice would be 80 % of the window of 100 x 100 metres.
    assert labelled(scene, tmp_path / "fields.gpkg").labels[0] == 1


def bad_columns(path):
    squares().to_file(path)
    return {"label_column": "klass"}


def no_class(path):
    squares().assign(**{"class": None}).to_file(path)


def empty(path):
    squares()[:0].to_file(path)


def lines(path):
    frame = squares()
    frame.set_geometry(frame.boundary).to_file(path)


def no_reference_system(path):
    squares().set_crs(None, allow_override=True).to_file(path)


def elsewhere(path):
    frame = squares()
    frame.set_geometry(frame.translate(1e5)).to_file(path)


def several(path):
    squares().to_file(path, layer="may")
    squares().to_file(path, layer="june")


def text(path):
    path.write_text("no polygons")


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (bad_columns, r"no column 'klass'\. Did you mean class\?.*--label-column"),
        (no_class, "names no class in its column 'class'"),
        (empty, "is empty: it holds no polygons"),
        (lines, "geometries of the type LineString; expected polygons"),
        (no_reference_system, r"names no reference system \(CRS\), and .*scene.tif does"),
        (elsewhere, "No window of scene.tif gets a label: the polygons lie elsewhere"),
        (several, r"holds the layers may, june\. Name one: '.*\|layername=may'"),
        (text, "can't be read as a vector file"),
        (lambda path: None, "fields.gpkg does not exist. Name a file of polygons."),
    ],
)
@pytest.mark.filterwarnings("ignore:.*crs")
def test_polygons_that_label_nothing_are_refused(scene, tmp_path, write, told):
    options = write(tmp_path / "fields.gpkg") or {}
    with pytest.raises(DatasetError, match=told):
        _ = labelled(scene, tmp_path / "fields.gpkg", **options).labels


def test_polygons_may_be_geoparquet(scene, tmp_path):
    squares().to_file(tmp_path / "fields.gpkg")
    squares().to_crs(4326).to_parquet(tmp_path / "fields.parquet")
    found = [labelled(scene, tmp_path / f"fields.{kind}").labels for kind in ("gpkg", "parquet")]
    np.testing.assert_array_equal(*found)
    squares().drop(columns="geometry").to_parquet(tmp_path / "none.parquet")
    with pytest.raises(DatasetError, match="can't be read as GeoParquet"):
        _ = labelled(scene, tmp_path / "none.parquet").labels


def test_a_layer_is_named_as_in_qgis(scene, tmp_path):
    several(tmp_path / "fields.gpkg")
    dataset = labelled(scene, f"{tmp_path / 'fields.gpkg'}|layername=june")
    assert dataset.class_names == tuple(NAMES)
    with pytest.raises(DatasetError, match="no layer 'july'.*may, june"):
        _ = labelled(scene, f"{tmp_path / 'fields.gpkg'}|layername=july").labels


def test_a_scene_without_map_coordinates_takes_no_polygons(tmp_path):
    squares().to_file(tmp_path / "fields.gpkg")
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        path = write_scene(tmp_path / "plain.tif", noise(3, 60, 60), crs=None, transform=None)
    with pytest.raises(DatasetError, match="plain.tif has no map coordinates"):
        _ = labelled(path, tmp_path / "fields.gpkg").labels


def test_settings_of_scenes_are_refused_elsewhere(tmp_path, gaps):
    with pytest.raises(ConfigError, match="window is a setting of the dataset scene, not demo"):
        extract("pixelstats", "demo", store=tmp_path / "store", window=20)
    with pytest.raises(ConfigError, match="give both, e.g. --labels"):
        extract("pixelstats", "scene", store=tmp_path / "store", root=gaps, labels="a.gpkg")


def test_new_polygons_need_no_new_features(scene, tmp_path, monkeypatch):
    store, fields = open_store(tmp_path / "store"), tmp_path / "fields.gpkg"
    options = {"store": store, "root": scene, "window": 10}
    labels = {"labels": str(fields), "label_column": "class"}
    plain = store.get(extract("pixelstats", "scene", **options).set_id)
    with monkeypatch.context() as patch:
        patch.setattr(PixelExtractor, "begin", None)
        squares().to_file(fields)
        first = extract("pixelstats", "scene", **options, **labels)
        squares(mask=CLASSES > 0).to_file(fields)
        second = extract("pixelstats", "scene", **options, **labels)
    assert len({plain.set_id, first.set_id, second.set_id}) == 3
    assert (first.n_computed, second.n_computed) == (0, 0)
    assert store.get(second.set_id).class_names == ("sand", "water")
    assert (plain.labels < 0).all()
    assert second.n_unlabelled == int((store.get(second.set_id).labels < 0).sum()) > 0
    for made in (first, second):
        own = store.get(made.set_id)
        np.testing.assert_array_equal(
            own.matrix("stats").read(0, 720), plain.matrix("stats").read(0, 720)
        )
        assert verify(own) == []
    with pytest.raises(SelectionError, match=rf"labelled 720.*labels {fields}, label-column class"):
        store.select()
    again = extract("pixelstats", "scene", **options, **labels)
    assert (again.n_computed, again.set_id) == (0, second.set_id)
    # Other windows of the same scene are computed.
    assert extract("pixelstats", "scene", **options | {"window": 20}, **labels).n_computed == 180
