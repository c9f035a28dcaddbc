"""Networks of other libraries go through both stages as torchvision's do."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from makers import tree_bytes

import featstore
from featstore.datasets.loader import Batch
from featstore.errors import BackboneError
from featstore.extraction import extract as stage_one
from featstore.extraction.extract import extract
from featstore.fitting.fit import fit
from featstore.io.fingerprints import FingerprintCache
from featstore.models import network_extractor
from featstore.models.network_extractor import NetworkExtractor
from featstore.models.preprocess import Preprocess
from featstore.models.registry import find_network
from featstore.store import writer
from featstore.store.feature_store import open_store
from featstore.store.format import matrix

pytest.importorskip("timm")
pytest.importorskip("tiny_networks")

MODEL = "timm:tiny_vit"


@pytest.fixture
def settings(images):
    return {"root": str(images), "weights": "random:0", "precision": "fp32", "batch_size": 4}


def test_a_timm_network_resumes_byte_for_byte_and_predicts(
    images, settings, tmp_path, monkeypatch, blank_pictures
):
    monkeypatch.setattr(matrix, "CHUNK_NBYTES", 4 * 16 * 5)
    whole, store = open_store(tmp_path / "whole"), open_store(tmp_path / "store")
    names = {"layers": "pre_logits,blocks.1"}
    expected = extract(MODEL, "folder", store=whole, **settings, **names)
    assert expected.n_features == {"pre_logits": 16, "blocks.1.add_1@cls": 16}
    original = writer.FeatureWriter.add

    def interrupted(self, start, *rest):
        if start == 12:
            raise KeyboardInterrupt
        original(self, start, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(writer.FeatureWriter, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            extract(MODEL, "folder", store=store, **settings, **names)
    resumed = extract(MODEL, "folder", store=store, **settings, **names)
    assert resumed.n_computed == 27 - 12
    assert resumed.set_id == expected.set_id
    assert tree_bytes(Path(resumed.path)) == tree_bytes(Path(expected.path))
    with monkeypatch.context() as patch:
        patch.setattr(stage_one, "open_model", lambda *_: pytest.fail("opened"))
        for again in ({}, {"pool": "cls"}, names):
            assert extract(MODEL, "folder", store=store, **settings, **again).n_computed == 0

    (run,) = fit(store, "lda", layers="pre_logits", n_jobs=1)
    assert run.selection.features[0].preprocess.interpolation == "bicubic"
    predicted = {
        Path(one.path).name: one.label
        for one in featstore.predict(run, str(images / "test"), store=store)
    }
    assert predicted == {
        Path(name).name: label
        for name, label, split in zip(
            *(run.predictions[key] for key in ("sample_id", "predicted", "split")), strict=True
        )
        if split == "test"
    }
    (own,) = sorted((images / "train" / "sand").glob("*00.png"))
    found = featstore.find_neighbors(run, str(own), store=store, k=1)
    assert found.queries[0].neighbors[0].sample_id.endswith("sand00.png")
    scene = tmp_path / "scene.tif"
    pixels = np.random.default_rng(0).integers(0, 255, (3, 64, 96), dtype=np.uint8)
    where = {"crs": "EPSG:32633", "transform": rasterio.Affine(1, 0, 500_000, 0, -1, 5_200_000)}
    with rasterio.open(
        scene, "w", driver="GTiff", width=96, height=64, count=3, dtype="uint8", **where
    ) as raster:
        raster.write(pixels)
    mapped = featstore.map_scene(run, str(scene), tmp_path / "map.tif", store=store, window=32)
    assert Path(mapped.path).is_file()


def test_pools_of_a_layer_are_matrices_of_their_own(settings, tmp_path):
    store = open_store(tmp_path / "store")
    for pool in ("auto", "tokens", "cls+tokens", "avg"):
        extract(MODEL, "folder", store=store, layers="norm", pool=pool, **settings)
    (feature_set,) = store.sets()
    assert {name: record.n_features for name, record in feature_set.layers().items()} == {
        "norm.layer_norm": 16,
        "norm.layer_norm@cls": 16,
        "norm.layer_norm@cls+tokens": 32,
        "norm.layer_norm@tokens": 16,
    }
    with pytest.raises(BackboneError, match="no tokens"):
        extract(MODEL, "folder", store=store, layers="patch_embed.proj", pool="cls", **settings)


@pytest.mark.parametrize(
    ("engine", "name"),
    [
        ("openvino", "tiny_vit"),
        pytest.param("openvino", "tiny_swin", marks=pytest.mark.soak),
        pytest.param("openvino", "tiny_resnet", marks=pytest.mark.soak),
        pytest.param("openvino", "tiny_mixer", marks=pytest.mark.soak),
        pytest.param("inductor", "tiny_vit", marks=pytest.mark.soak),
    ],
)
def test_engines_give_pytorchs_features(engine, name, tmp_path, monkeypatch):
    if engine == "openvino" and not find_spec("openvino"):
        pytest.skip("OpenVINO is not installed")
    monkeypatch.setattr(network_extractor, "compiling_engine", lambda *_: engine)
    network = find_network(f"timm:{name}")
    weights = network.find_weights("random:0", FingerprintCache(tmp_path / "cache"))
    preprocess = Preprocess(32, "rgb", weights.mean, weights.std, weights.interpolation)
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 40, 3), dtype=np.uint8)
    found = []
    for word in ("off", "on"):
        extractor = NetworkExtractor(
            network.model,
            weights,
            preprocess,
            "fp32",
            torch.device("cpu"),
            batch_size=4,
            compile_=word,
        )
        numerics = extractor.open(extractor.find([]), 27)
        assert numerics["engine"] == ("eager" if word == "off" else engine)
        found.append(extractor.begin(Batch(0, 3, [(np.arange(3), images)]))()["pre_logits"])
    np.testing.assert_allclose(found[1], found[0], atol=1e-4, rtol=1e-3)
