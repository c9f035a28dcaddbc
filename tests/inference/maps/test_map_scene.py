from __future__ import annotations

import tracemalloc
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from makers import Listener
from PIL import Image

import featstore
from featstore.datasets import windows
from featstore.errors import ConfigError, DatasetError, RunError, StoreError
from featstore.extraction import encode
from featstore.extraction.extract import extract
from featstore.fitting.tasks import classification
from featstore.inference.maps import map_files
from featstore.inference.maps.map_scene import map_scene
from featstore.io.files import read_json, write_json
from featstore.runs.opening import list_runs
from featstore.store.feature_store import open_store
from featstore.store.format.run_schema import RunRecord

pytestmark = pytest.mark.usefixtures("blank_pictures")

PLACE = rasterio.Affine(10, 0, 500_000, 0, -10, 4_600_000)
SIDE = 40
LABELS = np.random.default_rng(3).integers(0, 3, (4, 6))
NAMES = ("forest", "sand", "water")


@pytest.fixture
def store(pixel_sample):
    return pixel_sample.store


@pytest.fixture
def run(pixel_sample):
    return pixel_sample.run


@pytest.fixture
def tiles(pixel_sample):
    """Return test images, (bands, rows, columns), as large as LABELS has cells."""
    rng = np.random.default_rng(0)
    pixels = np.empty((LABELS.shape[0] * SIDE, LABELS.shape[1] * SIDE, 3), np.uint8)
    for (i, j), label in np.ndenumerate(LABELS):
        name = NAMES[label]
        path = pixel_sample.images / "test" / name / f"{name}{rng.integers(3):02d}.png"
        pixels[i * SIDE : (i + 1) * SIDE, j * SIDE : (j + 1) * SIDE] = np.asarray(Image.open(path))
    return np.moveaxis(pixels, 2, 0)


@pytest.fixture
def write(tmp_path):
    def write_scene(pixels, name="scene.tif", **more):
        settings = {"driver": "GTiff", "crs": "EPSG:32633", "transform": PLACE} | more
        count, height, width = pixels.shape
        path = tmp_path / name
        with rasterio.open(
            path, "w", count=count, height=height, width=width, dtype=pixels.dtype, **settings
        ) as raster:
            raster.write(pixels)
        return path

    return write_scene


def classes_of(done, band=1):
    with rasterio.open(done.path) as raster:
        return raster.read(band)


def files_beside(path):
    return {p.name for p in path.parent.iterdir() if p.is_file()}


def test_most_windows_come_out_right_and_lie_where_the_scene_lies(
    run, store, tiles, write, tmp_path
):
    scene = write(tiles)
    done = map_scene(run, scene, tmp_path / "map.tif", store=store)
    assert (done.window, done.stride, done.n_rows, done.n_cols) == (SIDE, SIDE, 4, 6)
    found = classes_of(done)
    assert (found == LABELS).mean() > 0.8
    assert done.counts == tuple(np.bincount(found.ravel(), minlength=3).tolist())
    assert (done.n_empty, sum(done.shares)) == (0, pytest.approx(1))
    with rasterio.open(done.path) as raster:
        assert raster.crs.to_epsg() == 32633
        assert raster.transform == rasterio.Affine(400, 0, 500_000, 0, -400, 4_600_000)
        assert (raster.dtypes, raster.nodata) == (("uint8",), 255)
        colors = [raster.colormap(1)[label][:3] for label in range(3)]
        assert tuple(f"#{bytes(color).hex()}" for color in colors) == done.colors
        tags = raster.tags()
        assert tags["FEATSTORE_RUN"] == run.run_id
        assert tags["FEATSTORE_SCENE"] == str(scene)
        assert (tags["FEATSTORE_WINDOW"], tags["FEATSTORE_STRIDE"]) == ("40", "40")
        assert raster.tags(1) == {f"CLASS_{i}": name for i, name in enumerate(NAMES)}
    with Image.open(done.preview) as picture:
        assert picture.format == "PNG"
    names = {"map.tif", "map.tif.aux.xml", "map.qml", "map.png", "scene.tif"}
    assert files_beside(scene) == names


def test_gdal_reads_the_classes_names_and_attributes(run, store, tiles, write, tmp_path):
    done = map_scene(run, write(tiles), tmp_path / "map.tif", store=store)
    # A virtual copy writes out what GDAL has read.
    rasterio.shutil.copy(done.path, tmp_path / "copy.vrt", driver="VRT")
    band = ElementTree.parse(tmp_path / "copy.vrt").find("VRTRasterBand")
    assert [e.text for e in band.iterfind("CategoryNames/Category")] == list(NAMES)
    rasterio.shutil.copy(done.path, tmp_path / "copy.tif", driver="GTiff")
    band = ElementTree.parse(tmp_path / "copy.tif.aux.xml").find("PAMRasterBand")
    rows = band.findall("GDALRasterAttributeTable/Row")
    assert [row.findall("F")[1].text for row in rows] == list(NAMES)


def test_cells_may_be_smaller_than_windows(run, store, tiles, write, tmp_path):
    done = map_scene(run, write(tiles), tmp_path / "map.tif", store=store, window=20, stride=10)
    assert (done.n_rows, done.n_cols, done.n_empty) == (16, 24, 0)
    found = classes_of(done)
    # The four cells in the middle of a tile see nothing of its neighbours.
    middle = np.stack([found[i::4, j::4] for i in (1, 2) for j in (1, 2)])
    assert (middle == LABELS).mean() > 0.8
    with rasterio.open(done.path) as raster:
        assert raster.transform.a == 100


def test_a_map_does_not_depend_on_its_blocks(run, store, tiles, write, tmp_path, monkeypatch):
    scene = write(tiles)
    options = {"store": store, "stride": 10, "probability": True}
    whole = map_scene(run, scene, tmp_path / "whole.tif", **options)
    monkeypatch.setattr(encode, "BLOCK_ROWS", 37)
    monkeypatch.setattr(map_files, "BLOCK_SIDE", 3)
    parts = map_scene(run, scene, tmp_path / "parts.tif", **options)
    for band in (1, 2):
        np.testing.assert_array_equal(classes_of(whole, band), classes_of(parts, band))
    assert whole.counts == parts.counts


def test_a_scene_that_is_no_multiple_of_the_window(run, store, tiles, write, tmp_path):
    scene = write(tiles[:, : 3 * SIDE + 25, : 5 * SIDE + 10])
    done = map_scene(run, scene, tmp_path / "map.tif", store=store)
    found = classes_of(done)
    assert found.shape == (4, 6)
    # Less than half of the last column's windows lies in the scene.
    assert (found[:, 5] == 255).all()
    assert (found[:, :5] == LABELS[:, :5]).mean() > 0.8
    assert done.n_empty == 4


def test_a_message_names_the_cells_with_their_middle_beyond_the_scene(
    run, store, tiles, write, tmp_path
):
    def said(**more):
        listener = Listener()
        map_scene(run, scene, tmp_path / "map.tif", store=store, progress=listener, **more)
        return [line for line in listener.lines if "--stride" in line]

    scene = write(tiles[:, :60, :60])
    assert said(window=41)[0].startswith("53 % of the scene's 60 x 60 pixels get no class")
    assert not said(window=41, stride=20)
    with pytest.raises(ConfigError, match=r"no cell of 140 x 140 has its middle .*--stride"):
        said(window=40, stride=140)


def test_cells_without_data_have_no_class(run, store, tiles, write, tmp_path):
    tiles = np.maximum(tiles, 1)
    tiles[:, : 2 * SIDE, : SIDE + 30] = 0
    tiles[:, 3 * SIDE : 3 * SIDE + 15, 5 * SIDE :] = 0
    scene = write(tiles, nodata=0)
    done = map_scene(run, scene, tmp_path / "map.tif", store=store, probability=True)
    found, percent = classes_of(done), classes_of(done, 2)
    empty = np.zeros((4, 6), bool)
    empty[:2, :2] = True
    np.testing.assert_array_equal(found == 255, empty)
    np.testing.assert_array_equal(percent == 255, empty)
    assert (found[~empty] == LABELS[~empty]).mean() > 0.8
    assert done.n_empty == 4
    with pytest.raises(DatasetError, match="no window of 40 has data"):
        map_scene(run, write(tiles * 0, nodata=0), tmp_path / "no.tif", store=store)


def test_bands_are_chosen_by_number(run, store, tiles, write, tmp_path):
    scene = write(np.concatenate([tiles[:1] * 0 + 9, tiles[::-1]]))
    done = map_scene(run, scene, tmp_path / "map.tif", store=store, bands=(4, 3, 2))
    assert (classes_of(done) == LABELS).mean() > 0.8
    with rasterio.open(done.path) as raster:
        assert raster.tags()["FEATSTORE_BANDS"] == "4,3,2"


@pytest.mark.parametrize(
    ("dtype", "factor", "value_range"),
    [
        (np.uint16, 257, None),
        (np.uint16, 10, (0, 2550)),
        (np.int16, 10, (0, 2550)),
        (np.float32, 1 / 255, (0, 1)),
    ],
)
def test_other_types_give_the_same_map(
    run, store, tiles, write, tmp_path, dtype, factor, value_range
):
    expected = map_scene(run, write(tiles), tmp_path / "bytes.tif", store=store)
    scene = write((tiles * float(factor)).astype(dtype), "other.tif")
    done = map_scene(run, scene, tmp_path / "map.tif", store=store, value_range=value_range)
    np.testing.assert_array_equal(classes_of(done), classes_of(expected))


def test_a_dark_scene_is_named(run, store, tiles, write, tmp_path):
    def said(scene, **more):
        listener = Listener()
        map_scene(run, scene, tmp_path / "map.tif", store=store, progress=listener, **more)
        return [line for line in listener.lines if "--range LOW,HIGH" in line]

    assert said(write(tiles.astype(np.uint16) * 257)) == []
    dark = write(tiles.astype(np.uint16) * 10)
    assert "its values end at some 2,5" in said(dark)[0]
    assert said(dark, value_range=(0, 2550)) == []


def test_floats_without_a_range_are_refused(run, store, tiles, write, tmp_path):
    with pytest.raises(ConfigError, match="float32 values of an unknown range.*--range LOW,HIGH"):
        map_scene(run, write(tiles.astype(np.float32)), tmp_path / "map.tif", store=store)


def test_not_a_number_is_no_data(run, store, tiles, write, tmp_path):
    pixels = tiles.astype(np.float32)
    pixels[0, :SIDE, :SIDE] = np.nan
    done = map_scene(
        run, write(pixels), tmp_path / "map.tif", store=store, value_range=(0.0, 255.0)
    )
    assert classes_of(done)[0, 0] == 255
    assert done.n_empty == 1


def test_probabilities_are_a_second_band(run, store, tiles, write, tmp_path):
    done = map_scene(run, write(tiles), tmp_path / "map.tif", store=store, probability=True)
    percent = classes_of(done, 2)
    assert percent.dtype == np.uint8
    assert ((percent > 33) & (percent <= 100)).all()
    with rasterio.open(done.path) as raster:
        assert raster.descriptions == ("class", "probability (%)")
        assert raster.tags()["FEATSTORE_PROBABILITY"] == done.calibration
    assert done.calibration.startswith("calibrated: temperature")


def test_decision_values_are_not_probabilities(pixel_sample, tiles, write, tmp_path):
    store = pixel_sample.copy(tmp_path)
    (run,) = featstore.fit(store, "linear-svm", calibrate=False, n_jobs=1)
    scene = write(tiles)
    with pytest.raises(ConfigError, match=f"{run.run_id} gives decision values"):
        map_scene(run, scene, tmp_path / "map.tif", store=store, probability=True)
    assert sum(map_scene(run, scene, tmp_path / "map.tif", store=store).counts) == 24


def test_the_window_must_be_given_if_its_size_is_unknown(pixel_sample, tiles, write, tmp_path):
    store = pixel_sample.copy(tmp_path)
    (feature_set,), (run,) = store.sets(), list_runs(store)
    scene, out = write(tiles), tmp_path / "map.tif"
    info = read_json(feature_set.path / "set.json")
    del info["dataset"]["image_shape"]
    write_json(feature_set.path / "set.json", info)
    with pytest.raises(ConfigError, match="--window PX"):
        map_scene(run.path, scene, out, store=store)
    store.remove(feature_set)
    with pytest.raises(ConfigError, match="--window PX"):
        map_scene(run.path, scene, out, store=store)
    assert map_scene(run.path, scene, out, store=store, window=20).n_cols == 12


def test_wrong_settings_and_places_are_answered(run, store, tiles, write, tmp_path):
    scene = write(tiles)
    for settings in ({"window": -1}, {"stride": -1}):
        with pytest.raises(ConfigError, match="is -1; it must be 1 pixel or more"):
            map_scene(run, scene, tmp_path / "map.tif", store=store, **settings)
    with pytest.raises(RunError):
        map_scene("nothing", scene, tmp_path / "map.tif", store=store)
    with pytest.raises(ConfigError, match="the scene itself"):
        map_scene(run, scene, scene, store=store)
    with pytest.raises(ConfigError, match="is the scene itself"):
        map_scene(run, scene, tmp_path / "map.tif", store=store, preview=scene)
    with pytest.raises(ConfigError, match="is a file of the map"):
        map_scene(run, scene, tmp_path / "map.png", store=store)
    sidecar = tmp_path / "map.tif.aux.xml"
    with pytest.raises(ConfigError, match="is a file of the map"):
        map_scene(run, scene, tmp_path / "map.tif", store=store, preview=sidecar)
    with pytest.raises(ConfigError, match=r"Write: --preview .*p\.png"):
        map_scene(run, scene, tmp_path / "map.tif", store=store, preview=tmp_path / "p.jpg")
    with pytest.raises(ConfigError, match="is a folder"):
        map_scene(run, scene, tmp_path, store=store)
    with pytest.raises(StoreError, match=r"can't be written: .* is a file, .*another --out"):
        map_scene(run, scene, scene / "map.tif", store=store)
    assert files_beside(scene) == {"scene.tif"}


def test_an_interrupted_map_leaves_nothing_and_an_old_one_as_it_was(
    run, store, tiles, write, tmp_path, monkeypatch
):
    scene, out = write(tiles), tmp_path / "map.tif"
    done = map_scene(run, scene, out, store=store)
    before = {p: p.read_bytes() for p in tmp_path.glob("map*")}
    assert len(before) == 4
    original, calls = classification.predict_blocks, []

    def interrupt(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(classification, "predict_blocks", interrupt)
    monkeypatch.setattr(encode, "BLOCK_ROWS", 5)
    for target in (out, tmp_path / "new.tif"):
        calls.clear()
        with pytest.raises(KeyboardInterrupt):
            map_scene(run, scene, target, store=store)
    assert {p: p.read_bytes() for p in tmp_path.glob("*map*")} == before
    assert files_beside(scene) == {"scene.tif", *(p.name for p in before)}
    assert done.path == str(out)


def test_what_gdal_put_beside_an_older_map_goes_with_it(run, store, tiles, write, tmp_path):
    out = tmp_path / "map.tif"
    with rasterio.Env(TIFF_USE_OVR=True):
        map_scene(run, write(tiles), out, store=store, stride=10)
        with rasterio.open(out, "r+") as raster:
            raster.build_overviews([2])
    beside = [tmp_path / f"map.tif{ending}" for ending in (".ovr", ".msk")]
    beside[1].write_bytes(b"")
    assert beside[0].is_file()
    map_scene(run, write(tiles[:, :, ::-1]), out, store=store, stride=10)
    assert not any(path.exists() for path in beside)
    with rasterio.open(out) as raster:
        assert raster.overviews(1) == []


@pytest.mark.parametrize("driver", ["GTiff", "PNG", "JPEG"])
def test_scenes_without_georeference_and_other_formats(
    run, store, tiles, tmp_path, monkeypatch, driver
):
    monkeypatch.chdir(tmp_path)
    suffix = {"GTiff": "tif", "PNG": "png", "JPEG": "jpg"}[driver]
    Image.fromarray(np.moveaxis(tiles, 0, 2)).save(tmp_path / f"my scene.{suffix}")
    done = map_scene(run, f"my scene.{suffix}", store=store)
    assert (done.path, done.preview) == ("my scene-classes.tif", "my scene-classes.png")
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        found = classes_of(done)
    assert (found == LABELS).mean() > 0.7


def test_classes_of_more_than_a_byte(store, run, tiles, write, tmp_path):
    names = [*NAMES, *(f"other {i}" for i in range(252))]
    record = RunRecord.model_validate(run.record.to_dict() | {"class_names": names})
    many = type(run).of(run.path, record, run.backend)
    done = map_scene(many, write(tiles), tmp_path / "map.tif", store=store)
    with rasterio.open(done.path) as raster:
        assert (raster.dtypes, raster.nodata) == (("uint16",), 65_535)
        table = raster.colormap(1)
        assert len({table[label] for label in range(255)}) == 255
    assert (classes_of(done) == LABELS).mean() > 0.8
    assert len(done.to_dict()["shares"]) == 255


def test_memory_does_not_grow_with_the_scene(run, store, tmp_path, monkeypatch):
    # A sixteenth of what is usual, so that a smaller scene is large.
    monkeypatch.setattr(windows, "PIECE_NBYTES", windows.PIECE_NBYTES // 16)
    monkeypatch.setattr(encode, "BLOCK_ROWS", encode.BLOCK_ROWS // 16)
    monkeypatch.setattr(map_files, "PREVIEW_SIDE", map_files.PREVIEW_SIDE // 16)

    def peak(side):
        path = tmp_path / f"{side}.tif"
        layout = {"tiled": True, "blockxsize": 512, "blockysize": 512, "sparse_ok": True}
        place = {"crs": "EPSG:32633", "transform": PLACE}
        with rasterio.open(
            path, "w", "GTiff", side, side, 3, dtype="uint8", compress="deflate", **place, **layout
        ):
            pass
        tracemalloc.start()
        try:
            done = map_scene(run, path, tmp_path / "map.tif", store=store, window=64)
            return done, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(256)
    _, small = peak(1024)
    done, large = peak(4096)
    assert sum(done.counts) == 64 * 64
    # The scene itself is 50 MB, sixteen times the smaller one.
    assert large < 35e6
    assert large < 2 * small


def test_the_rate_is_that_of_the_windows_alone(network_sample, tiles, write, tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(map_files, "time", SimpleNamespace(perf_counter=lambda: clock.now))

    def lasting(seconds, function):
        def call(*args, **options):
            clock.now += seconds
            return function(*args, **options)

        return call

    monkeypatch.setattr(encode._Pass, "open", lasting(1000, encode._Pass.open))
    monkeypatch.setattr(map_files, "write_map", lasting(4, map_files.write_map))
    monkeypatch.setattr(map_files, "to_png", lasting(1000, map_files.to_png))
    monkeypatch.setattr(map_files, "write_polygons", lasting(1000, map_files.write_polygons))
    run, store = network_sample.run, network_sample.store
    done = map_scene(
        run, write(tiles), tmp_path / "m.tif", store=store, vector=tmp_path / "m.geojson"
    )
    assert done.windows_per_s == sum(done.counts) / 4


def test_networks_map_too(network_sample, tiles, write, tmp_path):
    run, store = network_sample.run, network_sample.store
    done = map_scene(run, write(tiles), tmp_path / "map.tif", store=store)
    assert (classes_of(done) == LABELS).mean() > 0.7


def test_a_run_of_four_bands_wants_four(tmp_path, write, tiles):
    store = open_store(tmp_path / "sat")
    extract("pixelstats", "demo", store=store, root=str(tmp_path), limit=80)
    (run,) = featstore.fit(store, "logreg", n_jobs=1)
    scene = write(np.concatenate([tiles, tiles[:1]]))
    done = map_scene(run, scene, tmp_path / "map.tif", store=store)
    assert (done.window, sum(done.counts)) == (28, done.n_rows * done.n_cols - done.n_empty)
    with pytest.raises(ConfigError, match=r"needed are 4 \(red, green, blue, nir\)"):
        map_scene(run, write(tiles), tmp_path / "map.tif", store=store)


@pytest.mark.soak
def test_a_scene_of_real_images_is_mapped(real_sample, tmp_path, write):
    data, store, run = real_sample.images, real_sample.store, real_sample.run
    names = ("beach", "desert", "forest", "residential")
    rows = [
        [np.asarray(Image.open(path)) for path in sorted((data / "test" / name).iterdir())[:8]]
        for name in names
    ]
    pixels = np.concatenate([np.concatenate(row, axis=1) for row in rows])
    scene = write(np.moveaxis(pixels, 2, 0))
    done = map_scene(run, scene, tmp_path / "map.tif", store=store)
    assert (done.window, done.n_rows, done.n_cols) == (256, 4, 8)
    expected = np.array([run.class_names.index(name) for name in names])[:, None]
    assert (classes_of(done) == expected).mean() >= 0.7


def test_unfamiliar_windows_are_counted_and_left_empty_if_asked(run, store, tiles, write, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE), np.uint8)
    tiles[:, :SIDE, :SIDE] = noise
    scene = write(tiles)
    done = map_scene(run, scene, tmp_path / "map.tif", store=store, familiarity=True)
    with rasterio.open(done.path) as raster:
        assert raster.descriptions == ("class", "familiarity (%)")
        classes, percent = raster.read()
    assert percent[0, 0] == 0
    assert percent.max() <= 100
    assert done.n_unfamiliar == (percent == 0).sum() < 12
    assert done.n_rejected == 0
    empty = map_scene(run, scene, tmp_path / "map.tif", store=store, reject=0.01, probability=True)
    with rasterio.open(empty.path) as raster:
        assert raster.descriptions == ("class", "probability (%)", "familiarity (%)")
        left, probability, _ = raster.read()
    np.testing.assert_array_equal(left == 255, percent == 0)
    np.testing.assert_array_equal(probability == 255, percent == 0)
    np.testing.assert_array_equal(left[left < 255], classes[left < 255])
    assert empty.n_rejected == done.n_unfamiliar
    assert sum(empty.counts) + empty.n_rejected == 24
    blank = write(np.tile(noise, (1, 2, 2)), "noise.tif")
    with pytest.raises(ConfigError, match="None of the 4 windows has a familiarity of 0.5"):
        map_scene(run, blank, tmp_path / "none.tif", store=store, reject=0.5)
    assert not (tmp_path / "none.tif").exists()
