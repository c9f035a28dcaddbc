from __future__ import annotations

import pytest
import torch
from makers import Listener

from featstore.config import ExtractConfig
from featstore.datasets.registry import open_dataset
from featstore.io.fingerprints import FingerprintCache
from featstore.models import devices, network_extractor, network_source
from featstore.models.network_extractor import row_cosines
from featstore.models.registry import open_model


def test_the_cosine_of_each_row():
    full = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    found = torch.tensor([[6.0, 8.0], [0.0, 1.0], [0.0, 0.0], [1.0, 0.0], [torch.nan, 1.0]])
    assert row_cosines(found, full).tolist() == pytest.approx([1, 0, 1, 0, -1])
    assert row_cosines(1e-30 * found, 1e-30 * full).tolist() == pytest.approx([1, 0, 1, 0, -1])


def test_auto_takes_half_precision_only_for_a_network_that_keeps_its_features(
    images, tmp_path, monkeypatch
):
    monkeypatch.setattr(devices, "has_fast_bf16", lambda _: True)
    dataset, cache = open_dataset("folder", images), FingerprintCache(tmp_path)
    listener = Listener()

    def precision(folder, asked="auto", given=None):
        monkeypatch.setenv("FEATSTORE_CACHE", str(tmp_path / folder))
        settings = {"weights": "random:0", "image_size": 32, "precision": asked}
        config = ExtractConfig("resnet18", "folder", ("conv1",), root=str(images), **settings)
        model = open_model(config, dataset, cache, listener, given)
        return model.backbone["precision"]

    assert precision("kept") == "bf16"
    assert listener.lines == []
    monkeypatch.setattr(network_extractor.NetworkExtractor, "least_cosine", lambda *_: 0.98)
    # What was found of the network before holds for other images too.
    assert precision("kept") == "bf16"
    assert precision("lost") == "fp32"
    (line,) = listener.lines
    assert "0.9800" in line
    assert "--precision bf16" in line
    monkeypatch.setattr(network_source, "checked_precision", None)
    assert precision("lost", asked="bf16") == "bf16"
    assert precision("lost", given="bf16") == "bf16"
