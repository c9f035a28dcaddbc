from __future__ import annotations

import pytest

from featstore.config import ExtractConfig, FitConfig, json_digest
from featstore.errors import ConfigError, FeatstoreError


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
        ("bands", "nir"),
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


@pytest.mark.parametrize("change", [{"batch_size": 9}, {"device": "cpu"}, {"layers": ("conv1",)}])
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


def test_digest_ignores_the_order_of_keys_only():
    assert json_digest({"a": 1, "b": 2}) == json_digest({"b": 2, "a": 1})
    assert json_digest({"a": [1, 2]}) != json_digest({"a": [2, 1]})
