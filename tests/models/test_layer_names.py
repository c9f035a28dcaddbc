from __future__ import annotations

import pytest

from featstore.models.layer_names import FEATURE_LAYERS, other_names, paper_layers

# Every name in Tables 1 and 2 of the paper, and the others.
PAPER = {
    "alexnet": ["conv1", "conv2", "conv3", "conv4", "fc6", "fc7", "fc8", "pool5"],
    "vgg19": ["conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_4", "fc6", "fc7", "fc8", "pool5"],
    "googlenet": [
        "conv1-7x7_s2",
        "conv2-3x3_reduce",
        "inception_3a-1x1",
        "inception_3b-1x1",
        "inception_5b-output",
        "loss3-classifier",
    ],
    "resnet50": ["conv1", "res2a_branch2a", "res3d_branch2c", "res4e_branch2c", "pool5", "fc1000"],
}


@pytest.mark.parametrize("model", PAPER)
def test_the_papers_layers_have_nodes(model):
    names = paper_layers(model)
    assert set(PAPER[model]) <= set(names)
    assert FEATURE_LAYERS[model] in names


@pytest.mark.parametrize("model", PAPER)
def test_every_name_has_a_node_of_its_own(model):
    nodes = list(paper_layers(model).values())
    assert len(set(nodes)) == len(nodes)


def test_well_known_places():
    assert paper_layers("resnet50")["res3d_branch2c"] == "layer2.3.conv3"
    assert paper_layers("resnet50")["res5c"] == "layer4.2.add"
    assert paper_layers("resnet101")["res4b22_branch2a"] == "layer3.22.conv1"
    assert paper_layers("vgg19")["conv5_4"] == "features.34"
    assert paper_layers("alexnet")["fc7"] == "classifier.4"
    assert paper_layers("googlenet")["inception_4c-5x5"] == "inception4c.branch3.1.bn"


def test_short_names_stand_for_papers_names():
    names = other_names("googlenet")
    assert names["inception_3a"] == "inception_3a-output"
    assert names["loss3/classifier"] == "loss3-classifier"
    assert set(names.values()) <= set(paper_layers("googlenet"))


def test_other_networks_have_no_papers_names():
    assert paper_layers("mobilenet_v2") == {}
    assert other_names("mobilenet_v2") == {}
