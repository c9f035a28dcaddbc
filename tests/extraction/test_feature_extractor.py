from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import featstore
from featstore.errors import ConfigError, DatasetError
from featstore.extraction.feature_extractor import FeatureExtractor
from featstore.store.feature_store import open_store

Y = np.array(["a", "b", "c"])[np.arange(30) % 3]
IMAGES = np.random.default_rng(0).integers(0, 256, (30, 16, 16, 3), np.uint8)
IMAGES[Y == "a", :, :, 0] //= 2
IMAGES[Y == "b", :, :, 1] //= 3


@pytest.fixture
def paths(tmp_path):
    found = [tmp_path / f"{i:02d}.png" for i in range(30)]
    for path, image in zip(found, IMAGES, strict=True):
        Image.fromarray(image).save(path)
    return found


IMAGES_HAVE_NO_COLUMNS = "images have any height and width, so that no number of columns is fixed"
ANOTHER_MESSAGE = "the input is refused in words about images, not in those about tables of numbers"
NOT_OF_IMAGES = {
    "check_n_features_in": IMAGES_HAVE_NO_COLUMNS,
    "check_n_features_in_after_fitting": IMAGES_HAVE_NO_COLUMNS,
    "check_transformer_general": IMAGES_HAVE_NO_COLUMNS,
    "check_estimators_empty_data_messages": ANOTHER_MESSAGE,
    "check_fit2d_predict1d": ANOTHER_MESSAGE,
    "check_estimator_sparse_tag": ANOTHER_MESSAGE,
    "check_estimator_sparse_array": ANOTHER_MESSAGE,
    "check_estimator_sparse_matrix": ANOTHER_MESSAGE,
    "check_complex_data": "the test turns numbers into bytes, and bytes are never complex",
    "check_estimators_nan_inf": "the test turns numbers into bytes, and bytes are never NaN",
}
"""The checks of scikit-learn that do not apply to images, and why."""


class OnNumbers(FeatureExtractor):
    """Takes a row of numbers, as scikit-learn's checks give them, as an image of their bytes."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.no_validation = True, False
        return tags

    def _features(self, X):
        rows = np.ascontiguousarray(X, np.float32)
        is_table = rows.ndim == 2
        return super()._features(rows.view(np.uint8).reshape(*rows.shape, 4) if is_table else X)


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks_pass_but_for_those_of_tables(tmp_path):
    found = check_estimator(
        OnNumbers("pixelstats", store=tmp_path / "store"),
        expected_failed_checks=NOT_OF_IMAGES,
        on_skip=None,
    )
    by_status = {status: set() for status in ("passed", "xfail", "skipped")}
    for one in found:
        by_status[one["status"]].add(one["check_name"])
    assert by_status["xfail"] == set(NOT_OF_IMAGES)
    assert by_status["skipped"] <= {"check_array_api_input"}
    assert {"check_fit_idempotent", "check_methods_subset_invariance"} <= by_status["passed"]
    assert len(by_status["passed"]) > 25


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
def test_a_search_computes_each_image_once(tmp_path):
    extractor = FeatureExtractor("pixelstats", store=tmp_path / "store")
    steps = make_pipeline(extractor, StandardScaler(), LogisticRegression())
    search = GridSearchCV(steps, {"logisticregression__C": [0.1, 10]}, cv=3).fit(IMAGES, Y)
    assert search.best_score_ > 0.9
    sets = open_store(tmp_path / "store").sets()
    assert sum(one.n_samples for one in sets) == 30
    # Another process, and a subset in another order, find them.
    other = FeatureExtractor("pixelstats", store=str(tmp_path / "store")).fit(IMAGES[[5, 2, 2]])
    np.testing.assert_array_equal(
        other.transform(IMAGES[[5, 2, 2]]), extractor.fit(IMAGES).transform(IMAGES)[[5, 2, 2]]
    )
    assert len(open_store(tmp_path / "store").sets()) == len(sets)
    assert other.get_feature_names_out()[0] == "pixelstats_stats_0"
    assert other.n_features_out_ == len(other.get_feature_names_out()) == 29
    check_estimator(extractor)


def test_features_are_those_of_an_extraction(paths, tmp_path):
    found = FeatureExtractor("pixelstats", store=tmp_path / "a").fit_transform(paths)
    featstore.extract("pixelstats", "tiles", images=paths, labels=Y, store=tmp_path / "b")
    selection = open_store(tmp_path / "b").select(dataset="tiles")
    np.testing.assert_array_equal(found, selection.numpy())
    assert selection.sample_ids[3] == str(paths[3])
    (run,) = featstore.fit(tmp_path / "b", "lda")
    assert featstore.predict(run, paths[0], store=tmp_path / "b")[0].label == "a"


def test_images_in_memory_are_a_dataset_with_a_drawn_split(tmp_path):
    first = featstore.extract("pixelstats", images=IMAGES, labels=Y, store=tmp_path / "s")
    assert (first.title, first.n_by_split) == ("images", {"train": 21, "test": 9})
    again = featstore.extract("pixelstats", images=list(IMAGES), labels=Y, store=tmp_path / "s")
    assert again.n_computed == 0
    other = featstore.extract("pixelstats", images=IMAGES[::-1], labels=Y, store=tmp_path / "s")
    assert other.set_id != first.set_id
    splits = ["train"] * 25 + ["test"] * 5
    given = {"labels": Y, "sample_splits": splits}
    done = featstore.extract("pixelstats", images=IMAGES, store=tmp_path / "s", **given)
    assert done.n_by_split == {"train": 25, "test": 5}


@pytest.mark.parametrize(
    ("images", "more", "cause"),
    [
        ("folder", {}, "images is 'folder'; give a list of files or arrays"),
        ([], {}, "images is empty"),
        (["none.png"], {}, "holds none.png, which is not a file"),
        (IMAGES / 255, {}, "of float64; expected .*uint8. Scale the values to bytes"),
        (IMAGES.repeat(2, 1).repeat(2, 2).transpose(0, 3, 1, 2), {}, "bands seem to come first"),
        ([IMAGES[0], IMAGES[1, :8]], {}, "an array holds images of one shape"),
        (IMAGES, {"labels": Y[:4]}, "4 labels are given for 30 samples"),
        (IMAGES, {"sample_splits": ["train"]}, "1 splits are given for 30 samples"),
    ],
)
def test_what_is_no_list_of_images_is_refused(images, more, cause, tmp_path):
    with pytest.raises(DatasetError, match=cause):
        featstore.extract("pixelstats", images=images, store=tmp_path / "s", **more)


def test_settings_that_need_files_are_refused(tmp_path):
    for more in ({"devices": ("cpu",)}, {"bands": "4,3,2"}):
        with pytest.raises(ConfigError, match="given as they are|can't be chosen"):
            featstore.extract("pixelstats", images=IMAGES, store=tmp_path / "s", **more)
    with pytest.raises(ConfigError, match="labels, sample_splits and groups are those of images"):
        featstore.extract("pixelstats", "demo", labels=Y, store=tmp_path / "s")


@pytest.mark.parametrize("more", [{"model": "mosaiks:16"}, {"value_range": "percentile:2,98"}])
def test_features_that_depend_on_the_other_images_are_refused(more, paths, tmp_path):
    extractor = FeatureExtractor(**{"model": "pixelstats", "store": tmp_path / "store", **more})
    with pytest.raises(ConfigError, match="must not depend on the other images of a call"):
        extractor.fit(paths)
