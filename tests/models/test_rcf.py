from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from makers import tree_bytes

import featstore
from featstore.config import ExtractConfig
from featstore.datasets.loader import Batch
from featstore.errors import BackboneError, ConfigError, WeightsError
from featstore.extraction.encode import Encoder
from featstore.extraction.extract import extract
from featstore.io.fingerprints import FingerprintCache
from featstore.models import rcf
from featstore.models.filters import draw_patches, gaussian_filters, patch_filters
from featstore.models.names import check_model
from featstore.models.registry import open_model, reopen_model
from featstore.store import writer
from featstore.store.feature_store import open_store
from featstore.store.format import matrix


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def reference(image, filters):
    """Return the features by the formula, in float64."""
    side = filters.shape[-1]
    places = np.lib.stride_tricks.sliding_window_view(image / 255, (side, side), axis=(0, 1))
    response = np.einsum("yxbij,fbij->fyx", places, filters) - 1
    positive, negative = (np.maximum(sign * response, 0).mean((1, 2)) for sign in (1, -1))
    return np.concatenate([positive, negative])


@pytest.mark.parametrize(("size", "n_bands", "side"), [((28, 28), 4, 3), ((9, 40), 13, 4)])
@pytest.mark.parametrize("nbytes", [1, 10_000, rcf.MAP_NBYTES])
def test_features_are_the_means_of_both_signs(monkeypatch, size, n_bands, side, nbytes):
    monkeypatch.setattr(rcf, "MAP_NBYTES", nbytes)
    filters = gaussian_filters(8, n_bands, side, 5).values
    image = noise(*size, n_bands)
    found = rcf.random_features(image, torch.from_numpy(filters)).numpy()
    np.testing.assert_allclose(found, reference(image, filters), rtol=1e-5, atol=1e-6)


def test_images_of_several_sizes_share_a_batch():
    filters = gaussian_filters(4, 3, 3, 0).values
    extractor = rcf.FilterExtractor(filters, torch.device("cpu"), None)
    extractor.open((), 9)
    small, large = noise(2, 8, 8, 3), noise(1, 12, 9, 3)
    groups = [(np.array([0, 2]), small), (np.array([1]), large)]
    rows = extractor.begin(Batch(10, 14, groups, {13: "broken"}))()[rcf.LAYER]
    assert rows.dtype == np.float32
    for row, image in zip(rows, [small[0], large[0], small[1]], strict=False):
        np.testing.assert_allclose(row, reference(image, filters), rtol=1e-5, atol=1e-6)
    tiny = Batch(10, 11, [(np.array([0]), noise(1, 2, 8, 3))], {})
    with pytest.raises(BackboneError, match="Image 10 .* has 2 x 8 pixels, fewer than .* 3 x 3"):
        extractor.begin(tiny)()


def test_patches_are_whitened_as_in_mosaiks():
    patches = noise(50, 3, 3, 2)
    patches[7] = 9  # without contrast
    rows = patches.transpose(0, 3, 1, 2).reshape(50, -1) / 255
    rows -= rows.mean(1, keepdims=True)
    norms = np.linalg.norm(rows, axis=1)
    rows /= np.where(norms < 1e-8, 1, norms)[:, None]
    values, vectors = np.linalg.eig(rows.T @ rows / 50)
    zca = vectors @ np.diag((values + 0.001) ** -0.5) @ vectors.T
    expected = (rows @ zca @ zca.T).reshape(50, 2, 3, 3)
    found = patch_filters(patches).values
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    assert np.isfinite(found).all()


def has_patch(image, patch):
    places = np.lib.stride_tricks.sliding_window_view(image, patch.shape[:2], axis=(0, 1))
    return (places == patch.transpose(2, 0, 1)).all((2, 3, 4)).any()


def test_patches_come_from_all_training_images_and_no_other(images):
    dataset = featstore.open_dataset("folder", images)
    broken = dataset.paths[0]
    broken.write_bytes(broken.read_bytes()[:100])
    training = [row for row in np.flatnonzero(dataset.splits == 0) if dataset.paths[row] != broken]
    patches = draw_patches(dataset, 2 * len(training), 3, 1)
    found = [[has_patch(dataset.read(row), patch) for row in training] for patch in patches]
    assert (np.sum(found, axis=0) == 2).all()
    assert not np.array_equal(patches, draw_patches(dataset, 2 * len(training), 3, 2))
    with pytest.raises(BackboneError, match="give no patches: they are smaller than 99 pixels"):
        draw_patches(dataset, 4, 99, 0)
    with pytest.raises(BackboneError, match="too many to keep"):
        draw_patches(dataset, 10**6, 3, 0)


@pytest.fixture
def settings(images, monkeypatch):
    monkeypatch.setattr(matrix, "CHUNK_NBYTES", 4 * 16 * 5)
    return {"dataset": "folder", "root": str(images), "batch_size": 4}


@pytest.mark.parametrize("model", ["rcf:16", "mosaiks:16/2"])
def test_an_extraction_resumes_and_new_images_get_the_same_features(
    model, settings, images, tmp_path, monkeypatch, blank_pictures
):
    whole, store = open_store(tmp_path / "whole"), open_store(tmp_path / "store")
    expected = extract(model, store=whole, weights="random:3", **settings)
    assert (expected.n_features, expected.weights) == ({"features": 16}, "seed:3")
    original = writer.FeatureWriter.add

    def interrupted(self, start, *rest):
        if start == 12:
            raise KeyboardInterrupt
        original(self, start, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(writer.FeatureWriter, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            extract(model, store=store, weights="random:3", **settings)
    resumed = extract(model, store=store, weights="random:3", **settings)
    assert (resumed.n_computed, resumed.set_id) == (27 - 12, expected.set_id)
    assert tree_bytes(Path(resumed.path)) == tree_bytes(Path(expected.path))
    assert extract(model, store=store, weights="random:3", **settings).n_computed == 0
    assert extract(model, store=whole, **settings).set_id != expected.set_id

    (run,) = featstore.fit(store, "lda", n_jobs=1)
    dataset = featstore.open_dataset("folder", images)
    # The run keeps the filters: the set may be gone.
    features = store.select().memmap()
    cache = FingerprintCache(tmp_path / "cache")
    (block,) = Encoder(run.selection.features, dataset, "cpu", cache).blocks()
    assert np.array_equal(block.X, features)
    (record,) = run.selection.features
    changed = replace_backbone(record, weights_sha256="0" * 64)
    with pytest.raises(WeightsError, match="Extract again"):
        reopen_model([changed], dataset.bands, "cpu", cache)
    with pytest.raises(BackboneError, match=f"{model} of the bands red,green,blue; .*have a,b"):
        reopen_model([record], ("a", "b"), "cpu", cache)


def replace_backbone(record, **values):
    content = record.to_dict()
    return type(record).model_validate(content | {"backbone": content["backbone"] | values})


def test_only_training_images_decide_the_filters(settings, images, tmp_path):
    def filters():
        dataset = featstore.open_dataset("folder", images)
        config = ExtractConfig("mosaiks:64", "folder")
        return open_model(config, dataset, FingerprintCache(tmp_path / "c")).backbone

    before = filters()
    for split, is_same in (("test", True), ("train", False)):
        for path in (images / split).rglob("*.png"):
            path.write_bytes(next((images / split / "sand").iterdir()).read_bytes())
        assert (filters() == before) is is_same


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"image_size": 64, "pool": "max"}, ConfigError, "--pool, --image-size would change"),
        ({"bands": "gray"}, ConfigError, "not their luminance"),
        ({"weights": "IMAGENET1K_V1"}, WeightsError, "--weights random:SEED seeds its filters"),
        ({"layers": "conv1"}, BackboneError, "the only layer is features"),
    ],
)
def test_settings_for_networks_are_refused(settings, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        extract("rcf", store=tmp_path / "store", **settings, **options)


@pytest.mark.parametrize(
    "name", ["rcf:", "rcf:7", "mosaiks:64x5", "mosaiks:64/0", "rcf:64/16", "rcf:9999998"]
)
def test_sizes_that_mean_nothing_are_answered(name):
    kind = name.partition(":")[0]
    with pytest.raises(BackboneError, match=f"not valid. Give {kind}:FEATURES or .*:1024/5"):
        check_model(name)
