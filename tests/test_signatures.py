"""What a user sees of the functions before calling them."""

import inspect
from dataclasses import fields

import pytest

import featstore
from featstore.baselines import fit_baselines
from featstore.config import SET_FACETS, ExtractConfig, FitConfig
from featstore.fitting import fit_each
from featstore.store import FeatureStore

FUNCTIONS = [getattr(featstore, name) for name in featstore.__all__ if name != "__version__"]


@pytest.mark.parametrize("function", [*FUNCTIONS, fit_each, fit_baselines, FeatureStore.select])
def test_signatures_name_every_setting(function):
    parameters = inspect.signature(function).parameters.values()
    assert not [p for p in parameters if p.kind is p.VAR_KEYWORD]


def test_defaults_are_the_configurations():
    parameters = inspect.signature(featstore.extract).parameters
    for field in fields(ExtractConfig):
        if field.name not in ("model", "dataset", "layers"):
            assert parameters[field.name].default == field.default
    parameters = inspect.signature(featstore.fit).parameters
    for field in fields(FitConfig):
        if field.name not in ("clf", "params", "grid"):
            assert parameters[field.name].default == field.default
    assert {*SET_FACETS, "repeats", "dataset"} <= set(parameters)


@pytest.mark.parametrize(
    ("call", "near"),
    [
        (lambda: featstore.extract("resnet50", "demo", batchsize=4), "batch_size"),
        (lambda: featstore.fit(n_epoch=3), "n_epochs"),
        (lambda: featstore.learning_curve(repeat=3), "repeats"),
        (lambda: featstore.open_store().select(weight="imagenet"), "weights"),
    ],
)
def test_an_unknown_setting_is_answered_with_the_nearest(call, near):
    with pytest.raises(TypeError, match=rf"Did you mean .*\b{near}\b.*\?"):
        call()


def test_the_version_is_the_installed_one():
    assert featstore.__version__[0].isdigit()
    assert "__version__" in dir(featstore)


def test_what_is_printed_of_results_is_short(make_store):
    store = make_store()
    (run,) = featstore.fit(store, "lda", n_jobs=1)
    (feature_set,) = store.sets()
    for value in (run, feature_set, store.select()):
        assert len(repr(value)) < 200
    assert f"{100 * run.metrics.test.accuracy:.1f} %" in repr(run)
    assert repr(store.select()) == "Selection('demo resnet50 fc1000', 320 rows x 20 features)"


def test_the_store_of_those_who_name_none_is_the_environments(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert featstore.open_store().address == "feature-store"
    monkeypatch.setenv("FEATSTORE_STORE", str(tmp_path / "mine"))
    assert featstore.open_store().address == str(tmp_path / "mine")
    assert featstore.open_store("given").address == "given"
