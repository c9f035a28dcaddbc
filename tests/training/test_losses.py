import math

import pytest
import torch
from torch.nn import functional

from featstore.training.losses import FUNCTIONS, hardest


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hinge", [0.2 + 0.5 - 0.3, 0.0]),
        ("log", [math.log(1 + math.exp(0.2)), math.log(1 + math.exp(-1.0))]),
        ("ratio", [(math.exp(0.5) / (math.exp(0.5) + math.exp(0.3))) ** 2, None]),
    ],
)
def test_losses_are_those_of_the_papers(name, expected):
    positive, negative = torch.tensor([0.5, 0.2]), torch.tensor([0.3, 1.2])
    found = FUNCTIONS[name](positive, negative).tolist()
    for value, wanted in zip(found, expected, strict=True):
        if wanted is not None:
            assert value == pytest.approx(wanted, rel=1e-6)


def test_the_hardest_of_a_batch_are_those_of_a_search_through_all_pairs():
    torch.manual_seed(0)
    embeddings = functional.normalize(torch.randn(12, 5, dtype=torch.float64), dim=1)
    y = torch.arange(12) % 3
    positive, negative = hardest(embeddings, y)
    for i in range(12):
        distances = (embeddings - embeddings[i]).norm(dim=1)
        assert positive[i] == pytest.approx(float(distances[y == y[i]].max()), abs=1e-6)
        assert negative[i] == pytest.approx(float(distances[y != y[i]].min()), abs=1e-6)


def test_the_gradient_of_equal_images_is_finite():
    embeddings = torch.ones(4, 3, requires_grad=True)
    positive, negative = hardest(
        functional.normalize(embeddings, dim=1), torch.tensor([0, 0, 1, 1])
    )
    FUNCTIONS["hinge"](positive, negative).mean().backward()
    assert torch.isfinite(embeddings.grad).all()
