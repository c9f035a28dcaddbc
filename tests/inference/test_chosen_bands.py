"""Bands and ranges that are chosen at extraction hold for all that follows."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio

import featstore
from featstore.baselines import fit_baselines
from featstore.errors import ConfigError
from featstore.fitting.fit import fit_each
from featstore.io import gdal
from featstore.store.feature_store import open_store

pytestmark = [
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
    pytest.mark.usefixtures("blank_pictures"),
]

CLASSES = ("dry", "wet")


def chip(kind, seed):
    """Return (5, 16, 16) reflectance; only band 4 tells the classes apart."""
    values = np.random.default_rng(seed).integers(200, 2000, (5, 16, 16)).astype(np.uint16)
    values[3] = 500 if kind == "wet" else 2500
    return values + np.random.default_rng(seed).integers(0, 50, (5, 16, 16)).astype(np.uint16)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("chips")
    for kind in CLASSES:
        (root / kind).mkdir()
        for i in range(8):
            gdal.write_tiff(root / kind / f"{i}.tif", chip(kind, i))
    return root


@pytest.fixture(scope="module")
def run(root):
    store = root.parent / "store"
    done = featstore.extract(
        "pixelstats", str(root), store=store, bands="all", value_range="percentile:0,100"
    )
    assert done.n_features == {"stats": 45}
    (run,) = featstore.fit(store, "lda", n_jobs=1)
    assert run.metrics.test.accuracy == 1
    return run


@pytest.mark.parametrize("model", ["pixelstats", "resnet50"])
def test_bands_that_are_not_chosen_stop_extraction_with_the_command(root, tmp_path, model):
    with pytest.raises(ConfigError, match=r"5 bands of uint16.*--bands all --range percentile"):
        featstore.extract(model, str(root), store=tmp_path, weights="imagenet")
    assert not (tmp_path / "sets").exists()


def test_a_network_takes_three_bands_or_one(root, tmp_path, small_inputs):
    options = {"weights": "random:0", "value_range": "0,3000", "store": tmp_path}
    with pytest.raises(ConfigError, match="takes three bands, and --bands all gives 5"):
        featstore.extract("alexnet", str(root), bands="all", **options)


def test_the_range_is_kept_and_the_same_request_is_answered(root, run):
    store = open_store(root.parent / "store")
    (one,) = store.sets()
    reading = one.info.preprocess.reading
    assert len(reading.value_range) == 5
    assert reading.value_range[3][1] > 2400
    assert one.facets.bands == "all"
    options = {"bands": "all", "store": store}
    again = featstore.extract("pixelstats", str(root), value_range="percentile:0,100", **options)
    assert (again.n_computed, again.set_id) == (0, one.set_id)
    other = featstore.extract("pixelstats", str(root), value_range="0,3000", **options)
    assert other.set_id != one.set_id
    store.remove(store.get(other.set_id))


@pytest.mark.parametrize("model", ["mosaiks:32", "deepsat"])
def test_other_models_and_their_baselines_read_the_same_bands(root, run, model):
    store = open_store(root.parent / "store")
    (before,) = store.sets()
    options = {"bands": "all", "value_range": "percentile:0,100", "store": store}
    made = featstore.extract(model, str(root), **options)
    fits = fit_each(store, "lda", model=model, n_jobs=1)
    assert fits[0].run.metrics.test.accuracy == 1
    (baseline,) = fit_baselines(store, fits, "lda", n_jobs=1)
    assert baseline.run.selection.set_ids == (before.set_id,)
    store.remove(store.get(made.set_id))


def test_predict_reads_files_and_arrays_as_the_run_did(root, run, tmp_path):
    store = root.parent / "store"
    gdal.write_tiff(tmp_path / "new.tif", chip("wet", 99))
    found = featstore.predict(run, [tmp_path / "new.tif"], store=store)
    arrays = np.stack([np.moveaxis(chip(kind, 98), 0, -1) for kind in CLASSES])
    found += featstore.predict(run, arrays, store=store)
    assert [one.label for one in found] == ["wet", "dry", "wet"]
    (short, whole) = featstore.predict(run, [arrays[0, ..., :3], arrays[0]], store=store)
    assert "holds 3 bands" in short.error
    assert whole.label == "dry"


def test_neighbors_reads_files_as_the_set_did(root, run, tmp_path):
    gdal.write_tiff(tmp_path / "new.tif", chip("dry", 99))
    found = featstore.find_neighbors(run, tmp_path / "new.tif", store=root.parent / "store", k=3)
    assert found.queries[0].shares == {"dry": 1.0}


def test_a_scene_is_mapped_with_the_bands_and_ranges_of_the_run(root, run, tmp_path):
    scene = np.concatenate([chip("wet", 50), chip("dry", 51)], axis=2)
    gdal.write_tiff(tmp_path / "scene.tif", scene)
    done = featstore.map_scene(
        run, tmp_path / "scene.tif", tmp_path / "map.tif", store=root.parent / "store"
    )
    assert done.window == 16
    with rasterio.open(tmp_path / "map.tif") as file:
        assert file.read(1).tolist() == [[1, 0]]
