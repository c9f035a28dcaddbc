import pytest

from featstore.errors import FitError
from featstore.fitting.parameters import (
    assign_params,
    parse_grid,
    parse_param,
    with_label_weights,
)


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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("C=0.01,0.1,1", ("C", (0.01, 0.1, 1))),
        ("C=1", ("C", (1,))),
        (
            "mlp:hidden_layer_sizes=(64,),(256, 128)",
            ("mlp:hidden_layer_sizes", ((64,), (256, 128))),
        ),
        ("metric=euclidean,cosine", ("metric", ("euclidean", "cosine"))),
        ("gamma=scale,0.1", ("gamma", ("scale", 0.1))),
        ("gamma='scale',0.1", ("gamma", ("scale", 0.1))),
        (" C = 1, 2 ", ("C", (1, 2))),
        ("class_weight=None,balanced", ("class_weight", (None, "balanced"))),
    ],
)
def test_a_grid_is_of_values_between_commas(text, expected):
    assert parse_grid(text) == expected


@pytest.mark.parametrize("text", ["C", "=1,2", "", "C=", "C= "])
def test_a_grid_without_name_or_values_is_refused(text):
    with pytest.raises(FitError, match="name=value,value"):
        parse_grid(text)


def test_an_unknown_parameter_is_refused_with_those_there_are():
    with pytest.raises(FitError, match=r"logreg has no parameter gamma.*C, class_weight"):
        assign_params({"gamma": 1}, ["logreg"])


@pytest.mark.parametrize(
    ("name", "value"), [("C", -1), ("C", "much"), ("max_iter", 1.5), ("solver", "magic")]
)
def test_a_value_that_scikit_learn_refuses_is_refused_before_any_work(name, value):
    with pytest.raises(FitError, match=f"logreg can't take.*'{name}'"):
        assign_params({name: value}, ["logreg"])


def test_parameters_that_featstore_sets_name_their_option():
    with pytest.raises(FitError, match="use --seed"):
        assign_params({"random_state": 3}, ["mlp"])
    with pytest.raises(FitError, match="featstore sets it"):
        assign_params({"verbose": 1}, ["mlp"])


def test_parameters_can_be_for_one_of_several():
    assigned = assign_params({"C": 1.0, "svm:C": 10.0}, ["logreg", "svm"])
    assert assigned == {"logreg": {"C": 1.0}, "svm": {"C": 10.0}}
    with pytest.raises(FitError, match="for mlp, but only logreg"):
        assign_params({"mlp:alpha": 1.0}, ["logreg"])
    with pytest.raises(FitError, match="knn has no parameter C.*clf:name=value"):
        assign_params({"C": 1.0}, ["logreg", "knn"])


def test_a_parameter_can_be_for_a_classifier_of_ones_own():
    name = "sklearn.naive_bayes:GaussianNB"
    assigned = assign_params({f"{name}:var_smoothing": 0.1}, ["logreg", name])
    assert assigned == {"logreg": {}, name: {"var_smoothing": 0.1}}


def test_values_for_a_search_are_assigned_without_a_check():
    assigned = assign_params({"C": (0.1, 1.0), "svm:C": (9.0,)}, ["logreg", "svm"], check=False)
    assert assigned == {"logreg": {"C": (0.1, 1.0)}, "svm": {"C": (9.0,)}}


class TestClassWeights:
    NAMES = ("barren land", "trees", "3")

    def test_names_become_labels_and_other_classes_weigh_one(self):
        params = {"C": 1.0, "class_weight": {"trees": 2, "3": 0.5}}
        assert with_label_weights(params, self.NAMES) == {
            "C": 1.0,
            "class_weight": {0: 1.0, 1: 2.0, 2: 0.5},
        }
        # Typed as {3: 0.5}, a class whose name is a number is meant by its name too.
        assert with_label_weights({"class_weight": {3: 0.5}}, self.NAMES)["class_weight"][2] == 0.5

    @pytest.mark.parametrize("params", [{}, {"class_weight": None}, {"class_weight": "balanced"}])
    def test_anything_else_is_left_to_scikit_learn(self, params):
        assert with_label_weights(params, self.NAMES) == params

    @pytest.mark.parametrize(
        ("weights", "message"),
        [
            ({"tree": 2}, "names the class 'tree'.* Its classes are 'barren land', 'trees', '3'"),
            ({0: 2}, "names the class 0"),
            ({"trees": -1}, "gives 'trees' the weight -1; give a number from 0"),
            ({"trees": float("inf")}, "the weight inf"),
            ({"trees": "much"}, "the weight 'much'"),
            ({"trees": True}, "the weight True"),
        ],
    )
    def test_wrong_ones_are_refused(self, weights, message):
        with pytest.raises(FitError, match=message):
            with_label_weights({"class_weight": weights}, self.NAMES)

    def test_what_is_no_mapping_is_refused_with_an_example(self):
        name, value = parse_param("class_weight={trees: 2}")
        with pytest.raises(FitError, match=r"class_weight=\{'trees': 2\}"):
            assign_params({name: value}, ["logreg"])
        assert parse_param("class_weight={'trees': 2}") == ("class_weight", {"trees": 2})
        assert parse_grid("class_weight=None,{'trees': 2, '3': 1}") == (
            "class_weight",
            (None, {"trees": 2, "3": 1}),
        )
