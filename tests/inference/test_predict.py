from __future__ import annotations

import shutil

import numpy as np
import pytest
from makers import Listener, of_pixels, tiny, write_images
from PIL import Image

import featstore
from featstore.datasets.decode import decode
from featstore.errors import ConfigError, RunError, SelectionError, WeightsError
from featstore.extraction import encode
from featstore.extraction.extract import extract
from featstore.inference.predict import predict
from featstore.models import network_source
from featstore.runs.opening import open_run
from featstore.store.feature_store import open_store

pytestmark = pytest.mark.usefixtures("blank_pictures")


@pytest.fixture
def images(network_sample):
    return network_sample.images


@pytest.fixture
def run(network_sample):
    return network_sample.run


@pytest.fixture
def store(network_sample, tmp_path):
    return network_sample.copy(tmp_path)


def labels(predictions):
    return [p.label for p in predictions]


@pytest.mark.parametrize("clf", ["logreg", "linear-svm"])
def test_the_test_images_get_what_fit_gave_them(store, images, clf):
    (run,) = featstore.fit(store, clf, layers="conv1,fc", n_jobs=1)
    found = predict(run, [images / "test"], store=store)
    assert [p.path for p in found] == [str(p) for p in sorted((images / "test").rglob("*.png"))]
    true = [p.path.split("/")[-2] for p in found]
    accuracy = sum(a == b for a, b in zip(labels(found), true, strict=True)) / len(true)
    assert accuracy == pytest.approx(run.metrics.test.accuracy)
    assert accuracy > 0.8
    assert {p.score_kind for p in found} == {"probability"}
    assert all(0 < p.score <= 1 for p in found)
    if clf == "logreg":
        assert all(1 / 3 < p.score <= 1 for p in found)


def test_two_classes_have_scores_too(tmp_path):
    images = write_images(tmp_path / "images")
    for split in ("train", "test"):
        shutil.rmtree(images / split / "sand")
    store = open_store(tmp_path / "two")
    extract(store=store, **of_pixels(images))
    (run,) = featstore.fit(store, "linear-svm", n_jobs=1)
    found = predict(run, [images / "test"], store=store)
    assert all(p.score > 0 for p in found)
    assert set(labels(found)) == {"forest", "water"}


def test_other_images_change_no_label(network_sample, run, images):
    store = network_sample.store
    one = images / "test" / "water" / "water01.png"
    alone = predict(run.path, [one], store=store)[0]
    among = [p for p in predict(run.run_id, [images], store=store) if p.path == str(one)][0]
    assert alone.label == among.label
    assert alone.score == pytest.approx(among.score, abs=1e-4)


def test_an_unreadable_image_has_an_error_and_the_others_labels(
    network_sample, run, images, tmp_path
):
    store = network_sample.store
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nothing")
    good = images / "test" / "sand" / "sand00.png"
    found = predict(run, [bad, good], store=store)
    assert found[0].label is None
    assert "bad.png" in found[0].error
    assert (found[1].label, found[1].error) == ("sand", None)


def test_where_no_image_can_be_read_each_has_an_error(pixel_sample, tmp_path):
    run, store = pixel_sample.run, pixel_sample.store
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nothing")
    found = predict(run, [bad, bad], store=store)
    assert [(one.label, "bad.png" in one.error) for one in found] == [(None, True)] * 2


def test_many_images_take_several_blocks(pixel_sample, images, tmp_path, monkeypatch):
    run, store = pixel_sample.run, pixel_sample.store
    bad = tmp_path / "aaa.png"
    bad.write_bytes(b"nothing")
    asked = [bad, images / "test"]
    whole = predict(run, asked, store=store)
    monkeypatch.setattr(encode, "BLOCK_ROWS", 2)
    found = predict(run, asked, store=store)
    assert labels(found) == labels(whole)
    assert [p.path for p in found if p.error] == [str(bad)]
    assert [p.score for p in found] == pytest.approx([p.score for p in whole], abs=1e-5)


def test_an_unknown_run_is_refused(network_sample):
    with pytest.raises(RunError):
        predict("nothing", [network_sample.images], store=network_sample.store)


def test_other_weights_under_the_same_name_are_refused(images, tmp_path):
    import torch

    from featstore.models.torchvision_source import build_network

    path = tmp_path / "mine.pth"
    torch.save(build_network("resnet18", 32, seed=1).state_dict(), path)
    store = open_store(tmp_path / "store")
    extract(store=store, **tiny(images, weights=str(path)))
    (run,) = featstore.fit(store, "ridge", n_jobs=1)
    torch.save(build_network("resnet18", 32, seed=2).state_dict(), path)
    with pytest.raises(WeightsError, match="Put the first ones back"):
        predict(run, [images / "test"], store=store)
    path.unlink()
    with pytest.raises(WeightsError):
        predict(run, [images / "test"], store=store)


OWN = """
import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

class Nearest(ClassifierMixin, BaseEstimator):
    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.means_ = np.stack([X[y == c].mean(axis=0) for c in self.classes_])
        return self

    def predict(self, X):
        gaps = ((X[:, None] - self.means_) ** 2).sum(axis=2)
        return self.classes_[gaps.argmin(axis=1)]
"""


def test_your_own_classifier_is_loaded_when_it_is_trusted(store, images, tmp_path, monkeypatch):
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "own_nearest.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path / "code")
    (run,) = featstore.fit(store, "own_nearest:Nearest", layers="fc", n_jobs=1)
    with pytest.raises(RunError, match="own_nearest.Nearest, which no classifier of featstore has"):
        predict(run, [images / "test"], store=store)
    found = predict(run, [images / "test"], store=store, trusted=["own_nearest.Nearest"])
    true = [p.path.split("/")[-2] for p in found]
    accuracy = sum(a == b for a, b in zip(labels(found), true, strict=True)) / len(true)
    assert accuracy == pytest.approx(run.metrics.test.accuracy)
    # It gives no score.
    assert {p.score for p in found} == {None}


def test_real_images_are_labelled(real_sample):
    data = real_sample.images
    held_out = [data / "test" / "desert", data / "test" / "forest"]
    found = predict(real_sample.run, held_out, store=real_sample.store)
    true = [p.path.split("/")[-2] for p in found]
    hits = sum(a == b for a, b in zip(labels(found), true, strict=True))
    assert hits / len(found) > 0.7


def test_images_in_memory_get_the_labels_of_their_files(run, store, images):
    path = next((images / "test" / "sand").glob("*.png"))
    (expected,) = predict(run, str(path), store=store)
    (found,) = predict(run, decode(path), store=store)
    assert (found.path, found.label, found.score) == ("image 0", expected.label, expected.score)


def test_familiar_images_are_told_from_others_which_may_stay_unlabelled(
    network_sample, run, images, tmp_path
):
    store = network_sample.store
    train, noise = images / "train" / "sand" / "sand00.png", tmp_path / "noise.png"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(pixels).save(noise)
    known, unknown = predict(run, [train, noise], store=store)
    assert known.familiarity == 1
    assert unknown.familiarity < 0.1
    assert unknown.label is not None
    known, unknown = predict(run, [train, noise], store=store, reject=0.5)
    assert (known.label, unknown.label, unknown.score) == ("sand", None, None)
    assert unknown.error is None
    (without,) = predict(run, [noise], store=store, familiarity=False)
    assert (without.familiarity, without.label is None) == (None, False)
    with pytest.raises(ConfigError, match="--reject needs familiarity"):
        predict(run, [noise], store=store, familiarity=False, reject=0.1)
    with pytest.raises(ConfigError, match=r"reject is 5; it is a share, from 0 to 1"):
        predict(run, [noise], store=store, reject=5)


def test_without_the_features_labels_come_and_familiarity_is_unknown(run, store, images):
    run = open_run(run.run_id, store)
    for feature_set in store.sets():
        shutil.rmtree(feature_set.path)
    image, listener = images / "test" / "sand" / "sand00.png", Listener()
    (found,) = predict(run, [image], store=store, progress=listener)
    assert (found.label, found.familiarity) == ("sand", None)
    assert any("How familiar the images are is unknown" in line for line in listener.lines)
    with pytest.raises(SelectionError):
        predict(run, [image], store=store, reject=0.1)


@pytest.mark.parametrize(("is_fast", "said"), [(True, 0), (False, 1)])
def test_a_processor_without_bfloat16_computes_its_features_in_fp32(
    images, tmp_path, monkeypatch, is_fast, said
):
    store = open_store(tmp_path / "store")
    extract(store=store, **tiny(images, layers=("conv1",), precision="bf16", compile="off"))
    (run,) = featstore.fit(store, "logreg", n_jobs=1)
    monkeypatch.setattr(network_source, "has_fast_bf16", lambda _: is_fast)
    listener = Listener()
    found = predict(run, [images / "test"], store=store, progress=listener)
    lines = [line for line in listener.lines if "bf16" in line]
    assert len(lines) == said
    assert all("in fp32" in line for line in lines)
    right = [p.label == p.path.split("/")[-2] for p in found]
    assert np.mean(right) == pytest.approx(run.metrics.test.accuracy)
