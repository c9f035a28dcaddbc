from __future__ import annotations

import json

import pytest

from featstore.config import ExtractConfig, FitConfig
from featstore.errors import ConfigError, FeatstoreError
from featstore.io.files import json_digest


def test_extract_config_survives_a_round_trip():
    config = ExtractConfig("resnet50", "sat4", ("conv1", "fc1000"), pool="gem", limit=7)
    assert ExtractConfig.from_dict(config.to_dict()) == config
    assert ExtractConfig.from_dict(config.to_dict()).digest() == config.digest()


def test_layers_asked_for_twice_count_once():
    assert ExtractConfig("resnet50", "sat4", ("b", "a", "b")).layers == ("b", "a")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pool", "mean"),
        ("bands", "4,,2"),
        ("precision", "int8"),
        ("on_error", "skip"),
        ("device", "gpu"),
        ("device", "cuda:x"),
        ("batch_size", 0),
        ("batch_size", True),
        ("image_size", 4),
        ("image_size", 10**6),
        ("limit", 0),
        ("seed", -1),
        ("layers", ("fc", "")),
    ],
)
def test_a_bad_setting_is_named_with_its_value(name, value):
    with pytest.raises(ConfigError, match=name) as caught:
        ExtractConfig("resnet50", "sat4", **{name: value})
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, FeatstoreError)


def test_unknown_settings_are_refused():
    with pytest.raises(ConfigError, match="no setting colour"):
        ExtractConfig.from_dict({"model": "resnet50", "dataset": "sat4", "colour": 1})


@pytest.mark.parametrize("change", [{"weights": "random:1"}, {"bands": "gray"}, {"image_size": 64}])
def test_what_decides_a_row_is_in_the_request(change):
    base = ExtractConfig("resnet50", "sat4")
    assert ExtractConfig("resnet50", "sat4", **change).request() != base.request()


def test_the_command_asks_for_the_same():
    config = ExtractConfig("resnet50", "folder", ("conv1", "fc"), root="my images", limit=7)
    assert config.command("my store") == (
        "featstore extract --model resnet50 --dataset folder --layers conv1,fc "
        "--root 'my images' --limit 7 --store 'my store'"
    )
    assert config.command("s") != ExtractConfig("resnet50", "folder", precision="fp32").command("s")


def test_the_command_holds_flags_without_values():
    config = ExtractConfig("resnet50", "folder", follow_links=True)
    assert "--follow-links --store s" in config.command("s")
    assert ExtractConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    "change",
    [{"batch_size": 9}, {"device": "cpu"}, {"layers": ("conv1",)}, {"follow_links": True}],
)
def test_what_does_not_decide_a_row_is_not_in_the_request(change):
    base = ExtractConfig("resnet50", "sat4")
    assert ExtractConfig("resnet50", "sat4", **change).request() == base.request()


def test_fit_config_does_not_depend_on_the_order_of_parameters():
    one = FitConfig("logreg", (("C", 1.0), ("tol", 0.1)))
    other = FitConfig("logreg", (("tol", 0.1), ("C", 1.0)))
    assert one == other
    assert one.digest() == other.digest()
    assert FitConfig.from_dict(one.to_dict()) == one


def test_a_parameter_given_twice_is_refused():
    with pytest.raises(ConfigError, match="given twice"):
        FitConfig("logreg", (("C", 1), ("C", 2)))
    with pytest.raises(ConfigError, match="A grid of logreg is given twice: C, C"):
        FitConfig("logreg", search="grid", grid=(("C", (1,)), ("C", (2,))))


def test_fit_config_survives_a_round_trip_through_json():
    config = FitConfig(
        "mlp",
        (("tol", 0.1), ("alpha", 1.0)),
        seed=3,
        search="halving",
        cv=7,
        n_candidates=9,
        grid=(("solver", ("adam", "sgd")), ("batch_size", (8, 16))),
        n_epochs=20,
        split_seed=4,
        drop_leaks=True,
        intelex=True,
    )
    again = FitConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.digest() == config.digest()


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"search": "grid"},
        {"cv": 4},
        {"n_candidates": 9},
        {"n_epochs": 9},
        {"split_seed": 0},
        {"drop_leaks": True},
        {"device": "cuda"},
        {"intelex": True},
        {"params": (("C", 1.0),)},
    ],
)
def test_every_setting_of_a_fit_is_part_of_its_digest(change):
    assert FitConfig("logreg", **change).digest() != FitConfig("logreg").digest()


def test_fit_config_does_not_depend_on_the_order_of_a_grid():
    one = FitConfig("mlp", search="grid", grid=(("alpha", (1.0,)), ("tol", (0.1,))))
    assert one == FitConfig("mlp", search="grid", grid=(("tol", (0.1,)), ("alpha", (1.0,))))
    assert one != FitConfig("mlp", search="grid", grid=(("tol", (0.2,)), ("alpha", (1.0,))))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", -1),
        ("seed", 2**32),
        ("seed", True),
        ("search", "bayes"),
        ("cv", 1),
        ("cv", 101),
        ("cv", 2.0),
        ("n_candidates", 0),
        ("n_epochs", 0),
        ("n_epochs", 1.5),
        ("split_seed", -1),
        ("device", "gpu"),
        ("device", "cuda:x"),
    ],
)
def test_a_bad_setting_of_a_fit_is_named_with_its_value(name, value):
    with pytest.raises(ConfigError, match=f"{name} is {value!r}"):
        FitConfig("logreg", **{name: value})


def test_a_grid_is_for_a_search_and_holds_values():
    with pytest.raises(ConfigError, match="add --search grid"):
        FitConfig("logreg", grid=(("C", (1.0,)),))
    with pytest.raises(ConfigError, match="no values for C of logreg"):
        FitConfig("logreg", search="grid", grid=(("C", ()),))


def test_unknown_settings_of_a_fit_are_refused():
    with pytest.raises(ConfigError, match="FitConfig has no setting colour"):
        FitConfig.from_dict({"clf": "logreg", "colour": 1})


def test_digest_ignores_the_order_of_keys_only():
    assert json_digest({"a": 1, "b": 2}) == json_digest({"b": 2, "a": 1})
    assert json_digest({"a": [1, 2]}) != json_digest({"a": [2, 1]})
