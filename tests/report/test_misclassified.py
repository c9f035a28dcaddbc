from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from conftest import blank_figures, blobs, store_in
from PIL import Image

from featstore.errors import SelectionError
from featstore.fitting.fit import fit
from featstore.report import misclassified
from featstore.report.misclassified import THUMBNAIL_PX, find_mistakes, thumbnail_uri
from featstore.store.feature_store import open_store

pytestmark = pytest.mark.usefixtures("blank_pictures")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store in which rows 250 and 260 have a wrong label."""
    X, y = blobs(320, 20)
    y = y.copy()
    y[[250, 260]] = (y[[250, 260]] + 1) % 4
    return store_in(tmp_path_factory.mktemp("mislabelled"), X=X * 3, y=y)


@pytest.fixture(scope="module")
def run(store):
    with blank_figures():
        return fit(store, n_jobs=1)[0]


def test_the_surest_wrong_answers_come_first_with_their_neighbors(store, run):
    found = find_mistakes(store, run)
    assert {m.image.row for m in found} == {250, 260}
    assert [m.score for m in found] == sorted((m.score for m in found), reverse=True)
    _, true = blobs(320, 20)
    names = run.class_names
    for mistake in found:
        assert mistake.image.sample_id == f"test/{mistake.image.row:07d}"
        assert mistake.predicted == names[true[mistake.image.row]] != mistake.image.label
        # What looks like it has the class that it was taken for, and was trained on.
        assert [n.label for n in mistake.neighbors] == [mistake.predicted] * 3
        assert all(n.row < 240 for n in mistake.neighbors)


def test_the_surest_mistakes_are_kept(store, run, monkeypatch):
    surest = find_mistakes(store, run)[0]
    monkeypatch.setattr(misclassified, "N_MISTAKES", 1)
    assert find_mistakes(store, run) == [surest]


def test_mistakes_are_of_the_runs_own_split(store):
    (run,) = fit(store, "lda", split_seed=5)
    found = run.predictions
    wrong = set(found["sample_id"][found["true"] != found["predicted"]])
    assert {m.image.sample_id for m in find_mistakes(store, run)} == wrong


def test_a_run_without_mistakes_has_none(make_store):
    X, y = blobs(320, 20)
    store = make_store(X=X + 100 * np.eye(20, dtype=np.float32)[y], y=y)
    (run,) = fit(store, "lda")
    assert run.metrics.test.accuracy == 1
    assert find_mistakes(store, run) == []


def test_features_that_are_gone_are_named(run, tmp_path):
    with pytest.raises(SelectionError):
        find_mistakes(open_store(tmp_path / "empty"), run)


@pytest.mark.parametrize(("side", "form"), [(28, "PNG"), (300, "JPEG")])
def test_thumbnails_are_small_pictures(side, form):
    image = np.random.default_rng(0).integers(0, 255, (side, 2 * side, 3), dtype=np.uint8)
    kind, _, text = thumbnail_uri(image).partition(";base64,")
    assert kind == f"data:image/{form.lower()}"
    picture = Image.open(io.BytesIO(base64.b64decode(text)))
    assert picture.format == form
    assert picture.size == ((56, 28) if side == 28 else (THUMBNAIL_PX, THUMBNAIL_PX // 2))
