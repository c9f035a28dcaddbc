import numpy as np
import pytest
from sklearn.kernel_approximation import Nystroem
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from featstore.errors import FitError
from featstore.fitting.classifiers import CLASSIFIERS, find_classifier
from featstore.fitting.estimators import LARGE
from featstore.fitting.solvers.similarity import SimilarityNeighbors

STREAMS = ["logreg", "linear-svm", "mlp", "sgd", "softmax", "ridge", "lda"]


def test_all_but_knn_and_dbn_standardise_features():
    first = {name: type(c.pipeline(c.params({}), 0).steps[0][1]) for name, c in CLASSIFIERS.items()}
    others = {name: kind for name, kind in first.items() if kind is not StandardScaler}
    assert others == {
        "dbn": MinMaxScaler,
        "knn": KNeighborsClassifier,
        "similarity-knn": SimilarityNeighbors,
    }


def test_only_nystroem_svm_maps_features_first():
    steps = {name: list(c.pipeline(c.params({}), 0).named_steps) for name, c in CLASSIFIERS.items()}
    assert steps["nystroem-svm"] == ["scale", "map", "clf"]
    assert all("map" not in own for name, own in steps.items() if name != "nystroem-svm")


def test_what_is_known_of_each_is_recorded():
    assert [name for name, c in CLASSIFIERS.items() if c.streams] == STREAMS
    by_epochs = [name for name, c in CLASSIFIERS.items() if c.by_epochs]
    assert by_epochs == ["mlp", "sgd", "dbn", "softmax"]
    assert [name for name, c in CLASSIFIERS.items() if c.predicts_slowly] == [
        "svm",
        "knn",
        "similarity-knn",
    ]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_seed_reaches_all_that_is_random(name):
    classifier = find_classifier(name)
    steps = classifier.pipeline(classifier.params({}), 77).named_steps
    seeds = [step.random_state for step in steps.values() if hasattr(step, "random_state")]
    assert set(seeds) <= {77}
    assert len(seeds) == {"nystroem-svm": 2, "lda": 0, "knn": 0, "similarity-knn": 0}.get(name, 1)


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("n_features", [1, 2048])
def test_what_a_search_tries_is_taken_by_scikit_learn(name, n_features):
    classifier = find_classifier(name)
    space = classifier.space(n_features)
    assert space
    for param, values in space.items():
        assert len(set(values)) == len(values) > 1
        for value in values:
            assert classifier.params({param: value})[param] == value


@pytest.mark.parametrize(
    ("name", "param", "of_24", "of_1000", "of_2048"),
    [
        ("logreg", "C", 4.17, 0.1, 0.0488),
        ("linear-svm", "C", 0.292, 0.007, 0.00342),
        ("ridge", "alpha", 4.8, 200.0, 410.0),
        ("lda", "shrinkage", 0.0114, 0.4, 0.4),
    ],
)
def test_penalties_grow_with_the_number_of_features(name, param, of_24, of_1000, of_2048):
    classifier = find_classifier(name)
    for n_features, value in ((24, of_24), (1_000, of_1000), (2_048, of_2048)):
        assert classifier.params({}, 840, n_features)[param] == pytest.approx(value)
    assert classifier.params({param: 0.5}, 840, 24)[param] == 0.5


@pytest.mark.parametrize("name", ["mlp", "dbn", "sgd", "softmax"])
def test_many_rows_are_watched_for_when_to_stop(name):
    classifier = find_classifier(name)
    assert "early_stopping" not in classifier.params({}, LARGE)
    assert classifier.params({}, LARGE + 1)["early_stopping"] is True
    assert classifier.params({"early_stopping": False}, LARGE + 1)["early_stopping"] is False


def test_parameters_of_a_kernels_map_stand_beside_the_classifiers():
    classifier = find_classifier("nystroem-svm")
    steps = classifier.pipeline(classifier.params({"gamma": 0.5, "C": 3.0}), 0).named_steps
    assert isinstance(steps["map"], Nystroem)
    assert (steps["map"].gamma, steps["map"].n_components, steps["clf"].C) == (0.5, 1000, 3.0)
    with pytest.raises(FitError, match="nystroem-svm can't take.*'n_components'"):
        classifier.params({"n_components": -1})
    with pytest.raises(FitError, match="linear-svm has no parameter gamma"):
        find_classifier("linear-svm").params({"gamma": 0.5})


@pytest.mark.parametrize(
    ("name", "value"), [("C", -1), ("C", "much"), ("max_iter", 1.5), ("solver", "magic")]
)
def test_a_value_that_scikit_learn_refuses_is_refused(name, value):
    with pytest.raises(FitError, match=f"logreg can't take.*'{name}'"):
        find_classifier("logreg").params({name: value})


def test_an_unknown_classifier_is_refused_with_those_there_are():
    with pytest.raises(FitError, match="no classifier 'randomforest'. There are logreg, .* own"):
        find_classifier("randomforest")


OWN = """
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

def forest(n_estimators=7):
    return RandomForestClassifier(n_estimators)

def chain():
    return make_pipeline(MinMaxScaler(), GaussianNB())

def wants_more(depth):
    return RandomForestClassifier(depth)

def breaks():
    raise KeyError("no such thing")

number = 7
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Return the name, unlike any other test's, of a module with classifiers."""
    folder = tmp_path / "code"
    folder.mkdir()
    name = "own_" + tmp_path.name
    (folder / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(folder)
    return name


def test_classifiers_of_ones_own_are_imported(own):
    classifier = find_classifier(f"{own}:forest")
    assert classifier.name == f"{own}:forest"
    pipeline = classifier.pipeline(classifier.params({"max_depth": 3}), 5)
    assert list(pipeline.named_steps) == ["scale", "clf"]
    params = pipeline.named_steps["clf"].get_params()
    assert (params["n_estimators"], params["max_depth"], params["random_state"]) == (7, 3, 5)
    assert "n_jobs" not in classifier.param_names()
    naive = find_classifier(f"{own}:GaussianNB")
    assert np.allclose(naive.pipeline({}, 0).fit([[0.0], [1.0]], [0, 1]).predict([[1.0]]), 1)


def test_a_pipeline_of_ones_own_scales_as_it_will(own):
    classifier = find_classifier(f"{own}:chain")
    assert list(classifier.pipeline(classifier.params({}), 0).named_steps) == ["clf"]


def test_parameters_of_ones_own_classifier_are_checked(own):
    with pytest.raises(FitError, match=r"own_.*:forest has no parameter C\. It has bootstrap, "):
        find_classifier(f"{own}:forest").params({"C": 1.0})
    with pytest.raises(FitError, match="own_.*:forest can't take these.*'max_depth'"):
        find_classifier(f"{own}:forest").params({"max_depth": "deep"})


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("nothing", "AttributeError"),
        ("wants_more", "TypeError: .*depth.*without arguments"),
        ("breaks", "KeyError: 'no such thing'"),
        ("number", "TypeError"),
        ("LinearRegression", "gives a LinearRegression, which is not a scikit-learn classifier"),
        ("MinMaxScaler", "gives a MinMaxScaler, which is not"),
        ("", "AttributeError"),
    ],
)
def test_what_gives_no_classifier_is_refused_with_its_cause(own, attribute, message):
    with pytest.raises(FitError, match=f"{own}:{attribute} .*{message}"):
        find_classifier(f"{own}:{attribute}")


@pytest.mark.parametrize("name", ["no_such_module:f", ":f", "a b:f"])
def test_a_module_that_can_not_be_imported_is_refused(name):
    with pytest.raises(FitError, match=f"{name} can't be used"):
        find_classifier(name)


def test_the_source_of_ones_own_code_is_part_of_what_a_fit_depends_on(own):
    identity = find_classifier(f"{own}:forest").identity()
    assert len(identity["source"]) == 64
    assert find_classifier(f"{own}:chain").identity() == identity
    assert find_classifier("logreg").identity() == {}
