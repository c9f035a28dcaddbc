from __future__ import annotations

import pytest

from featstore.models.layer_names import FEATURE_LAYERS
from featstore.models.networks import find_layers
from featstore.report.paper import (
    MODELS,
    N_ROWS,
    PUBLISHED,
    ROLES,
    network,
    role,
    study_layers,
    study_models,
)


def test_published_numbers_are_table_4s():
    by_dataset = {name: [100 * row[2] for row in rows] for name, rows in PUBLISHED.items()}
    assert by_dataset["sat4"] == pytest.approx([97.946, 99.65, 99.72, 84, 89, 91, 95.8])
    assert by_dataset["sat6"] == pytest.approx([93.916, 99.54, 99.65, 82, 84, 89, 94.1])
    assert by_dataset["ucmerced"] == pytest.approx([97.99, 87, 89, 90, 98])


def test_rows_are_table_3s():
    assert {name: sum(rows) for name, rows in N_ROWS.items()} == {
        "sat4": 500_000,
        "sat6": 405_000,
        "ucmerced": 2_100,
    }


REPEATS = ("vgg13", "vgg16", "resnet50_v1")
"""Networks whose layers have the names of another one's."""


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(model, marks=pytest.mark.soak if model in REPEATS else ())
        for model in study_models()
    ],
)
def test_each_network_has_the_layers_of_its_comparison(model):
    layers = study_layers(model)
    found = find_layers(model, layers.names, 224)
    assert [layer.default for layer in found] == [False, False, True]
    # A convolution's output is a map; the first is early, the deep one is small.
    first, deep, final = (layer.shape for layer in found)
    assert len(first) == len(deep) == 3
    assert first[1] > deep[1]
    assert final == (1000,)


def test_the_papers_networks_end_in_table_1s_layers():
    assert {model: study_layers(model).final for model in MODELS} == {
        model: FEATURE_LAYERS[model] for model in MODELS
    }


def test_a_runs_layers_give_its_role():
    assert role("resnet50_v1", ["conv1"]) == ROLES[0]
    assert role("resnet50", ["res4e_branch2c"]) == ROLES[1]
    assert role("vgg19", ["fc8"]) == ROLES[2]
    assert role("alexnet", ["conv1", "conv4", "fc8"]) == ROLES[3]
    assert role("alexnet", ["fc8", "conv1"]) is None
    assert role("pixelstats", ["stats"]) is None


def test_an_unknown_network():
    assert study_layers("efficientnet_b0") is None
    assert network("resnet50_v1") == network("resnet50") == "resnet50"
