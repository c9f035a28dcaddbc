"""Losses of triplets, each of an image's hardest positive and hardest negative in the batch.

Batch-hard triplets are those of Hermans et al. 2017 (arXiv:1703.07737). Liu & Huang 2018, whose
triplet networks the paper compares, analyse three losses of earlier work, most likely these; the
formulae of the four that they propose are not at hand.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

MARGIN = 0.2
"""Margin of the hinge: Schroff et al. 2015 (FaceNet), arXiv:1503.03832."""


TINY = 1e-12
"""Squared distance below which the gradient of the distance is cut off."""


def hinge(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """Return max(0, m + d+ - d-) of each triplet: Schroff et al. 2015, arXiv:1503.03832."""
    return functional.relu(MARGIN + positive - negative)


def log(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """Return log(1 + exp(d+ - d-)) of each triplet: Hermans et al. 2017, arXiv:1703.07737."""
    return functional.softplus(positive - negative)


def ratio(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """Return (e^d+ / (e^d+ + e^d-))^2 of each triplet: Hoffer & Ailon 2015, arXiv:1412.6622."""
    return torch.sigmoid(positive - negative).square()


FUNCTIONS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "hinge": hinge,
    "log": log,
    "ratio": ratio,
}
"""Losses by the names that ``--loss`` takes."""


def hardest(embeddings: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each image's distance to the farthest of its class and the nearest of another one.

    `embeddings` are (n, n_features) of length 1, `y` (n,) with two images or more of two classes or
    more; both distances are (n,).
    """
    squared = (2 - 2 * embeddings @ embeddings.T).clamp_min(TINY)
    distances = squared.sqrt()
    same = y[:, None] == y[None, :]
    positive = distances.masked_fill(~same, -torch.inf).amax(dim=1)
    negative = distances.masked_fill(same, torch.inf).amin(dim=1)
    return positive, negative
