import tracemalloc

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from featstore.classifiers import (
    CLASSIFIERS,
    aim_params,
    blocks,
    find_classifier,
    fit_scaler,
    judge,
    parse_param,
)
from featstore.errors import FitError


@pytest.fixture
def data(tmp_path):
    """Return X, a read-only memory map of float32, and y, of three classes."""
    rng = np.random.default_rng(0)
    y = (np.arange(150) % 3).astype(np.int32)
    X = rng.normal(size=(3, 12))[y] * 2 + rng.normal(size=(150, 12))
    np.save(tmp_path / "X.npy", X.astype(np.float32))
    X = np.load(tmp_path / "X.npy", mmap_mode="r")
    assert not X.flags.writeable
    return X, y


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_every_classifier_learns_from_a_read_only_memory_map(name, n_classes, data):
    X, y = data
    X, y = X[: 100 if n_classes == 2 else 150], y % n_classes
    y = y[: len(X)]
    classifier = find_classifier(name)
    model = classifier.pipeline(classifier.params({}), seed=0)
    model.fit(X, y)
    judged = judge(model, X)
    assert np.array_equal(judged.labels, model.predict(X))
    assert (judged.labels.dtype, judged.scores.dtype) == (np.int32, np.float32)
    assert np.isfinite(judged.scores).all()
    if n_classes == 3:
        assert np.mean(judged.labels == y) > 0.8
    gives_probability = name in ("logreg", "mlp", "sgd", "knn")
    assert judged.score_kind == ("probability" if gives_probability else "decision value")
    if gives_probability:
        assert judged.scores.min() >= 1 / n_classes - 1e-6
        assert judged.scores.max() <= 1


def test_labels_need_not_begin_at_0(data):
    X, y = data
    classifier = find_classifier("logreg")
    model = classifier.pipeline(classifier.params({}), seed=0).fit(X, y * 3 + 2)
    assert set(judge(model, X).labels) == {2, 5, 8}


def test_only_knn_sees_raw_features():
    unscaled = [
        name for name, c in CLASSIFIERS.items() if len(c.pipeline(c.params({}), 0).steps) == 1
    ]
    assert unscaled == ["knn"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("C=0.5", ("C", 0.5)),
        ("max_iter=20", ("max_iter", 20)),
        ("shuffle=False", ("shuffle", False)),
        ("class_weight=None", ("class_weight", None)),
        ("class_weight=balanced", ("class_weight", "balanced")),
        ("mlp:hidden_layer_sizes=(256, 128)", ("mlp:hidden_layer_sizes", (256, 128))),
        (" C = 1 ", ("C", 1)),
        ("solver=", ("solver", "")),
        ("metric=a=b", ("metric", "a=b")),
        ("C=__import__('os')", ("C", "__import__('os')")),
    ],
)
def test_values_are_python_literals_or_text(text, expected):
    assert parse_param(text) == expected


@pytest.mark.parametrize("text", ["C", "=1", "", " =2"])
def test_a_parameter_without_name_or_value_is_refused(text):
    with pytest.raises(FitError, match="name=value"):
        parse_param(text)


def test_an_unknown_parameter_is_refused_with_those_there_are():
    with pytest.raises(FitError, match=r"logreg has no parameter gamma.*C, class_weight"):
        aim_params({"gamma": 1}, ["logreg"])


@pytest.mark.parametrize(
    ("name", "value"), [("C", -1), ("C", "much"), ("max_iter", 1.5), ("solver", "magic")]
)
def test_a_value_that_scikit_learn_refuses_is_refused_before_any_work(name, value):
    with pytest.raises(FitError, match=f"logreg can't take.*'{name}'"):
        aim_params({name: value}, ["logreg"])


def test_parameters_that_featstore_sets_name_their_option():
    with pytest.raises(FitError, match="use --seed"):
        aim_params({"random_state": 3}, ["mlp"])
    with pytest.raises(FitError, match="featstore sets it"):
        aim_params({"verbose": 1}, ["mlp"])


def test_parameters_can_be_aimed_at_one_of_several():
    aimed = aim_params({"C": 1.0, "svm:C": 10.0}, ["logreg", "svm"])
    assert aimed == {"logreg": {"C": 1.0}, "svm": {"C": 10.0}}
    with pytest.raises(FitError, match="for mlp, but only logreg"):
        aim_params({"mlp:alpha": 1.0}, ["logreg"])
    with pytest.raises(FitError, match="knn has no parameter C.*clf:name=value"):
        aim_params({"C": 1.0}, ["logreg", "knn"])


def test_an_unknown_classifier_is_refused_with_those_there_are():
    with pytest.raises(FitError, match="no classifier 'randomforest'; there are logreg, "):
        find_classifier("randomforest")


def test_the_scaler_gives_scikit_learns_numbers_without_a_float64_copy(monkeypatch):
    X = np.random.default_rng(0).normal(5, 3, size=(40_000, 50)).astype(np.float32)
    monkeypatch.setattr("featstore.classifiers.BLOCK_NBYTES", 2**18)
    expected, scaler = StandardScaler().fit(X), StandardScaler()
    tracemalloc.start()
    fit_scaler(scaler, X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < X.nbytes / 4
    assert np.allclose(scaler.mean_, expected.mean_)
    assert np.allclose(scaler.scale_, expected.scale_)
    assert scaler.transform(X[:9]).dtype == np.float32


def test_blocks_cover_every_row_once():
    X = np.zeros((10, 2**23), dtype=np.uint8)
    rows = np.concatenate([np.arange(10)[block] for block in blocks(X)])
    assert rows.tolist() == list(range(10))
    assert len(blocks(X)) == 5
